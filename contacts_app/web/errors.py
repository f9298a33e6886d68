"""Answer every error with a page or a message that says what happened and what to do next."""

import logging
import sys

import psycopg
import sqlalchemy as sa
from flask import Flask, Response, jsonify, make_response, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import (
    BadHost,
    HTTPException,
    MethodNotAllowed,
    SecurityError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    default_exceptions,
)

from ..config import StartError
from . import htmx
from .machines import ALERT_BYTES, is_api_request

logger = logging.getLogger("contacts_app")

TEXTS = {
    400: ("This request cannot be understood", "Go back and try again."),
    401: ("This is not allowed", "Log on first."),
    403: ("This is not allowed", "You do not have the permission for it. Ask your administrator."),
    404: ("This page does not exist", "The address is wrong, or what it led to has been deleted."),
    405: ("This address does not support that", "Go back and use the buttons of the page."),
    408: ("This request took too long", "It did not arrive completely in time. Try again."),
    409: ("Somebody else is changing the same", "Nothing was saved. Try again."),
    411: ("This request cannot be understood", "The request does not state its length. Go back and try again."),
    413: (
        "This is too much at once",
        "The form is larger than the console accepts. Shorten your entries, or do it in parts.",
    ),
    414: ("This address is too long", "Shorten the search or select fewer contacts."),
    415: ("This request cannot be understood", "Go back and use the form of the page."),
    422: ("This cannot be saved", "Go back and correct what you entered."),
    429: ("Too many attempts", "Wait ten minutes, then try again."),
    431: ("This request cannot be understood", "Delete the cookies of this address in your browser, then try again."),
    500: (
        "Something went wrong here",
        "Nothing was saved. Try again, and tell your administrator if it happens again.",
    ),
    503: ("The database cannot be reached", "Nothing was saved. Try again in a moment."),
    507: (
        "The disk of the database is full",
        "Nothing was saved. Tell your administrator to make room, then try again.",
    ),
}
READ_ONLY = (
    "The database does not accept changes at the moment",
    "Nothing was saved. Try again in a moment, and tell your administrator if it happens again.",
)
# Sentences for API requests instead, addressed to whoever configures the sender.
API_TEXTS = dict.fromkeys((404, 405, 415), "Send alerts to /api/v1/alerts with the method POST.") | {
    411: "Send the length of the body, in the header Content-Length.",
    413: f"An alert can have at most {ALERT_BYTES >> 20} MB. Configure the sender to group fewer alerts into one"
    " message.",
}
UNREADABLE_FORM = (
    "This form was opened in another session or has been open for too long. Reload the page and try again."
)
BUSY = "The console is overloaded at the moment", "Nothing was saved. Try again in a moment."
RETRY_SECONDS = 5


def init_app(app: Flask) -> None:
    """Register the error handlers of `app`."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(sa.exc.OperationalError, _no_database)
    app.register_error_handler(sa.exc.InterfaceError, _no_database)
    app.register_error_handler(sa.exc.TimeoutError, _no_database)
    app.register_error_handler(StartError, _no_database)  # the embedded server does not start
    app.register_error_handler(Exception, _unexpected)


def _failed(status: int, title: str, sentence: str) -> Response:
    if is_api_request():
        return make_response(jsonify(error=f"{title}. {sentence}" if status >= 500 else sentence), status)
    return htmx.failed(status, title, sentence)


def _http_error(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:  # a redirect by the router
        return Response(response=error.get_body(), headers=error.get_headers(), status=error.code)
    if isinstance(error, SecurityError | BadHost):  # no page with links: the host name is not the console's
        sentence = "The console does not answer to this host name. An administrator can add it to TRUSTED_HOSTS."
        return Response(f"{sentence}\n", error.code, content_type="text/plain; charset=utf-8")
    title, sentence = TEXTS.get(error.code, TEXTS[400 if error.code < 500 else 500])
    if isinstance(error, ServiceUnavailable):
        title, sentence = BUSY
    if is_api_request():
        sentence = API_TEXTS.get(error.code, sentence)
    if isinstance(error, CSRFError):
        sentence = UNREADABLE_FORM
    elif type(error) is default_exceptions[error.code] and error.description != type(error).description:
        sentence = error.description or sentence  # the sentence of the view
    response = _failed(error.code, title, sentence)
    if isinstance(error, Unauthorized):
        response.headers.extend([("WWW-Authenticate", scheme.to_header()) for scheme in error.www_authenticate or ()])
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.allow.update(error.valid_methods)
    if isinstance(error, TooManyRequests | ServiceUnavailable) and error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _no_database(error: Exception) -> Response:
    busy = isinstance(getattr(error, "orig", None), psycopg.errors.DeadlockDetected | psycopg.errors.LockNotAvailable)
    if busy and not is_api_request():
        return _failed(409, *TEXTS[409])
    logger.error("%s %s: %s", request.method, request.endpoint, _reason(error))
    full = isinstance(getattr(error, "orig", None), psycopg.errors.DiskFull)
    status = 507 if full else 503
    # 503 also for a lock timeout: senders do not retry after a 4xx status, and the alert would be lost.
    response = _failed(status, *(READ_ONLY if _is_read_only(error) else TEXTS[409 if busy else status]))
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _is_read_only(error: Exception) -> bool:
    """Return whether the database is read-only: a standby before failover, or a server that runs out of disk space."""
    return isinstance(getattr(error, "orig", None), psycopg.errors.ReadOnlySqlTransaction)


def _unexpected(error: Exception) -> Response:
    """Log where an unexpected error was raised, but not its message, which may contain personal data."""
    if _is_read_only(error):
        return _no_database(error)
    logger.error("%s %s: %s", request.method, request.endpoint, _reason(error))
    frame = sys.exc_info()[2]
    while frame:
        code = frame.tb_frame.f_code
        logger.error("  %s:%s %s", code.co_filename, frame.tb_lineno, code.co_name)
        frame = frame.tb_next
    return _failed(500, *TEXTS[500])


def _reason(error: Exception) -> str:
    original = getattr(error, "orig", None)
    if isinstance(original, psycopg.Error):
        return f"{type(original).__name__} {original.sqlstate or ''} {original.diag.constraint_name or ''}".strip()
    return str(error) if isinstance(error, StartError) else type(error).__name__
