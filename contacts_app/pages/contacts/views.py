"""List, create, edit and delete contacts."""

import json
from functools import cache, lru_cache, partial
from math import ceil
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Flask, Response, abort, current_app, redirect, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.exceptions import BadRequest

from ...accounts.models import Account
from ...accounts.permissions import Permission, requires
from ...contacts.models import Contact
from ...core.db import db
from ...delivery.channels.registry import KINDS
from ...delivery.limits import TooManyTests
from ...delivery.models import Notification
from ...delivery.queueing import send_test
from ...groups.models import groups_of, left_by
from ...reach.reachability import Health, health_of, reach_of
from ...web import htmx
from ...web.arguments import PAGE_SIZE, read_ids
from ..notifications.results import result_of
from ..visitors import visitor
from ..wording import CONTACT_GONE, NAMES_SHOWN, deletion_message, saved_message, too_many_tests
from .forms import ContactForm, read_query
from .listing import COLUMNS, FIELDS, FILTERS, ListedContact, Page, Query, search

blueprint = Blueprint("contacts", __name__)
ROW, CACHED_ROWS = "contacts.row", 500  # of 2 KB each
DELETED = "{count} contacts have been deleted."
PLACE = Markup("<!-- rows -->")  # of the rows in the page; no text can imitate it, because text is escaped


@blueprint.get("/")
@requires(Permission.USE_CONSOLE)
def home() -> ResponseReturnValue:
    """Redirect to the list of contacts."""
    return redirect(url_for(".index"))


@blueprint.get("/contacts")
@requires(Permission.USE_CONSOLE)
def index() -> ResponseReturnValue:
    """Show the contacts: all, or those that match a search."""
    query = read_query(request.args)
    page = search(visitor().account_id, query)
    if not page.rows and query.page > 1:
        abort(404, f"The list has no page {query.page}.")
    who = visitor()
    context = _listing(query, page, who.contact_count, who.contact_quota)
    response = _with_rows(htmx.render("contacts/index.html", "contacts/_found.html", **context), page)
    htmx.show_address(response, context["address"]())
    return response


@blueprint.route("/contacts/new", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def new() -> ResponseReturnValue:
    """Create a contact."""
    who = visitor()
    if request.method != "POST" and who.contact_count >= who.contact_quota:
        return htmx.render("contacts/full.html", "contacts/_full.html", quota=who.contact_quota)
    return _edit()


@blueprint.route("/contacts/<int(max=9223372036854775807):id>/edit", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def edit(id: int) -> ResponseReturnValue:
    """Edit a contact."""
    find = Contact.of if request.method == "POST" else Contact.shown
    return _edit(find(visitor().account_id, id) or abort(404, CONTACT_GONE))


def _edit(contact: Contact | None = None) -> ResponseReturnValue:
    """Show the form of a new or an existing contact, or save it."""
    account_id, contact_id = visitor().account_id, contact.id if contact else None
    form = ContactForm()
    if request.method != "POST":
        if contact:
            form.open(contact)
        return _dialog(form, contact_id)
    if not (form.validate() and (saved := form.save(account_id, contact))):
        return _dialog(form, contact_id, 409 if form.theirs else 422)
    message = saved_message(saved.name, is_new=contact_id is None)
    if form.adopted:
        message += f" What somebody else has changed meanwhile stays as they saved it: {', '.join(form.adopted)}."
    test, no_test = _test(saved) if request.form.get("action") == "test" else (None, "")
    db.session.commit()
    return changed(message + no_test, test=test)


def _dialog(form: ContactForm, contact_id: int | None, status: int = 200) -> Response:
    groups = groups_of(visitor().account_id, contact_id) if contact_id else []
    context = {"form": form, "contact_id": contact_id, "groups": groups}
    return htmx.render("contacts/edit.html", "contacts/_edit.html", status, **context)


def _test(contact: Contact) -> tuple[Notification | None, str]:
    """Send a test to a saved contact; if that is impossible, return no test and the reason, to append to a sentence."""
    try:
        return send_test(contact.account_id, contact.name, [contact.id]), ""
    except TooManyTests as error:
        return None, f" {too_many_tests(error.wait)}"


@blueprint.route("/contacts/delete", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def delete() -> ResponseReturnValue:
    """Show the confirmation for deleting the selected contacts, or delete them."""
    account_id = visitor().account_id
    ids = read_ids(request.values.getlist("id"))
    if request.method != "POST":
        contacts = Contact.names(account_id, ids)
        if not contacts:
            abort(404, CONTACT_GONE)
        return htmx.render(
            *("contacts/delete.html", "contacts/_delete.html"),
            contacts=contacts,
            names_shown=NAMES_SHOWN,
            left_groups=left_by(account_id, ids),
        )
    names = Contact.delete(account_id, ids)
    db.session.commit()
    if not names and not htmx.wants_fragment():
        abort(404, CONTACT_GONE)
    return changed(deletion_message(names, len(ids), DELETED), 200 if names else 404)


def changed(message: str, status: int = 200, test: Notification | None = None) -> Response:
    """Respond to a change with the updated list that the browser shows, and with the test that was sent."""
    shown = htmx.query_shown(url_for("contacts.index"))
    if shown is None:
        return htmx.saved(message, url_for("notifications.show", id=test.id) if test else url_for("contacts.index"))
    try:
        query = read_query(shown)
    except BadRequest:
        query = Query()
    account_id = visitor().account_id
    page = search(account_id, query)
    for number in (query.page - 1, 1):
        if not page.rows and number > 0:  # the last page became empty
            query = query._replace(page=number)
            page = search(account_id, query)
    context = _listing(query, page, *Account.usage(account_id))
    if test:
        context = result_of(test) | context  # both have the key "pages"; the list's wins
    address = context["address"]()
    response = htmx.saved(message, address, "contacts/_changed.html", status, stays=bool(test), **context)
    response = _with_rows(response, page)
    db.session.commit()  # nothing was written; a rollback would discard the prepared statements
    return response


def _listing(query: Query, page: Page, count: int, quota: int) -> dict[str, Any]:
    """Return the template context of the list, to whose response `_with_rows` adds the rows."""
    account_id = visitor().account_id
    return {
        "query": query,
        "rows": PLACE if page.rows else "",
        "total": page.total,
        "pages": ceil(page.total / PAGE_SIZE),
        "count": count,
        "fields": FIELDS,
        "columns": COLUMNS,
        "filters": {name: words for name, (words, _) in FILTERS.items()},
        "quota": quota,
        "reach": reach_of(account_id),
        "address": partial(_address, url_for("contacts.index"), query),
    }


def _with_rows(response: Response, page: Page) -> Response:
    """Put the rows of `page` into a response that shows the list.

    As bytes, beside the template: an ellipsis in a row would make a text of 320 KB of the page, which Jinja, Flask and
    Werkzeug copy and encode in a tenth of its time, and the copies of four threads are half of a worker's memory.
    """
    row, account_id = current_app.extensions[ROW], visitor().account_id
    places = tuple(map(url_for, ("contacts.index", "groups.index", "notifications.test")))
    rows = b"".join([row(places, account_id, contact) for contact in page.rows])
    response.set_data(response.get_data().replace(PLACE.encode(), rows, 1))
    return response


def remember_rows(app: Flask) -> None:
    """Cache rendered rows by their content in `app`, because the rows are most of the rendering time of a page."""

    @cache
    def template() -> Any:
        return app.jinja_env.get_template("contacts/_row.html").module

    # Cached, because building these for each row takes a tenth of its rendering time.
    @cache
    def cells() -> dict[str, Markup]:
        return {name: template().cell(name, words) for name, words in COLUMNS.items()}

    @cache
    def nothing_known() -> list[Health | None]:
        return health_of(None)  # depends only on the settings of the app

    @lru_cache(CACHED_ROWS)
    def row(places: tuple[str, ...], account_id: int, contact: ListedContact) -> bytes:
        cell = cells()
        known = health_of(contact.states) if contact.states else nothing_known()
        channels = [
            (cell[kind.name], stored and kind.shown(stored, account_id, contact.id), health)
            for kind, stored, health in zip(KINDS.values(), contact.addresses, known, strict=True)
        ]
        contacts_at, groups_at, tests_at = places
        names = json.loads(contact.groups) if contact.groups else ()
        groups = [(place, f"{groups_at}/{group}", name) for place, (group, name) in enumerate(names)]
        identity, notified = str(contact.id), contact.receives_system_notifications
        edit, test = f"{contacts_at}/{identity}/edit", f"{tests_at}?contact={identity}"
        delete = f"{contacts_at}/delete?id={identity}"
        html = template().row(identity, contact.name, groups, channels, cell["notified"], notified, edit, test, delete)
        return bytes(html, "utf-8")

    app.extensions[ROW] = row


def _address(here: str, query: Query, **changes: Any) -> str:
    """Return the URL of the list for `query`, without default values."""
    wanted = query._replace(page=1)._replace(**changes) if changes else query
    values: dict[str, Any] = {
        "q": wanted.text,
        "field": wanted.field,
        "sort": wanted.sort,
        "page": wanted.page,
        "show": wanted.show,
    }
    default = {"q": "", "field": "name", "sort": "name", "page": 1, "show": "all"}
    # Not url_for, which takes several times as long: a page has six of these links.
    text = urlencode({name: value for name, value in values.items() if value != default[name]})
    return f"{here}?{text}" if text else here
