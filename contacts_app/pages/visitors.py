"""Find the user who sends a request, and authorise requests."""

import sqlalchemy as sa
from flask import abort, current_app, g, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from ..accounts.models import Session, Visitor
from ..accounts.permissions import Access, access_of, may
from ..config import StartError
from ..web import htmx
from ..web.machines import is_api_request
from ..web.turns import note_account

TOKEN = "token"  # nosec B105 # the name in the cookie


def authorize() -> ResponseReturnValue | None:
    """Allow a request if its view is public or its user has the permission; redirect strangers to the log-on page."""
    view = current_app.view_functions.get(request.endpoint or "")
    if request.endpoint == "static":
        g.visitor = None  # files and their error pages are the same for everybody
        return None
    if view is None:
        visitor_or_none()  # the 404 page shows the user; if the database is down, this raises
        return None
    access = access_of(view)
    if access is Access.PUBLIC:
        return None
    who = visitor_or_none()
    if who is None:
        if is_api_request():
            abort(401)
        return htmx.leave_for(url_for("accounts.logon", next=htmx.address_shown()))
    if not may(who, access):
        abort(403)
    return None


def visitor_or_none() -> Visitor | None:
    """Return the user who sends this request, None without a live session; the answer is cached per request."""
    if "visitor" not in g:
        g.visitor = None  # also if the query fails: the error page must not repeat it
        token = session.get(TOKEN)
        if isinstance(token, str):
            found = g.visitor = Session.visitor(token)
            if found:
                note_account(request.environ, found.account_id)
    visitor: Visitor | None = g.visitor
    return visitor


def visitor_to_show() -> Visitor | None:
    """Return the user to show on a page; on an error page without a database, the one who was found before."""
    try:
        return visitor_or_none()
    except (sa.exc.SQLAlchemyError, StartError, ServiceUnavailable):
        found: Visitor | None = g.visitor  # found before the error, if the console is overloaded
        return found


def visitor() -> Visitor:
    """Return the user who sends this request, in views that need a log-on; abort with 401 without one."""
    return visitor_or_none() or abort(401)
