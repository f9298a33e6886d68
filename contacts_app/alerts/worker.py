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
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
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
# What was sent is written down together, which costs a third less; who dies before sends so much again.
WRITE_SECONDS = 0.2
SEND_SECONDS = 15  # that one message may take, with room to record it before the lease ends
NICENESS = 10
POLL_SECONDS, BEAT_SECONDS, TIDY_SECONDS = 2, 5, 60
LONGEST_PAUSE = 750  # seconds between two attempts
TIDY_ROWS = 1000
MOST_TURNS = 5  # accounts that are asked for one after the other when others claim at the same moment
REFUSED = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError)  # which no waiting mends
GONE = "The contact has been deleted."
NO_ADDRESS = {
    "sms": "The contact has no mobile phone number any more.",
    "email": "The contact has no mailbox any more.",
    "dingtalk": "The contact has no DingTalk robot any more.",
}
UNREADABLE = "The robot's address cannot be read, because ENCRYPTION_KEYS of this worker lacks its key."
HOPELESS = "Given up: whoever sent this ended each time before it could be written down."


class Claimed(NamedTuple):
    """A delivery that this worker sends now, with all that is needed for it."""

    account_id: int
    alert_id: int
    contact_id: int
    attempts: int
    leased_until: datetime  # by which the row knows whose claim it is
    seconds_left: float  # until it is given up
    told: Told
    integration_id: int | None
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
        self.seen: dict[int, float] = {}  # when each delivering thread last came round
        self.turns = dict.fromkeys(CHANNELS, 0)  # the account that was served last
        self.id = uuid4()

    def run(self) -> None:
        """Deliver until SIGTERM or SIGINT; what is being sent then is sent to its end."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        delivering = [
            threading.Thread(target=self._deliver, args=(channel, POLL_SECONDS * (index + 1)))
            for channel in CHANNELS
            for index in range(self.settings.delivery_threads)
        ]
        others = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._beat)]
        for thread in (*delivering, *others):
            thread.start()
        with self.app.app_context():
            self._keep_house()
            for event in self.wakes.values():
                event.set()
            for thread in delivering:
                thread.join()
            self._persist(self._leave, patience=1)

    def _beat(self) -> None:
        """Show that this worker lives, as long as each of its threads comes round."""
        patience = self.settings.delivery_lease + POLL_SECONDS * self.settings.delivery_threads + SEND_SECONDS
        count = len(CHANNELS) * self.settings.delivery_threads
        while not self.stopping.is_set():
            with suppress(sa.exc.SQLAlchemyError, StartError), self.app.app_context():
                now = time.monotonic()
                if len(self.seen) == count and all(now - at < patience for at in self.seen.values()):
                    db.session.execute(_beat, {"id": self.id, "host": socket.gethostname()})
                    db.session.commit()
            self.stopping.wait(BEAT_SECONDS if len(self.seen) == count else 0.2)

    def _listen(self) -> None:
        """Wake the threads when something is queued; while the database is away they look by themselves."""
        while not self.stopping.is_set():
            try:
                with self.app.app_context(), db.engine.connect() as connection:
                    raw = connection.connection.driver_connection
                    assert isinstance(raw, psycopg.Connection)
                    raw.autocommit = True
                    try:
                        raw.execute("LISTEN deliveries")
                        while not self.stopping.is_set():
                            for _ in raw.notifies(timeout=1, stop_after=1):
                                for event in self.wakes.values():
                                    event.set()
                    finally:
                        connection.invalidate()  # it listens, and may be lost: it is not for the others
            except (sa.exc.SQLAlchemyError, psycopg.Error, StartError):
                self.stopping.wait(1)

    def _deliver(self, channel: str, patience: float) -> None:
        """Work on one channel; look every `patience` seconds for what nobody announces: what is to be tried again."""
        wake = self.wakes[channel]
        senders: Senders | None = None
        step = self._step_robot if channel == "dingtalk" else self._step
        is_away = False
        while not self.stopping.is_set():
            wake.clear()
            try:
                senders = senders or Senders(self.settings)
                with self.app.app_context():
                    is_busy = step(channel, senders)
                is_away = False
                self.seen[threading.get_ident()] = time.monotonic()
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
        if senders:
            senders.close()

    def _step(self, channel: str, senders: "Senders") -> bool:
        """Send the deliveries that are due, a few at a time; return whether there were any."""
        rows = self._claim(channel)
        results: list[Result] = []
        rest: Sequence[Any] = ()
        write_at = time.monotonic() + WRITE_SECONDS
        until = time.monotonic() + self.settings.delivery_lease - SEND_SECONDS
        for index, row in enumerate(rows):
            if (self.stopping.is_set() or time.monotonic() > until) and index:
                rest = rows[index:]
                break
            results.append(self._send(channel, _claimed(row, self.settings), senders))
            if time.monotonic() > write_at:
                self._keep(results)
                results, write_at = [], time.monotonic() + WRITE_SECONDS
        if results:
            self._keep(results)
        if rest:
            self._persist(partial(self._release, [_claimed(row, self.settings) for row in rest], channel))
        return bool(rows)

    def _claim(self, channel: str) -> Sequence[Any]:
        """Claim what is due for the account whose turn it is, a few at a time."""
        values = {"channel": channel, "most": BATCH[channel], "lease": self.settings.delivery_lease}
        for _ in range(MOST_TURNS):
            rows = db.session.execute(_claim, values | {"turn": self.turns[channel]}).all()
            db.session.commit()
            self.turns[channel] = rows[0].turn or 0
            if rows[0].account_id is not None:
                return rows
            if rows[0].turn is None:
                break
            # Another one has claimed it at this moment: on to the next account.
        return []

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
        robot = db.session.execute(_claim_robot, {"lease": self.settings.delivery_lease}).one_or_none()
        db.session.commit()  # an alert that comes in waits for the robot's row, and must not wait for this process
        if robot is None:
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
                db.session.execute(_lock_robot, key)
                self._plan(key, None)
        return True

    def _send_to_robot(self, key: dict[str, Any], rows: Sequence[Any], senders: "Senders") -> None:
        message = rows[0].message or uuid4()
        lease = self.settings.delivery_lease
        ids = _columns(rows, "alert_id", "contact_id")
        db.session.execute(_claim_for_robot, key | ids | {"message": message, "lease": lease})
        db.session.commit()
        claimed = [_claimed(row, self.settings, lease) for row in rows]
        alerts = list({one.told.id: one.told for one in claimed}.values())
        mobiles = list(dict.fromkeys(one.mobile for one in claimed if one.mobile))
        url = next(filter(None, map(_url, rows)), None)
        keyword = " ".join(dict.fromkeys(row.dingtalk_keyword for row in rows if row.dingtalk_keyword)) or None
        # The members may know the robot's secret differently: one who is wrong must not silence it for all.
        secrets = [_secret(row) for row in rows]
        known: list[str | None] = [*dict.fromkeys(filter(None, secrets))]
        outcomes: dict[str | None, Outcome] = {}
        outcome = Outcome("later", UNREADABLE)
        for secret in (known or [None]) if url else ():
            send = partial(dingtalk.send, senders.session, self.settings, str(url), secret, keyword)
            outcome = outcomes[secret] = _guarded(partial(send, alerts, mobiles, str(message)))
            if outcome.state != "failed":
                break
        shown = shown_robot(url) if url else None
        used = key["url_hash"].hex()
        # What was refused may go in another company the next time; what may have arrived goes again as it was.
        kept = message if outcome.is_uncertain else None
        results = []
        for one, its in zip(claimed, secrets, strict=True):
            own = outcomes.get(its, outcome)
            said = own if outcome.state == "failed" else outcome
            # Of a secret that was refused, or not tried, it is not known that it works.
            is_known = bool(outcomes) and own is said and its in (None, *outcomes)
            results.append(Result(one, "dingtalk", said, shown, used if is_known else None, kept))
        self._keep(results, key)

    def _keep(self, results: Sequence[Result], robot: dict[str, Any] | None = None) -> None:
        """Write down what became of attempts, come what may: else what was sent would be sent again."""
        try:
            self._persist(lambda: self._record(results, robot))
        except Exception as error:
            logger.error("An answer could not be written down: %s", _reason(error))
            db.session.rollback()
            plain = Outcome("later", "The answer could not be written down. Tell your administrator.")
            results = [
                result._replace(outcome=result.outcome._replace(answer="") if result.outcome.state == "sent" else plain)
                for result in results
            ]
            self._persist(lambda: self._record(results, robot))

    def _record(self, results: Sequence[Result], robot: dict[str, Any] | None) -> None:
        """Write down what is known of the channels, then what became of the attempts, each if it is still ours.

        In this order a death in between repeats an attempt, and loses no knowledge.
        """
        channel = results[0].channel
        known = {
            (result.claimed.account_id, result.claimed.contact_id): result
            for result in results
            if _says_something(result)
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
            blocked = next((result.outcome.wait for result in results if result.outcome.wait), None)
            db.session.execute(_robot_has_sent, robot | {"blocked": blocked})
            self._plan(robot, None)
        db.session.commit()

    def _release(self, claims: Sequence[Claimed], channel: str) -> None:
        """Give back what this worker does not come to."""
        db.session.execute(_release, {"channel": channel} | _columns(claims, *KEY, "leased_until"))
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
                if isinstance(error, REFUSED):
                    raise
                if time.monotonic() > until:
                    logger.error("What was sent could not be recorded, and is sent again: %s", _reason(error))
                    return
                time.sleep(0.5)

    def _keep_house(self) -> None:
        """Tell what the console itself has to tell, and remove what is too old."""
        self._try(lambda: db.session.execute(_check_all))  # the settings may have changed
        next_tidy = 0.0
        while not self.stopping.is_set():
            if time.monotonic() >= next_tidy:
                self._try(lambda: tidy(self.settings.retention_days))
                next_tidy = time.monotonic() + TIDY_SECONDS
            until = time.monotonic() + TIDY_SECONDS
            while not self.stopping.is_set() and time.monotonic() < until and self._try(notices.check_next):
                pass
            self.stopping.wait(1)

    def _try(self, act: Callable[[], Any]) -> Any:
        """Do a part of the housekeeping; what fails is tried again later, and does not stop the others."""
        try:
            result = act()
            db.session.commit()
            return result
        except Exception as error:
            db.session.rollback()
            logger.error("A part of the housekeeping has to wait: %s", _reason(error))
            return None
        finally:
            db.session.remove()

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
        thread = f"{claimed.account_id}-{claimed.integration_id}-{claimed.key}" if claimed.key else None
        return self.mailer.send(address, claimed.told, message_id, thread)

    def close(self) -> None:
        """Close the connections."""
        self.session.close()
        self.mailer.close()


def let_pages_go_first() -> None:
    """Have this process be given less of the processor, because a burst must not be felt in a browser."""
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        # Linux shares the processor among sessions before it asks who is nice (sched(7), autogroup).
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS))


def run() -> None:
    """Deliver in the foreground until SIGTERM or Ctrl-C."""
    from flask import current_app

    let_pages_go_first()
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    Worker(app, current_settings()).run()


def tidy(retention_days: int) -> None:
    """Remove alerts that are too old, workers that are gone, and end or plan anew what would never be sent."""
    db.session.execute(sa.text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'"))
    db.session.execute(_end_without_robot, {"gone": GONE, "no_robot": NO_ADDRESS["dingtalk"]})
    db.session.execute(_end_hopeless, {"answer": HOPELESS})
    db.session.execute(_plan_overlooked_robots)
    longest = {"longest": max(current_settings().delivery_lease, LONGEST_PAUSE) + TIDY_SECONDS}
    for statement in _plan_after_jump:
        db.session.execute(statement, longest)
    db.session.commit()
    old = {"days": retention_days, "most": TIDY_ROWS}
    until = time.monotonic() + TIDY_SECONDS
    while len(db.session.execute(_forget_alerts, old).all()) == TIDY_ROWS and time.monotonic() < until:
        db.session.commit()
    db.session.commit()


def pause(attempts: int) -> float:
    """Return how many seconds to wait after so many attempts: 5, 15, 45, 135, 405, then 600, give or take a quarter."""
    return float(min(5 * 3 ** (attempts - 1), LONGEST_PAUSE / 1.25)) * random.uniform(0.75, 1.25)  # nosec B311


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


def _claimed(row: Any, settings: Settings, lease: int | None = None) -> Claimed:
    """Make a Claimed of a row, which does not know of its claim yet where the `lease` is given."""
    url = f"{settings.public_url}/notifications/{row.alert_id}" if settings.public_url else None
    told = Told(
        *(row.alert_id, row.title, row.text, row.severity, row.status),
        *(row.addressee, row.received_at, url, row.kind, row.integration_name or ""),
    )
    attempts, leased_until = row.attempts, row.now
    if lease is None:
        leased_until = row.leased_until
    else:
        attempts, leased_until = attempts + 1, leased_until + timedelta(seconds=lease)
    return Claimed(
        *(row.account_id, row.alert_id, row.contact_id, attempts, leased_until, row.seconds_left),
        *(told, row.integration_id, row.key, row.mobile, row.email, row.exists),
    )


def _url(row: Any) -> str | None:
    return decrypted(row.dingtalk_url_encrypted, row.account_id, row.contact_id, "dingtalk_url")


def _secret(row: Any) -> str | None:
    return decrypted(row.dingtalk_secret_encrypted, row.account_id, row.contact_id, "dingtalk_secret")


KEY = ("account_id", "alert_id", "contact_id")


def _columns(rows: Sequence[Any], *names: str) -> dict[str, list[Any]]:
    """Turn rows into one list a column, which a statement takes as arrays."""
    return {f"{name}s": [getattr(row, name) for row in rows] for name in names}


def _finished(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Return the columns of _finish."""
    columns = _columns([result.claimed for result in results], *KEY, "leased_until")
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


# The hour begins with the first attempt, however long the queue was.
_GIVE_UP_AT = "CASE WHEN attempts = 0 THEN now() + interval '1 hour' ELSE give_up_at END"
_TOLD = """
    alerts.title, alerts.text, alerts.severity, alerts.status, alerts.addressee, alerts.received_at, alerts.kind,
    alerts.integration_id, alerts.integration_name, alerts.key, contacts.mobile, contacts.email,
    contacts.id IS NOT NULL AS exists, now() AS now
"""
# One account's flood must not keep the others waiting: each claim is for one account, the next after the one that was
# served last, and found by one look into the index, however many accounts wait.
_DUE = "channel = :channel AND state IN ('queued', 'sending') AND next_attempt_at <= now()"
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
            give_up_at = {_GIVE_UP_AT}
        FROM due
        WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
            = (due.account_id, due.alert_id, due.contact_id, due.channel)
        RETURNING deliveries.*
    )
    SELECT turn, claimed.account_id, alert_id, contact_id, attempts, next_attempt_at AS leased_until,
        extract(epoch FROM give_up_at - now())::float AS seconds_left, {_TOLD}
    FROM next LEFT JOIN claimed ON true
    LEFT JOIN alerts ON (alerts.account_id, alerts.id) = (claimed.account_id, alert_id)
    LEFT JOIN contacts ON (contacts.account_id, contacts.id) = (claimed.account_id, contact_id)
    ORDER BY alert_id
""")  # nosec B608
_claim_robot = sa.text("""
    UPDATE robots SET due_at = now() + make_interval(secs => :lease)
    FROM (
        SELECT account_id, url_hash FROM robots WHERE due_at <= now() ORDER BY due_at LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE (robots.account_id, robots.url_hash) = (due.account_id, due.url_hash)
    RETURNING robots.account_id, robots.url_hash, sent_at, blocked_until, now() AS now
""")
_lock_robot = sa.text("SELECT 1 FROM robots WHERE account_id = :account_id AND url_hash = :url_hash FOR UPDATE")
# LATERAL has each contact's part read by its index: from the statistics, which know of an empty queue, PostgreSQL would
# rather read the whole queue for each of them. What went together once comes first, and whole.
_waiting_for_robot = sa.text(f"""
    SELECT deliveries.account_id, alert_id, contact_id, attempts, message,
        extract(epoch FROM {_GIVE_UP_AT} - now())::float AS seconds_left,
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
""")  # nosec B608
_claim_for_robot = sa.text(f"""
    UPDATE deliveries SET state = 'sending', attempts = attempts + 1, message = :message, give_up_at = {_GIVE_UP_AT},
        next_attempt_at = now() + make_interval(secs => :lease)
    FROM unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS chosen (alert_id, contact_id)
    WHERE account_id = :account_id AND channel = 'dingtalk'
        AND (deliveries.alert_id, deliveries.contact_id) = (chosen.alert_id, chosen.contact_id)
""")  # nosec B608
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
""")  # nosec B608
# What was sent is sent, also when somebody else has taken the message for lost meanwhile. Both ask for what has not
# ended in words that fit no partial index: by the one of what is due, all that waits would be read for each message.
_finish = sa.text("""
    UPDATE deliveries SET
        state = result.state, answer = result.answer, address = coalesce(result.address, deliveries.address),
        message = result.message, attempts = greatest(attempts, 1),
        next_attempt_at = CASE result.state WHEN 'queued' THEN now() + make_interval(secs => result.wait) END,
        ended_at = CASE WHEN result.state <> 'queued' THEN now() END
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:leased_untils AS timestamptz[]), CAST(:states AS text[]), CAST(:answers AS text[]),
        CAST(:waits AS float[]), CAST(:addresses AS text[]), CAST(:messages AS uuid[])
    ) AS result (account_id, alert_id, contact_id, leased_until, state, answer, wait, address, message)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (result.account_id, result.alert_id, result.contact_id, :channel)
        AND deliveries.ended_at IS NULL
        AND (result.state = 'sent'
            OR deliveries.state = 'sending' AND deliveries.next_attempt_at = result.leased_until)
""")
_release = sa.text("""
    UPDATE deliveries SET state = 'queued', attempts = attempts - 1, next_attempt_at = now()
    FROM unnest(
        CAST(:account_ids AS bigint[]), CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[]),
        CAST(:leased_untils AS timestamptz[])
    ) AS released (account_id, alert_id, contact_id, leased_until)
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, channel)
        = (released.account_id, released.alert_id, released.contact_id, :channel)
        AND ended_at IS NULL AND state <> 'queued' AND deliveries.next_attempt_at = released.leased_until
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
_beat = sa.text("""
    INSERT INTO workers (id, host) VALUES (:id, :host) ON CONFLICT (id) DO UPDATE SET seen_at = now()
""")
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
