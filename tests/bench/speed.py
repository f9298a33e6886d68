"""Measure the pages against what else Python offers: `make bench-speed`; `--rounds` and `--seconds` shorten it.

100,000 contacts in 1,000 accounts; the one measured has 100 with every channel, whose state is known. The candidates
take turns, each under gunicorn with the same settings. wrk asks, on the same machine, over 1 and over 16 connections.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from contacts_app import create_app
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.groups.models import Group, Membership
from contacts_app.ops import embedded
from tests.bench import document
from tests.bench.burst import percentile
from tests.bench.references.templates import DJANGO, JINJA, template
from tests.bench.serving import BROWSER, CONSOLES, REFERENCES, Candidate, Page, Server, check, first_load, load
from tests.conftest import HTMX, ROBOT
from tests.ops.test_embedded import environment, flask, kill, processes

EMAIL, PASSWORD, SECRET_KEY = "bench@example.com", "correct horse battery", "k" * 40
CONTACTS, BUSY, DELETES = 100, 16, 10  # in the account; connections of a full house; times a round deletes them all
PLOT = PROJECT / "tests/bench/speed.svg"
SHOWN = HTMX | {"HX-Current-URL": "http://127.0.0.1/contacts"}
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
BOUND = "Flask's bound"
SAVE, SAVE_SHOWN, DELETE_ALL = "save", "save, list in the answer", "delete all, list in the answer"
PERCENTILES = ("p50", "p99")
TABLES = ("contacts", "memberships", "channel_states")  # what a delete takes from
UPDATE = (
    "UPDATE contacts SET receives_system_notifications = %s, version = version + 1, updated_at = now()"
    " WHERE account_id = %s AND id = %s AND version = %s"
)
LOCK = "SELECT id FROM accounts WHERE id = %s FOR NO KEY UPDATE"
DELETE = "DELETE FROM contacts WHERE account_id = %s AND id = ANY(%s) RETURNING name"

NOTES = """
limit: WSGI, psycopg and Jinja2 alone, one query, nobody logs on; groups, robots and the states of channels stand in
its template, as in that of Django's view. Flask's bound: what a console in Flask cannot do without, its cookie, token,
headers and statements, by psycopg alone, and the answer is kept. Django needs a log-on, Flask-Admin has none. bare
Flask has all libraries loaded that the console loads. The console keeps the rows of lists that it has made; with "no
row kept" it makes them all each time. All run under gunicorn's gthread, 2 workers with 4 threads each. web, PostgreSQL:
CPU of a request over 16 connections, which a busy machine hardly changes. One after the other: over one connection that
is kept, from a client in Python; the transaction is psycopg alone, from BEGIN to COMMIT, without HTTP. Memory is that
after the load: PSS counts what several processes have in common in parts, RSS counts it whole. The start is one with
PostgreSQL running."""


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
                if candidate.name in ("limit", BOUND, "console"):
                    self._change(server, candidate.name)

    def _fill(self) -> int:
        """Write all contacts and return the account that is measured."""
        self.sql.execute(FILL)
        app = create_app({"DATA_DIR": str(self.data_dir)})
        with app.app_context(), all_accounts():
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
        row, dialog, admin = '<tr id="contact-', 'id="contacts-edit"', 'name="_selected_action"'
        with self._serving(CONSOLES[0]) as server:
            self.cookie = server.log_on("/logon", email=EMAIL, password=PASSWORD)
            fragment = self.cookie | HTMX
            console = [
                Page("list", "/contacts", row, CONTACTS, self.cookie, limit="list"),
                Page("search", "/contacts?q=contact9&field=email", row, 11, fragment, limit="search"),
                Page("edit dialog", edit, dialog, headers=fragment, limit="edit dialog"),
                Page("new dialog", "/contacts/new", dialog, headers=fragment),
            ]
            texts = [check(server, page) for page in console]
            self.form = dict(re.findall(r'name="(\w+)"[^>]* value="([^"]*)"', texts[2]))
            del self.form["action"]  # the button that sends a test as well
            changed = self._save(server, SHOWN, self.contacts[0][4]).decode()
            self.first_load = first_load(server, self.cookie)
        if console[0].compressed:
            console.insert(1, Page("list, compressed", "/contacts", "", 0, self.cookie | BROWSER, "list"))
        first, ninth = self.contacts[0], self.contacts[9]
        self._write_template("list", template(texts[0], JINJA, first))
        self._write_template("django", template(texts[0], DJANGO, first))
        self._write_template("search", template(texts[1], JINJA, ninth))
        self._write_template("edit", template(texts[2], JINJA, first))
        self._write_template("changed", template(changed, JINJA, first))
        limit = [
            Page(page.name, page.path, page.marker, page.count, limit=page.name) for page in console if page.marker
        ]
        limit.pop()  # the dialog of a new contact needs no database
        with self._serving(f"{REFERENCES}.limit:app") as server:
            server.wait("/contacts", {})
            for page, size in zip(limit, (page.size for page in console if page.marker), strict=False):
                check(server, page)
                if abs(page.size - size) > 0.01 * size:
                    sys.exit(f"The limit's {page.name} has {page.size} bytes, the console's {size}: too far apart.")
        bound = [replace(page, headers=self.cookie, rates=[], times={}) for page in limit]
        self._python("-m", f"{REFERENCES}.django_site", EMAIL, PASSWORD)
        with self._serving(f"{REFERENCES}.django_site:app") as server:
            cookie = server.log_on("/admin/login/?next=/contacts", username=EMAIL, password=PASSWORD)
        django = [
            Page("view", "/contacts", row, CONTACTS, cookie, "list"),
            Page("admin", "/admin/references/contact/", admin, CONTACTS, cookie, "list"),
        ]
        flask_admin = [Page("list", "/contacts/", 'name="rowid"', CONTACTS, limit="list")]
        return [
            Candidate("limit", f"{REFERENCES}.limit:app", limit),
            Candidate(BOUND, f"{REFERENCES}.flask_bound:app", bound),
            Candidate("console", CONSOLES[0], console),
            Candidate("console, no row kept", CONSOLES[1], [replace(console[0], rates=[], times={})]),
            Candidate("Django", f"{REFERENCES}.django_site:app", django),
            Candidate("Flask-Admin", f"{REFERENCES}.flask_admin_site:app", flask_admin),
            Candidate("bare Flask", f"{REFERENCES}.bare_flask:app", [Page("two letters", "/", "ok")]),
        ]

    def _write_template(self, name: str, text: str) -> None:
        (self.templates / f"{name}.html").write_text(text)

    def _measure(self, server: Server, candidate: Candidate) -> None:
        """Put load on every page of a candidate."""
        first = candidate.pages[0]
        candidate.starts.append(server.wait(first.path, first.headers))
        for page in candidate.pages:
            check(server, page)
            load(server, page, BUSY, 1)  # until every thread has been there
            quiet = load(server, page, 1, self.seconds)
            web, database = server.cpu_seconds(), self._database_cpu_seconds()
            busy = load(server, page, BUSY, self.seconds)
            web, database = server.cpu_seconds() - web, self._database_cpu_seconds() - database
            page.rates.append(busy["requests"] / busy["seconds"])
            seen = {
                f"{name} at {count}": run[name] for count, run in ((1, quiet), (BUSY, busy)) for name in PERCENTILES
            }
            answered = max(1, busy["requests"])
            seen |= {"web": 1000 * web / answered, "PostgreSQL": 1000 * database / answered}
            for name, milliseconds in seen.items():
                page.times.setdefault(name, []).append(milliseconds)
        candidate.memory.append(server.memory())

    def _database_cpu_seconds(self) -> float:
        """Return what the processor has worked for PostgreSQL until now."""
        used = 0.0
        for process in processes(self.data_dir):
            with suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:2]) if process.name() == "postgres" else 0
        return used

    def _change(self, server: Server, name: str) -> None:
        """Save the first contact again and again, and have the console delete all of them a few times."""
        server.connection.close()  # the last request was long ago
        ways: dict[tuple[str, str], Callable[[int], object]] = {(SAVE, name): partial(self._save, server, {})}
        if name != BOUND:
            ways[SAVE_SHOWN, name] = partial(self._save, server, SHOWN)
        if name == "console":
            ways[SAVE, "transaction"] = self._save_bare
        for what, way in ways.items():
            version, took = self._version(), list[float]()
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                took.append(timed(partial(way, version + len(took))))
            assert self._version() == version + len(took)
            self.changes.setdefault(what, []).append(sorted(took))
        if name == "console":
            for who, delete in ((name, partial(self._delete, server)), ("transaction", self._delete_bare)):
                took = []
                for _ in range(DELETES):
                    server.connection.close()  # as above
                    server.ask("/healthz", {})
                    took.append(timed(delete))
                    self._put_back()
                self.changes.setdefault((DELETE_ALL, who), []).append(sorted(took))
            self.sql.execute("VACUUM ANALYZE")

    def _version(self) -> int:
        query = "SELECT version FROM contacts WHERE account_id = %s AND id = %s"
        return self.sql.execute(query, [self.account_id, self.contacts[0][0]]).fetchone()[0]

    def _post(self, server: Server, path: str, headers: dict[str, str], form: list[tuple[str, str]]) -> bytes:
        answer = server.ask(path, self.cookie | headers, form)
        if answer.status != (200 if headers else 303):
            sys.exit(f"{server.target}, {path}: status {answer.status}\n{server.errors.read_text()}")
        return answer.body

    def _save(self, server: Server, headers: dict[str, str], version: int) -> bytes:
        """Save the first contact, whose box is ticked when the version is even: at first it is odd."""
        form = self.form | {"version": str(version)}
        if version % 2:
            form.pop("receives_system_notifications")
        return self._post(server, f"/contacts/{self.contacts[0][0]}/edit", headers, [*form.items()])

    def _save_bare(self, version: int) -> None:
        with self.sql.transaction():
            values = [version % 2 == 0, self.account_id, self.contacts[0][0], version]
            self.sql.execute(UPDATE, values, prepare=True)

    def _delete(self, server: Server) -> None:
        ids = [("id", str(contact[0])) for contact in self.contacts]
        self._post(server, "/contacts/delete", SHOWN, [("csrf_token", self.form["csrf_token"]), *ids])

    def _delete_bare(self) -> None:
        with self.sql.transaction():
            self.sql.execute(LOCK, [self.account_id], prepare=True)
            self.sql.execute(DELETE, [self.account_id, [contact[0] for contact in self.contacts]], prepare=True)


def timed(way: Callable[[], object]) -> float:
    """Return how many milliseconds it takes."""
    begin = time.perf_counter()
    way()
    return 1000 * (time.perf_counter() - begin)


def software(sql: psycopg.Connection) -> str:
    """Say what was measured with."""
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    wrk = re.findall(r"[0-9]+\.[0-9.]+", wrk)[0]
    postgres = sql.execute("SHOW server_version").fetchone()[0].split()[0]
    names = ("gunicorn", "Flask", "SQLAlchemy", "psycopg", "Jinja2", "Django", "Flask-Admin")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"PostgreSQL {postgres}, wrk {wrk}, {versions}; load before: {os.getloadavg()[0]:.1f}."


def spread(values: list[float]) -> str:
    """Say the median of some ratios, and that of each round."""
    return f"{statistics.median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Return round by round how many times the base a value is."""
    return [value / of for value, of in zip(values, base, strict=True)]


def tables(bench: Bench) -> Iterator[str]:
    """Give the lines of what was measured."""
    limit = {page.name: page.rates for page in bench.candidates[0].pages}
    columns = ["p50 at 1", "p99 at 1", f"p50 at {BUSY}", f"p99 at {BUSY}", "web", "PostgreSQL"]
    yield f"| | page | requests/s | to the limit | {' | '.join(columns)} | bytes | compressed |"
    yield "| --- " * (6 + len(columns)) + "|"
    pages = [(candidate, page) for candidate in bench.candidates for page in candidate.pages]
    for candidate, page in pages:
        ratio = spread(ratios(page.rates, limit[page.limit])) if page.limit else ""
        times = " | ".join(f"{statistics.median(page.times[column]):.1f} ms" for column in columns)
        compressed = f"{page.compressed:,}" if page.compressed else ""
        rate = f"{statistics.median(page.rates):.0f}"
        yield f"| {candidate.name} | {page.name} | {rate} | {ratio} | {times} | {page.size:,} | {compressed} |"
    broken = [f"{candidate.name}, {page.name}: {page.broken}" for candidate, page in pages if page.broken]
    yield f"\nConnections that broke under load: {'; '.join(broken) or 'none'}.\n"
    yield "| one after the other | | times | p50 | p99 | p50 to the transaction | p50 to the limit |"
    yield "| --- " * 7 + "|"
    medians = {key: [percentile(took, 0.5) for took in rounds] for key, rounds in bench.changes.items()}
    order = product((SAVE, SAVE_SHOWN, DELETE_ALL), ("transaction", "limit", BOUND, "console"))
    for what, who in (key for key in order if key in bench.changes):
        rounds = bench.changes[what, who]
        p50, p99 = medians[what, who], statistics.median(percentile(took, 0.99) for took in rounds)
        bases = [medians[DELETE_ALL if what == DELETE_ALL else SAVE, "transaction"], medians.get((what, "limit"))]
        cells = [spread(ratios(p50, base)) if base and who not in ("transaction", "limit") else "" for base in bases]
        times = f"{sum(map(len, rounds))} | {statistics.median(p50):.2f} ms | {p99:.2f} ms"
        yield f"| {what} | {who} | {times} | {' | '.join(cells)} |"
    yield ""
    yield "| | memory of a worker, PSS | to bare Flask | RSS | to bare Flask | start to first answer |"
    yield "| --- " * 6 + "|"
    for candidate in bench.candidates:
        cells = []
        for sizes, bare in zip(
            zip(*candidate.memory, strict=True), zip(*bench.candidates[-1].memory, strict=True), strict=True
        ):
            cells += [f"{statistics.median(sizes):.0f} MiB", spread(ratios([*sizes], [*bare]))]
        yield f"| {candidate.name} | {' | '.join(cells)} | {statistics.median(candidate.starts):.2f} s |"
    yield ""
    yield from bench.first_load


def plot(bench: Bench) -> None:
    """Draw how many lists a second each candidate gives, as a share of the limit."""
    import matplotlib as mpl  # which takes longer to load than all the rest
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
    """Measure, print, draw, and write it into docs/measurements.md."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.speed", description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    chosen = arguments.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: `apt-get install wrk`.")
    folder = Path(tempfile.mkdtemp(prefix="contacts-bench-")).resolve()
    try:
        bench = Bench(folder, chosen.seconds)
        with_what = software(bench.sql)
        print(with_what, flush=True)
        for number in range(chosen.rounds):
            bench.round(number)
        text = "\n".join([with_what, "", *tables(bench)])
        print(text, NOTES, sep="\n")
        plot(bench)
        document.write("speed", text)
    finally:
        kill(processes(folder / "data"))
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
