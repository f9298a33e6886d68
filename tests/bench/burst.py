"""Measure what a burst of alerts does to the pages: `make bench`; an argument says how many seconds to watch it.

The whole console with its defaults, started as `make run` starts it, sends 500 alerts to a group of 100 contacts with
three channels each. DingTalk, mail and SMS are servers on 127.0.0.1, in a process that is as nice as the worker.
"""

import http.client
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import psycopg
from aiosmtpd.smtp import SMTP, Envelope, Session

from contacts_app import create_app
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery.worker import let_pages_go_first
from contacts_app.groups.models import Group, Membership
from contacts_app.intake.models import Integration
from contacts_app.ops import embedded
from tests.bench import document
from tests.delivery.counterparts import AliyunSms, Authority, DingTalk, MailServer, environment
from tests.ops.test_embedded import kill, migrated, processes
from tests.ops.test_serve import Console

ALERTS, CONTACTS, ROBOTS = 500, 100, 5
SENDERS = 4  # connections that post alerts
PAGES_PER_SECOND, IDLE_SECONDS, MAX_SECONDS = 10, 30, 600
EMAIL, PASSWORD = "bench@example.com", "correct horse battery"
CHANNELS = ("sms", "email", "dingtalk")


class CountingMailServer(MailServer):
    """Take mail without reading it, which would cost more than the console needs to send it."""

    count = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a message."""
        self.count += len(envelope.rcpt_tos)
        return "250 OK"


class Reader:
    """Somebody who looks at the list page again and again, logged on, over one connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = self._log_on()
        self.seconds: list[tuple[float, float]] = []  # when, and how long it took
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(1)
        self.reading = self.pool.submit(self._read)

    def stop(self) -> None:
        """Look no more, and raise what went wrong, if anything did."""
        self.stopping.set()
        self.reading.result()
        self.pool.shutdown()

    def between(self, begin: float, end: float) -> list[float]:
        """Return the milliseconds of each page within a span of time, sorted."""
        return sorted(1000 * seconds for at, seconds in self.seconds if begin <= at < end)

    def _log_on(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/logon")
        answer = connection.getresponse()
        cookie = answer.headers["Set-Cookie"].split(";")[0]
        token = re.search(r'name="csrf_token" value="([^"]+)"', answer.read().decode())
        assert token
        form = urllib.parse.urlencode({"csrf_token": token[1], "email": EMAIL, "password": PASSWORD})
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/logon", form, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 303, answer.status
        cookies = answer.headers.get_all("Set-Cookie") or []
        return next(it for it in cookies if it.startswith("console=")).split(";")[0]

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        due = time.monotonic()
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            begin = time.monotonic()
            connection.request("GET", "/contacts", headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            page = answer.read()
            assert answer.status == 200, answer.status
            assert b"Contact 99" in page
            self.seconds.append((begin, time.monotonic() - begin))
            # Never faster to catch up: one reader waits for the page before asking for the next.
            due = max(due + 1 / PAGES_PER_SECOND, time.monotonic())


def counterparts(folder: Path) -> None:
    """Stand in for the other sides until the input ends; for each line of it say how much has arrived."""
    let_pages_go_first()
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    authority = Authority.make(folder)
    dingtalk, smtp, sms = DingTalk(authority), CountingMailServer(authority), AliyunSms(authority)
    robots = [dingtalk.add(f"robot{number}") for number in range(ROBOTS)]
    environ = environment(authority.path, dingtalk, smtp, sms) | {
        "TEXTS_PER_NUMBER": "1000",
        "MAILS_PER_MAILBOX": "1000",
    }
    print(json.dumps({"environment": environ, "robots": robots}), flush=True)
    for _ in sys.stdin:
        counts = {"sms": len(sms.messages), "email": smtp.count, "dingtalk": len(dingtalk.messages)}
        print(json.dumps(counts), flush=True)


def prepare(data_dir: Path, contacts: int, robots: list[str]) -> str:
    """Write an account with a group of so many contacts, who share the robots, and return an integration's token."""
    app = create_app({"DATA_DIR": str(data_dir)})
    with app.app_context(), all_accounts():
        account = Account.create("Bench", contacts)
        account.add_user(EMAIL, PASSWORD)
        group = Group(account_id=account.id, name="On call")
        db.session.add(group)
        db.session.flush()
        for number in range(contacts):
            contact = Contact(account_id=account.id, id=Contact.next_id(), name=f"Contact {number}")
            contact.mobile, contact.email = f"+86138000{number:05}", f"contact{number}@example.com"
            contact.dingtalk_url = robots[number % len(robots)]
            db.session.add(contact)
            db.session.flush()
            db.session.add(Membership(account_id=account.id, group_id=group.id, contact_id=contact.id))
        integration = Integration(account_id=account.id, group_id=group.id, name="Bench")
        token = integration.renew_token()
        db.session.add(integration)
        db.session.commit()
        db.session.remove()
        db.engine.dispose()
    return token


def post_alerts(port: int, token: str, numbers: range) -> list[float]:
    """Post an alert for each number as fast as the API takes them, and return the milliseconds of each, sorted."""

    def post(numbers: range) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        took = []
        for number in numbers:
            alert = {"title": f"Disk {number} is full", "text": f"No space on host-{number}.", "severity": "critical"}
            begin = time.monotonic()
            connection.request("POST", "/api/v1/alerts", json.dumps(alert), headers)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == 202, said
            took.append(1000 * (time.monotonic() - begin))
        return took

    with ThreadPoolExecutor(SENDERS) as pool:
        shares = pool.map(post, (numbers[first::SENDERS] for first in range(SENDERS)))
        return sorted(chain.from_iterable(shares))


def are_all_sent(connection: psycopg.Connection) -> bool:
    """Return whether nothing waits."""
    return not connection.execute("SELECT 1 FROM deliveries WHERE ended_at IS NULL LIMIT 1").fetchone()


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of the sorted values lies."""
    return values[min(len(values) - 1, int(len(values) * share))]


def cpu_seconds(data_dir: Path, others: int) -> dict[str, float]:
    """Return the CPU seconds that each part of the whole has used until now."""
    used = dict.fromkeys(("web", "worker", "PostgreSQL", "other sides"), 0.0)
    for process in [*processes(data_dir), psutil.Process(others)]:
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            name = "PostgreSQL" if process.name() == "postgres" else "worker" if "deliver" in words else "web"
            name = "other sides" if process.pid == others else name
            used[name] += sum(process.cpu_times()[:2])
    return used


def run(folder: Path, most_seconds: float) -> None:
    """Measure once, print the tables and write them into docs/measurements.md."""
    data_dir = migrated(folder)
    others = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.burst", "counterparts", str(folder)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert others.stdin
    assert others.stdout
    announced: dict[str, Any] = json.loads(others.stdout.readline())
    token = prepare(data_dir, CONTACTS, announced["robots"])
    console = Console(data_dir, **announced["environment"]).wait()
    load = os.getloadavg()[0]
    # The page is longer once it is known of each channel when it worked: what is compared is the same page.
    post_alerts(console.port, token, range(1))
    with psycopg.connect(embedded.url(data_dir), autocommit=True) as connection:
        while not are_all_sent(connection):
            time.sleep(0.5)
    reader = Reader(console.port)
    idle = time.monotonic() + 2  # the first pages are slower
    time.sleep(2 + IDLE_SECONDS)
    begin = time.monotonic()
    began_at = datetime.now(UTC)
    used = cpu_seconds(data_dir, others.pid)
    took = post_alerts(console.port, token, range(1, ALERTS + 1))
    taken = time.monotonic()
    with psycopg.connect(embedded.url(data_dir), autocommit=True) as connection:
        while time.monotonic() < begin + most_seconds:
            time.sleep(5)
            if are_all_sent(connection):
                break
        end = time.monotonic()
        reader.stop()
        used = {name: seconds - used[name] for name, seconds in cpu_seconds(data_dir, others.pid).items()}
        others.stdin.write("\n")
        others.stdin.flush()
        arrived = json.loads(others.stdout.readline())
        states = connection.execute(
            "SELECT channel, state, count(*), extract(epoch FROM max(ended_at) - %s)::float"
            " FROM deliveries WHERE alert_id > 1 GROUP BY 1, 2 ORDER BY 1, 2",
            [began_at],
        ).fetchall()
    console.stop()
    others.stdin.close()
    others.wait()

    def row(name: str, values: list[float]) -> str:
        if not values:
            return f"| {name} | 0 | | | |"
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        return f"| {name} | {len(values)} | {p50:.0f} ms | {p99:.0f} ms | {p99 / idle_p99:.2f} |"

    idle_pages = reader.between(idle, begin)
    idle_p99 = percentile(idle_pages, 0.99)
    median, p99 = statistics.median(took), percentile(took, 0.99)
    processor = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in used.items())
    messages = ", ".join(f"{count:,} ({channel})" for channel, count in arrived.items())
    lines = [
        "| list page, 10 a second | pages | median | p99 | p99 to idle |\n| --- | --- | --- | --- | --- |",
        row("idle", idle_pages),
        row("while alerts come in", reader.between(begin, taken)),
        row("while they are delivered", reader.between(taken, end)),
        row("both", reader.between(begin, end)),
        f"\n{ALERTS} alerts were accepted within {taken - begin:.1f} s and none was refused: median {median:.0f} ms,"
        f" p99 {p99:.0f} ms.",
        f"Watched for {end - begin:.0f} s. Messages that arrived: {messages}. Time of the processors: {processor}.",
        f"Load before: {load:.1f}.\n",
        "| channel | state | deliveries | last after | a second |\n| --- | --- | --- | --- | --- |",
    ]
    for channel, state, count, last in states:
        speed = f"{last:.0f} s | {count / last:.0f}" if last else "|"
        lines.append(f"| {channel} | {state} | {count:,} | {speed} |")
    print(text := "\n".join(lines))
    document.write("burst", text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["counterparts"]:
        counterparts(Path(sys.argv[2]))
    else:
        place = Path(tempfile.mkdtemp(prefix="contacts-bench-")).resolve()
        try:
            run(place, float(sys.argv[1]) if len(sys.argv) > 1 else MAX_SECONDS)
        finally:
            kill(processes(place / "data"))
            shutil.rmtree(place)
