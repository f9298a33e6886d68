"""Run the periodic maintenance of a worker: delete old rows, repair schedules, and run the chores of other rooms."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..config import current_settings
from ..core.db import db
from .answers import answer, dump
from .attempts import GONE, LONGEST_PAUSE, limit_lock_waits
from .channels.dingtalk import DINGTALK
from .recording import reason, write_what_waited

logger = logging.getLogger("contacts_app")
TIDY_SECONDS = 60
TIDY_ROWS = 1000
NO_RESULT = answer("delivery.no_result")
# Accounts whose row is locked are skipped, and those that are not in `ids`, which is NULL for all.
_check_all = sa.text("""
    INSERT INTO system_checks (account_id)
    SELECT id FROM accounts WHERE CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[]))
    ORDER BY id FOR KEY SHARE SKIP LOCKED
    ON CONFLICT DO NOTHING
""")
_not_checked = sa.text("""
    SELECT id FROM accounts WHERE NOT EXISTS (SELECT FROM system_checks WHERE account_id = accounts.id)
        AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[])))
""")


def _of_free_deliveries(change: str, condition: str) -> sa.TextClause:
    """Return a statement that updates the deliveries that meet the condition and are not locked."""
    return sa.text(f"""
        UPDATE deliveries SET {change}
        FROM (
            SELECT account_id, alert_id, contact_id, channel FROM deliveries WHERE {condition} FOR UPDATE SKIP LOCKED
        ) AS free
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (free.account_id, free.alert_id, free.contact_id, free.channel)
    """)  # nosec B608


_forget_workers = sa.text("""
    DELETE FROM workers WHERE id IN (
        SELECT id FROM workers WHERE seen_at < now() - interval '1 day' FOR UPDATE SKIP LOCKED)
""")
_end_hopeless = _of_free_deliveries(
    "state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = :answer",
    "state = 'sending' AND next_attempt_at <= now() AND give_up_at <= now() AND attempts > 20",
)
# Cancelled while it was being sent, by a worker that has died since: its lease is over.
_end_stopped = _of_free_deliveries(
    "state = 'cancelled', next_attempt_at = NULL, ended_at = now()",
    "state = 'sending' AND cancelled_by IS NOT NULL AND next_attempt_at <= now()",
)
_end_without_robot = _of_free_deliveries(
    """state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = CASE
        WHEN EXISTS (SELECT FROM contacts WHERE (contacts.account_id, contacts.id)
            = (deliveries.account_id, deliveries.contact_id)) THEN :no_robot ELSE :gone END""",
    """channel = 'dingtalk' AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND NOT EXISTS (
        SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
            AND dingtalk_url_hash IS NOT NULL)""",
)
# A time later than any that is scheduled means that the clock was set back; without a new time it would wait too long.
_LATE = "now() + make_interval(secs => :longest)"
_plan_after_jump = _of_free_deliveries(
    "next_attempt_at = now()", f"next_attempt_at > {_LATE} AND state IN ('queued', 'sending')"
)
_plan_robots_after_jump = sa.text(f"""
    UPDATE robots SET due_at = least(due_at, now()), blocked_until = least(blocked_until, now())
    FROM (
        SELECT account_id, url_hash FROM robots
        WHERE due_at > {_LATE} OR blocked_until > {_LATE} AND due_at IS NOT NULL FOR UPDATE SKIP LOCKED
    ) AS free
    WHERE (robots.account_id, robots.url_hash) = (free.account_id, free.url_hash)
""")  # nosec B608
_plan_overlooked_robots = sa.text("""
    WITH overlooked AS (
        SELECT DISTINCT contacts.account_id, dingtalk_url_hash AS url_hash FROM deliveries
        JOIN contacts ON (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
        WHERE channel = 'dingtalk' AND state IN ('queued', 'sending')
            AND next_attempt_at <= now() - interval '10 seconds' AND dingtalk_url_hash IS NOT NULL
    ), known AS (
        SELECT account_id, url_hash FROM robots JOIN overlooked USING (account_id, url_hash)
        WHERE due_at IS NULL FOR UPDATE OF robots SKIP LOCKED
    ), planned AS (
        UPDATE robots SET due_at = now() FROM known
        WHERE (robots.account_id, robots.url_hash) = (known.account_id, known.url_hash)
    ), owner AS (
        SELECT id FROM accounts WHERE id IN (SELECT account_id FROM overlooked) FOR KEY SHARE SKIP LOCKED
    )
    INSERT INTO robots (account_id, url_hash, due_at)
    SELECT account_id, url_hash, now() FROM overlooked JOIN owner ON owner.id = account_id
    WHERE NOT EXISTS (
        SELECT FROM robots WHERE (robots.account_id, robots.url_hash) = (overlooked.account_id, overlooked.url_hash))
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING
""")
# An alert is deleted with its deliveries, but not while one of them is locked.
_forget_alerts = sa.text("""
    WITH old AS (
        SELECT account_id, id FROM alerts WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :most FOR UPDATE SKIP LOCKED
    ), free AS (
        SELECT deliveries.account_id, alert_id AS id FROM old
        JOIN deliveries ON (deliveries.account_id, alert_id) = (old.account_id, old.id)
        FOR UPDATE OF deliveries SKIP LOCKED
    ), unlocked AS (
        SELECT account_id, id, count(*) AS deliveries FROM free GROUP BY account_id, id
    )
    DELETE FROM alerts USING old LEFT JOIN unlocked USING (account_id, id)
    WHERE (alerts.account_id, alerts.id) = (old.account_id, old.id) AND coalesce(unlocked.deliveries, 0) = (
        SELECT count(*) FROM deliveries WHERE (deliveries.account_id, alert_id) = (old.account_id, old.id))
    RETURNING 1
""")


class Chores(NamedTuple):
    """Jobs of the rooms above: `check_next` checks one account for system messages, `forget_old` deletes old rows.

    `check_next` commits, and returns whether there was an account to check.
    """

    check_next: Callable[[], bool]
    forget_old: Callable[[], None]


def run_housekeeping(stopping: threading.Event, retention_days: int, chores: Chores) -> None:
    """Run the maintenance until `stopping` is set."""
    unchecked: Collection[int] | None = None  # all accounts: the settings may have changed
    next_tidy = 0.0
    while not stopping.is_set():
        if time.monotonic() >= next_tidy:
            if unchecked is None or unchecked:
                left = _try(partial(check_all, unchecked))
                unchecked = unchecked if left is None else left
            tidy(retention_days, chores)
            next_tidy = time.monotonic() + TIDY_SECONDS
        until = time.monotonic() + TIDY_SECONDS
        while not stopping.is_set() and time.monotonic() < until and _try(chores.check_next):
            pass
        _try(write_what_waited)
        stopping.wait(1)


def check_all(ids: Collection[int] | None = None) -> Sequence[int]:
    """Schedule a check of the accounts, by default of all; return the ids of those whose rows are locked."""
    mine = {"ids": None if ids is None else list(ids)}
    limit_lock_waits()
    db.session.execute(_check_all, mine)
    return db.session.scalars(_not_checked, mine).all()


def tidy(retention_days: int, chores: Chores) -> None:
    """Delete old alerts and dead workers, and end or reschedule deliveries that would never be sent.

    Each step has its own transaction, which skips locked rows.
    """
    longest = {"longest": max(current_settings().delivery_lease, LONGEST_PAUSE) + TIDY_SECONDS}
    for statement, values in (
        (_forget_workers, {}),
        (_end_stopped, {}),
        (_end_without_robot, {"gone": dump(GONE), "no_robot": dump(DINGTALK.no_address)}),
        (_end_hopeless, {"answer": dump(NO_RESULT)}),
        (_plan_overlooked_robots, {}),
        (_plan_after_jump, longest),
        (_plan_robots_after_jump, longest),
    ):
        _try(partial(db.session.execute, statement, values))
    _try(chores.forget_old)
    old = {"days": retention_days, "most": TIDY_ROWS}
    until = time.monotonic() + TIDY_SECONDS
    while _try(partial(_forget, old)) and time.monotonic() < until:
        pass


def _forget(old: dict[str, Any]) -> int:
    return len(db.session.execute(_forget_alerts, old).all())


def _try(act: Callable[[], Any]) -> Any:
    """Run a step of the maintenance and commit; log an error and return None, because the next round retries it."""
    try:
        limit_lock_waits()
        result = act()
        db.session.commit()
        return result
    except Exception as error:
        db.session.rollback()
        logger.error("A step of the housekeeping failed: %s", reason(error))
        return None
    finally:
        db.session.remove()
