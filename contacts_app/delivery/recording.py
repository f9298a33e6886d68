"""Record the results of attempts reliably, because a message whose result is lost is sent again."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from ..config import StartError
from ..core.db import db
from . import robots
from .answers import answer, dump
from .attempts import KEY, Claimed, Result, columns, limit_lock_waits, pause
from .channels import Outcome
from .channels.registry import KINDS

logger = logging.getLogger("contacts_app")
REFUSED = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError)  # errors that a retry repeats
# A delivery may be cancelled while it is being sent; if it was sent, its state is sent.
NOT_ENDED = "(deliveries.ended_at IS NULL OR deliveries.state = 'cancelled')"
# A sent message is recorded as sent even if its lease is over and another worker has claimed it. This waits for no
# lock: a sent message whose row is locked is inserted into sent_deliveries, which each claim checks. The condition that
# a delivery has not ended is written so that it matches no partial index: with the one of due deliveries, the whole
# queue would be read for each message. For why each row is looked up LATERAL, see attempts.CHOSEN.
_finish = sa.text(f"""
    WITH result AS (
        SELECT * FROM unnest(
            CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
            CAST(:leased_untils AS timestamptz[]), CAST(:states AS text[]), CAST(:answers AS text[]),
            CAST(:waits AS float[]), CAST(:addresses AS text[]), CAST(:messages AS uuid[]),
            CAST(:headlines AS boolean[]), CAST(:refusals AS boolean[])
        ) AS result (account_id, alert_id, contact_id, leased_until, state, answer, wait, address, message,
            headline_only, text_refused)
    ), found AS (
        SELECT result.*, free.channel FROM result LEFT JOIN LATERAL (
            SELECT channel FROM deliveries
            WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
                = (result.account_id, result.alert_id, result.contact_id, :channel)
                AND {NOT_ENDED}
                AND (result.state = 'sent'
                    OR deliveries.state = 'sending' AND deliveries.next_attempt_at = result.leased_until)
            FOR UPDATE SKIP LOCKED
        ) AS free ON true
    ), finished AS (
        UPDATE deliveries SET
            state = CASE WHEN found.state = 'queued' AND cancelled_by IS NOT NULL THEN 'cancelled'
                ELSE found.state END,
            answer = found.answer, address = coalesce(found.address, deliveries.address),
            message = found.message, attempts = greatest(attempts, 1),
            next_attempt_at = CASE WHEN found.state = 'queued' AND cancelled_by IS NULL
                THEN now() + make_interval(secs => found.wait) END,
            ended_at = CASE WHEN found.state <> 'queued' OR cancelled_by IS NOT NULL THEN now() END,
            headline_only = found.headline_only, text_refused = found.text_refused
        FROM found
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (found.account_id, found.alert_id, found.contact_id, found.channel)
    )
    INSERT INTO sent_deliveries (account_id, alert_id, contact_id, channel, address, answer, headline_only)
    SELECT account_id, alert_id, contact_id, :channel, address, answer, headline_only FROM found
    CROSS JOIN LATERAL (
        SELECT FROM deliveries WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
            = (found.account_id, found.alert_id, found.contact_id, :channel) AND {NOT_ENDED}
        LIMIT 1
    ) AS locked
    WHERE state = 'sent' AND channel IS NULL
    ON CONFLICT DO NOTHING
""")  # nosec B608
_finish_sent = sa.text(f"""
    WITH free AS (
        SELECT deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel,
            sent.address, sent.answer, sent.sent_at, sent.headline_only
        FROM sent_deliveries AS sent
        JOIN deliveries USING (account_id, alert_id, contact_id, channel)
        WHERE {NOT_ENDED}
        FOR UPDATE OF deliveries SKIP LOCKED
    )
    UPDATE deliveries SET
        state = 'sent', answer = free.answer, address = coalesce(free.address, deliveries.address), message = NULL,
        attempts = greatest(attempts, 1), next_attempt_at = NULL, ended_at = free.sent_at,
        headline_only = free.headline_only
    FROM free
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (free.account_id, free.alert_id, free.contact_id, free.channel)
""")  # nosec B608
_forget_sent = sa.text(f"""
    DELETE FROM sent_deliveries WHERE (account_id, alert_id, contact_id, channel) IN (
        SELECT account_id, alert_id, contact_id, channel FROM sent_deliveries AS sent
        WHERE NOT EXISTS (
            SELECT FROM deliveries WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id,
                deliveries.channel) = (sent.account_id, sent.alert_id, sent.contact_id, sent.channel) AND {NOT_ENDED})
        FOR UPDATE SKIP LOCKED)
""")  # nosec B608
cancelled_claims = sa.text("""
    SELECT alert_id, contact_id
    FROM unnest(CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]))
        AS claimed (account_id, alert_id, contact_id)
    CROSS JOIN LATERAL (
        SELECT FROM deliveries
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
            = (claimed.account_id, claimed.alert_id, claimed.contact_id, :channel) AND cancelled_by IS NOT NULL
        LIMIT 1
    ) AS stopped
""")
# A result that equals channel_states is left out, unless other results of the channel are pending.
_record_news = sa.text("""
    INSERT INTO channel_news (account_id, contact_id, channel, works, used, answer)
    SELECT found.account_id, found.contact_id, :channel, works, used, found.answer
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:contact_ids AS bigint[]), CAST(:works AS boolean[]),
        CAST(:answers AS text[]), CAST(:used AS text[])
    ) AS found (account_id, contact_id, works, answer, used)
    LEFT JOIN channel_states AS known
        ON (known.account_id, known.contact_id, known.channel) = (found.account_id, found.contact_id, :channel)
    WHERE known.account_id IS NULL OR known.answer IS DISTINCT FROM found.answer
        OR works AND coalesce(known.worked_at, '-infinity') < now() - interval '1 minute'
        OR EXISTS (
            SELECT FROM channel_news AS waiting WHERE (waiting.account_id, waiting.contact_id, waiting.channel)
                = (found.account_id, found.contact_id, :channel))
    RETURNING account_id
""")
# The current address, in the form of Result.used.
_ADDRESS = f"""CASE channel_news.channel
    {" ".join(f"WHEN '{kind.name}' THEN {kind.used}" for kind in KINDS.values())} END"""
# The address of the contact may have been changed during the attempt.
_forget_outdated_news = sa.text(f"""
    DELETE FROM channel_news WHERE account_id = :account_id AND id IN (
        SELECT id FROM channel_news WHERE account_id = :account_id AND NOT EXISTS (
            SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (channel_news.account_id, contact_id)
                AND used = {_ADDRESS})
        FOR UPDATE SKIP LOCKED)
""")  # nosec B608
# The address is compared again with the contact locked, because it may be changed at this moment. Locked rows stay
# pending; the results of one channel are applied oldest first.
_note_news = sa.text(f"""
    WITH news AS (
        SELECT channel_news.* FROM channel_news
        JOIN contacts ON (contacts.account_id, contacts.id) = (channel_news.account_id, contact_id)
            AND used = {_ADDRESS}
        WHERE channel_news.account_id = :account_id AND NOT EXISTS (
            SELECT FROM channel_news AS older
            WHERE (older.account_id, older.contact_id, older.channel)
                = (channel_news.account_id, channel_news.contact_id, channel_news.channel)
                AND older.id < channel_news.id)
        ORDER BY contact_id
        FOR UPDATE OF channel_news SKIP LOCKED FOR SHARE OF contacts SKIP LOCKED
    ), free AS (
        SELECT known.account_id, known.contact_id, known.channel FROM channel_states AS known
        JOIN news USING (account_id, contact_id, channel)
        FOR UPDATE OF known SKIP LOCKED
    ), noted AS (
        SELECT news.* FROM news LEFT JOIN channel_states AS known USING (account_id, contact_id, channel)
        LEFT JOIN free USING (account_id, contact_id, channel)
        WHERE known.channel IS NULL OR free.channel IS NOT NULL
    ), forgotten AS (
        DELETE FROM channel_news USING noted
        WHERE (channel_news.account_id, channel_news.id) = (noted.account_id, noted.id)
    )
    INSERT INTO channel_states AS known (account_id, contact_id, channel, worked_at, failing_since, answer)
    SELECT account_id, contact_id, channel, CASE WHEN works THEN noted_at END,
        CASE WHEN NOT works THEN noted_at END, answer
    FROM noted ORDER BY contact_id, channel
    ON CONFLICT (account_id, contact_id, channel) DO UPDATE SET
        worked_at = coalesce(excluded.worked_at, known.worked_at),
        failing_since = CASE WHEN excluded.failing_since IS NOT NULL
            THEN coalesce(known.failing_since, excluded.failing_since) END,
        answer = excluded.answer
    RETURNING account_id
""")  # nosec B608
_ask_for_check = sa.text("""
    INSERT INTO system_checks (account_id) VALUES (:account_id)
    ON CONFLICT (account_id) DO UPDATE SET due_at = now() WHERE system_checks.due_at > now()
""")
_waiting_news = sa.text("SELECT DISTINCT account_id FROM channel_news ORDER BY account_id")


def record(
    results: Sequence[Result], patience: float, robot: dict[str, Any] | None = None, rest: Sequence[Claimed] = ()
) -> set[tuple[int, int]]:
    """Record results of one account, with retries for `patience` seconds while the database is unavailable.

    One transaction that waits for no lock writes the results and the news of channels; less urgent updates follow.
    Return which claims of `rest` were cancelled meanwhile, as ids of alert and contact.
    """
    stopped: set[tuple[int, int]] = set()

    def write() -> None:
        stopped.update(_write(results, rest))

    try:
        persist(write, patience)
    except Exception as error:
        logger.error("Could not record an answer: %s", reason(error))
        db.session.rollback()
        why = answer("delivery.not_recorded")
        unsent = Outcome("later", why)
        results = [
            result._replace(outcome=result.outcome._replace(answer=why) if result.outcome.state == "sent" else unsent)
            for result in results
        ]
        persist(write, patience)
    if robot:
        persist(lambda: robots.note_sent(robot, results), patience)
    return stopped


def write_what_waited() -> None:
    """Apply the pending results whose rows were locked, as far as they are not locked now, and commit."""
    db.session.execute(_finish_sent)
    db.session.execute(_forget_sent)
    db.session.commit()
    for account_id in db.session.scalars(_waiting_news).all():
        note_news(account_id)


def note_news(account_id: int) -> None:
    """Apply the pending news of an account to channel_states, as far as the rows are not locked, and commit."""
    try:
        limit_lock_waits()
        db.session.execute(_forget_outdated_news, {"account_id": account_id})
        if db.session.execute(_note_news, {"account_id": account_id}).all():
            db.session.execute(_ask_for_check, {"account_id": account_id})
        db.session.commit()
    except sa.exc.OperationalError:  # the account is locked, or the database is unavailable
        db.session.rollback()


def persist(act: Callable[[], None], patience: float) -> None:
    """Call `act`, with retries for `patience` seconds while the database is unavailable; then log and give up.

    Errors that a retry would repeat are raised.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return act()
        except (sa.exc.SQLAlchemyError, StartError) as error:
            db.session.rollback()
            if isinstance(error, REFUSED):
                raise
            if time.monotonic() > until:
                logger.error("Could not record results: %s", reason(error))
                return
            time.sleep(0.5)


def reason(error: Exception) -> str:
    """Return a description of the error that contains no personal data."""
    original = getattr(error, "orig", None)
    return type(original or error).__name__ if not isinstance(error, StartError) else str(error)


def _write(results: Sequence[Result], rest: Sequence[Claimed]) -> set[tuple[int, int]]:
    """Record the results, except unsent ones whose lease has passed to another worker, and the news of channels.

    Return which claims of `rest` were cancelled.
    """
    channel, account_id = results[0].channel, results[0].claimed.account_id
    db.session.execute(_finish, {"channel": channel} | _finished(results))
    said = {result.claimed.contact_id: result for result in results if _says_something(result)}
    is_news = said and db.session.execute(_record_news, {"channel": channel} | _news(list(said.values()))).all()
    db.session.commit()
    if is_news:
        note_news(account_id)
    return _cancelled_among(channel, rest) if rest else set()


def _cancelled_among(channel: str, claims: Sequence[Claimed]) -> set[tuple[int, int]]:
    """Return which of the claims were cancelled; none if the query fails, because then they are sent.

    After the results are committed: a failure here must not undo what was sent.
    """
    try:
        rows = db.session.execute(cancelled_claims, {"channel": channel} | columns(claims, *KEY)).all()
        db.session.commit()
    except (sa.exc.SQLAlchemyError, StartError):
        db.session.rollback()
        return set()
    return {(row.alert_id, row.contact_id) for row in rows}


def _finished(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _finish."""
    found = columns([result.claimed for result in results], *KEY, "leased_until")
    found |= {name: [] for name in ("states", "answers", "waits", "addresses", "messages", "headlines", "refusals")}
    waits: dict[int, float] = {}  # by outcome, so that the deliveries of one message are retried together
    for result in results:
        outcome, claimed = result.outcome, result.claimed
        state, answers, wait = outcome.state, outcome.answer, outcome.wait
        if state == "later":
            wait = waits.setdefault(id(outcome), wait or pause(claimed.attempts))
            if wait > claimed.seconds_left:
                state, answers = "failed", answers + answer("delivery.given_up")
        found["states"].append("queued" if state == "later" else state)
        found["answers"].append(dump(answers))
        found["waits"].append(wait)
        found["addresses"].append(result.address)
        found["messages"].append(result.message)
        found["headlines"].append(outcome.text_state == "headline")
        found["refusals"].append(state == "failed" and outcome.text_state == "refused")
    return found


def _says_something(result: Result) -> bool:
    """Return whether the result shows whether the channel works; a first temporary error does not.

    A refused text does not either, because it is not about the address.
    """
    if result.used is None or result.outcome.text_state == "refused":
        return False
    return result.outcome.state != "later" or result.claimed.attempts > 1


def _news(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _record_news."""
    found = columns([result.claimed for result in results], "account_id", "contact_id")
    found["works"] = [result.outcome.state == "sent" for result in results]
    found["answers"] = [None if result.outcome.state == "sent" else dump(result.outcome.answer) for result in results]
    found["used"] = [result.used for result in results]
    return found
