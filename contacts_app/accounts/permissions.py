"""Know who sends a request, and whether they may: every view names its permission, or says that it is public."""

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import abort, current_app, g, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from ..config import StartError
from ..web import htmx
from ..web.turns import note_account
from .models import Session, Visitor

TOKEN = "token"  # nosec B105 # the name in the cookie
View = TypeVar("View", bound=Callable[..., Any])


class Permission(Enum):
    """What a user may be allowed to do."""

    USE_CONSOLE = "use the console"  # all of it: every user of an account may, until there are roles


class Access(Enum):
    """What a view asks for instead of a permission."""

    PUBLIC = "no log-on"


def requires(permission: Permission) -> Callable[[View], View]:
    """Mark a view as one for users with the permission."""

    def mark(view: View) -> View:
        view.access = permission  # type: ignore[attr-defined]
        return view

    return mark


def public(view: View) -> View:
    """Mark a view as one that needs no log-on."""
    view.access = Access.PUBLIC  # type: ignore[attr-defined]
    return view


def access_of(view: Callable[..., Any]) -> Permission | Access | None:
    """Return what the view asks for; None if it says nothing, and is open to nobody."""
    access: Permission | Access | None = getattr(view, "access", None)
    return access


def authorize() -> ResponseReturnValue | None:
    """Let a request through if its view is public or its user may; lead to the log-on page where there is no user."""
    view = current_app.view_functions.get(request.endpoint or "")
    if request.endpoint == "static":
        g.visitor = None  # a file is the same for everybody, and so is the page that says there is none
        return None
    if view is None:
        visitor_or_none()  # the page that says so shows it; a database that is away comes out here
        return None
    access = access_of(view)
    if access is Access.PUBLIC:
        return None
    who = visitor_or_none()
    if who is None:
        return htmx.leave_for(url_for("accounts.logon", next=htmx.address_shown()))
    if not isinstance(access, Permission):
        abort(403)
    return None


def visitor_or_none() -> Visitor | None:
    """Return who sends this request, if it is a user with a live session."""
    if "visitor" not in g:
        g.visitor = None  # also where the next line fails: the page that says so does not ask again
        token = session.get(TOKEN)
        if isinstance(token, str):
            found = g.visitor = Session.visitor(token)
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
