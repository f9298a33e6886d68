"""Send nothing older after something newer: for one key, contact and channel.

What was overtaken goes into the message that overtakes it, as a line of it ("Was firing from 12:00 to 12:04.").
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
from .channels import Told

MOST_NEWS = 200  # of one key that are looked at, newest first
MOST_LINES = 5  # of what was overtaken that a message names
LATE = timedelta(hours=1)
WAIT_SECONDS = 1  # until it is looked again whether the older one has been sent
ENDS_SOME_WAY = ("queued", "sending", "sent")  # what is on its way, or has arrived
# All news of the keys of what is about to be sent, but for that itself: an integration's alerts come in one after the
# other, so that the greater id is the newer.
_news = sa.text(f"""
    SELECT asked.alert_id AS of_id, asked.contact_id, news.id AS alert_id, news.status, news.received_at, state,
        overtaken_by, asked_at, state = 'sending' AND next_attempt_at > now() AS is_under_way
    FROM unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:integration_ids AS bigint[]),
        CAST(:keys AS text[])) AS asked (alert_id, contact_id, integration_id, key)
    CROSS JOIN LATERAL (
        (
            SELECT id, status, received_at FROM alerts
            WHERE account_id = :account_id AND integration_id = asked.integration_id AND alerts.key = asked.key
            ORDER BY id DESC LIMIT {MOST_NEWS}
        ) UNION ALL (
            SELECT id, status, received_at FROM alerts
            WHERE asked.integration_id IS NULL AND account_id = :account_id AND integration_id IS NULL
                AND alerts.key = asked.key AND kind = 'system'
            ORDER BY id DESC LIMIT {MOST_NEWS}
        )
    ) AS news
    CROSS JOIN LATERAL (
        SELECT state, overtaken_by, asked_at, next_attempt_at FROM deliveries
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (:account_id, news.id, asked.contact_id, :channel)
        LIMIT 1
    ) AS told
    WHERE news.id <> asked.alert_id
    ORDER BY news.id
""")  # nosec B608
# What is locked at this moment is being recorded, stopped or claimed: whoever claims it finds what is newer. That it
# has not ended is asked for in words that fit no partial index, as recording does.
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
                AND ended_at IS NULL AND cancelled_by IS NULL
            FOR UPDATE SKIP LOCKED
        ) AS waiting
    ) AS overtaken
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (overtaken.account_id, overtaken.alert_id, overtaken.contact_id, overtaken.channel)
""")
_wait = sa.text(f"""
    WITH waits AS MATERIALIZED (
        {CHOSEN} unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS chosen (alert_id, contact_id)
    )
    UPDATE deliveries SET state = 'queued', next_attempt_at = now() + make_interval(secs => :seconds)
    FROM waits
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (waits.account_id, waits.alert_id, waits.contact_id, waits.channel)
""")  # nosec B608


def settle(account_id: int, channel: str, rows: Sequence[Any]) -> tuple[list[Any], dict[tuple[int, int], str]]:
    """Return those of the due rows that may be sent now, and what to say in each of what it overtakes.

    The rows are locked and not claimed yet. What is overtaken ends here; what has to wait for something older that is
    being sent at this moment is due again in a second. The words, which also say when
    something came in that is told late, are by the ids of alert and contact.
    """
    newest: dict[tuple[int, int | None, str], Any] = {}
    kept = []
    for row in sorted(rows, key=lambda row: row.alert_id, reverse=True):
        matter = (row.contact_id, row.integration_id, row.key)
        if not _has_key(row):
            kept.append(row)
        elif matter not in newest:
            newest[matter] = row
        elif row.asked_at is not None and row.asked_at >= newest[matter].received_at:
            kept.append(row)  # a person asked for it after the newer one had come in
    asked = [*newest.values(), *filter(_has_key, kept)]
    words = {(row.alert_id, row.contact_id): _late(row) for row in rows}
    if not asked:
        return sorted(kept, key=lambda row: row.alert_id), words
    found: dict[tuple[int, int], list[Any]] = defaultdict(list)
    mine = {"account_id": account_id, "channel": channel}
    for other in db.session.execute(_news, mine | columns(asked, "alert_id", "contact_id", "integration_id", "key")):
        found[other.of_id, other.contact_id].append(other)
    sent, waits = [row for row in kept if row not in asked], []
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
            if other.state in ENDS_SOME_WAY and not (row.asked_at and row.asked_at >= other.received_at)
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
        db.session.execute(_wait, mine | columns(waits, "alert_id", "contact_id") | {"seconds": WAIT_SECONDS})
    return sorted(sent, key=lambda row: row.alert_id), words


def with_words(told: Told, words: str | None) -> Told:
    """Return what is told with the words before its text."""
    return told._replace(text=f"{words}\n{told.text}".rstrip()) if words else told


def _has_key(row: Any) -> bool:
    """Tell whether there may be newer news of the same: from the same integration, or from the console itself."""
    return row.key is not None and (row.integration_id is not None or row.kind == "system")


def _is_to_be_overtaken(other: Any) -> bool:
    return other.state in ("queued", "sending") and not other.is_under_way


def _late(row: Any) -> str:
    """Say when it came in, where it is told much later: after an outage, or from a backup that was restored."""
    if row.now - row.received_at < LATE:
        return ""
    return f"Late: this came in at {shown(row.received_at.astimezone(current_settings().timezone), '%Y-%m-%d %H:%M')}."


def _words(row: Any, older: Sequence[Any], newer: Sequence[Any]) -> str:
    """Say what the message overtakes, or what has come since, where a person had an old one sent again."""
    if row.asked_at and newer:
        last = newer[-1]
        return f"Sent again because somebody asked. Since then: {last.status} {_time(last.received_at, row)}."
    # What was overtaken by one that is overtaken now is carried on.
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
    news = ", ".join(f"{other.status} {_time(other.received_at, row)}" for other in carried[-MOST_LINES:])
    return f"Before: {'… ' if len(carried) > MOST_LINES else ''}{news}."


def _time(at: datetime, row: Any) -> str:
    """Return a time as short as it is clear beside the message's own."""
    zone = current_settings().timezone
    at, beside = at.astimezone(zone), row.received_at.astimezone(zone)
    return shown(at, "%H:%M" if at.date() == beside.date() else "%Y-%m-%d %H:%M")
