"""Notify contacts in the ways that are compared: by the console, by Alertmanager, by a bare loop."""

import http.client
import json
import smtplib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
import requests

from tests.delivery.counterparts import SMTP_FROM, TWILIO_FROM, TWILIO_SID, TWILIO_TOKEN
from tests.intake.alertmanager import Alertmanager, running

SENDERS = 4  # connections that post alerts
WORDS = "No space is left on /var of {}: 99.2 % of 120 GiB are used, and the logs of the last hour are not written."


class Way(Protocol):
    """A way to notify all contacts of a group of a size of each of some alerts."""

    def prepare(self) -> None:
        """Wait until nothing is under way, and see to it that the connections of the sender are open."""

    def notify(self, contacts: int, numbers: Sequence[int]) -> None:
        """Notify them of the alerts of these numbers; return when the last one is taken in."""

    def used(self) -> dict[str, float]:
        """Return the milliseconds of processor time that each part of it has used until now."""


class Post(NamedTuple):
    """What is posted."""

    path: str
    headers: dict[str, str]
    body: bytes


class Sender:
    """Something that posts alerts over connections that it keeps."""

    def __init__(self, address: str, health: str) -> None:
        self.health = health
        self.connections = [http.client.HTTPConnection(address, timeout=120) for _ in range(SENDERS)]
        self.pool = ThreadPoolExecutor(SENDERS)

    def open(self) -> None:
        """Open the connections anew, which the server may have closed meanwhile."""
        for connection in self.connections:
            connection.close()
            connection.request("GET", self.health)
            connection.getresponse().read()

    def post(self, posts: Sequence[Post]) -> list[float]:
        """Post all, as fast as they are taken, one over one connection; return the time at which each began."""
        if len(posts) == 1:
            return self._post(self.connections[0], posts)
        shares = [posts[first::SENDERS] for first in range(SENDERS)]
        begins = [0.0] * len(posts)
        for first, found in enumerate(self.pool.map(self._post, self.connections, shares)):
            begins[first::SENDERS] = found
        return begins

    def _post(self, connection: http.client.HTTPConnection, posts: Sequence[Post]) -> list[float]:
        begins = []
        for post in posts:
            begins.append(time.monotonic())
            connection.request("POST", post.path, post.body, post.headers | {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status not in (200, 202):
                raise RuntimeError(said.decode())
        return begins


class ByConsole:
    """The console, whose integrations have a token for a group of each size.

    `settle` waits until nothing is queued; `used` is as in Way, with the transactions of the database.
    """

    def __init__(
        self, sender: Sender, tokens: dict[int, str], settle: Callable[[], None], used: Callable[[], dict[str, float]]
    ) -> None:
        self.sender, self.tokens = sender, tokens
        self.settle, self.used = settle, used

    def prepare(self) -> None:
        """Wait until nothing is under way, and open the connections."""
        self.settle()
        self.sender.open()

    def notify(self, contacts: int, numbers: Sequence[int]) -> None:
        """Post the alerts as a script does."""
        self.sender.post([console_post(self.tokens[contacts], number) for number in numbers])


def console_post(token: str, number: int) -> Post:
    """Return an alert in the console's own format."""
    host = f"host-{number}.example.com"
    alert = {"title": f"{host}: the disk is full", "text": WORDS.format(host), "severity": "critical", "key": host}
    return Post("/api/v1/alerts", {"Authorization": f"Bearer {token}"}, json.dumps(alert).encode())


class ByAlertmanager:
    """An Alertmanager with a receiver for each size, which has so many mailboxes; its templates are its own."""

    def __init__(self, server: Alertmanager) -> None:
        self.sender = Sender(server.url.removeprefix("http://"), "/-/ready")

    def prepare(self) -> None:
        """Open the connections; what is sent has arrived, and nothing is written down."""
        self.sender.open()

    def notify(self, contacts: int, numbers: Sequence[int]) -> None:
        """Post the alerts as Prometheus does."""
        posts = []
        for number in numbers:
            host = f"host-{number}.example.com"
            labels = {"alertname": "DiskFull", "instance": host, "severity": "critical", "contacts": str(contacts)}
            annotations = {"summary": f"{host}: the disk is full", "description": WORDS.format(host)}
            body = json.dumps([{"labels": labels, "annotations": annotations}]).encode()
            posts.append(Post("/api/v2/alerts", {}, body))
        self.sender.post(posts)

    def used(self) -> dict[str, float]:
        """Return what it has used."""
        (process,) = (each for each in psutil.Process().children() if "alertmanager" in each.name())
        return {"Alertmanager": 1000 * sum(process.cpu_times()[:2])}


def alertmanager(folder: Path, smtp: str, sizes: Sequence[int]) -> AbstractContextManager[Alertmanager]:
    """Start an Alertmanager that sends at once, over a connection without TLS, as the console here."""
    receivers = [
        {"name": str(size), "email_configs": [{"to": f"contact{n}@example.com"} for n in range(size)]} for size in sizes
    ]
    config = {
        "global": {"smtp_smarthost": smtp, "smtp_from": SMTP_FROM, "smtp_require_tls": False, "resolve_timeout": "24h"},
        "route": {
            "receiver": str(sizes[0]),
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "24h",
            "routes": [{"receiver": str(size), "matchers": [f'contacts="{size}"']} for size in sizes],
        },
        "receivers": receivers,
    }
    folder.mkdir()
    return running(json.dumps(config), folder)  # JSON is YAML


class BySmtplib:
    """A bare loop: one connection, on which each message is made and sent after the other."""

    def __init__(self, smtp: str) -> None:
        self.host, _, self.port = smtp.partition(":")

    def prepare(self) -> None:
        """Do nothing."""

    def notify(self, contacts: int, numbers: Sequence[int]) -> None:
        """Send the mails."""
        with smtplib.SMTP(self.host, int(self.port), "localhost") as smtp:
            for number in numbers:
                for contact in range(contacts):
                    smtp.send_message(mail_about(number, f"contact{contact}@example.com"))

    def used(self) -> dict[str, float]:
        """Return what this process has used."""
        return {"loop": 1000 * time.process_time()}


def mail_about(number: int, receiver: str) -> EmailMessage:
    """Return a mail of text and HTML."""
    host = f"host-{number}.example.com"
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SMTP_FROM, receiver, f"{host}: the disk is full"
    message.set_content(WORDS.format(host))
    message.add_alternative(f"<h1>{host}: the disk is full</h1><p>{WORDS.format(host)}</p>", subtype="html")
    return message


class ByRequests:
    """A bare loop over one connection that is kept; what is posted, `post` says."""

    def __init__(self, receiver: str, ca_path: Path, post: Callable[[requests.Session, str, str], None]) -> None:
        self.receiver, self.ca_path, self.to_one = receiver, ca_path, post
        self.rounds = count(1)

    def prepare(self) -> None:
        """Open the connection; whom it is for is never the same."""
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(self.ca_path)
        self.session.get(self.receiver, timeout=10)
        self.round = next(self.rounds)

    def notify(self, contacts: int, numbers: Sequence[int]) -> None:
        """Post the messages."""
        for _ in numbers:
            for contact in range(contacts):
                self.to_one(self.session, self.receiver, f"{self.round:04}{contact:04}")

    def used(self) -> dict[str, float]:
        """Return what this process has used."""
        return {"loop": 1000 * time.process_time()}


def send_text(session: requests.Session, server: str, who: str) -> None:
    """Send a text by Twilio."""
    form = {"To": f"+861{who}", "From": TWILIO_FROM, "Body": WORDS}
    url = f"{server}/2010-04-01/Accounts/{TWILIO_SID}/Messages.json"
    session.post(url, form, auth=(TWILIO_SID, TWILIO_TOKEN), timeout=10).raise_for_status()


def post_to_robot(session: requests.Session, server: str, who: str) -> None:
    """Post a message by a robot of DingTalk."""
    body = {"msgtype": "markdown", "markdown": {"title": "The disk is full", "text": WORDS}, "at": {"atMobiles": []}}
    session.post(f"{server}/robot/send?access_token={who}", json=body, timeout=10).raise_for_status()
