"""Claim text messages and e-mails, a few of one account at a time, record their results, and release the rest.

The transaction that has locked the send window of a contact and channel (limits.py) chooses the next message, by the
rate limit and by the order of alerts with the same key (order.py).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import sqlalchemy as sa

from ..config import Settings
from ..core.db import db
from ..core.trace import mark
from . import limits, order, recording
from .answers import dump
from .attempts import (
    CHOSEN,
    CLAIMED_COLUMNS,
    GIVE_UP_AT,
    GONE,
    KEY,
    NOT_SENT,
    Claimed,
    Result,
    claimed_from,
    columns,
    limit_lock_waits,
)
from .channels.kinds import ByContact
from .channels.registry import kind_by_contact
from .limits import Room

MAX_DIGESTS = 2  # in one claim, which locks all deliveries of them
LOOKED_AT = 100  # due deliveries, many of which may be for the same few contacts
# Round robin, so that a burst of one account does not delay the others: each claim is for the next account after the
# one that was served last. This takes one index lookup, and one more for each account that is passed over, however
# long the queue is.
_DUE = "channel = :channel AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND cancelled_by IS NULL"
_AFTER = f"""
    SELECT account_id FROM deliveries WHERE {_DUE} AND account_id > {{}} ORDER BY account_id LIMIT 1
"""  # nosec B608
_next = sa.text(f"""
    WITH RECURSIVE later AS (
        SELECT ({_AFTER.format(":turn")}) AS turn
        UNION ALL
        SELECT ({_AFTER.format("later.turn")}) FROM later WHERE turn = ANY (CAST(:passed_over AS bigint[]))
    ), first AS (
        SELECT ({_AFTER.format("0")}) AS turn
        UNION ALL
        SELECT ({_AFTER.format("first.turn")}) FROM first WHERE turn = ANY (CAST(:passed_over AS bigint[]))
    ), next AS (
        SELECT coalesce(
            (SELECT turn FROM later WHERE turn <> ALL (CAST(:passed_over AS bigint[]))),
            (SELECT turn FROM first WHERE turn <> ALL (CAST(:passed_over AS bigint[])))) AS turn
    ), due AS (
        SELECT contact_id, next_attempt_at FROM deliveries
        WHERE {_DUE} AND account_id = (SELECT turn FROM next) ORDER BY next_attempt_at LIMIT {LOOKED_AT}
    )
    SELECT turn, contact_id FROM next LEFT JOIN due ON true GROUP BY turn, contact_id ORDER BY min(next_attempt_at)
""")  # nosec B608
# With statistics from before a burst, the planner expects few due rows, and would read and sort all of them instead of
# reading the first ones from the ordered index.
_sort_nothing = sa.text("SET LOCAL enable_sort = off")
_end_gone = sa.text(f"""
    UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = :gone
    FROM (
        SELECT account_id, alert_id, contact_id, channel FROM deliveries
        WHERE account_id = :account_id AND contact_id = ANY (CAST(:ids AS bigint[])) AND {_DUE}
            AND NOT EXISTS (SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (:account_id, contact_id))
        LIMIT {limits.MAX_AT_ONCE} FOR UPDATE SKIP LOCKED
    ) AS gone
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (gone.account_id, gone.alert_id, gone.contact_id, gone.channel)
    RETURNING 1
""")  # nosec B608
_count_due = sa.text(f"""
    SELECT id, (
        SELECT count(*) FROM (
            SELECT FROM deliveries WHERE account_id = :account_id AND contact_id = wanted.id AND {_DUE} LIMIT :most
        ) AS due
    ) AS due
    FROM unnest(CAST(:ids AS bigint[])) AS wanted (id)
""")  # nosec B608
_waiting = sa.text(f"""
    SELECT due.account_id, alert_id, contact_id, attempts, message, next_attempt_at, asked_at,
        extract(epoch FROM {GIVE_UP_AT} - now())::float AS seconds_left, {CLAIMED_COLUMNS}
    FROM unnest(CAST(:ids AS bigint[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries
        WHERE account_id = :account_id AND contact_id = wanted.id AND {_DUE} AND {NOT_SENT}
        ORDER BY next_attempt_at, alert_id LIMIT :most
        FOR UPDATE SKIP LOCKED
    ) AS due
    CROSS JOIN LATERAL (SELECT * FROM alerts WHERE (account_id, id) = (due.account_id, due.alert_id) LIMIT 1) AS alerts
    CROSS JOIN LATERAL (
        SELECT * FROM contacts WHERE (account_id, id) = (due.account_id, due.contact_id) LIMIT 1
    ) AS contacts
""")  # nosec B608
_claim = sa.text(f"""
    WITH chosen AS MATERIALIZED (
        {CHOSEN} unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:messages AS uuid[]))
            AS chosen (alert_id, contact_id, message)
    )
    UPDATE deliveries SET
        state = 'sending', attempts = attempts + 1, message = chosen.message, is_held = false,
        give_up_at = {GIVE_UP_AT}, next_attempt_at = now() + make_interval(secs => :lease)
    FROM chosen
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (chosen.account_id, chosen.alert_id, chosen.contact_id, chosen.channel)
""")  # nosec B608
# Locked rows are skipped; they are claimed again when the lease is over.
_release = sa.text("""
    UPDATE deliveries SET
        state = CASE WHEN cancelled_by IS NULL THEN 'queued' ELSE 'cancelled' END, attempts = attempts - 1,
        next_attempt_at = CASE WHEN cancelled_by IS NULL THEN now() END,
        ended_at = CASE WHEN cancelled_by IS NOT NULL THEN now() END
    FROM (
        SELECT held.* FROM unnest(
            CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
            CAST(:leased_untils AS timestamptz[])
        ) AS released (account_id, alert_id, contact_id, leased_until)
        CROSS JOIN LATERAL (
            SELECT account_id, alert_id, contact_id, channel FROM deliveries
            WHERE (account_id, alert_id, contact_id, channel)
                = (released.account_id, released.alert_id, released.contact_id, :channel)
                AND ended_at IS NULL AND state <> 'queued' AND next_attempt_at = released.leased_until
            FOR UPDATE SKIP LOCKED
        ) AS held
    ) AS free
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (free.account_id, free.alert_id, free.contact_id, free.channel)
""")


class Claims(NamedTuple):
    """The claims of the account whose turn it was, and whether there was anything to do for it."""

    turn: int | None
    claimed: list[Claimed]
    is_busy: bool


def claim(channel: str, turn: int, settings: Settings, passed_over: Collection[int] = ()) -> Claims:
    """Claim due deliveries of the next account after `turn` that is not in `passed_over`, and commit.

    Deliveries above the rate limit are postponed, and overtaken ones end. The result's `turn` is None if nothing is
    due. Nothing is claimed if a lock cannot be taken in time.
    """
    kind = kind_by_contact(channel)
    limit_lock_waits()
    db.session.execute(_sort_nothing)
    values = {"channel": channel, "turn": turn, "passed_over": list(passed_over)}
    candidates = db.session.execute(_next, values).all()
    account_id = candidates[0].turn
    if account_id is None:
        db.session.commit()
        return Claims(account_id, [], False)
    ids = [row.contact_id for row in candidates if row.contact_id is not None]
    try:
        return _claim_of(account_id, ids, kind, settings)
    except sa.exc.OperationalError as error:
        db.session.rollback()
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        return Claims(account_id, [], False)


def _claim_of(account_id: int, ids: Sequence[int], kind: ByContact, settings: Settings) -> Claims:
    """Claim due deliveries of the account's contacts, and commit."""
    channel = kind.name
    mine: dict[str, Any] = {"account_id": account_id, "channel": channel}
    rooms = limits.take_rooms(account_id, channel, ids, kind.limit(settings))
    full = {id: room for id, room in rooms.items() if not room.messages}
    is_busy = bool(full) and limits.hold(account_id, channel, full)
    ended: Sequence[Any] = ()
    if others := [id for id in ids if id not in rooms]:
        ended = db.session.execute(_end_gone, mine | {"ids": others, "gone": dump(GONE)}).all()
    free = [id for id in ids if id in rooms and id not in full][: kind.batch]
    rows = _read_due(mine, {id: rooms[id] for id in free}, kind.batch) if free else []
    sendable, words = order.settle(account_id, channel, rows)
    claimed = _claimed(_choose(sendable, rooms, kind.batch), words, kind, settings)
    if claimed:
        every = whole(claimed)
        ids_of = columns(every, "alert_id", "contact_id", "message")
        db.session.execute(_claim, mine | ids_of | {"lease": settings.delivery_lease})
        counts: dict[int, int] = defaultdict(int)
        for one in claimed:
            counts[one.contact_id] += 1
        limits.note_sent(account_id, channel, counts)
    db.session.commit()
    return Claims(account_id, claimed, is_busy or bool(ended or rows))


def record(
    channel: str, results: Sequence[Result], patience: float, rest: Sequence[Claimed] = ()
) -> set[tuple[int, int]]:
    """Record the results of messages, with retries for `patience` seconds while the database is unavailable.

    Return which of the rest contain a delivery that was cancelled meanwhile, as ids of alert and contact.
    """
    stopped = recording.record(
        [one for result in results for one in limits.of_digest(result)], patience, rest=whole(rest)
    )
    lost = [one.claimed for one in results if one.outcome.state != "sent" and not one.outcome.is_uncertain]
    limits.give_back(channel, lost)
    mark("recorded", len(results))
    return {
        (one.alert_id, one.contact_id)
        for one in rest
        if any((part.alert_id, part.contact_id) in stopped for part in whole([one]))
    }


def release(channel: str, claims: Sequence[Claimed]) -> None:
    """Return unsent claims to the queue, and commit."""
    db.session.execute(_release, {"channel": channel} | columns(whole(claims), *KEY, "leased_until"))
    db.session.commit()
    limits.give_back(channel, claims)


def whole(claims: Sequence[Claimed]) -> list[Claimed]:
    """Return each delivery of the claims, including those in digests."""
    return [part for one in claims for part in (one, *one.others)]


def _read_due(mine: dict[str, Any], rooms: Mapping[int, Room], most: int) -> list[Any]:
    """Lock and return the deliveries that may be sent now; for a digest, all due deliveries of the contact."""
    most_room = max(room.messages for room in rooms.values())
    counts = db.session.execute(_count_due, mine | {"ids": list(rooms), "most": most_room + 1})
    over = [row.id for row in counts if row.due > rooms[row.id].messages]
    rows: list[Any] = []
    for ids, each in (([id for id in rooms if id not in over], most), (over[:MAX_DIGESTS], limits.MAX_ALERTS)):
        if ids:
            rows += db.session.execute(_waiting, mine | {"ids": ids, "most": each}).all()
    return rows


def _choose(rows: Sequence[Any], rooms: Mapping[int, Room], most: int) -> list[list[Any]]:
    """Return the deliveries of each of the next messages, those due first preferred.

    A message that may have arrived is repeated unchanged. Each alert has its own message as far as the limit allows.
    """
    of_contact: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        of_contact[row.contact_id].append(row)
    found: list[list[Any]] = []
    for contact_id, waiting in of_contact.items():
        room = rooms[contact_id].messages
        again: dict[Any, list[Any]] = defaultdict(list)
        for row in waiting:
            again[row.message].append(row)
        alone = again.pop(None, [])
        messages = list(again.values())[:room]
        room -= len(messages)
        if alone and room:
            messages += [[row] for row in alone] if len(alone) <= room else [alone]
        found += messages
    found.sort(key=lambda message: min(row.next_attempt_at for row in message))
    return sorted(found[:most], key=lambda message: message[0].alert_id)


def _claimed(
    chosen: Sequence[list[Any]], words: Mapping[tuple[int, int], str], kind: ByContact, settings: Settings
) -> list[Claimed]:
    """Return a claim for each message, with the deliveries of a digest in one."""
    found = []
    for rows in chosen:
        claims = [
            claimed_from(row, settings, settings.delivery_lease)._replace(
                words=words.get((row.alert_id, row.contact_id), ""), slot=row.now
            )
            for row in rows
        ]
        if len(claims) == 1:
            found.append(claims[0]._replace(content=order.with_words(claims[0].content, claims[0].words)))
            continue
        message = rows[0].message or uuid4()
        claims = [one._replace(message=message) for one in claims]
        found.append(claims[0]._replace(content=limits.digest(claims, kind, settings), others=tuple(claims[1:])))
    return found
