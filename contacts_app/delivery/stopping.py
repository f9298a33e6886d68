"""Cancel queued messages: of one notification, or of all alerts of an integration."""

import time
from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from ..core.db import db
from .models import IS_WAITING

ALERTS_AT_ONCE = 10  # so that no transaction blocks a worker for long
PATIENCE_SECONDS = 10  # for rows that a worker has locked, which takes milliseconds


class Waiting(NamedTuple):
    """How many messages are queued, and of how many notifications."""

    messages: int = 0
    notifications: int = 0

    def __str__(self) -> str:
        """Return both numbers in words."""
        messages = f"{self.messages:,} message" + ("" if self.messages == 1 else "s")
        return f"{messages} of {self.notifications:,} notification" + ("" if self.notifications == 1 else "s")


def waiting_of(account_id: int, integration_ids: Iterable[int]) -> Waiting:
    """Return what is queued of all alerts of the integrations, whether these still exist or not."""
    values = {"account_id": account_id, "integration_ids": list(integration_ids)}
    counts = [row.messages for row in db.session.execute(_alerts_of_integrations, values)]
    return Waiting(sum(counts), len(counts))


def stop_integrations(account_id: int, integration_ids: Iterable[int], who: str) -> Waiting:
    """Cancel the queued messages of all alerts of the integrations; return what was cancelled.

    This takes several transactions. Alerts that arrive from now on are sent as usual.
    """
    values = {"account_id": account_id, "integration_ids": list(integration_ids)}
    return stop_alerts(account_id, [row.alert_id for row in db.session.execute(_alerts_of_integrations, values)], who)


def stop_alerts(account_id: int, alert_ids: Iterable[int], who: str) -> Waiting:
    """Cancel the queued messages of the alerts, in several transactions; return what was cancelled.

    A message that is being sent is not retried, and its result is recorded.
    """
    ids = list(alert_ids)
    messages = notifications = 0
    for first in range(0, len(ids), ALERTS_AT_ONCE):
        values = {"account_id": account_id, "alert_ids": ids[first : first + ALERTS_AT_ONCE], "who": who}
        stopped: set[int] = set()
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            # Rows that a worker has locked are skipped and tried again, because waiting for them could deadlock.
            rows = db.session.execute(_stop, values).all()
            db.session.commit()
            messages += sum(row.messages for row in rows)
            stopped.update(row.alert_id for row in rows)
            if not db.session.scalar(_is_left, values) or time.monotonic() > until:
                break
            time.sleep(0.02)
        notifications += len(stopped)
    db.session.commit()
    return Waiting(messages, notifications)


def stopped_words(stopped: Waiting) -> str:
    """Return the message for the user after a cancellation."""
    if not stopped.messages:
        return "No message was waiting any more."
    return f"{stopped} {'has' if stopped.messages == 1 else 'have'} been stopped."


# The notifications with queued messages that are not cancelled yet, oldest first.
_alerts_of_integrations = sa.text(f"""
    SELECT alert_id, count(*) AS messages FROM deliveries
    JOIN alerts ON (alerts.account_id, alerts.id) = (deliveries.account_id, alert_id)
    WHERE deliveries.account_id = :account_id AND {IS_WAITING} AND cancelled_by IS NULL
        AND integration_id = ANY (CAST(:integration_ids AS bigint[]))
    GROUP BY alert_id ORDER BY alert_id
""")  # nosec B608
_stop = sa.text(f"""
    WITH waiting AS (
        SELECT account_id, alert_id, contact_id, channel FROM deliveries
        WHERE account_id = :account_id AND alert_id = ANY (CAST(:alert_ids AS bigint[]))
            AND {IS_WAITING} AND cancelled_by IS NULL
        FOR UPDATE SKIP LOCKED
    ), stopped AS (
        UPDATE deliveries SET
            cancelled_by = :who,
            state = CASE deliveries.state WHEN 'queued' THEN 'cancelled' ELSE deliveries.state END,
            next_attempt_at = CASE WHEN deliveries.state <> 'queued' THEN next_attempt_at END,
            ended_at = CASE WHEN deliveries.state = 'queued' THEN now() END
        FROM waiting
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (waiting.account_id, waiting.alert_id, waiting.contact_id, waiting.channel)
        RETURNING deliveries.alert_id
    )
    SELECT alert_id, count(*) AS messages FROM stopped GROUP BY alert_id
""")  # nosec B608
_is_left = sa.text(f"""
    SELECT EXISTS (
        SELECT FROM deliveries
        WHERE account_id = :account_id AND alert_id = ANY (CAST(:alert_ids AS bigint[]))
            AND {IS_WAITING} AND cancelled_by IS NULL)
""")  # nosec B608
