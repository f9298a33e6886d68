"""Choose between a full page and a fragment; all server code that depends on htmx is here."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flask import Response, flash, make_response, redirect, render_template, request

LONGEST_ADDRESS = 8000  # characters; gunicorn joins repeated headers, so one can exceed its limit for a header


def wants_fragment() -> bool:
    """Return whether htmx sent the request and will swap the response into the current page."""
    return request.headers.get("HX-Request") == "true"


def render(page: str, fragment: str, status: int = 200, /, **context: Any) -> Response:
    """Render the template `page` for a browser, or `fragment` for htmx."""
    name = fragment if wants_fragment() else page
    return make_response(render_template(name, in_dialog=wants_fragment(), **context), status)


def show_address(response: Response, address: str) -> None:
    """Set the address bar to `address`, the canonical URL of this page, if the request used another URL.

    Links push their URL and search forms replace the current one (`hx-push-url`, `hx-replace-url`). This header
    overrides both, so it is sent only if the query differs, as when a form adds empty fields.
    """
    if wants_fragment() and dict(parse_qsl(urlsplit(address).query)) != request.args.to_dict():
        response.headers["HX-Replace-Url"] = address


def saved(
    message: str, address: str, fragment: str = "", status: int = 200, /, stays: bool = False, **context: Any
) -> Response:
    """Respond to a change: to htmx with the updated fragments and the message, otherwise with a redirect to `address`.

    The dialog closes unless `stays` is set, as when the response fills the dialog.
    """
    if not (fragment and wants_fragment()):
        flash(message)
        return leave_for(address)
    response = make_response(render_template(fragment, message=message, in_dialog=stays, **context), status)
    if not stays:
        response.headers["HX-Trigger"] = "dialog:close"
    response.headers["HX-Replace-Url"] = address
    return response


def failed(status: int, title: str, sentence: str) -> Response:
    """Respond with an error: a full page, or for htmx a message that leaves the current page unchanged."""
    if not wants_fragment():
        return make_response(render_template("error.html", title=title, sentence=sentence, status=status), status)
    message = f"{title}. {sentence}" if status >= 500 else sentence
    response = make_response(render_template("_error.html", sentence=message), status)
    # Only dialogs send POST requests. Their message goes inside the dialog, because the page behind a modal is inert.
    response.headers["HX-Retarget"] = "#dialog-messages" if request.method == "POST" else "#messages"
    response.headers["HX-Reswap"] = "innerHTML"
    response.headers["HX-Push-Url"] = "false"  # overrides hx-push-url of the link
    return response


def leave_for(address: str) -> Response:
    """Redirect the browser to another page, also from htmx, which would swap that page into this one."""
    if not wants_fragment():
        return make_response(redirect(address, 303))
    response = make_response("", 204)
    response.headers["HX-Redirect"] = address
    return response


def address_shown() -> str:
    """Return the path and query of the page that the browser shows, to which a response can redirect."""
    if wants_fragment():
        return _path_of(request.headers.get("HX-Current-URL", ""))
    if request.method == "POST":
        # The URL of a POST may differ from the page with the form, such as a deletion with its ids in the body. Referer
        # saves a hidden field in each form; the Referrer-Policy of the console makes browsers send it.
        return _path_of(request.headers.get("Referer", ""))
    # Not request.full_path, which raises an error if the query is not valid UTF-8.
    return f"{request.path}?{request.query_string.decode(errors='replace')}".rstrip("?")


def _path_of(address: str) -> str:
    """Return the path and query of a URL from a request header, or `/` if it is invalid or too long."""
    try:
        parts = urlsplit(address if len(address) <= LONGEST_ADDRESS else "/")
    except ValueError:
        return "/"
    return f"{parts.path}?{parts.query}".rstrip("?") or "/"


def query_shown(path: str) -> dict[str, str] | None:
    """Return the query of the page that the browser shows, or None unless htmx asks from the page at `path`."""
    shown, _, query = address_shown().partition("?")
    return dict(parse_qsl(query)) if wants_fragment() and shown == path else None
