"""Define a claimed delivery and the result of an attempt, and what all statements that claim share."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from ..config import Settings
from ..core.db import db
from .answers import answer
from .channels import Content, Outcome
from .channels.registry import kinds_by_contact
from .facts import from_json

LONGEST_PAUSE = 750  # seconds between two attempts
KEY = ("account_id", "alert_id", "contact_id")
GONE = answer("delivery.contact_deleted")
LOCK_MILLISECONDS = 200  # the lock timeout of work that can be retried later
_limit_lock_waits = sa.text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
# Of the transactions of a thread that delivers. Statistics may be from before a burst: whatever they say, rows are read
# by their keys or in the order of an index. And planning takes longer than most of the statements.
SERVER_SETTINGS = {
    "lock_timeout": f"{LOCK_MILLISECONDS}ms",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
# The hour of retries begins with the first attempt, however long the delivery was queued.
GIVE_UP_AT = "CASE WHEN attempts = 0 THEN now() + interval '1 hour' ELSE give_up_at END"
# The columns of the alert and the contact that a statement that claims selects.
CLAIMED_COLUMNS = f"""
    alerts.title, alerts.text, alerts.severity, alerts.status, alerts.addressee, alerts.received_at, alerts.kind,
    alerts.facts, alerts.integration_id, alerts.integration_name, alerts.key,
    {", ".join(f"contacts.{kind.column}" for kind in kinds_by_contact())},
    contacts.id IS NOT NULL AS exists, now() AS now
"""
# The start of a statement that updates deliveries of one account and channel by their keys. The account and the channel
# are columns here, so that the join uses all four columns of the primary key. With both as constants, and statistics
# from before a burst, the planner expects few rows, scans the whole queue and compares each row with each key: 15 s for
# 1,000 keys and 150,000 rows. For the same reason rows that are locked by key are looked up LATERAL.
CHOSEN = "SELECT CAST(:account_id AS bigint) AS account_id, CAST(:channel AS text) AS channel, chosen.* FROM"
# That a delivery is due, as in the index deliveries_due.
DUE = "channel = :channel AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND cancelled_by IS NULL"
# The same in the words of deliveries_of_contacts, for the deliveries of one contact: with statistics from before a
# burst, the planner expects few rows of both indexes, and would read the whole queue for each contact.
DUE_OF_CONTACT = "channel = :channel AND ended_at IS NULL AND next_attempt_at <= now() AND cancelled_by IS NULL"
# A delivery that was sent while its row was locked is in sent_deliveries until the lock is released: do not resend it.
NOT_SENT = """NOT EXISTS (
    SELECT FROM sent_deliveries AS sent WHERE (sent.account_id, sent.alert_id, sent.contact_id, sent.channel)
        = (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel))"""


class Claimed(NamedTuple):
    """A delivery that this worker has claimed, with everything needed to send it."""

    account_id: int
    alert_id: int
    contact_id: int
    attempts: int
    leased_until: datetime  # the end of the lease, which also identifies the claim in the row
    seconds_left: float  # until the delivery is given up
    content: Content
    integration_id: int | None
    key: str | None
    addresses: Mapping[str, str | None]  # of the contact, by the kind of channel
    exists: bool  # whether the contact still exists
    words: str = ""  # the line about overtaken alerts, which the text contains
    slot: datetime | None = None  # its timestamp in the send window of the contact and channel
    message: UUID | None = None  # the id of a digest, which a retry repeats
    others: tuple["Claimed", ...] = ()  # the other deliveries of a digest


class Result(NamedTuple):
    """The result of an attempt: `address` is the form for display, `used` the form that the schema compares."""

    claimed: Claimed
    channel: str
    outcome: Outcome
    address: str | None
    used: str | None
    message: UUID | None = None


def claimed_from(row: Any, settings: Settings, lease: int | None = None) -> Claimed:
    """Return the claim of a row; `lease` (seconds) is given if the row was read before the update that claims it."""
    attempts, leased_until = row.attempts, row.now
    if lease is None:
        leased_until = row.leased_until
    else:
        attempts, leased_until = attempts + 1, leased_until + timedelta(seconds=lease)
    return Claimed(
        account_id=row.account_id,
        alert_id=row.alert_id,
        contact_id=row.contact_id,
        attempts=attempts,
        leased_until=leased_until,
        seconds_left=row.seconds_left,
        content=_content(row, settings),
        integration_id=row.integration_id,
        key=row.key,
        addresses={kind.name: getattr(row, kind.column) for kind in kinds_by_contact()},
        exists=row.exists,
    )


def _content(row: Any, settings: Settings) -> Content:
    return Content(
        id=row.alert_id,
        title=row.title,
        text=row.text,
        severity=row.severity,
        status=row.status,
        group=row.addressee,
        received_at=row.received_at.astimezone(settings.timezone),
        url=f"{settings.public_url}/notifications/{row.alert_id}" if settings.public_url else None,
        kind=row.kind,
        integration=row.integration_name or "",
        facts=from_json(row.facts),
    )


def pause(attempts: int) -> float:
    """Return the seconds until the next attempt: 5, 15, 45, 135, 405, then 600, with a jitter of a quarter."""
    return float(min(5 * 3 ** (attempts - 1), LONGEST_PAUSE / 1.25)) * random.uniform(0.75, 1.25)  # nosec B311


def columns(rows: Sequence[Any], *names: str) -> dict[str, list[Any]]:
    """Return one list for each column, as array parameters of a statement."""
    return {f"{name}s": [getattr(row, name) for row in rows] for name in names}


def limit_lock_waits() -> None:
    """Set a short lock timeout for this transaction, because another session may hold a lock for hours."""
    db.session.execute(_limit_lock_waits)
