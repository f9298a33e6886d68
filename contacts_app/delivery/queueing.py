"""Queue messages: of a notification, of a test, and again those that failed or were cancelled."""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ..config import current_settings
from ..core.db import db
from . import sample
from .channels.dingtalk import DINGTALK
from .channels.registry import KINDS, kind_of
from .limits import LIMIT_OF_TESTS, admit_tests
from .models import Delivery, Notification, has_failed, is_cancelled

SENT_AGAIN = {"failed": has_failed, "cancelled": is_cancelled}
# The kinds of channels that a contact has.
_CHANNELS = ", ".join(f"CASE WHEN {kind.column} IS NOT NULL THEN '{kind.name}' END" for kind in KINDS.values())
_QUEUE = f"""
    WITH queued AS (
        INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name)
        SELECT contacts.account_id, :alert_id, contacts.id, channel, contacts.name
        FROM contacts CROSS JOIN unnest(ARRAY[{_CHANNELS}]) AS channel
        WHERE contacts.account_id = :account_id AND contacts.id IN ({{}}) AND channel IS NOT NULL
        RETURNING channel
    )
    SELECT count(*) AS deliveries, coalesce(array_agg(DISTINCT channel), '{{{{}}}}') AS channels,
        pg_notify('deliveries', coalesce(string_agg(DISTINCT channel, ' '), ''))
    FROM queued
"""  # nosec B608
_queue = sa.text(_QUEUE.format("SELECT unnest(CAST(:contact_ids AS bigint[]))"))
_queue_to_group = sa.text(
    _QUEUE.format("SELECT contact_id FROM memberships WHERE account_id = :account_id AND group_id = :group_id")
)
# A robot that is scheduled already is only locked: the worker that has claimed it checks the queue again afterwards.
_schedule_robots = sa.text("""
    INSERT INTO robots AS planned (account_id, url_hash, due_at)
    SELECT DISTINCT contacts.account_id, dingtalk_url_hash, now() FROM deliveries
    JOIN contacts ON (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
    WHERE deliveries.account_id = :account_id AND alert_id = :alert_id AND channel = 'dingtalk' AND state = 'queued'
        AND dingtalk_url_hash IS NOT NULL
    ORDER BY 1, 2
    ON CONFLICT (account_id, url_hash) DO UPDATE SET due_at = excluded.due_at WHERE planned.due_at IS NULL
""")
# When this transaction is committed; the notification names the kinds of channels that were queued for.
_wake_workers = sa.text("SELECT pg_notify('deliveries', :channels)")


def notify(notification: Notification, contact_ids: Collection[int]) -> int:
    """Insert the notification, and a delivery for each channel of the contacts; return the number of deliveries."""
    return _insert(notification, _queue, {"contact_ids": list(contact_ids)})


def notify_group(notification: Notification, group_id: int) -> int:
    """Insert the notification, and a delivery for each channel of the members; return the number of deliveries."""
    return _insert(notification, _queue_to_group, {"group_id": group_id})


def _insert(notification: Notification, queue: sa.TextClause, to: dict[str, Any]) -> int:
    db.session.add(notification)
    db.session.flush()
    mine = {"account_id": notification.account_id, "alert_id": notification.id}
    queued = db.session.execute(queue, mine | to).one()
    if DINGTALK.name in queued.channels:
        db.session.execute(_schedule_robots, mine)
    return int(queued.deliveries)


def send_test(account_id: int, name: str, contact_ids: Collection[int]) -> Notification:
    """Queue a test to the contacts like an alert, with the most demanding text, and return it.

    The deliveries to contacts above the limit of tests are cancelled. If that is all of them, raise TooManyTests.
    """
    left_out = set(contact_ids) - admit_tests(account_id, contact_ids)
    notification = Notification(
        account_id=account_id,
        kind="test",
        source="console",
        addressee=name,
        title=sample.TITLE,
        text=sample.text(current_settings().public_url),
        severity="",
        status="firing",
    )
    notify(notification, contact_ids)
    if left_out:
        mine = (Delivery.account_id == account_id, Delivery.alert_id == notification.id)
        ended = {"state": "cancelled", "cancelled_by": LIMIT_OF_TESTS, "next_attempt_at": None}
        is_left_out = Delivery.contact_id.in_(left_out)
        db.session.execute(sa.update(Delivery).where(*mine, is_left_out).values(**ended, ended_at=sa.func.now()))
    return notification


def send_again(
    notification: Notification, contact_id: int | None = None, channel: str | None = None, state: str = "failed"
) -> list[tuple[str, str]]:
    """Queue the deliveries in `state` (failed or cancelled) again; return the contact's name and channel of each.

    With `contact_id` and `channel`, queue only that delivery, in either of the two states.
    """
    chosen = [Delivery.account_id == notification.account_id, Delivery.alert_id == notification.id]
    if contact_id is None:
        chosen.append(SENT_AGAIN[state])
    else:
        is_its = sa.and_(Delivery.contact_id == contact_id, Delivery.channel == kind_of(channel or "").name)
        chosen += [sa.or_(*SENT_AGAIN.values()), is_its]
    fresh = {
        "state": "queued",
        "attempts": 0,
        "next_attempt_at": sa.func.now(),
        "give_up_at": sa.func.now() + sa.text("interval '1 hour'"),
        "message": None,
        "ended_at": None,
        "cancelled_by": None,
        "text_refused": False,
        "is_held": False,
        "asked_at": sa.func.now(),
    }
    again = sa.update(Delivery).where(*chosen).values(fresh)
    rows = db.session.execute(again.returning(Delivery.contact_id, Delivery.contact_name, Delivery.channel)).all()
    channels = {row.channel for row in rows}
    if DINGTALK.name in channels:
        db.session.execute(_schedule_robots, {"account_id": notification.account_id, "alert_id": notification.id})
    db.session.execute(_wake_workers, {"channels": " ".join(channels)})
    return [(row.contact_name, row.channel) for row in rows]
