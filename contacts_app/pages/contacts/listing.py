"""List the contacts of an account by page, with their groups and the health of their channels."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa

from ...contacts.models import Contact, by_name
from ...core.db import read_rows
from ...delivery.channels.mail import EMAIL
from ...delivery.channels.registry import KINDS
from ...delivery.channels.sms import SMS
from ...groups.models import groups_of_contacts, is_in_no_group
from ...reach.reachability import Unreachable, health_of, is_failing, is_reachable, is_untried, states_of_contacts
from ...web.arguments import PAGE_SIZE

_ORDERS: dict[str, sa.ColumnElement[Any]] = {
    "name": by_name,
    "created": Contact.created_at.expression,
    "changed": Contact.updated_at.expression,
}
SORTS = tuple(sign + name for name in _ORDERS for sign in ("", "-"))
# The columns that can be searched, and those beside the name, with their headings.
FIELDS = {"name": "Name", "mobile": SMS.heading, "email": EMAIL.heading}
COLUMNS = {kind.name: kind.heading for kind in KINDS.values()} | {"notified": "System notifications"}
_addresses = attrgetter(*(kind.column for kind in KINDS.values()))
# The filters of the list: the value in the URL, the label, and the condition.
FILTERS: dict[str, tuple[str, sa.ColumnElement[bool]]] = {
    "all": ("All contacts", sa.true()),
    "ungrouped": ("In no group", is_in_no_group()),
    "unreachable": ("Cannot be reached", ~is_reachable()),
    "failing": ("With a channel that fails", is_failing()),
    "untried": ("Never tried", is_untried()),
}


class Query(NamedTuple):
    """The query of the list: search `text` in `field`, filter `show`, order `sort`, and the page, from 1."""

    text: str = ""
    field: str = "name"
    sort: str = "name"
    page: int = 1
    show: str = "all"
    number: str | None = None  # E.164, if the text is a complete mobile number in any format


class ListedContact(NamedTuple):
    """One row of the list of contacts; `groups` and `states` are JSON strings, so that the row is hashable."""

    id: int
    name: str
    addresses: tuple[Any, ...]  # one for each kind of channel, as stored
    receives_system_notifications: bool
    groups: str | None
    states: str | None


class Page(NamedTuple):
    """A page of the list, and the number of contacts on all pages."""

    rows: list[ListedContact]
    total: int


def search(account_id: int, query: Query) -> Page:
    """Return one page of the account's contacts as plain rows; ORM objects would take longer than the page."""
    statement = page_statement(query.sort, query.show, query.field if query.text else None)
    parameters = {"account_id": account_id, "offset": (query.page - 1) * PAGE_SIZE} | _parameters(query)
    found = read_rows(statement, parameters)
    # By position and by attrgetter, because keywords and a loop over the kinds take three times as long.
    rows = [
        ListedContact(row.id, row.name, _addresses(row), row.receives_system_notifications, row.groups, row.states)
        for row in found
    ]
    return Page(rows=rows, total=found[0].total if found else 0)


def address_of(contact: ListedContact, account_id: int) -> str:
    """Return an address that distinguishes contacts with the same name: the email, or another one, masked if secret.

    It is empty if the contact has only channels of unknown kinds.
    """
    known = dict(zip(KINDS.values(), contact.addresses, strict=True))
    kind = next((kind for kind in (EMAIL, *KINDS.values()) if known[kind] is not None), None)
    return kind.shown(known[kind], account_id, contact.id) if kind else ""


def unreachable_among(contacts: Iterable[ListedContact]) -> dict[int, Unreachable]:
    """Return the listed contacts that cannot be reached, by id."""
    found = {}
    for contact in contacts:
        known = zip(KINDS.values(), contact.addresses, health_of(contact.states), strict=True)
        reasons = {kind.label: health for kind, address, health in known if address is not None}
        bad = {words: health for words, health in reasons.items() if health and health.state != "works"}
        if len(bad) == len(reasons):
            found[contact.id] = Unreachable(contact.id, contact.name, bad)
    return found


@lru_cache
def page_statement(sort: str, show: str, field: str | None) -> sa.Select[*tuple[Any, ...]]:
    """Return the statement for a page of the list, with a search in `field` if there is one.

    Cached, because building it takes as long as running it. It uses strpos, because LIKE has special characters.
    """
    key, is_descending = _ORDERS[sort.removeprefix("-")].label("key"), sort.startswith("-")
    columns = (Contact.id, Contact.name, *(getattr(Contact, kind.column) for kind in KINDS.values()))
    statement: sa.Select[*tuple[Any, ...]] = (
        sa.select(*columns, Contact.receives_system_notifications, key, sa.func.count().over().label("total"))
        .where(Contact.account_id == sa.bindparam("account_id"))
        .order_by(key.desc() if is_descending else key, Contact.id)
        .limit(PAGE_SIZE)
        .offset(sa.bindparam("offset"))
    )
    if show != "all":
        statement = statement.where(FILTERS[show][1])
    if field == "name":
        needle = sa.func.lower(sa.func.normalize(sa.bindparam("text"), sa.text("NFKC")))
        statement = statement.where(sa.func.strpos(Contact.name_key, needle) > 0)
    elif field == "email":
        needle = sa.func.lower(sa.bindparam("text"))
        statement = statement.where(sa.func.strpos(sa.func.lower(Contact.email), needle) > 0)
    elif field == "mobile":
        within = sa.func.strpos(Contact.mobile, sa.bindparam("digits")) > 0
        begins = sa.func.starts_with(Contact.mobile, sa.bindparam("start"))
        statement = statement.where(sa.bindparam("digits") != "", sa.or_(within, begins))
    page = statement.cte("page")
    # Read the channel states of the whole page at once: one lookup for each contact takes twice as long. Materialized,
    # because without table statistics the planner may evaluate the CTE again for each row.
    ids = sa.func.array(sa.select(page.c.id).scalar_subquery())
    groups = groups_of_contacts(ids).cte("groups").prefix_with("MATERIALIZED")
    states = states_of_contacts(ids).cte("states").prefix_with("MATERIALIZED")
    return (
        sa.select(*(page.c[column.key] for column in columns), page.c.receives_system_notifications)
        .add_columns(groups.c.groups, states.c.states, page.c.total)
        .select_from(
            page.outerjoin(groups, groups.c.contact_id == page.c.id).outerjoin(states, states.c.contact_id == page.c.id)
        )
        .order_by(page.c.key.desc() if is_descending else page.c.key, page.c.id)
    )


def _parameters(query: Query) -> dict[str, Any]:
    """Return the bind parameters of the page statement."""
    if not query.text or query.field != "mobile":
        return {"text": query.text} if query.text else {}
    digits = "".join(str(unicodedata.digit(c)) for c in query.text if unicodedata.digit(c, None) is not None)
    # "0086 138" begins with the international prefix 00, but "0013" may also occur inside a number.
    start = query.number or ("+" + digits[2:] if re.match("00[1-9]", digits) else "+" + digits)
    return {"digits": digits, "start": start}
