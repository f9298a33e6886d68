"""Set up, log on, log off, and change a password."""

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import Blueprint, Flask, Request, abort, current_app, flash, g, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from itsdangerous import BadSignature
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests

from ...accounts.models import LOGON_WINDOW, Account, LogonAttempt, Session, User, Visitor
from ...config import StartError, current_settings
from ...core.db import db
from ...ops.places import note_account
from ...web import htmx
from . import browsers, proxies
from .forms import LogonForm, PasswordForm, SetupForm

blueprint = Blueprint("accounts", __name__)
TOKEN = "token"  # nosec B105
LONGEST_COOKIES = 16_000  # in two headers: gunicorn takes a hundred, and joins them to one
WRONG = "There is no user with this e-mail and this password."
View = TypeVar("View", bound=Callable[..., Any])


class SessionCookie(SecureCookieSessionInterface):
    """Read the cookie whatever the clock says: when a session ends is for the database to say, by its clock.

    Flask's own refuses a cookie of the future: one that another machine has signed, whose clock is a little ahead.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        """Return what the cookie holds, nothing if the console has not signed it."""
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
    CSRFProtect(app)
    app.context_processor(lambda: {"visitor": visitor_to_show()})


def public(view: View) -> View:
    """Mark a view as one that needs no log-on."""
    view.is_public = True  # type: ignore[attr-defined]
    return view


def require_logon() -> ResponseReturnValue | None:
    """Let a request through if its view is public or its session is live; else lead to the log-on page."""
    view = current_app.view_functions.get(request.endpoint or "")
    if request.endpoint == "static":
        g.visitor = None  # a file is the same for everybody, and so is the page that says there is none
        return None
    if view is None:
        visitor_or_none()  # the page that says so shows it; a database that is away comes out here
        return None
    if getattr(view, "is_public", False):
        return None
    if visitor_or_none() is None:
        return htmx.leave_for(url_for("accounts.logon", next=htmx.address_shown()))
    return None


def visitor_or_none() -> Visitor | None:
    """Return who sends this request, if it is a user with a live session."""
    if "visitor" not in g:
        g.visitor = None  # also where the next line fails: the page that says so does not ask again
        token = session.get(TOKEN)
        if isinstance(token, str):
            found = g.visitor = Session.visitor(token, only_reads=request.method in ("GET", "HEAD"))
            if found:
                note_account(request.environ, found.account_id)
    visitor: Visitor | None = g.visitor
    return visitor


def visitor_to_show() -> Visitor | None:
    """Return who sends this request, also on the page that says that the database is away."""
    try:
        return visitor_or_none()
    except (sa.exc.SQLAlchemyError, StartError, ServiceUnavailable):
        found: Visitor | None = g.visitor  # where the console is busy
        return found


def visitor() -> Visitor:
    """Return the user who sends this request to a view that needs a log-on."""
    return visitor_or_none() or abort(401)


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
    Account.hold_creation()
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


def setup_token() -> str:
    """Return the secret of the set-up link, which only who reads the console's output knows."""
    key = current_settings().secret_key.encode()
    return hmac.new(key, b"set-up link", hashlib.sha256).hexdigest()[:40]


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
