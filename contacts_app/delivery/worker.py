"""Run the worker: claim, send and record deliveries, in any number of threads, processes and machines.

A claim is committed before the message is sent, and expires with its lease. Thus whichever process is killed at any
moment, each delivery is either recorded or claimed again.

A claim is for one account. If its provider hangs, it occupies only its own share of the channel's threads, and
replacements are started: see lanes.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from uuid import UUID, uuid4

import psycopg
import sqlalchemy as sa
from flask import Flask

from ..config import Settings, StartError, current_settings
from ..core.db import all_accounts, db
from ..core.trace import mark
from . import messages, robots
from .attempts import SERVER_SETTINGS, Claimed, Result, limit_lock_waits
from .channels.dingtalk import DINGTALK, DingTalk
from .channels.kinds import ByContact, Kind, Senders
from .channels.registry import KINDS
from .housekeeping import Chores, run_housekeeping
from .lanes import Lane
from .recording import persist, reason, record
from .senders import attempt

logger = logging.getLogger("contacts_app")
# Results are recorded in batches, which costs a third less; the messages of one batch are sent again after a crash.
WRITE_SECONDS = 0.2
SEND_SECONDS = 25  # the maximum for a message and, if it is refused, its headline, and for recording the result
NICENESS = 10
POLL_SECONDS, BEAT_SECONDS, TEND_SECONDS = 2, 5, 0.2
MAX_TURNS = 5  # accounts that are tried in a row when other workers claim at the same moment
# If the row of this worker is locked, insert another one.
_seen = sa.text("""
    WITH own AS (
        SELECT id FROM workers WHERE id = ANY (CAST(:ids AS uuid[])) LIMIT 1 FOR UPDATE SKIP LOCKED
    ), seen AS (
        UPDATE workers SET seen_at = now() FROM own WHERE workers.id = own.id RETURNING workers.id
    )
    INSERT INTO workers (id, host) SELECT :new, :host WHERE NOT EXISTS (SELECT FROM seen) RETURNING id
""")
_leave = sa.text("""
    DELETE FROM workers WHERE id IN (
        SELECT id FROM workers WHERE id = ANY (CAST(:ids AS uuid[])) FOR UPDATE SKIP LOCKED)
""")


class Worker:
    """A process that sends queued deliveries until a signal stops it."""

    def __init__(self, app: Flask, settings: Settings, chores: Chores) -> None:
        self.app = app
        self.settings = settings
        self.chores = chores
        self.stopping = threading.Event()
        share = settings.delivery_threads
        self.lanes = {channel: Lane(share, partial(self._deliver, channel)) for channel in KINDS}
        self._steps = {channel: self._step_of(kind) for channel, kind in KINDS.items()}
        self.spare: list[Senders] = []  # of ended threads, reused because creating them costs more than a message
        self.ids: list[UUID] = []  # of its rows in workers

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP; messages that are being sent at that moment are finished."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        tending = threading.Thread(target=self._tend)
        tending.start()
        for target in (self._listen, self.beat):
            threading.Thread(target=target, daemon=True).start()
        with self.app.app_context(), all_accounts():
            run_housekeeping(self.stopping, self.settings.retention_days, self.chores)
            tending.join()
            for lane in self.lanes.values():
                lane.join()
            for senders in self.spare:
                senders.close()
            persist(self.leave, patience=1)

    def _tend(self) -> None:
        """Start replacements for slow threads of each channel."""
        while not self.stopping.is_set():
            for lane in self.lanes.values():
                lane.tend()
            self.stopping.wait(TEND_SECONDS)

    def beat(self) -> None:
        """Update the heartbeat of this worker as long as a thread of each channel makes progress."""
        patience = self.settings.delivery_lease + POLL_SECONDS * self.settings.delivery_threads + SEND_SECONDS
        is_known = False
        while not self.stopping.is_set():
            with suppress(sa.exc.SQLAlchemyError, StartError), self.app.app_context(), all_accounts():
                now = time.monotonic()
                if all(lane.seen and now - lane.seen < patience for lane in self.lanes.values()):
                    self._show()
                    is_known = True
            self.stopping.wait(BEAT_SECONDS if is_known else 0.2)

    def _show(self) -> None:
        """Write the heartbeat of this worker, and commit."""
        limit_lock_waits()
        values = {"ids": self.ids, "new": uuid4(), "host": socket.gethostname()}
        self.ids += db.session.scalars(_seen, values).all()
        db.session.commit()

    def _listen(self) -> None:
        """Wake the threads when deliveries are queued; the threads also poll in case a notification is lost."""
        while not self.stopping.is_set():
            try:
                with self.app.app_context(), db.engine.connect() as connection:
                    raw = connection.connection.driver_connection
                    assert isinstance(raw, psycopg.Connection)
                    raw.autocommit = True
                    try:
                        raw.execute("LISTEN deliveries")
                        while not self.stopping.is_set():
                            for note in raw.notifies(timeout=1, stop_after=1):
                                mark("woken")
                                # The consoles of an earlier version name no channels.
                                for channel in note.payload.split() or self.lanes:
                                    if lane := self.lanes.get(channel):
                                        lane.announce()
                    finally:
                        connection.invalidate()  # it still listens or is broken, so it must not return to the pool
            except (sa.exc.SQLAlchemyError, psycopg.Error, StartError):
                self.stopping.wait(1)

    def _deliver(self, channel: str, turns: float) -> None:
        """Send the deliveries of one channel; poll for retries, which nothing announces."""
        lane = self.lanes[channel]
        senders: Senders | None = None
        is_away = False
        while not self.stopping.is_set():
            try:
                senders = senders or (self.spare.pop() if self.spare else Senders(self.settings))
                with self.app.app_context():
                    is_busy = self.step(channel, senders)
                is_away = False
                lane.let_go()
            except Exception as error:
                lane.let_go()
                if not is_away:  # log once, not every second
                    logger.error("Delivering by %s has to wait: %s", channel, reason(error))
                is_away = True
                self.stopping.wait(1)
                continue
            if is_busy:
                continue
            if lane.may_end():
                break
            lane.wait(POLL_SECONDS * turns)
        if senders:
            self.spare.append(senders)

    def step(self, channel: str, senders: Senders) -> bool:
        """Send some due deliveries of a channel, or one message to a robot; return whether any were due."""
        with all_accounts(**SERVER_SETTINGS):
            return self._steps[channel](senders)

    def _step_of(self, kind: Kind) -> Callable[[Senders], bool]:
        """Return the step for a kind of channel; raise TypeError for an unknown kind."""
        match kind:
            case ByContact():
                return partial(self._send_some, kind.name)
            case DingTalk():
                return self._send_to_robot
        raise TypeError(f"Nothing delivers channels of the kind {kind.name!r}.")

    def _send_some(self, channel: str, senders: Senders) -> bool:
        """Claim, send and record a few due deliveries; return whether there were any."""
        claims = self._claim(channel)
        results: list[Result] = []
        rest: list[Claimed] = []
        stopped: set[tuple[int, int]] = set()
        write_at = time.monotonic() + WRITE_SECONDS
        until = time.monotonic() + self.settings.delivery_lease - SEND_SECONDS
        for index, claimed in enumerate(claims):
            if (self.stopping.is_set() or time.monotonic() > until) and index:
                rest += claims[index:]
                break
            if (claimed.alert_id, claimed.contact_id) in stopped:
                rest.append(claimed)
                continue
            results.append(attempt(channel, claimed, senders))
            if time.monotonic() > write_at:
                stopped = messages.record(channel, results, self.settings.delivery_lease, claims[index + 1 :])
                results, write_at = [], time.monotonic() + WRITE_SECONDS
        if results:
            messages.record(channel, results, self.settings.delivery_lease)
        if rest:
            persist(partial(messages.release, channel, rest), self.settings.delivery_lease)
        return bool(claims)

    def _claim(self, channel: str) -> Sequence[Claimed]:
        """Claim a few due deliveries of the next account; accounts without a thread come first."""
        lane = self.lanes[channel]
        with lane.claiming:
            mark("claiming")
            busy, full = lane.busy(), lane.full()
            for passed_over in (busy, full) if busy != full else (full,):
                turns = 0
                while turns < MAX_TURNS and not self.stopping.is_set() and not lane.is_quiet(passed_over):
                    announced = lane.announced
                    found = messages.claim(channel, lane.turn, self.settings, passed_over)
                    if found.turn is None:
                        if passed_over:
                            lane.note_quiet(passed_over, announced)
                        break
                    lane.turn = found.turn
                    if found.claimed:
                        mark("claimed", len(found.claimed))
                        lane.hold(found.turn)
                        return found.claimed
                    # If deliveries were postponed or ended, the account may have more; otherwise another worker has
                    # claimed them at this moment, which counts as a turn.
                    turns += not found.is_busy
        return []

    def _send_to_robot(self, senders: Senders) -> bool:
        """Send one message to a robot that is due: one alert, or several combined when its rate limit is near."""
        lane = self.lanes[DINGTALK.name]
        with lane.claiming:
            bundle = robots.claim(self.settings, lane.busy(), lane.full())
            if not isinstance(bundle, bool):
                lane.hold(bundle.robot["account_id"])
                lane.call()  # there may be other robots
        if isinstance(bundle, bool):
            return bundle
        record(robots.send(bundle, self.settings, senders), self.settings.delivery_lease, bundle.robot)
        return True

    def leave(self) -> None:
        """Delete the heartbeat of this worker, and commit."""
        db.session.execute(_leave, {"ids": self.ids})
        db.session.commit()


def let_pages_go_first() -> None:
    """Lower the CPU priority of this process, so that a burst does not slow down the web pages."""
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        # With autogroup, Linux applies nice values only within a session (sched(7)).
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS))


def run(app: Flask, chores: Chores) -> None:
    """Run a worker in the foreground until SIGTERM or Ctrl-C."""
    let_pages_go_first()
    Worker(app, current_settings(), chores).run()
