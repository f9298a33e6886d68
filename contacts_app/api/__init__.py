"""The faces for machines: the way in for alerts, and the check of whoever balances the load."""

from flask import Flask

from . import alerts, health


def init_app(app: Flask) -> None:
    """Take alerts in, and answer health checks."""
    app.register_blueprint(alerts.blueprint)
    app.register_blueprint(health.blueprint)
