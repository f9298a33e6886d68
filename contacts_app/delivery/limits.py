"""Limit the rate of messages to a number or mailbox; those above the limit wait, and are sent as one digest."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..config import Settings, StartError
from ..core.db import db
from .answers import answer, dump
from .attempts import DUE_OF_CONTACT, Claimed, Result
from .channels import Content, headline
from .channels.kinds import ByContact

WINDOW = timedelta(minutes=10)
TESTS, TEST_WINDOW = 6, timedelta(minutes=1)
LIMIT_OF_TESTS = dump(answer("delivery.limit_of_tests", tests=TESTS))  # in cancelled_by
MAX_ALERTS = 500  # in one message
MAX_AT_ONCE = 2_000  # deliveries that one claim ends or postpones, so that other accounts get their turn
# Only for contacts that exist and are not locked. In the order of their ids, in which deleting contacts locks them,
# too: a different order could deadlock.
_make_windows = sa.text("""
    INSERT INTO send_windows (account_id, contact_id, kind)
    SELECT account_id, id, :channel FROM contacts WHERE account_id = :account_id AND id = ANY (CAST(:ids AS bigint[]))
        AND NOT EXISTS (SELECT FROM send_windows AS known
            WHERE (known.account_id, contact_id, kind) = (contacts.account_id, contacts.id, :channel))
    ORDER BY id FOR KEY SHARE SKIP LOCKED
    ON CONFLICT DO NOTHING
    RETURNING contact_id
""")
# The lock on the window of a contact and channel is the right to choose its next message; locked windows are skipped.
# No more windows are locked than a claim needs, so that other workers find some.
_lock_windows = sa.text(f"""
    SELECT wanted.id, send_window.sent_at, now() AS now, due.count, due.repeated
    FROM unnest(CAST(:ids AS bigint[])) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT sent_at FROM send_windows WHERE (account_id, contact_id, kind) = (:account_id, wanted.id, :channel)
        FOR UPDATE SKIP LOCKED
    ) AS send_window
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, count(message) AS repeated FROM (
            SELECT message FROM deliveries WHERE account_id = :account_id AND contact_id = wanted.id
                AND {DUE_OF_CONTACT}
            LIMIT :limit + 1
        ) AS due
    ) AS due
    LIMIT :most
""")  # nosec B608
# Counts the messages of a claim against the limits of the contacts, whose windows are locked; a part of that statement.
COUNT = """
    UPDATE send_windows SET
        sent_at = ARRAY(SELECT at FROM unnest(sent_at) AS at WHERE at > now() - CAST(:window AS interval) ORDER BY at)
            || array_fill(now(), ARRAY[sent.messages])
    FROM unnest(CAST(:counted_ids AS bigint[]), CAST(:counts AS integer[])) AS sent (contact_id, messages)
    WHERE account_id = :account_id AND send_windows.contact_id = sent.contact_id AND kind = :channel
"""
_give_back = sa.text("""
    UPDATE send_windows SET sent_at = sent_at[1:place - 1] || sent_at[place + 1:]
    FROM (
        SELECT account_id, contact_id, kind, array_position(sent_at, CAST(:slot AS timestamptz)) AS place
        FROM send_windows WHERE account_id = :account_id AND contact_id = :contact_id AND kind = :kind
        FOR UPDATE SKIP LOCKED
    ) AS found
    WHERE (send_windows.account_id, send_windows.contact_id, send_windows.kind)
        = (found.account_id, found.contact_id, found.kind) AND place IS NOT NULL
""")
# The hour of retries is extended by the time that a delivery waits for the rate limit.
_hold = sa.text(f"""
    UPDATE deliveries SET state = 'queued', is_held = true, next_attempt_at = held.until,
        give_up_at = CASE WHEN attempts = 0 THEN give_up_at ELSE give_up_at + (held.until - now()) END
    FROM (
        SELECT due.*, until
        FROM unnest(CAST(:contact_ids AS bigint[]), CAST(:untils AS timestamptz[])) AS limits (contact_id, until)
        CROSS JOIN LATERAL (
            SELECT account_id, alert_id, deliveries.contact_id, channel FROM deliveries
            WHERE account_id = :account_id AND deliveries.contact_id = limits.contact_id
                AND {DUE_OF_CONTACT}
            ORDER BY next_attempt_at LIMIT :most FOR UPDATE SKIP LOCKED
        ) AS due
        LIMIT :most
    ) AS held
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (held.account_id, held.alert_id, held.contact_id, held.channel)
    RETURNING 1
""")  # nosec B608
# One statement checks and counts, so that concurrent requests cannot exceed the limit.
_admit_tests = sa.text("""
    INSERT INTO send_windows AS known (account_id, contact_id, kind, sent_at)
    SELECT account_id, id, 'test', ARRAY[now()] FROM contacts
    WHERE account_id = :account_id AND id = ANY (CAST(:ids AS bigint[])) ORDER BY id
    ON CONFLICT (account_id, contact_id, kind) DO UPDATE SET
        sent_at = ARRAY(SELECT at FROM unnest(known.sent_at) AS at WHERE at > now() - CAST(:window AS interval))
            || excluded.sent_at
    WHERE (SELECT count(*) FROM unnest(known.sent_at) AS at WHERE at > now() - CAST(:window AS interval)) < :most
    RETURNING contact_id
""")
_next_test = sa.text("""
    SELECT ceil(extract(epoch FROM min(sent_at[cardinality(sent_at) + 1 - :most]) + CAST(:window AS interval) - now()))
    FROM send_windows WHERE account_id = :account_id AND kind = 'test' AND contact_id = ANY (CAST(:ids AS bigint[]))
""")


class TooManyTests(Exception):
    """All contacts of a test have reached the limit of tests."""

    def __init__(self, wait: int) -> None:
        super().__init__(wait)
        self.wait = wait  # seconds until one of them may be sent a test


class Room(NamedTuple):
    """The number of messages that a contact may be sent now, and the time from which it may be sent one.

    `is_for_all` if all of its due deliveries have to be read: they are more than that, or repeat a combined message.
    """

    messages: int
    until: datetime
    is_for_all: bool


def take_rooms(
    account_id: int, channel: str, contact_ids: Sequence[int], limit: int, most: int
) -> tuple[dict[int, Room], Sequence[int]]:
    """Lock the windows of at most `most` of the contacts, the first ones preferred, and return the room in each.

    Also return the contacts that were passed over, because their window is locked already or they do not exist.
    """
    mine = {"account_id": account_id, "channel": channel, "limit": limit, "most": most}
    rooms = _lock(mine, contact_ids)
    looked_at = contact_ids if len(rooms) < most else contact_ids[: max(map(contact_ids.index, rooms))]
    passed_over = [id for id in looked_at if id not in rooms][:most]
    if passed_over and (made := db.session.scalars(_make_windows, mine | {"ids": passed_over}).all()):
        rooms |= _lock(mine, made)
    return rooms, [id for id in passed_over if id not in rooms]


def _lock(mine: dict[str, Any], ids: Sequence[int]) -> dict[int, Room]:
    limit, rooms = mine["limit"], {}
    for row in db.session.execute(_lock_windows, mine | {"ids": list(ids)}):
        recent = sorted(at for at in row.sent_at if at > row.now - WINDOW)
        messages = max(limit - len(recent), 0)
        rooms[row.id] = Room(
            messages=messages,
            until=row.now if messages else recent[-limit] + WINDOW,
            is_for_all=row.count > messages or row.repeated > 0,
        )
    return rooms


def counted(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return the parameters of COUNT for the number of messages to each contact."""
    return {"window": WINDOW, "counted_ids": list(counts), "counts": list(counts.values())}


def give_back(channel: str, claims: Sequence[Claimed]) -> None:
    """Remove messages that have certainly not arrived from the counts, and commit; a database error is ignored."""
    values = [
        {"account_id": one.account_id, "contact_id": one.contact_id, "kind": channel, "slot": one.slot}
        for one in claims
    ]
    if not values:
        return
    try:
        db.session.execute(_give_back, values)
        db.session.commit()
    except (sa.exc.SQLAlchemyError, StartError):
        db.session.rollback()


def hold(account_id: int, channel: str, rooms: dict[int, Room]) -> bool:
    """Postpone all due deliveries of the contacts until the limit allows a message; return whether there were any."""
    untils = {"contact_ids": list(rooms), "untils": [room.until for room in rooms.values()]}
    values = {"account_id": account_id, "channel": channel, "most": MAX_AT_ONCE}
    return bool(db.session.execute(_hold, values | untils).all())


def digest(claims: Sequence[Claimed], kind: ByContact, settings: Settings) -> Content:
    """Return one message about several alerts, newest first; without links if the kind has no room for them."""
    contents = [one.content for one in claims]
    counts = Counter(one.status for one in contents if one.kind == "alert")
    words = [f"{counts[status]} {status}" for status in ("firing", "resolved") if counts[status]]
    blocks = [
        [headline(one.content), one.words, one.content.url if kind.has_room_for_links else ""]
        for one in reversed(claims)
    ]
    return contents[-1]._replace(
        title=f"{len(claims)} alerts" + (f": {', '.join(words)}" if words else ""),
        text="\n".join(line for block in blocks for line in block if line),
        severity="",
        status="firing" if any(one.status == "firing" for one in contents) else "resolved",
        group="",
        url=f"{settings.public_url}/notifications" if settings.public_url else None,
        kind="system",  # so that the headline has no prefix
        integration="",
    )


def of_digest(result: Result) -> list[Result]:
    """Return a result for each delivery of the message."""
    claimed, outcome = result.claimed, result.outcome
    if not claimed.others:
        return [result]
    if outcome.state == "sent":
        in_digest = answer("delivery.in_digest", others=len(claimed.others))
        outcome = outcome._replace(answer=outcome.answer + in_digest)
    # A digest that may have arrived is repeated with the same id and content.
    result = result._replace(outcome=outcome, message=claimed.message if outcome.is_uncertain else None)
    return [result, *(result._replace(claimed=other) for other in claimed.others)]


def admit_tests(account_id: int, contact_ids: Collection[int]) -> set[int]:
    """Count a test for each contact, and return those below the limit; raise TooManyTests if there are none."""
    mine = {"account_id": account_id, "ids": list(contact_ids), "window": TEST_WINDOW, "most": TESTS}
    admitted = set(db.session.scalars(_admit_tests, mine))
    if contact_ids and not admitted:
        raise TooManyTests(max(int(db.session.scalar(_next_test, mine) or 1), 1))
    return admitted
