"""Send the headers that keep a browser from doing what the console never asks for."""

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from flask import Flask, Response, abort, current_app, request

from ..config import current_settings
from .machines import is_api_request

View = TypeVar("View", bound=Callable[..., Any])

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Bootstrap's CSS draws its icons with data: images.
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # no-referrer would make the check of forged requests over HTTPS refuse every form.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


MOST_ENCODED = 22_000  # bytes: a form of 64 KB that is nothing else
MOST_FIELDS = 30_000  # a group's form has one for each member


def init_app(app: Flask) -> None:
    """Send the headers on every answer of `app`."""
    app.before_request(_take_forms_only)
    app.after_request(_add_headers)


def _take_forms_only() -> None:
    """Refuse what no form of the console sends: JSON, files where none are taken, and bytes that are no text."""
    is_page = not is_api_request()
    if is_page and request.headers.get("Transfer-Encoding"):
        abort(411)  # a body of unknown length would be cut at the limit, and half a form taken for a whole one
    is_form = is_page and request.mimetype == "application/x-www-form-urlencoded"
    # Read before anything is parsed: afterwards there is nothing left to read.
    body = request.get_data() if is_form else b""
    # No browser sends such a sign, and each costs what a hundred letters cost; neither do forms have so many fields.
    if re.search(rb"%(?![0-9A-Fa-f]{2})", body):
        abort(400)
    if body.count(b"%") > MOST_ENCODED or body.count(b"&") > MOST_FIELDS:
        abort(413)
    if is_page and request.method == "POST" and (request.is_json or (request.files and not _takes_files())):
        abort(415)
    try:
        # Werkzeug would keep such bytes as text like "%FF".
        unquote_to_bytes(request.query_string + b"&" + body).decode()
    except UnicodeDecodeError:
        abort(400, "There are characters in this that cannot be shown. Type it instead of pasting it.")


def takes_files(view: View) -> View:
    """Mark a view as one whose form uploads files."""
    view.takes_files = True  # type: ignore[attr-defined]
    return view


def _takes_files() -> bool:
    return hasattr(current_app.view_functions.get(request.endpoint or ""), "takes_files")


def headers(https: bool) -> dict[str, str]:
    """Return the headers that every answer carries."""
    return HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if https else {})


def _add_headers(response: Response) -> Response:
    response.headers.update(headers(current_settings().https))
    if request.endpoint != "static" or response.status_code >= 400:
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("HX-Request")
    return response
