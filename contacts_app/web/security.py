"""Send security headers, and refuse requests that no form of the console sends."""

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
    # With no-referrer, the CSRF check over HTTPS would refuse every form.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


MAX_ENCODED = 22_000  # percent-encoded bytes, of which a form of 64 KB can have as many
MAX_FIELDS = 30_000  # the form of a group has one for each member


def init_app(app: Flask) -> None:
    """Check the requests of `app`, and send security headers with every answer."""
    app.before_request(_refuse_non_forms)
    app.after_request(_add_headers)


def _refuse_non_forms() -> None:
    """Refuse what no form of the console sends: JSON, files for views that take none, and invalid UTF-8."""
    is_page = not is_api_request()
    if is_page and request.headers.get("Transfer-Encoding"):
        abort(411)  # a body of unknown length would be cut at the size limit, and a part of a form be saved
    is_form = is_page and request.mimetype == "application/x-www-form-urlencoded"
    # Read before Flask parses the form: afterwards the stream is empty.
    body = request.get_data() if is_form else b""
    # Browsers send no invalid percent-encoding, and decoding one costs as much as a hundred letters. The limits below
    # bound the cost of parsing as well.
    if re.search(rb"%(?![0-9A-Fa-f]{2})", body):
        abort(400)
    if body.count(b"%") > MAX_ENCODED or body.count(b"&") > MAX_FIELDS:
        abort(413)
    if is_page and request.method == "POST" and (request.is_json or (request.files and not _takes_files())):
        abort(415)
    try:
        # Werkzeug would leave invalid bytes in the text as "%FF".
        unquote_to_bytes(request.query_string + b"&" + body).decode()
    except UnicodeDecodeError:
        abort(400, "There are characters in this that cannot be shown. Type it instead of pasting it.")


def takes_files(view: View) -> View:
    """Decorate a view whose form uploads files."""
    view.takes_files = True  # type: ignore[attr-defined]
    return view


def _takes_files() -> bool:
    return hasattr(current_app.view_functions.get(request.endpoint or ""), "takes_files")


def headers(https: bool) -> dict[str, str]:
    """Return the security headers of every answer."""
    return HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if https else {})


def _add_headers(response: Response) -> Response:
    response.headers.update(headers(current_settings().https))
    if request.endpoint != "static" or response.status_code >= 400:
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("HX-Request")
    return response
