"""List the notifications of an account, and the deliveries of one notification."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import with_expression

from ...contacts.models import Contact
from ...core.db import db
from ...delivery.models import STATES, Delivery, Notification, has_failed, is_cancelled, is_overtaken, is_waiting
from ...intake.models import Integration
from ...reach.sentences import in_words

PAGE_SIZE, DELIVERIES_SHOWN = 50, 300
_mine = (Delivery.account_id == Notification.account_id, Delivery.alert_id == Notification.id)
_in_account = Delivery.account_id == sa.bindparam("account_id")
# Subqueries, because the partial indexes on failed and pending deliveries stay small at any retention.
SHOWS: dict[str, tuple[str, sa.ColumnElement[bool]]] = {
    "all": ("All notifications", sa.true()),
    "failed": (
        "With a failed message",
        Notification.id.in_(sa.select(Delivery.alert_id).where(_in_account, has_failed)),
    ),
    "waiting": (
        "With a waiting message",
        Notification.id.in_(sa.select(Delivery.alert_id).where(_in_account, is_waiting)),
    ),
    "cancelled": (
        "With a cancelled message",
        Notification.id.in_(sa.select(Delivery.alert_id).where(_in_account, is_cancelled)),
    ),
    "alerts": ("Alerts", Notification.kind == "alert"),
    "tests": ("Tests", Notification.kind == "test"),
    "system": ("System notifications", Notification.kind == "system"),
}
DELIVERY_STATES: dict[str, tuple[str, sa.ColumnElement[bool]]] = {
    "all": ("All", sa.true()),
    "failed": ("Failed", has_failed),
    "waiting": ("Waiting", is_waiting),
    "sent": ("Sent", Delivery.state == "sent"),
    "cancelled": ("Cancelled", is_cancelled),
    "overtaken": ("Overtaken", is_overtaken),
}

_counts = (
    sa.select(
        sa.func.count().filter(Delivery.state == "sent").label("sent"),
        sa.func.count().filter(has_failed).label("failed"),
        sa.func.count().filter(is_waiting).label("waiting"),
        sa.func.count().filter(is_cancelled).label("cancelled"),
        sa.func.count().filter(is_overtaken).label("overtaken"),
    )
    .where(*_mine)
    .correlate(Notification)
    .lateral("counts")
)
_group_id = (
    sa.select(Integration.group_id)
    .where(Integration.account_id == Notification.account_id, Integration.id == Notification.integration_id)
    .correlate(Notification)
    .scalar_subquery()
)
_page_statement = (
    sa.select(
        *(
            Notification.id,
            Notification.kind,
            Notification.title,
            Notification.severity,
            Notification.status,
            Notification.addressee,
            Notification.source,
        ),
        *(Notification.received_at, _group_id, _counts.c.sent, _counts.c.failed, _counts.c.waiting),
        *(_counts.c.cancelled, _counts.c.overtaken, Notification.codes[0].label("code")),
    )
    .join(_counts, sa.true())
    .where(Notification.account_id == sa.bindparam("account_id"), Notification.id < sa.bindparam("before"))
    .order_by(Notification.id.desc())
    .limit(PAGE_SIZE + 1)
)
_words = sa.func.concat_ws("\n", Notification.title, Notification.text, Notification.addressee, Notification.source)
# The worst case of strpos is the product of both lengths, and an account may have many long texts.
MAX_SOUGHT = 48
_needle = sa.func.left(sa.func.lower(sa.bindparam("text")), MAX_SOUGHT)
_is_found = sa.func.strpos(sa.func.lower(_words), _needle) > 0


class ListedNotification(NamedTuple):
    """One row of the list of notifications."""

    id: int
    kind: str
    title: str
    severity: str
    status: str
    addressee: str
    source: str
    received_at: datetime
    group_id: int | None  # None unless it came in through an integration that still exists
    sent: int
    failed: int
    waiting: int
    cancelled: int
    overtaken: int


def search(account_id: int, text: str, show: str, before: int | None) -> tuple[Sequence[ListedNotification], bool]:
    """Return a page of the account's notifications with ids below `before`, newest first, and whether more follow."""
    parameters = {"account_id": account_id, "text": text, "before": before or 2**63 - 1}
    statement = _page_statement.where(SHOWS[show][1])
    if text:
        statement = statement.where(_is_found)
    rows = []
    for *row, code in db.session.execute(statement, parameters):
        listed = ListedNotification(*row)
        rows.append(listed._replace(title=in_words([code], listed.title)) if code else listed)
    return rows[:PAGE_SIZE], len(rows) > PAGE_SIZE


def deliveries_of(notification: Notification, state: str, page: int) -> Sequence[Delivery]:
    """Return a page of the notification's deliveries in a state, the most urgent first, then by contact."""
    mine = (
        Delivery.account_id == notification.account_id,
        Delivery.alert_id == notification.id,
        DELIVERY_STATES[state][1],
    )
    # Failed deliveries need action, pending ones may still change, sent ones need none.
    urgency = sa.case({"failed": 0, "sent": 3, "cancelled": 2, "overtaken": 2}, value=Delivery.state, else_=1)
    order = (urgency, Delivery.contact_name, Delivery.contact_id, Delivery.channel)
    is_its = sa.and_(Contact.account_id == Delivery.account_id, Contact.id == Delivery.contact_id)
    exists = with_expression(Delivery.contact_exists, sa.exists().where(is_its))
    found = sa.select(Delivery).where(*mine).order_by(*order).options(exists)
    return db.session.scalars(found.limit(DELIVERIES_SHOWN).offset((page - 1) * DELIVERIES_SHOWN)).all()


def pages_of(counts: dict[str, int], state: str) -> int:
    """Return the number of pages for the deliveries in a state."""
    wanted = {"all": STATES, "waiting": ("queued", "sending")}.get(state, (state,))
    return -(-sum(counts[name] for name in wanted) // DELIVERIES_SHOWN)
