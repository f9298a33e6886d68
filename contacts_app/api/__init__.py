"""The API for machines: the webhook for alerts, and the health check for load balancers."""

from flask import Flask

from . import alerts, health


def init_app(app: Flask) -> None:
    """Register the API's blueprints."""
    app.register_blueprint(alerts.blueprint)
    app.register_blueprint(health.blueprint)
