"""Claim text messages and e-mails, a few of one account at a time, record their results, and release the rest.

The transaction that has locked the send window of a contact and channel (limits.py) chooses the next message, by the
rate limit and by the order of alerts with the same key (order.py).
"""

from collections import Counter, defaultdict
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
    DUE,
    DUE_OF_CONTACT,
    GIVE_UP_AT,
    GONE,
    KEY,
    NOT_SENT,
    Claimed,
    Result,
    claimed_from,
    columns,
)
from .channels.kinds import ByContact
from .channels.registry import kind_by_contact
from .limits import Room

MAX_DIGESTS = 2  # in one claim, which locks all deliveries of them
LOOKED_AT = 100  # due deliveries, many of which may be for the same few contacts
# Round robin, so that a burst of one account does not delay the others: each claim is for the next account after the
# one that was served last. This takes one index lookup, and one more for each account that is passed over, however
# long the queue is.
_AFTER = f"""
    SELECT account_id FROM deliveries WHERE {DUE} AND account_id > {{}} ORDER BY account_id LIMIT 1
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
    ), next AS MATERIALIZED (
        SELECT coalesce(
            (SELECT turn FROM later WHERE turn <> ALL (CAST(:passed_over AS bigint[]))),
            (SELECT turn FROM first WHERE turn <> ALL (CAST(:passed_over AS bigint[])))) AS turn
    )
    SELECT turn, alert_ids, contact_ids,
        ({_AFTER.format("(SELECT turn FROM next)")}) IS NOT NULL OR ({_AFTER.format("0")}) < turn AS is_more
    FROM next, (
        SELECT array_agg(alert_id) AS alert_ids, array_agg(contact_id) AS contact_ids FROM (
            SELECT alert_id, contact_id FROM deliveries WHERE {DUE} AND account_id = (SELECT turn FROM next)
            ORDER BY next_attempt_at LIMIT {LOOKED_AT}
        ) AS due
    ) AS due
""")  # nosec B608
_end_gone = sa.text(f"""
    UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = :gone
    FROM (
        SELECT account_id, alert_id, contact_id, channel FROM deliveries
        WHERE account_id = :account_id AND contact_id = ANY (CAST(:ids AS bigint[])) AND {DUE_OF_CONTACT}
            AND NOT EXISTS (SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (:account_id, contact_id))
        LIMIT {limits.MAX_AT_ONCE} FOR UPDATE SKIP LOCKED
    ) AS gone
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (gone.account_id, gone.alert_id, gone.contact_id, gone.channel)
    RETURNING 1
""")  # nosec B608
_WITH_CONTENT = f"""
    SELECT due.account_id, due.alert_id, due.contact_id, attempts, message, next_attempt_at, asked_at,
        extract(epoch FROM {GIVE_UP_AT} - now())::float AS seconds_left, {CLAIMED_COLUMNS}
    FROM {{}} AS due
    CROSS JOIN LATERAL (SELECT * FROM alerts WHERE (account_id, id) = (due.account_id, due.alert_id) LIMIT 1) AS alerts
    CROSS JOIN LATERAL (
        SELECT * FROM contacts WHERE (account_id, id) = (due.account_id, due.contact_id) LIMIT 1
    ) AS contacts
"""  # nosec B608
# Only what has not ended has a time, but this matches no partial index: each row is looked up by its key.
_BY_KEY = f"""
    unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS wanted (alert_id, contact_id)
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries
        WHERE (account_id, alert_id, contact_id, channel)
            = (:account_id, wanted.alert_id, wanted.contact_id, :channel)
            AND next_attempt_at <= now() AND cancelled_by IS NULL AND {NOT_SENT}
        FOR UPDATE SKIP LOCKED
    )
"""  # nosec B608
_OF_CONTACTS = f"""
    unnest(CAST(:ids AS bigint[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries
        WHERE account_id = :account_id AND contact_id = wanted.id AND {DUE_OF_CONTACT} AND {NOT_SENT}
        ORDER BY next_attempt_at LIMIT {limits.MAX_ALERTS}
        FOR UPDATE SKIP LOCKED
    )
"""  # nosec B608
_read = sa.text(_WITH_CONTENT.format(_BY_KEY))
_read_all_of = sa.text(_WITH_CONTENT.format(_OF_CONTACTS))
_claim = sa.text(f"""
    WITH chosen AS MATERIALIZED (
        {CHOSEN} unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:messages AS uuid[]))
            AS chosen (alert_id, contact_id, message)
    ), counted AS ({limits.COUNT})
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
                AND state <> 'queued' AND next_attempt_at = released.leased_until
            FOR UPDATE SKIP LOCKED
        ) AS held
    ) AS free
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (free.account_id, free.alert_id, free.contact_id, free.channel)
""")


class Due(NamedTuple):
    """The key of a delivery of the account whose turn it is."""

    alert_id: int
    contact_id: int


class Claims(NamedTuple):
    """The claims of the account whose turn it was, whether there was anything to do for it, and whether more is due."""

    turn: int | None
    claimed: list[Claimed]
    is_busy: bool
    is_more: bool = False


def claim(channel: str, turn: int, settings: Settings, passed_over: Collection[int] = ()) -> Claims:
    """Claim due deliveries of the next account after `turn` that is not in `passed_over`, and commit.

    Deliveries above the rate limit are postponed, and overtaken ones end. The result's `turn` is None if nothing is
    due. Nothing is claimed if a lock cannot be taken in time.
    """
    kind = kind_by_contact(channel)
    values = {"channel": channel, "turn": turn, "passed_over": list(passed_over)}
    found = db.session.execute(_next, values).one()
    if found.turn is None:
        db.session.commit()
        return Claims(None, [], False)
    due = list(map(Due, found.alert_ids, found.contact_ids))
    try:
        claims = _claim_of(found.turn, due, kind, settings)
    except sa.exc.OperationalError as error:
        db.session.rollback()
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        return Claims(found.turn, [], False)
    return claims._replace(is_more=found.is_more or len(due) > len(claims.claimed))


def _claim_of(account_id: int, due: Sequence[Due], kind: ByContact, settings: Settings) -> Claims:
    """Claim some of these deliveries of the account, and commit."""
    channel = kind.name
    mine: dict[str, Any] = {"account_id": account_id, "channel": channel}
    rooms, passed_over = limits.take_rooms(
        account_id, channel, list(dict.fromkeys(one.contact_id for one in due)), kind.limit(settings), kind.batch
    )
    full = {id: room for id, room in rooms.items() if not room.messages}
    is_busy = bool(full) and limits.hold(account_id, channel, full)
    if passed_over:
        is_busy |= bool(db.session.execute(_end_gone, mine | {"ids": passed_over, "gone": dump(GONE)}).all())
    rows = _read_due(mine, due, rooms, kind.batch)
    sendable, words = order.settle(account_id, channel, rows)
    claimed = _claimed(_choose(sendable, rooms, kind.batch), words, kind, settings)
    if claimed:
        every = whole(claimed)
        counts = Counter(one.contact_id for one in claimed)
        values = mine | columns(every, "alert_id", "contact_id", "message") | {"lease": settings.delivery_lease}
        db.session.execute(_claim, values | limits.counted(counts))
    db.session.commit()
    return Claims(account_id, claimed, is_busy or bool(rows))


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


def _read_due(mine: dict[str, Any], due: Sequence[Due], rooms: Mapping[int, Room], most: int) -> list[Any]:
    """Lock and return the next `most` deliveries; for a digest, all due deliveries of the contact."""
    free = [one for one in due if one.contact_id in rooms and rooms[one.contact_id].messages]
    next_ones = [one for one in free if not rooms[one.contact_id].is_for_all][:most]
    digests = list(dict.fromkeys(one.contact_id for one in free if rooms[one.contact_id].is_for_all))[:MAX_DIGESTS]
    rows: list[Any] = []
    if next_ones:
        rows += db.session.execute(_read, mine | columns(next_ones, "alert_id", "contact_id"))
    if digests:
        rows += db.session.execute(_read_all_of, mine | {"ids": digests})
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
