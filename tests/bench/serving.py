"""Serve what is measured with gunicorn, all with the same settings, and ask it."""

import http.client
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from contacts_app.config import PROJECT
from tests.conftest import free_port
from tests.ops.test_embedded import environment

REFERENCES = "tests.bench.references"
CONSOLES = ("wsgi:app", f"{REFERENCES}.rows_made_anew:app")
REPORT = PROJECT / "tests/bench/references/report.lua"
BROWSER = {"Accept-Encoding": "gzip, br"}
YEAR = 365 * 24 * 3600


class Answer(NamedTuple):
    """Hold what a server sent back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass
class Page:
    """Something to ask for again and again; the answer has `marker` so many times."""

    name: str
    path: str
    marker: str
    count: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    limit: str = ""  # the limit's page that says the same
    size: int = 0
    compressed: int = 0
    broken: int = 0  # connections that the server closed although there was something to answer
    rates: list[float] = field(default_factory=list)  # requests a second over 16 connections, round by round
    # Milliseconds: p50 and p99 over 1 and over 16 connections, then gunicorn's and PostgreSQL's CPU of a request.
    times: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Candidate:
    """An app, its pages, and what was seen of its processes round by round."""

    name: str
    target: str
    pages: list[Page]
    starts: list[float] = field(default_factory=list)  # seconds to the first answer
    memory: list[tuple[float, float]] = field(default_factory=list)  # MiB of a worker: its share, and all it maps


class Server:
    """An app under gunicorn."""

    def __init__(self, folder: Path, target: str, settings: dict[str, str]) -> None:
        self.target, self.errors, self.port = target, folder / "errors", free_port()
        config = "contacts_app.ops.gunicorn_conf" if target in CONSOLES else f"{REFERENCES}.gunicorn_conf"
        self.began = time.monotonic()
        with self.errors.open("w") as errors:
            self.process = psutil.Popen(
                [sys.executable, "-m", "gunicorn", "--config", f"python:{config}", target],
                cwd=PROJECT,
                env=environment(folder / "data", **settings, WORKERS="2", THREADS="4", PORT=str(self.port)),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, path: str, headers: dict[str, str], form: list[tuple[str, str]] | None = None) -> Answer:
        """Return the answer to one request, over the connection of the last one if that is still open."""
        if form is None:
            self.connection.request("GET", path, headers=headers)
        else:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            self.connection.request("POST", path, urllib.parse.urlencode(form), headers | kind)
        answer = self.connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def wait(self, path: str, headers: dict[str, str]) -> float:
        """Return how many seconds after the start the first answer came."""
        while True:
            try:
                self.ask(path, headers)
                return time.monotonic() - self.began
            except OSError:
                self.connection.close()
                if self.process.poll() is not None or time.monotonic() > self.began + 60:
                    sys.exit(f"{self.target} does not start:\n{self.errors.read_text()}")
            time.sleep(0.005)

    def log_on(self, path: str, **fields: str) -> dict[str, str]:
        """Log on with the form at `path` and return the header that shows it."""
        self.wait(path, {})
        form = self.ask(path, {})
        token = re.findall(r'name="(csrf\w+)" value="([^"]+)"', form.body.decode())[0]
        answer = self.ask(path, _cookies(form), [token, *fields.items()])
        assert answer.status in (302, 303), answer.body.decode()
        # The first page brings the secret of its forms.
        return _cookies(form, answer, self.ask("/contacts", _cookies(form, answer)))

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        return self.process.children()

    def memory(self) -> tuple[float, float]:
        """Return the MiB of a worker: with its share of what several processes have in common, and with all of it."""
        texts = [Path(f"/proc/{worker.pid}/smaps_rollup").read_text() for worker in self.workers()]
        found = [re.findall(r"(?m)^(?:Pss|Rss): +(\d+) kB", text) for text in texts]  # Rss comes first
        resident, share = (statistics.mean(int(sizes[place]) / 1024 for sizes in found) for place in (0, 1))
        return share, resident

    def cpu_seconds(self) -> float:
        """Return what the processor has worked for it until now."""
        return sum(sum(process.cpu_times()[:2]) for process in (self.process, *self.workers()))

    def stop(self) -> None:
        """End it, and return when it has ended."""
        self.connection.close()
        self.process.terminate()
        self.process.wait(40)


def _cookies(*answers: Answer) -> dict[str, str]:
    """Return the header that shows all cookies of the answers, each as it was last set."""
    lines = [line for answer in answers for line in answer.headers.get_all("Set-Cookie") or []]
    return {"Cookie": "; ".join({line.partition("=")[0]: line.partition(";")[0] for line in lines}.values())}


def check(server: Server, page: Page) -> str:
    """Return the page's text, and end the measuring unless it is what it should be; note how long it is."""
    server.connection.close()  # the last request was long ago
    for_browser, plain = (server.ask(page.path, page.headers | more) for more in (BROWSER, {}))
    found = plain.body.count(page.marker.encode()) if page.marker else 0
    if (plain.status, found) != (200, page.count):
        report = f"{plain.status}, {found} of {page.count} × {page.marker}"
        sys.exit(f"{server.target}, {page.name}: {report}\n{server.errors.read_text()}")
    page.size = len(plain.body)
    page.compressed = len(for_browser.body) if "Content-Encoding" in for_browser.headers else 0
    return plain.body.decode(errors="replace")


def load(server: Server, page: Page, connections: int, seconds: int) -> dict[str, float]:
    """Return what report.lua reports of asking for the page over so many connections at once."""
    headers = [argument for name, value in page.headers.items() for argument in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(REPORT), *headers]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}{page.path}"], check=True, capture_output=True, text=True
    )
    report = json.loads(done.stdout.splitlines()[-1])
    if report["failed"]:
        sys.exit(f"{server.target}, {page.name} under load: {report}\n{server.errors.read_text()}")
    page.broken += report["broken"]
    return report


def first_load(server: Server, cookie: dict[str, str]) -> list[str]:
    """Return lines about all that a browser fetches to show the list for the first time."""
    html = server.ask("/contacts", cookie).body.decode()
    found = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]+)"', html)
    answers = {path: server.ask(path, cookie | BROWSER) for path in ("/contacts", *found)}
    lines = ["| first load | bytes | sent as | kept |", "| --- | --- | --- | --- |"]
    for path, answer in answers.items():
        assert answer.status == 200, path
        kept = answer.headers["Cache-Control"]
        caching = "a year" if f"max-age={YEAR}" in kept else kept
        encoding = answer.headers.get("Content-Encoding", "is")
        lines.append(f"| {path.partition('?')[0]} | {len(answer.body):,} | {encoding} | {caching} |")
    total = sum(len(answer.body) for answer in answers.values())
    return [*lines, f"| together, {len(answers)} files | {total:,} | | |"]
