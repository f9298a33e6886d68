"""Serve the console: `gunicorn --config python:contacts_app.gunicorn_conf wsgi:app`."""

import sys

from contacts_app import create_app
from contacts_app.config import StartError

try:
    app = create_app()
except StartError as error:
    sys.exit(f"alert-contacts: {error}")
