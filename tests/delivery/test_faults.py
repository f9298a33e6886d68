"""Show that no message is lost, whatever is killed by `kill -9` at whatever moment of its way."""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from contacts_app.config import PROJECT
from contacts_app.delivery.worker import NICENESS
from contacts_app.ops import embedded
from tests.conftest import Measured, answers, free_port, wait_for
from tests.delivery.counterparts import AliyunSms, Authority, DingTalk, MailServer, Request, environment
from tests.ops.test_embedded import FLASK, kill, migrated, new_folder, postmasters
from tests.ops.test_embedded import environment as own_environment

CONTACTS, ROBOTS = 40, 5
UNLIMITED = {"TEXTS_PER_NUMBER": "1000", "MAILS_PER_MAILBOX": "1000"}  # so that each alert is a message of its own
DELIVERIES = 3 * CONTACTS  # of each alert; nine alerts make 1,080
THREADS = 4  # of a worker for each channel: as many messages may have arrived without being recorded
KILLS, KILLS_OF_CHAOS = 2, 6
PREPARE = """
import sys
from pathlib import Path
from tests.bench.burst import prepare
print(prepare(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
"""
GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"]
patiently = partial(wait_for, seconds=40)  # a worker's start takes long where others use the processor as well
folder = pytest.fixture(new_folder, scope="module")


class HeldSms(AliyunSms):
    """Hold each text until it is let go: before it is taken, or when it has been taken and nobody knows of it."""

    def __init__(self, authority: Authority) -> None:
        self.moment = ""
        self.held = 0
        self.gate = threading.Event()
        super().__init__(authority)

    def hold(self, moment: str) -> None:
        """Hold what comes from now on."""
        self.moment, self.held, self.gate = moment, 0, threading.Event()

    def let_go(self) -> None:
        """Hold nothing any more."""
        self.moment = ""
        self.gate.set()

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a text."""
        moment, gate = self.moment, self.gate
        response = (503, {}) if moment == "before" else super().answer(request)
        if moment:
            with self.lock:
                self.held += 1
            gate.wait(30)
        return response


class Site:
    """A console whose parts are processes that can be killed, and the other sides."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.make(folder)
        self.dingtalk, self.smtp, self.sms = DingTalk(authority), MailServer(authority), HeldSms(authority)
        self.data_dir = migrated(folder)
        self.port = free_port()
        others = environment(authority.path, self.dingtalk, self.smtp, self.sms) | UNLIMITED
        more = {"PORT": str(self.port), "HOST": "127.0.0.1", "DELIVERY_LEASE": "5", "WORKERS": "1"}
        self.environ = own_environment(self.data_dir, **others, **more)
        self.url = embedded.url(self.data_dir)
        self.connection: psycopg.Connection | None = None
        self.output = (folder / "output").open("ab")
        self.web = self.start_web()
        robots = [self.dingtalk.add(f"robot{number}") for number in range(ROBOTS)]
        command = [sys.executable, "-c", PREPARE, str(self.data_dir), str(CONTACTS), *robots]
        prepared = subprocess.run(command, cwd=PROJECT, env=self.environ, capture_output=True, text=True, timeout=60)
        assert prepared.returncode == 0, prepared.stderr
        self.token = prepared.stdout.strip()

    def close(self) -> None:
        """Stop the other sides; whoever removes the folder stops the console."""
        self.sms.let_go()
        for server in (self.dingtalk, self.smtp, self.sms):
            server.close()
        self.output.close()

    def start_web(self) -> psutil.Process:
        """Start the web server and return it when it answers."""
        process = self._start(*GUNICORN)
        patiently(lambda: answers(self.port) or process.poll() is not None, what="gunicorn")
        return psutil.Process(process.pid)

    def restart_web(self) -> None:
        """Kill the web server and start another."""
        kill([self.web, *self.web.children()])
        self.web = self.start_web()

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        return self._start(*FLASK, "deliver")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,  # as `serve` does
        )

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        """Have a worker, which is killed at the end."""
        worker = self.start_worker()
        try:
            yield worker
        finally:
            worker.kill()
            worker.wait()

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database, as soon as it answers."""

        def ask() -> list[list[tuple[Any, ...]]] | None:
            with suppress(psycopg.OperationalError):
                if self.connection is None or self.connection.closed:
                    self.connection = psycopg.connect(self.url, autocommit=True)
                cursor = self.connection.execute(query, values)
                return [cursor.fetchall() if cursor.description else []]
            return None

        (rows,) = patiently(ask, what="the database")
        return list(rows)

    @contextmanager
    def locked(self, statement: str) -> Iterator[Callable[[], bool]]:
        """Hold what the statement locks, and give a function that returns whether somebody waits for it."""
        with psycopg.connect(self.url) as holder:
            holder.execute(statement)
            yield lambda: bool(self.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
            holder.rollback()

    def request(self, title: str) -> http.client.HTTPConnection:
        """Send an alert and return the connection that its answer comes by."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/v1/alerts", json.dumps({"title": title}), headers)
        return connection

    def post(self, title: str) -> tuple[int, dict[str, Any]]:
        """Send an alert as senders do, again for as long as there is no answer, and return the answer."""

        def send() -> tuple[int, dict[str, Any]] | None:
            with suppress(OSError, http.client.HTTPException):
                answer = self.request(title).getresponse()
                if answer.status < 500:
                    return answer.status, json.loads(answer.read())
            return None

        status, answer = patiently(send, what="an answer to the alert")
        return status, answer

    def alerts(self, title: str) -> list[int]:
        """Return the ids of the alerts with this title."""
        return [row[0] for row in self.sql("SELECT id FROM alerts WHERE title = %s", title)]

    def states(self, *titles: str) -> dict[str, int]:
        """Return how many deliveries of the alerts are in each state."""
        query = """
            SELECT state, count(*) FROM deliveries
            JOIN alerts ON (alerts.account_id, id) = (deliveries.account_id, alert_id)
            WHERE title = ANY(%s) GROUP BY state"""
        return dict(self.sql(query, list(titles)))

    def wait_until_sent(self, *titles: str) -> None:
        """Wait until everything is sent."""
        patiently(lambda: self.states(*titles) == {"sent": DELIVERIES * len(titles)}, what="the end of the queue")

    def end_leases(self) -> None:
        """Have what a killed worker was sending taken up at once, instead of when its lease ends."""
        self.sql("UPDATE deliveries SET next_attempt_at = now() WHERE state = 'sending'")
        self.sql("UPDATE robots SET due_at = now() WHERE due_at IS NOT NULL")

    def arrived(self) -> int:
        """Return how much has arrived at the other sides."""
        return len(self.sms.messages) + len(self.smtp.messages) + len(self.dingtalk.messages)

    def wait_for_arrival(self, count: int) -> None:
        """Wait until so much has arrived."""
        patiently(lambda: self.arrived() >= count, what=f"message {count}")

    def check(self, title: str) -> int:
        """Check that everybody got the alert by every channel, and return how many messages came more than once."""
        mails = [mail for mail in self.smtp.messages if title in mail.message["Subject"]]
        found = {
            "sms": Counter(text.mobile for text in self.sms.messages if title in text.text),
            "email": Counter(mail.recipient for mail in mails),
            "dingtalk": Counter(
                mobile for message in self.dingtalk.messages if title in message.text for mobile in message.mobiles
            ),
        }
        assert {channel: len(counter) for channel, counter in found.items()} == dict.fromkeys(found, CONTACTS)
        assert len({mail.message["Message-ID"] for mail in mails}) == CONTACTS, "a mailbox can recognise a copy"
        assert found["dingtalk"].total() == CONTACTS, "DingTalk drops a copy, which has the same msgUuid"
        return sum(counter.total() - CONTACTS for counter in found.values())


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    yield site
    site.close()


def test_a_worker_killed_at_any_step_of_a_message_loses_nothing(site: Site, measured: Measured) -> None:
    title = "Killed at a step"
    assert site.post(title)[1]["deliveries"] == DELIVERIES
    with site.locked("LOCK TABLE deliveries IN EXCLUSIVE MODE") as is_waited_for, site.working():
        patiently(is_waited_for, what="a worker that is about to claim")
    assert site.states(title) == {"queued": DELIVERIES}
    for moment in ("before", "after"):  # claimed and not sent; sent, and nobody has said so
        site.sms.hold(moment)
        with site.working():
            patiently(lambda: site.sms.held >= THREADS, what=f"texts held {moment} they are taken")
            assert site.states(title)["sending"] >= THREADS
        site.sms.let_go()
        site.end_leases()
    site.sms.hold("after")
    with site.working() as worker:
        patiently(lambda: site.sms.held >= THREADS, what="texts that are taken")
        with site.locked("LOCK TABLE deliveries IN EXCLUSIVE MODE") as is_waited_for:
            site.sms.let_go()
            patiently(is_waited_for, what="a worker that is about to record")
            worker.kill()
            worker.wait()
    site.end_leases()
    with site.working():
        site.wait_until_sent(title)
    twice = site.check(title)
    measured("faults", "a delivery worker killed (`kill -9`) at 4 steps of a message", f"lost 0, twice {twice}")
    # What was held after it had been taken came twice, and of the mails those that were under way.
    assert 2 * THREADS <= twice <= 2 * THREADS + 4 * THREADS


def test_workers_killed_at_random_moments_lose_nothing(
    site: Site, request: pytest.FixtureRequest, measured: Measured
) -> None:
    kills = KILLS_OF_CHAOS if request.config.getoption("chaos") else KILLS
    seed = int(os.environ.get("SEED", random.randrange(10_000)))
    chance = random.Random(seed)
    print(f"SEED={seed}")
    titles = ["First at random", "Second at random"]
    for title in titles:
        assert site.post(title)[0] == 202
    pauses: list[float] = []
    workers = [site.start_worker(), site.start_worker()]
    try:
        for _ in range(kills):
            target = site.arrived() + chance.randrange(1, DELIVERIES // 8)
            site.wait_for_arrival(target)
            victim = chance.choice(workers)
            victim.kill()
            victim.wait()
            killed = time.monotonic()
            workers[workers.index(victim)] = site.start_worker()
            site.wait_for_arrival(site.arrived() + 1)
            pauses.append(time.monotonic() - killed)
        site.wait_until_sent(*titles)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    twice = sum(site.check(title) for title in titles)
    seen = f"lost 0, twice {twice}; next message within {max(pauses):.1f} s"
    measured("faults", f"delivery workers killed (`kill -9`) at {kills} random moments", seen)
    assert twice <= kills * 2 * THREADS


@pytest.mark.parametrize("victim", ["a backend", "the postmaster"])
def test_a_database_killed_in_the_middle_loses_nothing(site: Site, victim: str, measured: Measured) -> None:
    title = f"Killed {victim}"
    assert site.post(title)[0] == 202
    with site.working() as worker:
        site.wait_for_arrival(site.arrived() + CONTACTS // 2)
        if victim == "a backend":
            query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'alert-contacts' LIMIT 1"
            kill([psutil.Process(site.sql(query)[0][0])])
        else:
            kill(postmasters(site.data_dir))
        killed, before = time.monotonic(), len(site.sms.messages)
        more = min(before + 2 * THREADS + 1, CONTACTS)
        patiently(lambda: len(site.sms.messages) >= more, what="texts that were claimed after it")
        pause = time.monotonic() - killed
        site.wait_until_sent(title)
        assert worker.poll() is None, "the worker itself goes on"
    twice = site.check(title)
    done = f"{victim} of PostgreSQL killed (`kill -9`) during a delivery"
    measured("faults", done, f"lost 0, twice {twice}; next messages after {pause:.1f} s")
    assert twice <= 2 * THREADS


def test_an_alert_sent_again_after_the_web_server_was_killed_is_one_alert(site: Site) -> None:
    titles = ["Killed before its commit", "Killed after its commit"]
    with site.locked("LOCK TABLE robots IN EXCLUSIVE MODE") as is_waited_for:
        connection = site.request(titles[0])
        patiently(is_waited_for, what="an alert that is written and not committed")
        site.restart_web()
    assert site.alerts(titles[0]) == []
    status, answer = site.post(titles[0])
    assert (status, [answer["id"]]) == (202, site.alerts(titles[0]))
    connection = site.request(titles[1])
    patiently(lambda: site.alerts(titles[1]), what="an alert that is committed")
    site.restart_web()
    status, answer = site.post(titles[1])
    assert (status, [answer["id"]]) == (200, site.alerts(titles[1]))
    connection.close()
    with site.working():
        site.wait_until_sent(*titles)
    for title in titles:
        site.check(title)


def test_an_alert_comes_in_while_a_worker_is_stuck_and_has_less_of_the_processor(site: Site) -> None:
    titles = ["Before it is stuck", "While it is stuck"]
    assert site.post(titles[0])[0] == 202
    waiting = "SELECT FROM deliveries WHERE channel = 'dingtalk' AND state = 'queued' FOR UPDATE"
    with site.locked(waiting), site.working() as worker:
        patiently(lambda: site.sql("SELECT 1 FROM robots WHERE due_at > now()"), what="a worker that looked at a robot")
        # It comes back again and again, and keeps nothing locked that an alert needs.
        wait_for(lambda: len(site.sql("SELECT 1 FROM robots FOR UPDATE SKIP LOCKED")) == ROBOTS, 5, "the robots")
        assert site.request(titles[1]).getresponse().status == 202
        session = Path(f"/proc/{worker.pid}/autogroup")
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == NICENESS
        assert not session.exists() or session.read_text().endswith(f"nice {NICENESS}\n")
    with site.working():
        site.end_leases()
        site.wait_until_sent(*titles)
    for title in titles:
        site.check(title)
