"""Serve the console: `gunicorn --config python:contacts_app.ops.gunicorn_conf wsgi:app`."""

import sys

from contacts_app import create_app
from contacts_app.config import StartError

try:
    app = create_app()
except StartError as error:
    print(f"alert-contacts: {error}", file=sys.stderr)
    # Flask's command ends with 1; to gunicorn 4 says that the app cannot be loaded, so that it does not try for ever.
    sys.exit(4 if "gunicorn.arbiter" in sys.modules else 1)
