"""List, create, edit and delete groups, and add or remove their members."""

from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any

from flask import Blueprint, Response, abort, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from ...accounts.permissions import Permission, requires
from ...contacts.models import Contact
from ...core.db import db
from ...delivery.stopping import stop_integrations, stopped_words, waiting_of
from ...groups.models import Group
from ...intake.models import Integration
from ...reach.reachability import group_summaries, reach_of, unreachable_members
from ...web import htmx
from ...web.arguments import PAGE_SIZE, read_ids, read_page, read_text
from ...web.machines import FORM_BYTES
from ..contacts import listing as contacts
from ..contacts.views import changed
from ..visitors import visitor
from ..wording import GROUP_GONE, NAMES_SHOWN, deletion_message, saved_message
from . import listing
from .forms import GroupForm, read_members

blueprint = Blueprint("groups", __name__)
DELETED = "{count} groups have been deleted."
ADDED = "1 contact has been added to {group}.", "{count} contacts have been added to {group}."
TAKEN = "1 contact has been taken from {group}.", "{count} contacts have been taken from {group}."


@blueprint.url_value_preprocessor
def take_large_forms(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Raise the size limits for forms with many members, before anything parses the form."""
    request.max_content_length = request.max_form_memory_size = FORM_BYTES


@blueprint.get("/groups")
@requires(Permission.USE_CONSOLE)
def index() -> ResponseReturnValue:
    """Show the groups: all, or those where the name of the group or a member matches a search."""
    text, page = _read_query(request.args)
    context = _listing(text, page)
    if not context["rows"] and page > 1:
        abort(404, f"The list has no page {page}.")
    response = htmx.render("groups/index.html", "groups/_found.html", **context)
    htmx.show_address(response, _address(text, page))
    return response


@blueprint.get("/groups/<int(max=9223372036854775807):id>")
@requires(Permission.USE_CONSOLE)
def show(id: int) -> ResponseReturnValue:
    """Show a group and its members."""
    account_id = visitor().account_id
    group = Group.of(account_id, id) or abort(404, GROUP_GONE)
    unreachable, members = unreachable_members(account_id, id), group.members()
    members = sorted(members, key=lambda member: member[0] not in unreachable)  # unreachable members first
    context = {"group": group, "members": members, "unreachable": unreachable}
    return htmx.render("groups/show.html", "groups/_show.html", **context)


@blueprint.route("/groups/new", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def new() -> ResponseReturnValue:
    """Create a group."""
    return _edit()


@blueprint.route("/groups/<int(max=9223372036854775807):id>/edit", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def edit(id: int) -> ResponseReturnValue:
    """Edit a group."""
    return _edit(Group.of(visitor().account_id, id) or abort(404, GROUP_GONE))


def _edit(group: Group | None = None) -> ResponseReturnValue:
    """Show the form of a new or an existing group, or save it."""
    group_id = group.id if group else None
    form = GroupForm()
    if request.method != "POST" and group:
        form.open(group)
    if request.method != "POST" or "filter" in request.form:
        return _dialog(form, group_id)
    if not (form.validate() and (saved := form.save(visitor().account_id, group))):
        return _dialog(form, group_id, 409 if form.theirs else 422)
    message = saved_message(saved.name, is_new=group_id is None)
    db.session.commit()
    return _changed(f"{message} It holds what somebody else has changed meanwhile, too." if form.is_merged else message)


def _dialog(form: GroupForm, group_id: int | None, status: int = 200) -> Response:
    context = {"form": form, "group_id": group_id} | _picker(form.member.data, request.form.get("pick", ""))
    return htmx.render("groups/edit.html", "groups/_edit.html", status, **context)


@blueprint.post("/groups/members")
@requires(Permission.USE_CONSOLE)
def members() -> ResponseReturnValue:
    """Show the contacts that match the filter of the picker; picked contacts stay picked."""
    picked = read_members(request.form.getlist("member"))
    return htmx.render("groups/members.html", "groups/_members.html", **_picker(picked, request.form.get("pick", "")))


@blueprint.route("/groups/delete", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def delete() -> ResponseReturnValue:
    """Show the confirmation for deleting the selected groups, or delete them."""
    account_id = visitor().account_id
    ids = read_ids(request.values.getlist("id"))
    if request.method != "POST":
        groups = Group.names(account_id, ids)
        if not groups:
            abort(404, GROUP_GONE)
        used_by = [name for names in Integration.names_of_groups(account_id, ids).values() for name in names]
        waiting = waiting_of(account_id, Integration.ids_of_groups(account_id, ids))
        context = {"groups": groups, "names_shown": NAMES_SHOWN, "used_by": used_by, "waiting": waiting}
        return htmx.render("groups/delete.html", "groups/_delete.html", **context)
    integrations = Integration.ids_of_groups(account_id, ids)
    names = Group.delete(account_id, ids)
    db.session.commit()
    if not names and not htmx.wants_fragment():
        abort(404, GROUP_GONE)
    message = deletion_message(names, len(ids), DELETED)
    if names and "stop" in request.form:
        stopped = stop_integrations(account_id, integrations, visitor().email)  # after the deletion: no new alerts
        message += f" {stopped_words(stopped)}"
    return _changed(message, 200 if names else 404)


@blueprint.route("/groups/assign", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def assign() -> ResponseReturnValue:
    """Show the choice of a group, or add the selected contacts to it or remove them from it."""
    account_id = visitor().account_id
    ids = read_ids(request.values.getlist("id"))
    if request.method != "POST":
        contacts = Contact.names(account_id, ids)
        if not contacts:
            abort(404, "These contacts do not exist, or somebody has deleted them meanwhile.")
        groups = Group.names(account_id)
        return htmx.render("groups/assign.html", "groups/_assign.html", contacts=contacts, groups=groups)
    chosen = read_ids(request.form.getlist("group"))[0]
    group = Group.locked(account_id, chosen) or abort(404, GROUP_GONE)
    name = group.name
    if request.form.get("action") == "remove":
        count, one, several = group.remove_members(ids), *TAKEN
    else:
        count, one, several = group.add_members(ids), *ADDED
    db.session.commit()
    if not count:
        return changed(f"Nothing has changed in {name}.")
    return changed((one if count == 1 else several).format(count=count, group=name))


def _picker(picked: Sequence[int], text: str) -> dict[str, Any]:
    """Return the template context of the picker: the contacts that match `text`, and the picked ids not among them."""
    query = contacts.Query(read_text(text))
    page = contacts.search(visitor().account_id, query)
    shown = {row.id for row in page.rows}
    hidden = [id for id in picked if id not in shown]
    context = {"pick": query.text, "rows": page.rows, "total": page.total, "picked": set(picked), "hidden": hidden}
    address_of = partial(contacts.address_of, account_id=visitor().account_id)
    return context | {"unreachable": contacts.unreachable_among(page.rows), "address_of": address_of}


def _changed(message: str, status: int = 200) -> Response:
    """Respond to a change with the updated list that the browser shows."""
    shown = htmx.query_shown(url_for(".index"))
    if shown is None:
        return htmx.saved(message, url_for(".index"))
    try:
        text, page = _read_query(shown)
    except BadRequest:
        text, page = "", 1
    context = _listing(text, page)
    if not context["rows"] and page > 1:
        page = 1
        context = _listing(text, page)
    db.session.commit()  # nothing was written; a rollback would discard the prepared statements
    return htmx.saved(message, _address(text, page), "groups/_changed.html", status, **context)


def _read_query(arguments: Any) -> tuple[str, int]:
    return read_text(arguments.get("q", "")), read_page(arguments.get("page", "1"))


def _listing(text: str, number: int) -> dict[str, Any]:
    account_id = visitor().account_id
    page = listing.search(account_id, text, number)
    ids = [row.id for row in page.rows]
    return {
        "text": text,
        "page": number,
        "rows": page.rows,
        "total": page.total,
        "pages": ceil(page.total / PAGE_SIZE),
        "address": _address,
        "known": group_summaries(account_id, ids),
        "reach": reach_of(account_id),
    }


def _address(text: str, page: int) -> str:
    return url_for(".index", q=text or None, page=page if page > 1 else None)
