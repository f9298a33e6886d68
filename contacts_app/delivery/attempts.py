"""Say what a worker sends now, and what became of it."""

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from ..config import Settings
from ..core.db import db
from .channels import Outcome, Told
from .channels.registry import kinds_by_contact
from .facts import from_json

LONGEST_PAUSE = 750  # seconds between two attempts
KEY = ("account_id", "alert_id", "contact_id")
GONE = "The contact has been deleted."
LOCK_MILLISECONDS = 200  # for which what is not urgent waits for a lock
_limit_lock_waits = sa.text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
# The hour begins with the first attempt, however long the queue was.
GIVE_UP_AT = "CASE WHEN attempts = 0 THEN now() + interval '1 hour' ELSE give_up_at END"
# What a statement that claims selects of the alert and of the contact; a constant, but for the columns of the kinds.
TOLD = f"""
    alerts.title, alerts.text, alerts.severity, alerts.status, alerts.addressee, alerts.received_at, alerts.kind,
    alerts.facts, alerts.integration_id, alerts.integration_name, alerts.key,
    {", ".join(f"contacts.{kind.column}" for kind in kinds_by_contact())},
    contacts.id IS NOT NULL AS exists, now() AS now
"""
# The start of a statement that updates the deliveries of one account and channel whose keys it is given, and joins them
# by all four columns. Beside two constants PostgreSQL, which takes these for rare until it has counted the rows of a
# flood, would read the whole queue and compare each row of it with each key: 15 s for 1,000 keys of 150,000 rows.
# For the same reason what is locked by its key is looked up LATERAL.
CHOSEN = "SELECT CAST(:account_id AS bigint) AS account_id, CAST(:channel AS text) AS channel, chosen.* FROM"
# What was sent while its row was locked is ended when the lock is gone, and not sent again before.
NOT_SENT = """NOT EXISTS (
    SELECT FROM sent_deliveries AS sent WHERE (sent.account_id, sent.alert_id, sent.contact_id, sent.channel)
        = (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel))"""


class Claimed(NamedTuple):
    """A delivery that this worker sends now, with all that is needed for it."""

    account_id: int
    alert_id: int
    contact_id: int
    attempts: int
    leased_until: datetime  # by which the row knows whose claim it is
    seconds_left: float  # until it is given up
    told: Told
    integration_id: int | None
    key: str | None
    addresses: Mapping[str, str | None]  # of the contact, by the kind of channel
    exists: bool
    words: str = ""  # of what it overtakes, which stand in its text
    slot: datetime | None = None  # by which the window of the contact's channel knows it
    message: UUID | None = None  # by which a digest is known when it goes again
    others: tuple["Claimed", ...] = ()  # that go in the same message


class Result(NamedTuple):
    """What became of an attempt: `address` as it may be shown, `used` as the schema compares it."""

    claimed: Claimed
    channel: str
    outcome: Outcome
    address: str | None
    used: str | None
    message: UUID | None = None


def claimed_from(row: Any, settings: Settings, lease: int | None = None) -> Claimed:
    """Return the claim that a row describes; where `lease` is given, the row was read just before it was claimed."""
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
        told=_told(row, settings),
        integration_id=row.integration_id,
        key=row.key,
        addresses={kind.name: getattr(row, kind.column) for kind in kinds_by_contact()},
        exists=row.exists,
    )


def _told(row: Any, settings: Settings) -> Told:
    return Told(
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
    """Return how many seconds to wait after so many attempts: 5, 15, 45, 135, 405, then 600, give or take a quarter."""
    return float(min(5 * 3 ** (attempts - 1), LONGEST_PAUSE / 1.25)) * random.uniform(0.75, 1.25)  # nosec B311


def columns(rows: Sequence[Any], *names: str) -> dict[str, list[Any]]:
    """Turn rows into one list a column, which a statement takes as arrays."""
    return {f"{name}s": [getattr(row, name) for row in rows] for name in names}


def limit_lock_waits() -> None:
    """Have this transaction fail soon when it waits for a lock, which somebody may hold for hours."""
    db.session.execute(_limit_lock_waits)
