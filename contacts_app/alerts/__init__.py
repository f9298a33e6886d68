"""What is told, and did it arrive: the way in for alerts, their deliveries, and the state of every channel."""

from flask import Flask

from ..contacts.models import surroundings
from . import api, integrations, reach, stopping, views


def init_app(app: Flask) -> None:
    """Take alerts in, show what became of them, and let the contacts' and groups' pages tell who can be reached."""
    reach.add_to_contacts()
    reach.add_to_groups()
    stopping.add_to_groups()
    surroundings.told_of = views.result_of
    app.register_blueprint(views.blueprint)
    app.register_blueprint(integrations.blueprint)
    app.register_blueprint(api.blueprint)
    app.extensions["csrf"].exempt(api.blueprint)
