"""Who can be reached: the contacts of an account."""

from flask import Flask

from . import views


def init_app(app: Flask) -> None:
    """Serve the contacts."""
    views.remember_rows(app)
    app.register_blueprint(views.blueprint)
