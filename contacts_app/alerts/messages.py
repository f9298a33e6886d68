"""Claim texts and mails, a few of one account at a time, and return what is not sent after all."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..config import StartError
from ..db import db
from .attempts import GIVE_UP_AT, KEY, TOLD, Claimed, columns

BATCH = {"sms": 10, "email": 20}
# One account's flood must not keep the others waiting: each claim is for one account, the next after the one that was
# served last, and found by one look into the index, however many accounts wait.
_DUE = "channel = :channel AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND cancelled_by IS NULL"
_claim = sa.text(f"""
    WITH next AS (
        SELECT coalesce(
            (SELECT account_id FROM deliveries WHERE {_DUE} AND account_id > :turn ORDER BY account_id LIMIT 1),
            (SELECT account_id FROM deliveries WHERE {_DUE} ORDER BY account_id LIMIT 1)) AS turn
    ), due AS (
        SELECT account_id, alert_id, contact_id, channel FROM deliveries
        WHERE {_DUE} AND account_id = (SELECT turn FROM next)
        ORDER BY next_attempt_at LIMIT :most
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE deliveries SET
            state = 'sending', attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :lease),
            give_up_at = {GIVE_UP_AT}
        FROM due
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (due.account_id, due.alert_id, due.contact_id, due.channel)
        RETURNING deliveries.*
    )
    SELECT turn, claimed.account_id, alert_id, contact_id, attempts, next_attempt_at AS leased_until,
        extract(epoch FROM give_up_at - now())::float AS seconds_left, {TOLD}
    FROM next LEFT JOIN claimed ON true
    LEFT JOIN alerts ON (alerts.account_id, alerts.id) = (claimed.account_id, alert_id)
    LEFT JOIN contacts ON (contacts.account_id, contacts.id) = (claimed.account_id, contact_id)
    ORDER BY alert_id
""")  # nosec B608
_stopped = sa.text("""
    SELECT deliveries.alert_id, deliveries.contact_id FROM deliveries
    JOIN unnest(CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]))
        AS claimed (account_id, alert_id, contact_id)
        ON (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (claimed.account_id, claimed.alert_id, claimed.contact_id, :channel)
    WHERE cancelled_by IS NOT NULL
""")
_release = sa.text("""
    UPDATE deliveries SET
        state = CASE WHEN cancelled_by IS NULL THEN 'queued' ELSE 'cancelled' END, attempts = attempts - 1,
        next_attempt_at = CASE WHEN cancelled_by IS NULL THEN now() END,
        ended_at = CASE WHEN cancelled_by IS NOT NULL THEN now() END
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:leased_untils AS timestamptz[])
    ) AS released (account_id, alert_id, contact_id, leased_until)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (released.account_id, released.alert_id, released.contact_id, :channel)
        AND ended_at IS NULL AND state <> 'queued' AND deliveries.next_attempt_at = released.leased_until
""")


def claim(channel: str, turn: int, lease: int) -> Sequence[Any]:
    """Claim what is due for the account after `turn`, and commit.

    There is always a row; its `turn` is the account whose turn it was, None if nobody's, and its `account_id` is None
    where another worker claimed all of it at the same moment.
    """
    values = {"channel": channel, "most": BATCH[channel], "lease": lease, "turn": turn}
    rows = db.session.execute(_claim, values).all()
    db.session.commit()
    return rows


def stopped(channel: str, claims: Sequence[Claimed]) -> set[tuple[int, int]]:
    """Return which of the claimed deliveries somebody has stopped meanwhile: the ids of alert and contact."""
    try:
        rows = db.session.execute(_stopped, {"channel": channel} | columns(claims, *KEY)).all()
        db.session.commit()
    except (sa.exc.SQLAlchemyError, StartError):
        db.session.rollback()
        return set()  # what cannot be asked now is sent
    return {(row.alert_id, row.contact_id) for row in rows}


def release(channel: str, claims: Sequence[Claimed]) -> None:
    """Return unsent claims to the queue, and commit."""
    db.session.execute(_release, {"channel": channel} | columns(claims, *KEY, "leased_until"))
    db.session.commit()
