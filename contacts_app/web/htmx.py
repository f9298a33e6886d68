"""Decide between page and fragment: the only code that knows htmx exists."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flask import Response, flash, make_response, redirect, render_template, request

LONGEST_ADDRESS = 8000  # gunicorn joins headers of one name to one


def wants_fragment() -> bool:
    """Tell whether htmx asks, to put the answer into a page that is already there."""
    return request.headers.get("HX-Request") == "true"


def render(page: str, fragment: str, status: int = 200, /, **context: Any) -> Response:
    """Answer the template `page` to a browser and `fragment` to htmx."""
    name = fragment if wants_fragment() else page
    return make_response(render_template(name, in_dialog=wants_fragment(), **context), status)


def show_address(response: Response, address: str) -> None:
    """Have the browser show `address`, this page's own, where it asked for the page in another way.

    Links push the address they lead to and search forms replace the one that is shown (`hx-push-url`,
    `hx-replace-url`). This header overrides both, so it is sent only for what a form adds: fields that are empty.
    """
    if wants_fragment() and dict(parse_qsl(urlsplit(address).query)) != request.args.to_dict():
        response.headers["HX-Replace-Url"] = address


def saved(
    message: str, address: str, fragment: str = "", status: int = 200, /, stays: bool = False, **context: Any
) -> Response:
    """Answer a change: to htmx the fresh parts of the page and the message, else the way to `address`.

    The dialog closes, unless it `stays` for what the answer puts into it.
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
    """Answer an error: a page of its own, or a message that leaves what is on the screen as it is."""
    if not wants_fragment():
        return make_response(render_template("error.html", title=title, sentence=sentence, status=status), status)
    told = f"{title}. {sentence}" if status >= 500 else sentence
    response = make_response(render_template("_error.html", sentence=told), status)
    # Only dialogs post: there the message has to stand inside, because all behind a dialog is out of reach.
    response.headers["HX-Retarget"] = "#dialog-messages" if request.method == "POST" else "#messages"
    response.headers["HX-Reswap"] = "innerHTML"
    response.headers["HX-Push-Url"] = "false"  # whatever the link says that was followed
    return response


def leave_for(address: str) -> Response:
    """Send the browser to another page, and never that page's content into a part of this one."""
    if not wants_fragment():
        return make_response(redirect(address, 303))
    response = make_response("", 204)
    response.headers["HX-Redirect"] = address
    return response


def address_shown() -> str:
    """Return path and query of the page that the person looks at, which is also where to return to."""
    if wants_fragment():
        return _path_of(request.headers.get("HX-Current-URL", ""))
    if request.method == "POST":
        # Where a form goes need not be where it stands: what asks before a deletion has the ids in its body. Else each
        # form would have to name its page in a hidden field; the console's own policy has browsers send this header.
        return _path_of(request.headers.get("Referer", ""))
    # Not full_path, which fails for bytes that no browser sends.
    return f"{request.path}?{request.query_string.decode(errors='replace')}".rstrip("?")


def _path_of(address: str) -> str:
    """Return path and query of an address that a browser names."""
    try:
        parts = urlsplit(address if len(address) <= LONGEST_ADDRESS else "/")
    except ValueError:
        return "/"
    return f"{parts.path}?{parts.query}".rstrip("?") or "/"


def query_shown(path: str) -> dict[str, str] | None:
    """Return the query of the page the person looks at, or None if that is not the one at `path`."""
    shown, _, query = address_shown().partition("?")
    return dict(parse_qsl(query)) if wants_fragment() and shown == path else None
