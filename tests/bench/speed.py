"""Measure the pages against what else Python offers: `make bench-speed`; `--rounds` and `--seconds` shorten it.

100,000 contacts in 1,000 accounts; the one measured has 100 with every channel, whose state is known. The candidates
take turns, each under gunicorn with the same settings. wrk asks, on the same machine, over 1 and over 16 connections.
"""

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from contacts_app import create_app, embedded
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT
from contacts_app.contacts.models import Contact
from contacts_app.db import db
from contacts_app.groups.models import Group, Membership
from tests.bench.burst import percentile
from tests.bench.references import shown_mobile
from tests.conftest import HTMX, ROBOT, free_port
from tests.test_embedded import environment, flask, kill, processes

EMAIL, PASSWORD, SECRET_KEY = "bench@example.com", "correct horse battery", "k" * 40
CONTACTS, BUSY, DELETES = 100, 16, 10  # in the account; connections of a full house; times a round deletes them all
SERVER = {"WORKERS": "2", "THREADS": "4"}
REFERENCES = "tests.bench.references"
REPORT, PLOT = PROJECT / "tests/bench/references/report.lua", PROJECT / "tests/bench/speed.svg"
BROWSER = {"Accept-Encoding": "gzip, br"}
SHOWN = HTMX | {"HX-Current-URL": "http://127.0.0.1/contacts"}
YEAR = 365 * 24 * 3600
# Never called, but set up: the list says of a channel that is not that it is not.
CHANNELS_ON = {"SMTP_HOST": "127.0.0.1", "SMTP_FROM": EMAIL, "SMS_PROVIDER": "twilio"}
CHANNELS_ON |= {"TWILIO_ACCOUNT_SID": "AC0", "TWILIO_AUTH_TOKEN": "0", "TWILIO_FROM": "+15550100"}

FILL = """
INSERT INTO accounts (name, contact_quota) SELECT 'Team ' || n, 100 FROM generate_series(1, 999) n;
INSERT INTO contacts (account_id, name, mobile, email)
    SELECT id, 'Contact ' || n, '+86139' || 10000000 + n, 'contact' || n || '@example.com'
    FROM accounts, generate_series(0, 99) n;
INSERT INTO workers (id, host, seen_at) VALUES (gen_random_uuid(), 'bench', now() + interval '1 day')
"""
TABLES = ("contacts", "memberships", "channel_states")  # what a delete takes from
UPDATE = (
    "UPDATE contacts SET receives_system_notifications = %s, version = version + 1, updated_at = now()"
    " WHERE account_id = %s AND id = %s AND version = %s"
)
LOCK = "SELECT id FROM accounts WHERE id = %s FOR NO KEY UPDATE"
DELETE = "DELETE FROM contacts WHERE account_id = %s AND id = ANY(%s) RETURNING name"

# How each template language writes a loop over contacts, and their columns within it.
JINJA = {name: f"{{{{ {name} }}}}" for name in ("id", "name", "mobile", "email", "version")} | {
    "loop": "{% for id, name, mobile, email, notified in rows %}",
    "one": "{% for id, name, mobile, email, notified, version in rows %}",
    "yes": '{{ "Yes" if notified else "No" }}',
}
DJANGO = {name: f"{{{{ contact.{name} }}}}" for name in ("id", "name", "email")} | {
    "loop": "{% for contact in rows %}",
    "mobile": "{{ contact.shown_mobile }}",
    "yes": '{{ contact.receives_system_notifications|yesno:"Yes,No" }}',
}


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
    count: int = CONTACTS
    headers: dict[str, str] = field(default_factory=dict)
    limit: str = ""  # the limit's page that says the same
    size: int = 0
    compressed: int = 0
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
    memory: list[float] = field(default_factory=list)  # MiB of a worker


class Server:
    """An app under gunicorn."""

    def __init__(self, folder: Path, target: str, settings: dict[str, str]) -> None:
        self.target, self.errors, self.port = target, folder / "errors", free_port()
        config = "contacts_app.gunicorn_conf" if target == "wsgi:app" else f"{REFERENCES}.gunicorn_conf"
        self.began = time.monotonic()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--config", f"python:{config}", target],
                cwd=PROJECT,
                env=environment(folder / "data", **settings, **SERVER, PORT=str(self.port)),
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
        return psutil.Process(self.process.pid).children()

    def memory(self) -> float:
        """Return the MiB of a worker: its own and its share of what several processes have in common."""
        texts = [Path(f"/proc/{worker.pid}/smaps_rollup").read_text() for worker in self.workers()]
        return statistics.mean(int(re.findall(r"(?m)^Pss: +(\d+) kB", text)[0]) / 1024 for text in texts)

    def stop(self) -> None:
        """End it, and return when it has ended."""
        self.connection.close()
        self.process.terminate()
        self.process.wait(40)


class Bench:
    """The database and what is measured on it."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self.folder, self.seconds, self.data_dir = folder, seconds, folder / "data"
        migrated = flask(self.data_dir, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        # Here as well, so that the database stays while no server runs.
        embedded.ensure(self.data_dir)
        self.sql = psycopg.connect(embedded.url(self.data_dir), autocommit=True)
        self.account_id = self._fill()
        query = "SELECT id, name, mobile, email, version FROM contacts WHERE account_id = %s ORDER BY name_key"
        self.contacts = self.sql.execute(query, [self.account_id]).fetchall()
        self.templates = folder / "templates"
        self.templates.mkdir()
        parts = conninfo_to_dict(embedded.url(self.data_dir))
        self.settings = CHANNELS_ON | {
            "DATABASE_URL": f"postgresql:///?host={parts['host']}&user={parts['user']}&dbname={parts['dbname']}",
            "SECRET_KEY": SECRET_KEY,
            "ACCOUNT": str(self.account_id),
            "TEMPLATES": str(self.templates),
        }
        loaded = "import sys, wsgi; print(*(name for name in sys.modules if not name.startswith(('contacts', 'wsgi'))))"
        self.settings["LIBRARIES"] = self._python("-c", loaded)
        self.changes: dict[tuple[str, str], list[list[float]]] = {}  # milliseconds, round by round
        self.candidates = self._prepare()

    def round(self, number: int) -> None:
        """Measure every candidate once, another one first in each round."""
        first = number % len(self.candidates)
        for candidate in self.candidates[first:] + self.candidates[:first]:
            with self._serving(candidate.target) as server:
                self._measure(server, candidate)
                if candidate.name in ("limit", "console"):
                    self._change(server, candidate.name)

    def _fill(self) -> int:
        """Write all contacts and return the account that is measured."""
        self.sql.execute(FILL)
        app = create_app({"DATA_DIR": str(self.data_dir)})
        with app.app_context():
            account = Account.create("Bench", 2 * CONTACTS)
            account.add_user(EMAIL, PASSWORD)
            groups = [Group(account_id=account.id, name=name) for name in ("Night shift", "On call")]
            db.session.add_all(groups)
            db.session.flush()
            for number in range(CONTACTS):
                contact = Contact(account_id=account.id, id=Contact.next_id(), name=f"Contact {number:02}")
                contact.mobile, contact.email = f"+86138000{number:05}", f"contact{number}@example.com"
                contact.dingtalk_url = f"{ROBOT}{number:060}bench"  # the list shows the last 4
                contact.receives_system_notifications = number % 2 == 0
                db.session.add(contact)
                db.session.flush()
                keys = {"account_id": account.id, "contact_id": contact.id}
                db.session.add_all([Membership(group_id=group.id, **keys) for group in groups])
            account_id = account.id
            db.session.commit()
            db.session.remove()
            db.engine.dispose()
        self.sql.execute(
            "INSERT INTO channel_states (account_id, contact_id, channel, worked_at) SELECT account_id, id, channel,"
            " now() FROM contacts, unnest(ARRAY['sms', 'email', 'dingtalk']) channel WHERE account_id = %s",
            [account_id],
        )
        for table in TABLES:
            kept = f"CREATE TABLE kept_{table} AS SELECT * FROM {table} WHERE account_id = {account_id}"
            self.sql.execute(kept)
        self.sql.execute("ALTER TABLE kept_contacts DROP COLUMN name_key")
        self.sql.execute("VACUUM ANALYZE")
        return account_id

    def _put_back(self) -> None:
        """Write again what a delete took away."""
        for table in TABLES:
            query = "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            (names,) = self.sql.execute(f"{query} AND NOT attisdropped", [f"kept_{table}"]).fetchone()
            self.sql.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM kept_{table}")

    def _python(self, *arguments: str) -> str:
        """Run Python with the settings and return what it prints."""
        env = environment(self.data_dir, **self.settings)
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=PROJECT, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout

    @contextmanager
    def _serving(self, target: str) -> Iterator[Server]:
        server = Server(self.folder, target, self.settings)
        try:
            yield server
        finally:
            server.stop()

    def _prepare(self) -> list[Candidate]:
        """Log on everywhere, make the templates of the references, and return who is to be measured."""
        edit = f"/contacts/{self.contacts[0][0]}/edit"
        row, dialog = '<tr id="contact-', 'id="contacts-edit"'
        with self._serving("wsgi:app") as server:
            self.cookie = server.log_on("/logon", email=EMAIL, password=PASSWORD)
            console = [
                Page("list", "/contacts", row, headers=self.cookie, limit="list"),
                Page("search", "/contacts?q=contact9&field=email", row, 11, self.cookie | HTMX, "search"),
                Page("edit dialog", edit, dialog, 1, self.cookie | HTMX, "edit dialog"),
                Page("new dialog", "/contacts/new", dialog, 1, self.cookie | HTMX),
            ]
            texts = [check(server, page) for page in console]
            if console[0].compressed:
                console.insert(1, Page("list, compressed", "/contacts", "", 0, self.cookie | BROWSER, "list"))
            typed = re.findall(r'name="(\w+)"[^>]* value="([^"]*)"', texts[2])
            self.form = {
                name: value for name, value in typed if name not in ("action", "receives_system_notifications")
            }
            changed = server.ask(
                edit, self.cookie | SHOWN, [*self.form.items(), ("receives_system_notifications", "y")]
            )
            assert changed.status == 200, changed.body.decode()
            texts.append(changed.body.decode())
            self.first_load = first_load(server, self.cookie)
        first, ninth = self.contacts[0], self.contacts[9]
        templates = {
            "list": template(texts[0], JINJA, first),
            "search": template(texts[1], JINJA, ninth),
            "edit": template(texts[2], JINJA, first),
            "changed": template(texts[4], JINJA, first),
            "django": template(texts[0], DJANGO, first),
        }
        for name, text in templates.items():
            (self.templates / f"{name}.html").write_text(text)
        self._python("-m", f"{REFERENCES}.django_site", EMAIL, PASSWORD)
        with self._serving(f"{REFERENCES}.django_site:app") as server:
            django = server.log_on("/admin/login/?next=/contacts", username=EMAIL, password=PASSWORD)
        limit = [
            Page(page.name, page.path, page.marker, page.count, limit=page.limit)
            for page in console
            if page.limit == page.name
        ]
        with self._serving(f"{REFERENCES}.limit:app") as server:
            server.wait("/contacts", {})
            for page in limit:
                check(server, page)
                size = next(other.size for other in console if other.name == page.name)
                if abs(page.size - size) > 0.01 * size:
                    sys.exit(f"The limit's {page.name} has {page.size} bytes, the console's {size}: too far apart.")
        admin = 'name="_selected_action"'
        return [
            Candidate("limit", f"{REFERENCES}.limit:app", limit),
            Candidate("console", "wsgi:app", console),
            Candidate(
                "Django",
                f"{REFERENCES}.django_site:app",
                [
                    Page("view", "/contacts", row, headers=django, limit="list"),
                    Page("admin", "/admin/references/contact/", admin, headers=django, limit="list"),
                ],
            ),
            Candidate(
                "Flask-Admin",
                f"{REFERENCES}.flask_admin_site:app",
                [Page("list", "/contacts/", 'name="rowid"', limit="list")],
            ),
            Candidate("bare Flask", f"{REFERENCES}.bare_flask:app", [Page("two letters", "/", "ok", 1)]),
        ]

    def _measure(self, server: Server, candidate: Candidate) -> None:
        """Put load on every page of a candidate."""
        first = candidate.pages[0]
        candidate.starts.append(server.wait(first.path, first.headers))
        for page in candidate.pages:
            check(server, page)
            load(server.port, page, BUSY, 1)  # until every thread has been there
            quiet = load(server.port, page, 1, self.seconds)
            used = self._cpu_seconds(server)
            busy = load(server.port, page, BUSY, self.seconds)
            used = [after - before for before, after in zip(used, self._cpu_seconds(server), strict=True)]
            page.rates.append(busy["requests"] / busy["seconds"])
            for name, run in (("1", quiet), (str(BUSY), busy)):
                page.times.setdefault(f"p50 at {name}", []).append(run["p50"])
                page.times.setdefault(f"p99 at {name}", []).append(run["p99"])
            for name, seconds in zip(("web", "PostgreSQL"), used, strict=True):
                page.times.setdefault(name, []).append(1000 * seconds / busy["requests"])
        candidate.memory.append(server.memory())

    def _cpu_seconds(self, server: Server) -> list[float]:
        """Return the CPU seconds that gunicorn's processes and PostgreSQL's have used until now."""
        web = [psutil.Process(server.process.pid), *server.workers()]
        database = [process for process in processes(self.data_dir) if process.name() == "postgres"]
        used = [0.0, 0.0]
        for index, process in [(0, process) for process in web] + [(1, process) for process in database]:
            with suppress(psutil.NoSuchProcess):
                used[index] += sum(process.cpu_times()[:2])
        return used

    def _change(self, server: Server, name: str) -> None:
        """Save the first contact again and again, and have the console delete all of them a few times."""
        server.connection.close()  # the last request was long ago
        identity = self.contacts[0][0]
        query = "SELECT version FROM contacts WHERE account_id = %s AND id = %s"

        def version_now() -> int:
            return self.sql.execute(query, [self.account_id, identity]).fetchone()[0]

        def post(path: str, headers: dict[str, str], form: list[tuple[str, str]]) -> None:
            answer = server.ask(path, self.cookie | headers, form)
            if answer.status != (200 if headers else 303):
                sys.exit(f"{server.target}, {path}: status {answer.status}\n{server.errors.read_text()}")

        def save(version: int, headers: dict[str, str]) -> None:
            form = self.form | {"version": str(version)}
            if version % 2:
                form["receives_system_notifications"] = "y"
            post(f"/contacts/{identity}/edit", headers, [*form.items()])

        def transaction(version: int) -> None:
            with self.sql.transaction():
                self.sql.execute(UPDATE, [version % 2 == 1, self.account_id, identity, version], prepare=True)

        ways = {("save, plain form", name): lambda number: save(number, {})}
        ways["save in the dialog", name] = lambda number: save(number, SHOWN)
        if name == "console":
            ways["save, plain form", "transaction"] = transaction
        for what, way in ways.items():
            before = version_now()
            took = timed(way, before, self.seconds)
            assert version_now() == before + len(took)
            self.changes.setdefault(what, []).append(sorted(took))
        if name == "limit":
            return
        ids = [contact[0] for contact in self.contacts]

        def delete() -> None:
            form = [("csrf_token", self.form["csrf_token"]), *(("id", str(identity)) for identity in ids)]
            post("/contacts/delete", SHOWN, form)

        def bare_delete() -> None:
            with self.sql.transaction():
                self.sql.execute(LOCK, [self.account_id], prepare=True)
                self.sql.execute(DELETE, [self.account_id, ids], prepare=True).fetchall()

        for who, way in ((name, delete), ("transaction", bare_delete)):
            took = []
            for _ in range(DELETES):
                begin = time.perf_counter()
                way()
                took.append(1000 * (time.perf_counter() - begin))
                self._put_back()
            self.changes.setdefault(("delete all", who), []).append(sorted(took))
        self.sql.execute("VACUUM ANALYZE")


def _cookies(*answers: Answer) -> dict[str, str]:
    """Return the header that shows all cookies of the answers, each as it was last set."""
    lines = [line for answer in answers for line in answer.headers.get_all("Set-Cookie") or []]
    return {"Cookie": "; ".join({line.partition("=")[0]: line.partition(";")[0] for line in lines}.values())}


def check(server: Server, page: Page) -> str:
    """Return the page's text, and end the measuring unless it is what it should be; note how long it is."""
    server.connection.close()  # the last request was long ago
    answer = server.ask(page.path, page.headers)
    found = answer.body.count(page.marker.encode()) if page.marker else page.count
    if answer.status != 200 or found != page.count:
        sys.exit(
            f"{server.target}, {page.name}: status {answer.status}, {found} of {page.count} × {page.marker}.\n{server.errors.read_text()}"
        )
    page.size = len(answer.body)
    answer = server.ask(page.path, page.headers | BROWSER)
    page.compressed = len(answer.body) if "Content-Encoding" in answer.headers else 0
    return answer.body.decode() if not page.compressed else server.ask(page.path, page.headers).body.decode()


def load(port: int, page: Page, connections: int, seconds: int) -> dict[str, float]:
    """Return what report.lua tells of asking for the page over so many connections at once."""
    headers = [argument for name, value in page.headers.items() for argument in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", REPORT, *headers]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{page.path}"], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["failed"] or not told["requests"]:
        sys.exit(f"{page.name} failed under load: {told}")
    return told


def timed(way: Callable[[int], None], first: int, seconds: float) -> list[float]:
    """Return the milliseconds that each of the calls takes that fit into so many seconds."""
    took, end = [], time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        way(first + len(took))
        took.append(1000 * (time.perf_counter() - begin))
    return took


def template(html: str, language: dict[str, str], contact: tuple[int, str, str, str, int]) -> str:
    """Return a template that gives `html`: a loop over its rows, the first of which is the contact's, or its form."""
    assert not re.search(r"\{[{%#]", html)
    start = re.search(r"<tr id=", html)
    if start:
        head, rows = html[: start.start()], html[start.start() :]
        foot = rows[rows.rindex("</tr>") + len("</tr>") :]
        row = rows[: rows.index("<tr id=", 1)]
    else:
        head, row, foot = "", html, ""
    identity, name, mobile, email, _ = contact
    row = row.replace(shown_mobile(mobile), language["mobile"]).replace(email, language["email"])
    row = row.replace(name, language["name"]).replace(str(identity), language["id"])
    row = re.sub("<td>(Yes|No)</td>", f"<td>{language['yes']}</td>", row)
    row = re.sub(r'(name="version"[^>]* value=")\d+', rf"\g<1>{language.get('version')}", row)
    if language is DJANGO:
        head = re.sub(r'(name="csrf_token" value=")[^"]+', r"\g<1>{{ csrf_token }}", head)
        foot = re.sub(r'(name="csrf_token" value=")[^"]+', r"\g<1>{{ csrf_token }}", foot)
    return f"{head}{language['loop' if start else 'one']}{row}{{% endfor %}}{foot}"


def first_load(server: Server, cookie: dict[str, str]) -> list[str]:
    """Return lines about all that a browser fetches to show the list for the first time."""
    html = server.ask("/contacts", cookie).body.decode()
    found = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]+)"', html)
    answers = {path: server.ask(path, cookie | BROWSER) for path in ("/contacts", *found)}
    lines = ["| first load | bytes | sent as | kept |", "| --- | --- | --- | --- |"]
    for path, answer in answers.items():
        assert answer.status == 200, path
        kept = answer.headers["Cache-Control"]
        told = "a year" if f"max-age={YEAR}" in kept else kept
        encoding = answer.headers.get("Content-Encoding", "is")
        lines.append(f"| {path.partition('?')[0]} | {len(answer.body):,} | {encoding} | {told} |")
    total = sum(len(answer.body) for answer in answers.values())
    return [*lines, f"| together, {len(answers)} files | {total:,} | | |"]


def machine(sql: psycopg.Connection) -> str:
    """Say when and on what this was measured."""
    cpu = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()[1]
    postgres = sql.execute("SHOW server_version").fetchone()[0].split()[0]
    names = ("gunicorn", "Flask", "SQLAlchemy", "psycopg", "Jinja2", "Django", "Flask-Admin")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    cores = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} before)"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu[0]}, {cores}, {memory:.0f} GiB;"
        f" Python {platform.python_version()}, PostgreSQL {postgres}, wrk {wrk}, {versions}"
    )


def spread(values: list[float]) -> str:
    """Say the median of some ratios, and the least and the most of them."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Return round by round how many times the base a value is."""
    return [value / of for value, of in zip(values, base, strict=True)]


def tables(bench: Bench) -> Iterator[str]:
    """Give the lines of what was measured."""
    limit = {page.name: page.rates for page in bench.candidates[0].pages}
    columns = ["p50 at 1", "p99 at 1", f"p50 at {BUSY}", f"p99 at {BUSY}", "web", "PostgreSQL"]
    yield f"| | page | requests/s | to the limit | {' | '.join(columns)} | bytes | compressed |"
    yield "| --- " * (6 + len(columns)) + "|"
    for candidate in bench.candidates:
        for page in candidate.pages:
            ratio = spread(ratios(page.rates, limit[page.limit])) if page.limit else ""
            times = " | ".join(f"{statistics.median(page.times[column]):.1f} ms" for column in columns)
            compressed = f"{page.compressed:,}" if page.compressed else ""
            rate = f"{statistics.median(page.rates):.0f}"
            yield f"| {candidate.name} | {page.name} | {rate} | {ratio} | {times} | {page.size:,} | {compressed} |"
    yield ""
    yield "| one after the other | | times | p50 | p99 | p50 to the transaction | p50 to the limit |"
    yield "| --- " * 7 + "|"
    medians = {key: [percentile(took, 0.5) for took in rounds] for key, rounds in bench.changes.items()}
    for (what, who), rounds in sorted(bench.changes.items(), reverse=True):
        p50 = medians[what, who]
        p99 = statistics.median(percentile(took, 0.99) for took in rounds)
        bases = [
            medians.get(("save, plain form" if "save" in what else what, "transaction")),
            medians.get((what, "limit")),
        ]
        told = " | ".join(spread(ratios(p50, base)) if base and base is not p50 else "" for base in bases)
        count = sum(map(len, rounds))
        yield f"| {what} | {who} | {count} | {statistics.median(p50):.2f} ms | {p99:.2f} ms | {told} |"
    yield ""
    yield "| | memory of a worker | to bare Flask | start to first answer |"
    yield "| --- | --- | --- | --- |"
    bare = bench.candidates[-1].memory
    for candidate in bench.candidates:
        told = f"{statistics.median(candidate.memory):.0f} MiB | {spread(ratios(candidate.memory, bare))}"
        yield f"| {candidate.name} | {told} | {statistics.median(candidate.starts):.2f} s |"
    yield ""
    yield from bench.first_load


def plot(bench: Bench) -> None:
    """Draw how many lists a second each candidate gives, as a share of the limit."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    limit = bench.candidates[0].pages[0].rates
    lists = {
        f"{candidate.name}, {page.name}": ratios(page.rates, limit)
        for candidate in bench.candidates
        for page in candidate.pages
        if page.limit == "list"
    }
    middle = [100 * statistics.median(values) for values in lists.values()]
    errors = [
        [mid - 100 * min(values) for mid, values in zip(middle, lists.values(), strict=True)],
        [100 * max(values) - mid for mid, values in zip(middle, lists.values(), strict=True)],
    ]
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "speed", "font.family": "sans-serif"}
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(lists) + 0.9), layout="constrained", facecolor="white")
    colours = ["#b45309" if "console" in name else "#6b7280" for name in lists]
    bars = axes.barh(list(lists), middle, xerr=errors, color=colours, ecolor="#111827", capsize=3)
    axes.bar_label(bars, [f"{value:.0f} %" for value in middle], padding=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xlabel(f"lists of {CONTACTS} contacts a second, in percent of the limit")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.speed", description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    arguments.add_argument("--plot", action="store_true", help=f"also draw {PLOT.relative_to(PROJECT)}")
    chosen = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: `apt-get install wrk`.")
    folder = Path(tempfile.mkdtemp(prefix="contacts-bench-")).resolve()
    try:
        bench = Bench(folder, chosen.seconds)
        print(machine(bench.sql), f"; {chosen.rounds} rounds of {chosen.seconds} s", sep="", flush=True)
        for number in range(chosen.rounds):
            bench.round(number)
        print("", *tables(bench), sep="\n")
        if chosen.plot:
            plot(bench)
    finally:
        kill([process for process in processes(folder / "data") if process.pid != os.getpid()])
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
