"""Who may come in: accounts, their users, and the sessions they are in by."""

from flask import Flask
from flask_wtf import CSRFProtect

from . import views
from .views import require_logon

__all__ = ["init_app", "require_logon"]


def init_app(app: Flask) -> None:
    """Serve set-up and log-on, and require the token of a session in every form."""
    app.session_interface = views.SessionCookie()
    CSRFProtect(app)
    app.context_processor(lambda: {"visitor": views.visitor_to_show()})
    app.register_blueprint(views.blueprint)
