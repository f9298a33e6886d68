"""Deliver what is queued: claim, send, record, in any number of threads, processes and machines.

A claim is committed before anything is sent, and ends by itself after a while (the lease). Whatever is killed at
whatever moment, a delivery is thus either recorded or claimed again.
"""

import logging
import os
import random
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import FrameType
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
from flask import Flask

from ..config import Settings, StartError, current_settings
from ..contacts.forms import shown_mobile, shown_robot
from ..contacts.models import decrypted
from ..db import db
from . import notices
from .channels import Outcome, Told, configured, dingtalk, mail, outgoing, sms
from .models import CHANNELS

logger = logging.getLogger("contacts_app")
BATCH = {"sms": 10, "email": 20}
ROBOT_LIMIT, ROBOT_WINDOW = 20, timedelta(minutes=1)
SEND_SECONDS = 15  # that one message may take, with room to record it before the lease ends
POLL_SECONDS, BEAT_SECONDS, TIDY_SECONDS = 2, 5, 60
TIDY_ROWS = 1000
GONE = "The contact has been deleted."
NO_ADDRESS = {
    "sms": "The contact has no mobile phone number any more.",
    "email": "The contact has no mailbox any more.",
    "dingtalk": "The contact has no DingTalk robot any more.",
}
UNREADABLE = "The robot's address cannot be read, because ENCRYPTION_KEYS lacks its key. Enter it again in the contact."


class Claimed(NamedTuple):
    """A delivery that this worker sends now, with all that is needed for it."""

    account_id: int
    alert_id: int
    contact_id: int
    attempts: int
    seconds_left: float  # until it is given up
    told: Told
    key: str | None
    mobile: str | None
    email: str | None
    exists: bool


class Result(NamedTuple):
    """What became of an attempt: `address` as it may be shown, `used` as the schema compares it."""

    claimed: Claimed
    channel: str
    outcome: Outcome
    address: str | None
    used: str | None
    message: UUID | None = None


class Worker:
    """One process that delivers until it is told to stop."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.stopping = threading.Event()
        self.wakes = {channel: threading.Event() for channel in CHANNELS}
        self.id = uuid4()

    def run(self) -> None:
        """Deliver until SIGTERM or SIGINT; what is being sent then is sent to its end."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        threads = [threading.Thread(target=self._listen, daemon=True)]
        for channel in CHANNELS:
            for index in range(self.settings.delivery_threads):
                threads.append(threading.Thread(target=self._deliver, args=(channel, POLL_SECONDS * (index + 1))))
        for thread in threads:
            thread.start()
        with self.app.app_context():
            self._keep_house()
            for event in self.wakes.values():
                event.set()
            for thread in threads[1:]:
                thread.join()
            self._persist(self._leave, patience=1)

    def _listen(self) -> None:
        """Wake the threads when something is queued; while the database is away they look by themselves."""
        while not self.stopping.is_set():
            try:
                with self.app.app_context(), db.engine.connect() as connection:
                    raw = connection.connection.driver_connection
                    assert isinstance(raw, psycopg.Connection)
                    raw.autocommit = True
                    raw.execute("LISTEN deliveries")
                    while not self.stopping.is_set():
                        for _ in raw.notifies(timeout=1, stop_after=1):
                            for event in self.wakes.values():
                                event.set()
            except (sa.exc.SQLAlchemyError, psycopg.Error, StartError):
                self.stopping.wait(1)

    def _deliver(self, channel: str, patience: float) -> None:
        """Work on one channel; look every `patience` seconds for what nobody announces: what is to be tried again."""
        wake = self.wakes[channel]
        senders = Senders(self.settings)
        step = self._step_robot if channel == "dingtalk" else self._step
        is_away = False
        while not self.stopping.is_set():
            wake.clear()
            try:
                with self.app.app_context():
                    is_busy = step(channel, senders)
                is_away = False
            except Exception as error:
                if not is_away:  # said once, not every second
                    logger.error("Delivering by %s has to wait: %s", channel, _reason(error))
                is_away = True
                self.stopping.wait(1)
                continue
            if is_busy:
                wake.set()  # there may be enough for the others, too
            else:
                wake.wait(patience)
        senders.close()

    def _step(self, channel: str, senders: "Senders") -> bool:
        """Send the deliveries that are due, a few at a time; return whether there were any."""
        rows = db.session.execute(
            _claim, {"channel": channel, "most": BATCH[channel], "lease": self.settings.delivery_lease}
        ).all()
        db.session.commit()
        until = time.monotonic() + self.settings.delivery_lease - SEND_SECONDS
        results: list[Result] = []
        released: list[Claimed] = []
        for row in rows:
            claimed = _claimed(row, self.settings)
            if (self.stopping.is_set() or time.monotonic() > until) and results:
                released.append(claimed)
                continue
            results.append(self._send(channel, claimed, senders))
        self._persist(lambda: self._record(results, released, channel))
        return bool(rows)

    def _send(self, channel: str, claimed: Claimed, senders: "Senders") -> Result:
        address = claimed.mobile if channel == "sms" else claimed.email
        shown = shown_mobile(address) if address and channel == "sms" else address
        if address is None:
            outcome = Outcome("failed", NO_ADDRESS[channel] if claimed.exists else GONE)
        elif why := configured(self.settings, channel):
            outcome = Outcome("failed", why)
            address = None  # says nothing of the address
        else:
            outcome = _guarded(lambda: senders.send(channel, address, claimed))
        return Result(claimed, channel, outcome, shown, address)

    def _step_robot(self, channel: str, senders: "Senders") -> bool:
        """Send one message to a robot that may be sent one: one alert, or all that wait where its limit is near."""
        robot = db.session.execute(_claim_robot).one_or_none()
        if robot is None:
            db.session.rollback()
            return False
        key = {"account_id": robot.account_id, "url_hash": robot.url_hash}
        recent = [at for at in robot.sent_at if at > robot.now - ROBOT_WINDOW]
        if robot.blocked_until and robot.blocked_until > robot.now:
            self._plan(key, robot.blocked_until)
        elif len(recent) >= ROBOT_LIMIT:
            self._plan(key, recent[-ROBOT_LIMIT] + ROBOT_WINDOW)
        else:
            rows = db.session.execute(_waiting_for_robot, key | {"most": 2 * dingtalk.MOST_ALERTS}).all()
            chosen = _choose(rows, ROBOT_LIMIT - len(recent))
            if chosen:
                self._send_to_robot(key, chosen, senders)
            else:
                self._plan(key, None)
        return True

    def _send_to_robot(self, key: dict[str, Any], rows: Sequence[Any], senders: "Senders") -> None:
        message = rows[0].message or uuid4()
        lease = self.settings.delivery_lease
        ids = _columns(rows, "alert_id", "contact_id")
        db.session.execute(_claim_for_robot, key | ids | {"message": message, "lease": lease})
        db.session.execute(_plan_robot, key | {"due_at": rows[0].now + timedelta(seconds=lease)})
        db.session.commit()
        claimed = [_claimed(row, self.settings, 1) for row in rows]
        url, shown, used = None, None, key["url_hash"].hex()
        for row in rows:
            if url := decrypted(row.dingtalk_url_encrypted, row.account_id, row.contact_id, "dingtalk_url"):
                break
        if url is None:
            outcome = Outcome("failed", UNREADABLE)
        else:
            shown = shown_robot(url)
            alerts = list({one.told.id: one.told for one in claimed}.values())
            mobiles = list(dict.fromkeys(one.mobile for one in claimed if one.mobile))
            secret = next(filter(None, (_secret(row) for row in rows)), None)
            keyword = next((row.dingtalk_keyword for row in rows if row.dingtalk_keyword), None)
            outcome = _guarded(
                lambda: dingtalk.send(
                    senders.session, self.settings, url, secret, keyword, alerts, mobiles, str(message)
                )
            )
        # What was refused may go in another company the next time; what may have arrived goes again as it was.
        kept = message if outcome.is_uncertain else None
        results = [Result(one, "dingtalk", outcome, shown, used, kept) for one in claimed]
        self._persist(lambda: self._record(results, [], "dingtalk", key))

    def _record(
        self, results: Sequence[Result], released: Sequence[Claimed], channel: str, robot: dict[str, Any] | None = None
    ) -> None:
        """Write down what became of the attempts, each if it is still this worker's."""
        if robot:
            blocked = next((result.outcome.wait for result in results if result.outcome.wait), None)
            db.session.execute(_robot_has_sent, robot | {"blocked": blocked})
        if results:
            db.session.execute(_finish, {"channel": channel} | _finished(results))
        if released:
            db.session.execute(_release, {"channel": channel} | _columns(released, *KEY, "attempts"))
        if robot:
            self._plan(robot, None)
        db.session.commit()
        known = {
            (result.claimed.account_id, result.claimed.contact_id): result
            for result in results
            if _says_something(result)
        }
        if known:
            told = db.session.execute(_note_states, {"channel": channel} | _states(list(known.values()))).all()
            db.session.commit()
            if told:
                accounts = sorted({row.account_id for row in told})
                db.session.execute(_ask_for_check, {"accounts": accounts})
                db.session.commit()

    def _plan(self, robot: dict[str, Any], due_at: datetime | None) -> None:
        """Have the robot looked at again at `due_at`, by default when something is due for it, and commit."""
        if due_at is None:
            # A statement of its own: what was committed while the lock was waited for is seen.
            due_at = db.session.execute(_next_for_robot, robot).scalar_one()
        db.session.execute(_plan_robot, robot | {"due_at": due_at})
        db.session.commit()

    def _persist(self, act: Callable[[], None], patience: float | None = None) -> None:
        """Do what must not be lost while the database is away for a moment; for as long as the lease lasts."""
        until = time.monotonic() + (self.settings.delivery_lease if patience is None else patience)
        while True:
            try:
                return act()
            except (sa.exc.SQLAlchemyError, StartError) as error:
                db.session.rollback()
                if time.monotonic() > until:
                    logger.error("What was sent could not be recorded, and is sent again: %s", _reason(error))
                    return
                time.sleep(0.5)

    def _keep_house(self) -> None:
        """Show that this worker lives, tell what the console itself has to tell, and remove what is too old."""
        next_beat = next_tidy = 0.0
        while not self.stopping.is_set():
            try:
                if time.monotonic() >= next_beat:
                    db.session.execute(_beat, {"id": self.id, "host": socket.gethostname()})
                    db.session.commit()
                    next_beat = time.monotonic() + BEAT_SECONDS
                while not self.stopping.is_set() and notices.check_next():
                    pass
                if time.monotonic() >= next_tidy:
                    tidy(self.settings.retention_days)
                    next_tidy = time.monotonic() + TIDY_SECONDS
            except Exception as error:
                db.session.rollback()
                logger.error("The worker's housekeeping has to wait: %s", _reason(error))
            finally:
                db.session.remove()
            self.stopping.wait(1)

    def _leave(self) -> None:
        db.session.execute(sa.text("DELETE FROM workers WHERE id = :id"), {"id": self.id})
        db.session.commit()


class Senders:
    """What one thread sends with; connections stay open from one message to the next."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.session = outgoing.session(settings)
        self.mailer = mail.Mailer(settings)

    def send(self, channel: str, address: str, claimed: Claimed) -> Outcome:
        """Send one text or one mail."""
        if channel == "sms":
            return sms.send(self.session, self.settings, address, claimed.told)
        message_id = f"alert-{claimed.account_id}-{claimed.alert_id}-{claimed.contact_id}"
        thread = f"{claimed.account_id}-{claimed.key}" if claimed.key else None
        return self.mailer.send(address, claimed.told, message_id, thread)

    def close(self) -> None:
        """Close the connections."""
        self.session.close()
        self.mailer.close()


def run() -> None:
    """Deliver in the foreground until SIGTERM or Ctrl-C."""
    from flask import current_app

    # Pages come first: a burst of deliveries must not be felt in a browser.
    os.nice(5)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    Worker(app, current_settings()).run()


def tidy(retention_days: int) -> None:
    """Remove alerts that are too old, workers that are gone, and end what can never be sent."""
    old = {"days": retention_days, "most": TIDY_ROWS}
    while len(db.session.execute(_forget_alerts, old).all()) == TIDY_ROWS:
        db.session.commit()
    db.session.execute(sa.text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'"))
    db.session.execute(_end_without_robot, {"gone": GONE, "no_robot": NO_ADDRESS["dingtalk"]})
    db.session.execute(_plan_overlooked_robots)
    db.session.commit()


def pause(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts: 5, 15, 45, 135, 405, then 600, give or take a quarter."""
    return float(min(5 * 3 ** (attempts - 1), 600)) * random.uniform(0.75, 1.25)  # noqa: S311


def _choose(rows: Sequence[Any], budget: int) -> Sequence[Any]:
    """Return what goes into the next message: one that may have arrived as it was, or one alert, or many."""
    if rows and rows[0].message:
        return [row for row in rows if row.message == rows[0].message]
    alerts = list(dict.fromkeys(row.alert_id for row in rows))
    # As few as may be in one message, as long as the robot's limit lets each have its own.
    chosen = set(alerts[:1] if len(alerts) <= budget else alerts[: dingtalk.MOST_ALERTS])
    return [row for row in rows if row.alert_id in chosen]


def _guarded(send: Callable[[], Outcome]) -> Outcome:
    """Have a defect of ours count as an attempt that is made again, not as the end of the thread."""
    try:
        return send()
    except Exception as error:
        # Where it happened, but not the error's own words: they may quote an address.
        logger.error("sending failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Outcome("later", f"The console itself failed ({type(error).__name__}). Tell your administrator.")


def _claimed(row: Any, settings: Settings, more: int = 0) -> Claimed:
    """Make a Claimed of a row; `more` attempts are counted that the row does not know of yet."""
    url = f"{settings.public_url}/notifications/{row.alert_id}" if settings.public_url else None
    told = Told(
        *(row.alert_id, row.title, row.text, row.severity, row.status),
        *(row.addressee, row.received_at, url, row.kind),
    )
    return Claimed(
        *(row.account_id, row.alert_id, row.contact_id, row.attempts + more, row.seconds_left),
        *(told, row.key, row.mobile, row.email, row.exists),
    )


def _secret(row: Any) -> str | None:
    return decrypted(row.dingtalk_secret_encrypted, row.account_id, row.contact_id, "dingtalk_secret")


KEY = ("account_id", "alert_id", "contact_id")


def _columns(rows: Sequence[Any], *names: str) -> dict[str, list[Any]]:
    """Turn rows into one list a column, which a statement takes as arrays."""
    return {f"{name}s": [getattr(row, name) for row in rows] for name in names}


def _finished(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _finish."""
    columns = _columns([result.claimed for result in results], *KEY, "attempts")
    ended = []
    waits: dict[int, float] = {}  # what went together is tried again together
    for result in results:
        state, answer, wait, _ = result.outcome
        if state == "later":
            wait = waits.setdefault(id(result.outcome), wait or pause(result.claimed.attempts))
            if wait > result.claimed.seconds_left:
                state, answer = "failed", f"{answer} Given up after an hour."
        ended.append(("queued" if state == "later" else state, answer[:500], wait, result.address, result.message))
    names = ("states", "answers", "waits", "addresses", "messages")
    return columns | dict(zip(names, map(list, zip(*ended, strict=True)), strict=True))


def _says_something(result: Result) -> bool:
    """Tell whether the attempt says whether the channel works; the first of a passing fault does not."""
    return result.used is not None and (result.outcome.state != "later" or result.claimed.attempts > 1)


def _states(results: Sequence[Result]) -> dict[str, list[Any]]:
    columns = _columns([result.claimed for result in results], "account_id", "contact_id")
    columns["works"] = [result.outcome.state == "sent" for result in results]
    columns["answers"] = [result.outcome.answer[:500] for result in results]
    columns["used"] = [result.used for result in results]
    return columns


def _reason(error: Exception) -> str:
    """Say what happened in a word that quotes nobody's data."""
    original = getattr(error, "orig", None)
    return type(original or error).__name__ if not isinstance(error, StartError) else str(error)


_TOLD = """
    alerts.title, alerts.text, alerts.severity, alerts.status, alerts.addressee, alerts.received_at, alerts.kind,
    alerts.key, contacts.mobile, contacts.email, contacts.id IS NOT NULL AS exists, now() AS now
"""
_claim = sa.text(f"""
    WITH due AS (
        SELECT account_id, alert_id, contact_id, channel FROM deliveries
        WHERE channel = :channel AND state IN ('queued', 'sending') AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT :most
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE deliveries SET
            state = 'sending', attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => :lease)
        FROM due
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (due.account_id, due.alert_id, due.contact_id, due.channel)
        RETURNING deliveries.*
    )
    SELECT claimed.account_id, alert_id, contact_id, attempts,
        extract(epoch FROM give_up_at - now())::float AS seconds_left, {_TOLD}
    FROM claimed
    JOIN alerts ON (alerts.account_id, alerts.id) = (claimed.account_id, alert_id)
    LEFT JOIN contacts ON (contacts.account_id, contacts.id) = (claimed.account_id, contact_id)
    ORDER BY alert_id
""")  # noqa: S608
_claim_robot = sa.text("""
    SELECT account_id, url_hash, sent_at, blocked_until, now() AS now FROM robots
    WHERE due_at <= now() ORDER BY due_at LIMIT 1
    FOR UPDATE SKIP LOCKED
""")
# LATERAL has each contact's part read by its index: from the statistics, which know of an empty queue, PostgreSQL would
# rather read the whole queue for each of them. What went together once comes first, and whole.
_waiting_for_robot = sa.text(f"""
    SELECT deliveries.account_id, alert_id, contact_id, attempts, message,
        extract(epoch FROM give_up_at - now())::float AS seconds_left,
        dingtalk_url_encrypted, dingtalk_secret_encrypted, dingtalk_keyword, {_TOLD}
    FROM contacts
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries
        WHERE deliveries.account_id = contacts.account_id AND contact_id = contacts.id AND channel = 'dingtalk'
            AND state IN ('queued', 'sending') AND next_attempt_at <= now()
        ORDER BY message, next_attempt_at, alert_id LIMIT :most
        FOR UPDATE
    ) AS deliveries
    JOIN alerts ON (alerts.account_id, alerts.id) = (deliveries.account_id, alert_id)
    WHERE contacts.account_id = :account_id AND dingtalk_url_hash = :url_hash
    ORDER BY message, alert_id, contact_id
""")  # noqa: S608
_claim_for_robot = sa.text("""
    UPDATE deliveries SET state = 'sending', attempts = attempts + 1, message = :message,
        next_attempt_at = now() + make_interval(secs => :lease)
    FROM unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS chosen (alert_id, contact_id)
    WHERE account_id = :account_id AND channel = 'dingtalk'
        AND (deliveries.alert_id, deliveries.contact_id) = (chosen.alert_id, chosen.contact_id)
""")
_next_for_robot = sa.text("""
    SELECT min(next_attempt_at) FROM contacts
    CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM deliveries
        WHERE deliveries.account_id = contacts.account_id AND contact_id = contacts.id AND channel = 'dingtalk'
            AND state IN ('queued', 'sending')
        ORDER BY next_attempt_at LIMIT 1
    ) AS next
    WHERE contacts.account_id = :account_id AND dingtalk_url_hash = :url_hash
""")
_plan_robot = sa.text("UPDATE robots SET due_at = :due_at WHERE account_id = :account_id AND url_hash = :url_hash")
_robot_has_sent = sa.text(f"""
    UPDATE robots SET
        sent_at = (sent_at || clock_timestamp())[greatest(1, cardinality(sent_at) + 2 - {ROBOT_LIMIT}):],
        blocked_until = now() + make_interval(secs => CAST(:blocked AS float))
    WHERE account_id = :account_id AND url_hash = :url_hash
""")  # noqa: S608
_finish = sa.text("""
    UPDATE deliveries SET
        state = result.state, answer = result.answer, address = coalesce(result.address, deliveries.address),
        message = result.message,
        next_attempt_at = CASE result.state WHEN 'queued' THEN now() + make_interval(secs => result.wait) END,
        ended_at = CASE WHEN result.state <> 'queued' THEN now() END
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:attemptss AS integer[]), CAST(:states AS text[]), CAST(:answers AS text[]), CAST(:waits AS float[]),
        CAST(:addresses AS text[]), CAST(:messages AS uuid[])
    ) AS result (account_id, alert_id, contact_id, attempts, state, answer, wait, address, message)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (result.account_id, result.alert_id, result.contact_id, :channel)
        AND deliveries.state = 'sending' AND deliveries.attempts = result.attempts
""")
_release = sa.text("""
    UPDATE deliveries SET state = 'queued', attempts = deliveries.attempts - 1, next_attempt_at = now()
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:attemptss AS integer[])
    ) AS released (account_id, alert_id, contact_id, attempts)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (released.account_id, released.alert_id, released.contact_id, :channel)
        AND state = 'sending' AND deliveries.attempts = released.attempts
""")
# The address is compared, because the contact may have been given another while this one was tried.
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
_beat = sa.text("""
    INSERT INTO workers (id, host) VALUES (:id, :host) ON CONFLICT (id) DO UPDATE SET seen_at = now()
""")
_forget_alerts = sa.text("""
    DELETE FROM alerts WHERE (account_id, id) IN (
        SELECT account_id, id FROM alerts WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING id
""")
_end_without_robot = sa.text("""
    UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now(), answer = CASE
        WHEN EXISTS (SELECT FROM contacts WHERE (contacts.account_id, contacts.id)
            = (deliveries.account_id, contact_id)) THEN :no_robot ELSE :gone END
    WHERE channel = 'dingtalk' AND state IN ('queued', 'sending') AND next_attempt_at <= now() AND NOT EXISTS (
        SELECT FROM contacts WHERE (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
            AND dingtalk_url_hash IS NOT NULL)
""")
_plan_overlooked_robots = sa.text("""
    INSERT INTO robots (account_id, url_hash, due_at)
    SELECT DISTINCT contacts.account_id, dingtalk_url_hash, now() FROM deliveries
    JOIN contacts ON (contacts.account_id, contacts.id) = (deliveries.account_id, contact_id)
    WHERE channel = 'dingtalk' AND state IN ('queued', 'sending') AND next_attempt_at <= now() - interval '10 seconds'
        AND dingtalk_url_hash IS NOT NULL
    ORDER BY 1, 2
    ON CONFLICT (account_id, url_hash) DO UPDATE SET due_at = now() WHERE robots.due_at IS NULL
""")
