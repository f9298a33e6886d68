"""Serve the console: `gunicorn --config python:contacts_app.ops.gunicorn_conf wsgi:app`."""

import sys

from contacts_app import create_app
from contacts_app.config import StartError

try:
    app = create_app()
except StartError as error:
    print(f"alert-contacts: {error}", file=sys.stderr)
    # The Flask command exits with 1. For gunicorn 4 means that the app failed to load, so it does not restart workers.
    sys.exit(4 if "gunicorn.arbiter" in sys.modules else 1)
