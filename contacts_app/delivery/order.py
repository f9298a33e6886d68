"""Keep the order of alerts with the same key for each contact and channel: never send an older one after a newer one.

An older alert that is still queued is overtaken: it is not sent, and the newer message has a line about it
("Was firing from 12:00 to 12:04.").
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..config import current_settings
from ..core.db import db
from ..core.times import shown
from .attempts import CHOSEN, columns
from .channels import Content

MAX_NEWS = 200  # alerts of one key that are read, newest first
MAX_LINES = 5  # overtaken alerts that a message lists
LATE = timedelta(hours=1)
WAIT_SECONDS = 1  # until it is checked again whether the older one has been sent
PENDING_OR_SENT = ("queued", "sending", "sent")
# All other alerts with the keys of the deliveries that are due. The alerts of an integration are inserted one after the
# other, so the greater id is the newer one.
_news = sa.text(f"""
    SELECT asked.alert_id AS of_id, asked.contact_id, news.id AS alert_id, news.status, news.received_at, state,
        overtaken_by, asked_at, state = 'sending' AND next_attempt_at > now() AS is_under_way
    FROM unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:integration_ids AS bigint[]),
        CAST(:keys AS text[])) AS asked (alert_id, contact_id, integration_id, key)
    CROSS JOIN LATERAL (
        (
            SELECT id, status, received_at FROM alerts
            WHERE account_id = :account_id AND integration_id = asked.integration_id AND alerts.key = asked.key
            ORDER BY id DESC LIMIT {MAX_NEWS}
        ) UNION ALL (
            SELECT id, status, received_at FROM alerts
            WHERE asked.integration_id IS NULL AND account_id = :account_id AND integration_id IS NULL
                AND alerts.key = asked.key AND kind = 'system'
            ORDER BY id DESC LIMIT {MAX_NEWS}
        )
    ) AS news
    CROSS JOIN LATERAL (
        SELECT state, overtaken_by, asked_at, next_attempt_at FROM deliveries
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (:account_id, news.id, asked.contact_id, :channel)
        LIMIT 1
    ) AS delivery
    WHERE news.id <> asked.alert_id
    ORDER BY news.id
""")  # nosec B608
# Locked rows are being recorded, cancelled or claimed at this moment; the worker that claims one finds the newer alert.
# As in recording, the condition that it has not ended is written so that it matches no partial index.
_overtake = sa.text("""
    UPDATE deliveries SET state = 'overtaken', overtaken_by = overtaken.by_id, next_attempt_at = NULL, is_held = false,
        ended_at = now()
    FROM (
        SELECT waiting.*, pairs.by_id
        FROM unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:by_ids AS bigint[]))
            AS pairs (alert_id, contact_id, by_id)
        CROSS JOIN LATERAL (
            SELECT account_id, alert_id, contact_id, channel FROM deliveries
            WHERE (account_id, alert_id, contact_id, channel)
                = (:account_id, pairs.alert_id, pairs.contact_id, :channel)
                AND next_attempt_at IS NOT NULL AND cancelled_by IS NULL
            FOR UPDATE SKIP LOCKED
        ) AS waiting
    ) AS overtaken
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (overtaken.account_id, overtaken.alert_id, overtaken.contact_id, overtaken.channel)
""")
_postpone = sa.text(f"""
    WITH waits AS MATERIALIZED (
        {CHOSEN} unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS chosen (alert_id, contact_id)
    )
    UPDATE deliveries SET state = 'queued', next_attempt_at = now() + make_interval(secs => :seconds)
    FROM waits
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (waits.account_id, waits.alert_id, waits.contact_id, waits.channel)
""")  # nosec B608


def settle(account_id: int, channel: str, rows: Sequence[Any]) -> tuple[list[Any], dict[tuple[int, int], str]]:
    """Return the due rows that may be sent now, and the line that each message needs about other alerts of its key.

    The rows are locked, but not claimed yet. Overtaken deliveries end here; one that must wait for an older message
    that is being sent is due again in a second. The lines are by the ids of alert and contact, and also say if a
    message is late.
    """
    newest: dict[tuple[int, int | None, str], Any] = {}
    sendable = []
    for row in sorted(rows, key=lambda row: row.alert_id, reverse=True):
        matter = (row.contact_id, row.integration_id, row.key)
        if not _has_key(row):
            sendable.append(row)
        elif matter not in newest:
            newest[matter] = row
        elif row.asked_at is not None and row.asked_at >= newest[matter].received_at:
            sendable.append(row)  # a user sent it again after the newer one had arrived
    asked = [*newest.values(), *filter(_has_key, sendable)]
    words = {(row.alert_id, row.contact_id): _late(row) for row in rows}
    if not asked:
        return sorted(sendable, key=lambda row: row.alert_id), words
    found: dict[tuple[int, int], list[Any]] = defaultdict(list)
    mine = {"account_id": account_id, "channel": channel}
    for other in db.session.execute(_news, mine | columns(asked, "alert_id", "contact_id", "integration_id", "key")):
        found[other.of_id, other.contact_id].append(other)
    sent, waits = [row for row in sendable if row not in asked], []
    pairs: list[tuple[int, int, int]] = []
    for row in asked:
        others = found[row.alert_id, row.contact_id]
        older = [
            other
            for other in others
            if other.alert_id < row.alert_id and not (other.asked_at and other.asked_at >= row.received_at)
        ]
        newer = [other for other in others if other.alert_id > row.alert_id]
        ahead = [
            other.alert_id
            for other in newer
            if other.state in PENDING_OR_SENT and not (row.asked_at and row.asked_at >= other.received_at)
        ]
        if ahead:
            by_id = max(ahead)
            pairs.append((row.alert_id, row.contact_id, by_id))
        elif any(other.is_under_way for other in older):
            waits.append(row)
            continue
        else:
            by_id = row.alert_id
            sent.append(row)
            words[row.alert_id, row.contact_id] = " ".join(filter(None, (_late(row), _words(row, older, newer))))
        pairs += [(other.alert_id, row.contact_id, by_id) for other in older if _is_to_be_overtaken(other)]
    if pairs:
        lists = dict(zip(("alert_ids", "contact_ids", "by_ids"), map(list, zip(*pairs, strict=True)), strict=True))
        db.session.execute(_overtake, mine | lists)
    if waits:
        db.session.execute(_postpone, mine | columns(waits, "alert_id", "contact_id") | {"seconds": WAIT_SECONDS})
    return sorted(sent, key=lambda row: row.alert_id), words


def with_words(content: Content, words: str | None) -> Content:
    """Return the message with the line before its text."""
    return content._replace(text=f"{words}\n{content.text}".rstrip()) if words else content


def _has_key(row: Any) -> bool:
    """Return whether other alerts may have the same key: of the same integration, or system notifications."""
    return row.key is not None and (row.integration_id is not None or row.kind == "system")


def _is_to_be_overtaken(other: Any) -> bool:
    return other.state in ("queued", "sending") and not other.is_under_way


def _late(row: Any) -> str:
    """Return a line with the arrival time of an alert that is late, after an outage or from a restored backup."""
    if row.now - row.received_at < LATE:
        return ""
    arrived_at = row.received_at.astimezone(current_settings().timezone)
    return f"Late: this alert arrived at {shown(arrived_at, '%Y-%m-%d %H:%M')}."


def _words(row: Any, older: Sequence[Any], newer: Sequence[Any]) -> str:
    """Return the line about overtaken alerts, or about later ones if a user asked to send an old one again."""
    if row.asked_at and newer:
        last = newer[-1]
        return f"Sent again because somebody asked. Since then: {last.status} {_time(last.received_at, row)}."
    # Also list alerts that were overtaken by one that is overtaken now.
    carriers = {row.alert_id}
    carried: list[Any] = []
    for other in reversed(older):
        if _is_to_be_overtaken(other) or (other.state == "overtaken" and other.overtaken_by in carriers):
            carriers.add(other.alert_id)
            carried.insert(0, other)
    if not carried:
        return ""
    if row.kind != "system" and row.status == "resolved" and all(other.status == "firing" for other in carried):
        return f"Was firing from {_time(carried[0].received_at, row)} to {_time(row.received_at, row)}."
    news = ", ".join(f"{other.status} {_time(other.received_at, row)}" for other in carried[-MAX_LINES:])
    return f"Before: {'… ' if len(carried) > MAX_LINES else ''}{news}."


def _time(at: datetime, row: Any) -> str:
    """Format a time, without the date if that is the date of the message."""
    zone = current_settings().timezone
    at, beside = at.astimezone(zone), row.received_at.astimezone(zone)
    return shown(at, "%H:%M" if at.date() == beside.date() else "%Y-%m-%d %H:%M")
