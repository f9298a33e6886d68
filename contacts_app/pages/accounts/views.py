"""Set up, log on, log off, and change a password."""

import hmac
import re
from typing import Any

from flask import Blueprint, Flask, Request, abort, flash, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from itsdangerous import BadSignature
from werkzeug.exceptions import TooManyRequests

from ...accounts.models import LOGON_WINDOW, Account, LogonAttempt, Session, User
from ...accounts.permissions import Permission, public, requires
from ...accounts.setup import setup_token
from ...config import current_settings
from ...core.db import db
from ...web import htmx
from ...web.machines import is_api_path, is_api_request
from ..visitors import TOKEN, visitor, visitor_or_none, visitor_to_show
from . import browsers, proxies
from .forms import LogonForm, PasswordForm, SetupForm

blueprint = Blueprint("accounts", __name__)
LONGEST_COOKIES = 16_000  # characters, two headers' worth: gunicorn accepts a hundred Cookie headers and joins them
WRONG = "There is no user with this e-mail and this password."


class SessionCookie(SecureCookieSessionInterface):
    """Read the session cookie without checking its timestamp; the database decides when a session expires.

    The default of Flask rejects a cookie from the future, such as one signed on a machine whose clock is ahead.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """Return the data of the cookie; empty if its signature is invalid or for API requests."""
        if is_api_path(request.path):  # by path, because the request is not routed yet
            return self.session_class()
        if len(request.headers.get("Cookie", "")) > LONGEST_COOKIES:
            request.environ["HTTP_COOKIE"] = ""
        serializer: Any = self.get_signing_serializer(app)
        try:
            return self.session_class(serializer.loads(request.cookies.get(self.get_cookie_name(app), "")))
        except BadSignature:
            return self.session_class()


def init_app(app: Flask) -> None:
    """Identify the user of each request, and require the CSRF token in every form."""
    app.session_interface = SessionCookie()
    csrf = CSRFProtect(app)
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # checked here, because not every request has a session

    @app.before_request
    def check_token() -> None:
        if not is_api_request():
            csrf.protect(apply_exemptions=True)

    app.context_processor(lambda: {"visitor": visitor_to_show()})


@blueprint.route("/setup", methods=["GET", "POST"])
@public
def setup() -> ResponseReturnValue:
    """Create the first account and its first user, with the one-time link."""
    if not hmac.compare_digest(request.args.get("token", "").encode(), setup_token().encode()):
        abort(404)
    if Account.any_exists():
        return htmx.leave_for(url_for(".logon"))
    form = SetupForm()
    if not form.validate_on_submit():
        status = 422 if request.method == "POST" else 200
        return htmx.render("accounts/setup.html", "accounts/setup.html", status, form=form)
    Account.lock_creation()
    if Account.any_exists():  # somebody else used the link at the same time
        db.session.rollback()
        return htmx.leave_for(url_for(".logon"))
    user = Account.create(str(form.account.normal), current_settings().contact_quota).add_user(
        str(form.email.normal), str(form.password.data)
    )
    _log_on(user)
    flash("The account has been set up. Create the first contact.")
    return htmx.leave_for(url_for("contacts.index"))


@blueprint.route("/logon", methods=["GET", "POST"])
@public
def logon() -> ResponseReturnValue:
    """Log a user on and redirect to the requested page."""
    address = own_address(request.args.get("next"))
    if request.method != "POST" and visitor_or_none():
        return htmx.leave_for(address)
    form = LogonForm()
    if request.method != "POST":
        return htmx.render("accounts/logon.html", "accounts/logon.html", form=form)
    if not form.validate():
        return htmx.render("accounts/logon.html", "accounts/logon.html", 422, form=form)
    proxies.warn_of_settings()
    email, visitor_address = str(form.email.normal), request.remote_addr or ""
    browser = browsers.name_for(email)
    attempt = _let_try(
        LogonAttempt.begin_known(browser, visitor_address) if browser else LogonAttempt.begin(email, visitor_address)
    )
    user = User.with_password(email, form.password.data or "")
    if user is None:
        form.form_errors = [WRONG]
        return htmx.render("accounts/logon.html", "accounts/logon.html", 422, form=form)
    LogonAttempt.succeeded(attempt)
    _log_on(user)
    return htmx.leave_for(address)


@blueprint.post("/logoff")
@public
def logoff() -> ResponseReturnValue:
    """End the session in the database, which invalidates every copy of its cookie."""
    if isinstance(token := session.get(TOKEN), str):
        Session.end(token)
        db.session.commit()
    session.clear()
    return htmx.leave_for(url_for(".logon"))


@blueprint.route("/password", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def password() -> ResponseReturnValue:
    """Change the user's password, which ends their other sessions."""
    form = PasswordForm()
    if form.validate_on_submit():
        who = visitor()
        # Counted by session, so that guessing at the log-on page does not block a password change.
        attempt = _let_try(LogonAttempt.begin_known(f"session {session[TOKEN]}", request.remote_addr or ""))
        user = db.session.get_one(User, (who.account_id, who.user_id))
        if user.has_password(form.current.data or ""):
            user.set_password(form.new.data or "")
            user.end_sessions(but=session[TOKEN])
            LogonAttempt.succeeded(attempt)
            browsers.remember(user)
            db.session.commit()
            flash("The password has been changed. Your other sessions have ended.")
            return htmx.leave_for(url_for("contacts.index"))
        form.current.errors = ["This is not your current password."]
    status = 422 if request.method == "POST" else 200
    return htmx.render("accounts/password.html", "accounts/password.html", status, form=form)


def own_address(address: str | None) -> str:
    """Return `address` if it is a path of this console, otherwise the URL of the contacts."""
    if address and re.fullmatch(r"/(?![/\\])[\x21-\x7e]{,2000}", address):
        return address
    return url_for("contacts.index")


def _let_try(attempt: int | None) -> int:
    """Return the counted attempt, or raise TooManyRequests if the limit is reached."""
    if attempt is None:
        minutes = int(LOGON_WINDOW.total_seconds() // 60)
        raise TooManyRequests(
            f"There were too many wrong passwords. Wait {minutes} minutes, then try again. What others try does not"
            " count in a browser that you have logged on with before.",
            retry_after=minutes * 60,
        )
    return attempt


def _log_on(user: User) -> None:
    """Start a session with a new token, to prevent session fixation."""
    if isinstance(former := session.get(TOKEN), str):
        Session.end(former)
    token = Session.begin(user)
    browsers.remember(user)
    db.session.commit()
    session.clear()
    session.permanent = True
    session[TOKEN] = token
