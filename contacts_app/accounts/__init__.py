"""Who may come in: accounts, their users, and the sessions they are in by."""

from flask import Flask
from flask_wtf import CSRFProtect

from . import views


def init_app(app: Flask) -> None:
    """Serve set-up and log-on, and ask for a log-on everywhere else."""
    # First the log-on, then the token: whose session has ended is led to log on, not told of a forged request.
    app.before_request(views.require_logon)
    CSRFProtect(app)
    app.context_processor(lambda: {"visitor": views.visitor_to_show()})
    app.register_blueprint(views.blueprint)
