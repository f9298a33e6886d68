"""The HTML pages: the only layer that renders HTML."""

from flask import Flask

from .accounts import views as accounts
from .contacts import views as contacts
from .groups import views as groups
from .integrations import views as integrations
from .notifications import views as notifications


def init_app(app: Flask) -> None:
    """Register the blueprints of all pages."""
    accounts.init_app(app)
    contacts.remember_rows(app)
    for room in (accounts, contacts, groups, integrations, notifications):
        app.register_blueprint(room.blueprint)
