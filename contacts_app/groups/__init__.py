"""Who is told together: groups of contacts."""

from flask import Flask

from . import models, views


def init_app(app: Flask) -> None:
    """Serve the groups, and let the contacts' pages speak of them."""
    models.add_to_contacts()
    app.register_blueprint(views.blueprint)
