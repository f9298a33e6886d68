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
from ...accounts.permissions import TOKEN, Permission, public, requires, visitor, visitor_or_none, visitor_to_show
from ...accounts.setup import setup_token
from ...config import current_settings
from ...core.db import db
from ...web import htmx
from ...web.machines import is_api_path, is_api_request
from . import browsers, proxies
from .forms import LogonForm, PasswordForm, SetupForm

blueprint = Blueprint("accounts", __name__)
LONGEST_COOKIES = 16_000  # in two headers: gunicorn takes a hundred, and joins them to one
WRONG = "There is no user with this e-mail and this password."


class SessionCookie(SecureCookieSessionInterface):
    """Read the cookie whatever the clock says: when a session ends is for the database to say, by its clock.

    Flask's own refuses a cookie of the future: one that another machine has signed, whose clock is a little ahead.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """Return what the cookie holds, nothing if the console has not signed it or a program asks."""
        if is_api_path(request.path):  # which view it leads to is not known yet
            return self.session_class()
        if len(request.headers.get("Cookie", "")) > LONGEST_COOKIES:
            request.environ["HTTP_COOKIE"] = ""
        serializer: Any = self.get_signing_serializer(app)
        try:
            return self.session_class(serializer.loads(request.cookies.get(self.get_cookie_name(app), "")))
        except BadSignature:
            return self.session_class()


def init_app(app: Flask) -> None:
    """Know who sends a request, and require the token of a session in every form."""
    app.session_interface = SessionCookie()
    csrf = CSRFProtect(app)
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # checked here instead, because not everyone has a session

    @app.before_request
    def check_token() -> None:
        if not is_api_request():
            csrf.protect(apply_exemptions=True)

    app.context_processor(lambda: {"visitor": visitor_to_show()})


@blueprint.route("/setup", methods=["GET", "POST"])
@public
def setup() -> ResponseReturnValue:
    """Create the first account and its first user, for whoever holds the one-time link."""
    if not hmac.compare_digest(request.args.get("token", "").encode(), setup_token().encode()):
        abort(404)
    if Account.any_exists():
        return htmx.leave_for(url_for(".logon"))
    form = SetupForm()
    if not form.validate_on_submit():
        status = 422 if request.method == "POST" else 200
        return htmx.render("accounts/setup.html", "accounts/setup.html", status, form=form)
    Account.lock_creation()
    if Account.any_exists():  # somebody else held the link, too
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
    """Log a user on and lead to where they wanted to go."""
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
    """End the session everywhere its cookie was copied to."""
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
        # By its session: who guesses at the log-on page does not keep its user from a new password.
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
    """Return `address` if it is a path of this console, else the contacts."""
    if address and re.fullmatch(r"/(?![/\\])[\x21-\x7e]{,2000}", address):
        return address
    return url_for("contacts.index")


def _let_try(attempt: int | None) -> int:
    """Return the attempt that was counted, or refuse the password where there were too many."""
    if attempt is None:
        minutes = int(LOGON_WINDOW.total_seconds() // 60)
        raise TooManyRequests(
            f"There were too many wrong passwords. Wait {minutes} minutes, then try again. What others try does not"
            " count in a browser that you have logged on with before.",
            retry_after=minutes * 60,
        )
    return attempt


def _log_on(user: User) -> None:
    """Open a session under a new cookie, so that one planted before means nothing."""
    if isinstance(former := session.get(TOKEN), str):
        Session.end(former)
    token = Session.begin(user)
    browsers.remember(user)
    db.session.commit()
    session.clear()
    session.permanent = True
    session[TOKEN] = token
