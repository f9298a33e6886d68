"""Keep house beside the deliveries: remove what is too old, and tell what the console itself has to tell."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ..config import current_settings
from ..db import db
from . import notices, refusals
from .attempts import GONE, LONGEST_PAUSE, NO_ADDRESS
from .recording import reason, write_what_waited

logger = logging.getLogger("contacts_app")
TIDY_SECONDS = 60
TIDY_ROWS = 1000
HOPELESS = "Given up: whoever sent this ended each time before it could be written down."
_check_all = sa.text("""
    INSERT INTO system_checks (account_id) SELECT id FROM accounts ORDER BY id ON CONFLICT DO NOTHING
""")
_end_hopeless = sa.text("""
    UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = :answer
    WHERE state = 'sending' AND next_attempt_at <= now() AND give_up_at <= now() AND attempts > 20
""")
_forget_alerts = sa.text("""
    DELETE FROM alerts WHERE (account_id, id) IN (
        SELECT account_id, id FROM alerts WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING id
""")
# Whoever was sending it when it was stopped is gone.
_end_stopped = sa.text("""
    UPDATE deliveries SET state = 'cancelled', next_attempt_at = NULL, ended_at = now()
    WHERE state = 'sending' AND cancelled_by IS NOT NULL AND next_attempt_at <= now()
""")
_end_without_robot = sa.text("""
    UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = CASE
        WHEN EXISTS (SELECT FROM contacts WHERE (contacts.account_id, contacts.id)
            = (deliveries.account_id, contact_id)) THEN :no_robot ELSE :gone END
    WHERE channel = 'dingtalk' AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND NOT EXISTS (
        SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
            AND dingtalk_url_hash IS NOT NULL)
""")
# Nothing is planned so late: the clock has been set back since, and what waits would wait until it is there again.
_plan_after_jump = [
    sa.text(
        f"UPDATE {table} SET {column} = now()"  # nosec B608
        f" WHERE {column} > now() + make_interval(secs => :longest){only}"
    )
    for table, column, only in (
        ("deliveries", "next_attempt_at", " AND state IN ('queued', 'sending')"),
        ("robots", "due_at", ""),
        ("robots", "blocked_until", " AND due_at IS NOT NULL"),
    )
]
_plan_overlooked_robots = sa.text("""
    INSERT INTO robots (account_id, url_hash, due_at)
    SELECT DISTINCT contacts.account_id, dingtalk_url_hash, now() FROM deliveries
    JOIN contacts ON (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
    WHERE channel = 'dingtalk' AND state IN ('queued', 'sending') AND next_attempt_at <= now() - interval '10 seconds'
        AND dingtalk_url_hash IS NOT NULL
    ORDER BY 1, 2
    ON CONFLICT (account_id, url_hash) DO UPDATE SET due_at = now() WHERE robots.due_at IS NULL
""")


def keep_house(stopping: threading.Event, retention_days: int) -> None:
    """Tell what the console itself has to tell and remove what is too old, until `stopping` is set."""
    _try(lambda: db.session.execute(_check_all))  # the settings may have changed
    next_tidy = 0.0
    while not stopping.is_set():
        if time.monotonic() >= next_tidy:
            _try(lambda: tidy(retention_days))
            next_tidy = time.monotonic() + TIDY_SECONDS
        until = time.monotonic() + TIDY_SECONDS
        while not stopping.is_set() and time.monotonic() < until and _try(notices.check_next):
            pass
        _try(write_what_waited)
        stopping.wait(1)


def tidy(retention_days: int) -> None:
    """Remove alerts that are too old, workers that are gone, and end or plan anew what would never be sent."""
    db.session.execute(sa.text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'"))
    db.session.execute(_end_stopped)
    db.session.execute(_end_without_robot, {"gone": GONE, "no_robot": NO_ADDRESS["dingtalk"]})
    db.session.execute(_end_hopeless, {"answer": HOPELESS})
    db.session.execute(_plan_overlooked_robots)
    longest = {"longest": max(current_settings().delivery_lease, LONGEST_PAUSE) + TIDY_SECONDS}
    for statement in _plan_after_jump:
        db.session.execute(statement, longest)
    refusals.forget_old()
    db.session.commit()
    old = {"days": retention_days, "most": TIDY_ROWS}
    until = time.monotonic() + TIDY_SECONDS
    while len(db.session.execute(_forget_alerts, old).all()) == TIDY_ROWS and time.monotonic() < until:
        db.session.commit()
    db.session.commit()


def _try(act: Callable[[], Any]) -> Any:
    """Do a part of the housekeeping; what fails is tried again later, and does not stop the others."""
    try:
        result = act()
        db.session.commit()
        return result
    except Exception as error:
        db.session.rollback()
        logger.error("A part of the housekeeping has to wait: %s", reason(error))
        return None
    finally:
        db.session.remove()
