"""The pages: the only floor that knows HTML."""

from flask import Flask

from ..contacts.models import surroundings
from ..delivery import stopping
from ..groups import models as groups_models
from ..reach import reachability
from .accounts import views as accounts
from .contacts import views as contacts
from .groups import views as groups
from .integrations import views as integrations
from .notifications import views as notifications


def init_app(app: Flask) -> None:
    """Serve all pages."""
    contacts.remember_rows(app)
    groups_models.add_to_contacts()
    reachability.add_to_contacts()
    reachability.add_to_groups()
    stopping.add_to_groups()
    surroundings.told_of = notifications.result_of
    for room in (accounts, contacts, groups, integrations, notifications):
        app.register_blueprint(room.blueprint)
