"""Show notifications and their deliveries, retry or stop deliveries, and send tests."""

import re
from typing import Any

from flask import Blueprint, Response, abort, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from ...accounts.permissions import Permission, requires
from ...core.db import db
from ...delivery.channels.registry import KINDS, label_of
from ...delivery.facts import from_json
from ...delivery.models import Notification
from ...delivery.queueing import SENT_AGAIN, send_again
from ...delivery.stopping import stop_alerts, stop_integrations, stopped_words, waiting_of
from ...intake.models import Integration
from ...reach.sentences import in_words
from ...web import htmx
from ...web.arguments import read_ids, read_page, read_text
from ..visitors import visitor
from ..wording import NAMES_SHOWN
from .listing import DELIVERY_STATES, SHOWS, search
from .results import no_worker, result_of
from .trials import Trial

blueprint = Blueprint("notifications", __name__)
GONE = "This notification does not exist, or it is older than notifications are kept."
NOTHING_TO_SEND = {"failed": "Nothing here has failed.", "cancelled": "Nothing here was cancelled."}


@blueprint.get("/notifications")
@requires(Permission.USE_CONSOLE)
def index() -> ResponseReturnValue:
    """Show the notifications, newest first: all, or those that match a search."""
    text, show = read_text(request.args.get("q", "")), request.args.get("show", "all")
    before = request.args.get("before", "")
    if show not in SHOWS:
        abort(400, "The list cannot be narrowed to that.")
    if before and not re.fullmatch("[1-9][0-9]{0,17}", before):
        abort(400, "This part of the list cannot be recognised. Start again from its beginning.")
    rows, has_more = search(visitor().account_id, text, show, int(before) if before else None)
    address = url_for(".index", q=text or None, show=show if show != "all" else None)
    older = url_for(".index", q=text or None, show=show if show != "all" else None, before=rows[-1].id) if rows else ""
    context: dict[str, Any] = {"text": text, "show": show, "shows": SHOWS, "rows": rows, "no_worker": no_worker()}
    context |= {"is_first": not before, "address": address, "older": older if has_more else ""}
    response = htmx.render("notifications/index.html", "notifications/_found.html", **context)
    if not before:  # otherwise a pager link was followed, which pushes its own URL
        htmx.show_address(response, address)
    return response


@blueprint.get("/notifications/<int(max=9223372036854775807):id>")
@requires(Permission.USE_CONSOLE)
def show(id: int) -> ResponseReturnValue:
    """Show a notification and its deliveries."""
    return _show(_find(id))


@blueprint.post("/notifications/<int(max=9223372036854775807):id>/again")
@requires(Permission.USE_CONSOLE)
def again(id: int) -> ResponseReturnValue:
    """Send failed or cancelled deliveries again: all of them, or that of one contact and channel."""
    notification, (shown, page) = _find(id), _read_part()
    contact_id, channel, state = None, request.form.get("channel"), request.form.get("again", "failed")
    if state not in SENT_AGAIN:
        abort(400, "Only what failed or was cancelled can be sent again.")
    if channel is not None:
        contact_id = read_ids(request.form.getlist("contact"))[0]
        if channel not in KINDS:
            abort(400, "There is no such channel.")
    said = _said_again(send_again(notification, contact_id, channel, state), state)
    db.session.commit()
    if htmx.wants_fragment():
        return _show(notification, said)
    return htmx.saved(said, _address(id, shown, page))


def _said_again(sent: list[tuple[str, str]], state: str) -> str:
    """Return the message that names the contact and channel of each delivery that is sent again."""
    if not sent:
        return NOTHING_TO_SEND[state]
    if len(sent) > 1:
        return f"{len(sent)} messages are sent again."
    ((name, channel),) = sent
    return f"1 message is sent again, to {name} ({label_of(channel)})."


@blueprint.route("/notifications/<int(max=9223372036854775807):id>/stop", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def stop(id: int) -> ResponseReturnValue:
    """Cancel the pending deliveries of a notification, or after confirmation those of its whole integration."""
    notification, who = _find(id), visitor()
    address = _address(id, *_read_part())
    if request.method == "POST" and "all" not in request.form:
        stopped = stop_alerts(who.account_id, [id], who.email)
        said = stopped_words(stopped)
        return _show(notification, said) if htmx.wants_fragment() else htmx.saved(said, address)
    if notification.integration_id is None:
        abort(404, "This notification came in through no integration.")
    if request.method == "POST":
        return htmx.saved(
            stopped_words(stop_integrations(who.account_id, [notification.integration_id], who.email)), address
        )
    waiting = waiting_of(who.account_id, [notification.integration_id])
    return render_template("integrations/stop.html", waiting=waiting, name=notification.integration_name, back=address)


@blueprint.route("/notifications/test", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def test() -> ResponseReturnValue:
    """Show the confirmation with the cost of a test to contacts or a group, or send the test."""
    trial = Trial.read(visitor().account_id, request.values)
    if request.method != "POST":
        contacts, costs = trial.costs()
        context = {"trial": trial, "contacts": contacts, "costs": costs, "names_shown": NAMES_SHOWN}
        return htmx.render("notifications/test.html", "notifications/_test.html", **context)
    notification = trial.send()
    db.session.commit()
    if not htmx.wants_fragment():
        return htmx.leave_for(url_for(".show", id=notification.id))
    context = result_of(notification)
    return _refreshing(htmx.render("notifications/result.html", "notifications/_result.html", **context), context)


@blueprint.get("/notifications/<int(max=9223372036854775807):id>/result")
@requires(Permission.USE_CONSOLE)
def result(id: int) -> ResponseReturnValue:
    """Show the delivery results of a test so far."""
    context = result_of(_find(id))
    response = htmx.render("notifications/result.html", "notifications/_result.html", **context)
    return _refreshing(response, context)


def _read_part() -> tuple[str, int]:
    """Return the state and the page, from 1, of the deliveries that the query asks for; raise BadRequest if invalid."""
    state, page = request.args.get("state", "all"), read_page(request.args.get("page", "1"))
    if state not in DELIVERY_STATES:
        raise BadRequest("The list cannot be narrowed to that.")
    return state, page


def _address(id: int, state: str, page: int) -> str:
    return url_for(".show", id=id, state=state if state != "all" else None, page=page if page > 1 else None)


def _show(notification: Notification, said: str = "") -> Response:
    state, page = _read_part()
    context = result_of(notification, state, page) | {"message": said, "facts": from_json(notification.facts)}
    context["title"] = in_words(notification.codes and notification.codes[:1], notification.title)
    context["text"] = in_words(notification.codes and notification.codes[1:], notification.text)
    if notification.integration_id and not htmx.wants_fragment():
        context["integration"] = Integration.of(notification.account_id, notification.integration_id)
    response = htmx.render("notifications/show.html", "notifications/_deliveries.html", **context)
    return _refreshing(response, context)


def _refreshing(response: Response, context: dict[str, Any]) -> Response:
    """Trigger a refresh of the list of contacts when all deliveries are final."""
    if htmx.wants_fragment() and not context["is_waiting"]:
        response.headers["HX-Trigger"] = "notifications:changed"
    return response


def _find(id: int) -> Notification:
    return Notification.of(visitor().account_id, id) or abort(404, GONE)
