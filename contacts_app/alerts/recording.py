"""Write down what became of attempts, come what may: else what was sent would be sent again."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from ..config import StartError
from ..db import db
from . import robots
from .attempts import KEY, Result, columns, pause
from .channels import Outcome

logger = logging.getLogger("contacts_app")
REFUSED = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError)  # which no waiting mends
# What was sent is sent, also when somebody else has taken the message for lost meanwhile. Both ask for what has not
# ended in words that fit no partial index: by the one of what is due, all that waits would be read for each message.
_finish = sa.text("""
    UPDATE deliveries SET
        state = CASE WHEN result.state = 'queued' AND cancelled_by IS NOT NULL THEN 'cancelled' ELSE result.state END,
        answer = result.answer, address = coalesce(result.address, deliveries.address),
        message = result.message, attempts = greatest(attempts, 1),
        next_attempt_at = CASE WHEN result.state = 'queued' AND cancelled_by IS NULL
            THEN now() + make_interval(secs => result.wait) END,
        ended_at = CASE WHEN result.state <> 'queued' OR cancelled_by IS NOT NULL THEN now() END,
        headline_only = result.headline_only, text_refused = result.text_refused
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:leased_untils AS timestamptz[]), CAST(:states AS text[]), CAST(:answers AS text[]),
        CAST(:waits AS float[]), CAST(:addresses AS text[]), CAST(:messages AS uuid[]),
        CAST(:headlines AS boolean[]), CAST(:refusals AS boolean[])
    ) AS result (account_id, alert_id, contact_id, leased_until, state, answer, wait, address, message,
        headline_only, text_refused)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (result.account_id, result.alert_id, result.contact_id, :channel)
        AND (deliveries.ended_at IS NULL OR deliveries.state = 'cancelled')
        AND (result.state = 'sent'
            OR deliveries.state = 'sending' AND deliveries.next_attempt_at = result.leased_until)
""")
# The address is compared, because the contact may have been given another while this one was tried, and locked, because
# it may be given another just now.
_note_states = sa.text("""
    INSERT INTO channel_states AS known (account_id, contact_id, channel, worked_at, failing_since, answer)
    SELECT contacts.account_id, contacts.id, :channel, CASE WHEN works THEN now() END,
        CASE WHEN NOT works THEN now() END, CASE WHEN NOT works THEN answer END
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:works AS boolean[]),
        CAST(:answers AS text[]), CAST(:used AS text[])
    ) AS found (account_id, contact_id, works, answer, used)
    JOIN contacts ON (contacts.account_id, contacts.id) = (found.account_id, contact_id)
        AND used = CASE :channel
            WHEN 'sms' THEN mobile WHEN 'email' THEN email ELSE encode(dingtalk_url_hash, 'hex') END
    ORDER BY contacts.account_id, contacts.id
    FOR SHARE OF contacts
    ON CONFLICT (account_id, contact_id, channel) DO UPDATE SET
        worked_at = coalesce(excluded.worked_at, known.worked_at),
        failing_since = CASE WHEN excluded.failing_since IS NOT NULL
            THEN coalesce(known.failing_since, excluded.failing_since) END,
        answer = excluded.answer
    WHERE known.answer IS DISTINCT FROM excluded.answer OR excluded.worked_at > known.worked_at + interval '1 minute'
    RETURNING known.account_id
""")
_ask_for_check = sa.text("""
    INSERT INTO system_checks (account_id)
    SELECT unnest(CAST(:accounts AS bigint[]))
    ON CONFLICT (account_id) DO UPDATE SET due_at = now() WHERE system_checks.due_at > now()
""")


def keep(results: Sequence[Result], patience: float, robot: dict[str, Any] | None = None) -> None:
    """Write down what became of attempts; while the database is away, try for `patience` seconds."""
    try:
        persist(lambda: _record(results, robot), patience)
    except Exception as error:
        logger.error("An answer could not be written down: %s", reason(error))
        db.session.rollback()
        plain = Outcome("later", "The answer could not be written down. Tell your administrator.")
        results = [
            result._replace(outcome=result.outcome._replace(answer="") if result.outcome.state == "sent" else plain)
            for result in results
        ]
        persist(lambda: _record(results, robot), patience)


def persist(act: Callable[[], None], patience: float) -> None:
    """Do what must not be lost while the database is away, again and again for `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            return act()
        except (sa.exc.SQLAlchemyError, StartError) as error:
            db.session.rollback()
            if isinstance(error, REFUSED):
                raise
            if time.monotonic() > until:
                logger.error("What was sent could not be recorded, and is sent again: %s", reason(error))
                return
            time.sleep(0.5)


def reason(error: Exception) -> str:
    """Say what happened in a word that quotes nobody's data."""
    original = getattr(error, "orig", None)
    return type(original or error).__name__ if not isinstance(error, StartError) else str(error)


def _record(results: Sequence[Result], robot: dict[str, Any] | None) -> None:
    """Write down what is known of the channels, then what became of the attempts, each if it is still ours.

    In this order a death in between repeats an attempt, and loses no knowledge.
    """
    channel = results[0].channel
    known = {
        (result.claimed.account_id, result.claimed.contact_id): result for result in results if _says_something(result)
    }
    if known:
        told = db.session.execute(_note_states, {"channel": channel} | _states(list(known.values()))).all()
        if told:
            accounts = sorted({row.account_id for row in told})
            db.session.execute(_ask_for_check, {"accounts": accounts})
    if robot and known:
        db.session.commit()  # whoever saves a contact locks what is known before the robot
    db.session.execute(_finish, {"channel": channel} | _finished(results))
    if robot:
        robots.note_sent(robot, results)
    db.session.commit()


def _finished(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _finish."""
    found = columns([result.claimed for result in results], *KEY, "leased_until")
    found |= {name: [] for name in ("states", "answers", "waits", "addresses", "messages", "headlines", "refusals")}
    waits: dict[int, float] = {}  # what went together is tried again together
    for result in results:
        outcome, claimed = result.outcome, result.claimed
        state, answer, wait = outcome.state, outcome.answer, outcome.wait
        if state == "later":
            wait = waits.setdefault(id(outcome), wait or pause(claimed.attempts))
            if wait > claimed.seconds_left:
                state, answer = "failed", f"{answer} Given up after an hour."
        found["states"].append("queued" if state == "later" else state)
        found["answers"].append(answer[:500])
        found["waits"].append(wait)
        found["addresses"].append(result.address)
        found["messages"].append(result.message)
        found["headlines"].append(outcome.content == "headline")
        found["refusals"].append(state == "failed" and outcome.content == "refused")
    return found


def _says_something(result: Result) -> bool:
    """Tell whether the attempt says whether the channel works; the first of a passing fault does not.

    That a text was refused says nothing about where it was sent.
    """
    if result.used is None or result.outcome.content == "refused":
        return False
    return result.outcome.state != "later" or result.claimed.attempts > 1


def _states(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _note_states."""
    found = columns([result.claimed for result in results], "account_id", "contact_id")
    found["works"] = [result.outcome.state == "sent" for result in results]
    found["answers"] = [result.outcome.answer[:500] for result in results]
    found["used"] = [result.used for result in results]
    return found
