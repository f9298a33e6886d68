"""Give tests a database of their own, made by the migrations, and teams that use the console through it."""

import atexit
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count, cycle
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import uuid4

import psycopg
import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from werkzeug.test import TestResponse

from contacts_app import create_app, migrations
from contacts_app.accounts.models import Session, User
from contacts_app.contacts.models import Contact, decrypted
from contacts_app.core.db import all_accounts, db
from contacts_app.core.encryption import digest
from contacts_app.delivery.channels.registry import KINDS
from contacts_app.ops import embedded
from tests.bench.document import Finding, write_findings

PASSWORD = "correct horse battery"
CSRF_SECRET = "of this session"
ROBOT = "https://oapi.dingtalk.com/robot/send?access_token="
HTMX = {"HX-Request": "true"}
# What stands in no log, whatever a test does: passwords, tokens, cookies, webhooks, signature secrets and numbers.
SECRETS = re.compile(
    rf"{PASSWORD}|{CSRF_SECRET}|eyJ\w{{8}}|token-\d|access_token=\w|Bearer \w|console=\S|SEC[0-9a-f]{{8}}|-of-the-test"
    r"|86138\d{8}"
)
_somebody = User()
_somebody.set_password(PASSWORD)
PASSWORD_HASH = _somebody.password_hash
_numbers = count(1)
_first_port = 10_000 + os.getpid() % 200 * 100  # below those that the kernel gives to whoever connects
_ports = cycle(range(_first_port, _first_port + 100))
T = TypeVar("T")
Share = Callable[[Iterable[T], int], list[T]]
Measured = Callable[[str, str, str], None]
_connections: dict[str, psycopg.Connection] = {}


class Sent(NamedTuple):
    """A statement that PostgreSQL was sent, and the seconds until its answer."""

    statement: str
    seconds: float


@contextmanager
def watched_statements() -> Iterator[list[Sent]]:
    """Yield the list of what the consoles of this process send meanwhile, SQLAlchemy's way or past it."""
    sent: list[Sent] = []
    execute = psycopg.Cursor.execute

    def watched(self: psycopg.Cursor, query: Any, *rest: Any, **options: Any) -> psycopg.Cursor:
        begin = time.perf_counter()
        try:
            return execute(self, query, *rest, **options)
        finally:
            sent.append(Sent(str(query), time.perf_counter() - begin))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", watched)
        yield sent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="take every case, not a share of them, as make chaos does")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what takes minutes, unless it is asked for."""
    is_chaos = collection_path.is_relative_to(Path(__file__).parent / "chaos")
    return True if is_chaos and not config.getoption("chaos") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that are marked as chaos, too; what needs the web server's processes takes long."""
    for item in items:
        if "console" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)
    if not config.getoption("chaos"):
        left_out = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def share(request: pytest.FixtureRequest) -> Share[Any]:
    """Return a function that gives each caller another quarter of what there is, so that all of them have it all."""
    step = 1 if request.config.getoption("chaos") else 4
    return lambda things, number: list(things)[number % step :: step]


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Return a function that prints what a test did and what it saw; `make chaos` writes it into the part it names."""

    def measure(part: str, done: str, seen: str) -> None:
        print(f"\n  {done}: {seen}")
        record_property("measured", [part, done, seen])

    return measure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write into docs/measurements.md what the tests that passed have measured, if every case was asked for."""
    if config.getoption("chaos"):
        write_findings(
            Finding(part, report.nodeid, done, seen)
            for report in terminalreporter.getreports("passed")
            for name, value in report.user_properties
            if name == "measured"
            for part, done, seen in [value]
        )


class Log(logging.Handler):
    """All that was logged in this process since the last test."""

    lines: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


logging.getLogger().addHandler(Log())


@pytest.fixture(autouse=True)
def nothing_secret_is_logged() -> Iterator[None]:
    yield
    lines = Log.lines.copy()
    Log.lines.clear()
    check_logs(lines)


def check_logs(texts: Iterable[str]) -> None:
    """Fail if something secret stands in what was logged."""
    assert [found[0] for text in texts if (found := SECRETS.search(text))] == []


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return a folder for one run of the tests, removed after the database in it has stopped."""
    folder = Path(tempfile.mkdtemp(prefix="contacts-test-"))
    # Registered before embedded.ensure registers its own, so this runs after it.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def new_database(data_dir: Path) -> Callable[[], str]:
    """Return a function that makes an empty database and returns its address.

    The server is the embedded one, or the one that DATABASE_URL names.
    """
    given = os.environ.get("DATABASE_URL")
    if not given:
        embedded.SERVER_SETTINGS["fsync"] = "off"  # nobody needs these databases after the machine's crash
        # One process makes many consoles, each of which keeps up to 20 connections.
        embedded.SERVER_SETTINGS["max_connections"] = "400"
        embedded.ensure(data_dir)
    admin = given or make_conninfo(embedded.url(data_dir), user="postgres", dbname="postgres")

    def make() -> str:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(admin, autocommit=True) as connection:
            owner = connection.execute("SELECT current_user").fetchone()[0] if given else "console"
            connection.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8'")
        parts = conninfo_to_dict(given or embedded.url(data_dir)) | {"dbname": name}
        host = parts.pop("host", "")
        query = "&".join(f"{key}={value}" for key, value in ({"host": host} | parts).items() if value)
        return f"postgresql:///?{query}"

    return make


@pytest.fixture(scope="session")
def database_url(new_database: Callable[[], str]) -> str:
    """Return the address of the database that the tests share; each test has its own accounts in it."""
    return new_database()


@pytest.fixture(scope="session")
def settings(database_url: str, data_dir: Path) -> dict[str, str]:
    """Return the environment that the console under test is started with."""
    return {"DATABASE_URL": database_url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40}


@pytest.fixture(scope="session")
def app(settings: dict[str, str]) -> Flask:
    """Return the console on the migrated database."""
    app = create_app(settings)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    return app


@pytest.fixture
def sql(app: Flask, database_url: str) -> psycopg.Connection:
    """Return a connection past the console, to arrange and to look; each statement commits."""
    # One for all tests of a database: a new one costs more than most tests do with it.
    if database_url not in _connections or _connections[database_url].closed:
        _connections[database_url] = psycopg.connect(database_url, autocommit=True)
        _connections[database_url].execute("SET timezone = 'UTC'")  # a day has 24 hours, as the console has it
    return _connections[database_url]


@dataclass
class Team:
    """An account with one user who is logged on."""

    app: Flask
    sql: psycopg.Connection
    account_id: int
    user_id: int
    email: str
    token: str
    cookie: str
    csrf_token: str
    client: FlaskClient

    def get(self, path: str, htmx: bool = False, **headers: str) -> TestResponse:
        return self.client.get(path, headers=(HTMX if htmx else {}) | headers)

    def post(self, path: str, data: dict[str, Any], htmx: bool = False, **headers: str) -> TestResponse:
        """Post `data` with the token of this session."""
        data = {"csrf_token": self.csrf_token} | data
        return self.client.post(path, data=data, headers=(HTMX if htmx else {}) | headers)

    def add(self, name: str = "Ann", **columns: Any) -> int:
        """Write a contact past the console and return its id."""
        if not columns.keys() & {"dingtalk_url", *(kind.column for kind in KINDS.values())}:
            columns["email"] = f"contact{next(_numbers)}@example.com"
        columns |= {"account_id": self.account_id, "name": name}
        if robot := {key: columns.pop(key) for key in ("dingtalk_url", "dingtalk_secret") if key in columns}:
            with self.app.app_context(), all_accounts():
                contact = Contact(account_id=self.account_id, id=columns.get("id") or Contact.next_id(), **robot)
                columns |= {"id": contact.id, "dingtalk_url_hash": contact.dingtalk_url_hash}
                columns |= {f"{key}_encrypted": getattr(contact, f"{key}_encrypted") for key in robot}
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        query = f"INSERT INTO contacts ({names}) VALUES ({marks}) RETURNING id"
        return self.sql.execute(query, list(columns.values())).fetchone()[0]

    def contacts(self) -> list[dict[str, Any]]:
        """Return this account's contacts as they stand in the table, oldest first."""
        cursor = self.sql.cursor(row_factory=psycopg.rows.dict_row)
        query = "SELECT * FROM contacts WHERE account_id = %s ORDER BY id"
        rows = cursor.execute(query, [self.account_id]).fetchall()
        with self.app.app_context(), all_accounts():
            for row in rows:
                for key in ("dingtalk_url", "dingtalk_secret"):
                    row[key] = decrypted(row.pop(f"{key}_encrypted"), row["account_id"], row["id"], key)
        return rows

    def contact(self, identity: int) -> dict[str, Any] | None:
        return next((contact for contact in self.contacts() if contact["id"] == identity), None)


@pytest.fixture
def new_team(app: Flask, sql: psycopg.Connection) -> Callable[..., Team]:
    """Return a function that makes a team."""

    def make(quota: int = 100) -> Team:
        number = next(_numbers)
        email, token = f"user{number}@example.com", f"token-{number}"
        account_id = sql.execute(
            "INSERT INTO accounts (name, contact_quota) VALUES (%s, %s) RETURNING id", [f"Team {number}", quota]
        ).fetchone()[0]
        user_id = sql.execute(
            "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, %s) RETURNING id",
            [account_id, email, PASSWORD_HASH],
        ).fetchone()[0]
        sql.execute(
            f"INSERT INTO {Session.__tablename__} (token_hash, account_id, user_id) VALUES (%s, %s, %s)",
            [digest(token), account_id, user_id],
        )
        signer = cookie_signer(app)
        cookie = signer.dumps({"token": token, "csrf_token": CSRF_SECRET, "_permanent": True})
        csrf_token = URLSafeTimedSerializer(app.secret_key, salt="wtf-csrf-token").dumps(CSRF_SECRET)
        client = app.test_client()
        client.set_cookie("console", cookie)
        return Team(app, sql, account_id, user_id, email, token, cookie, csrf_token, client)

    return make


@pytest.fixture
def team(new_team: Callable[..., Team]) -> Team:
    """Return a team with no contacts."""
    return new_team()


@pytest.fixture
def other_team(new_team: Callable[..., Team]) -> Team:
    """Return another team, whose contacts nobody of `team` may see."""
    return new_team()


def cookie_signer(app: Flask) -> URLSafeTimedSerializer:
    """Return what signs the cookie of a console's sessions."""
    interface = app.session_interface
    assert isinstance(interface, SecureCookieSessionInterface)
    return interface.get_signing_serializer(app)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens at, and that no other process of the tests is given."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            break
    return port


def wait_for(condition: Callable[[], Any], seconds: float = 60, what: str = "the condition") -> Any:
    """Return what `condition` returns as soon as that is true; fail if it never is."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.1)  # what is waited for needs the processor, too
    return result


def answers(port: int) -> bool:
    """Return whether something listens at `port` of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def console(app: Flask, settings: dict[str, str]) -> Iterator[str]:
    """Return the address of the console as production serves it: gunicorn with its configuration."""
    port = free_port()
    environ = os.environ | settings | {"PORT": str(port), "HOST": "127.0.0.1"}
    command = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, what="gunicorn")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


ALL_CHANNELS = {
    "SMTP_HOST": "localhost",
    "SMTP_FROM": "console@example.com",
    "SMS_PROVIDER": "twilio",
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "x",
    "TWILIO_FROM": "+15005550006",
}


@pytest.fixture(scope="session")
def full_app(app: Flask, settings: dict[str, str]) -> Iterator[Flask]:
    """Return the console with every channel set up; it sends nothing by itself."""
    full = create_app(settings | ALL_CHANNELS)
    yield full
    with full.app_context(), all_accounts():
        db.engine.dispose()


@pytest.fixture
def full_team(full_app: Flask, new_team: Callable[..., Team]) -> Team:
    """Return a team whose console has every channel set up."""
    team = new_team()
    client = full_app.test_client()
    client.set_cookie("console", team.cookie)
    return replace(team, app=full_app, client=client)


@pytest.fixture
def no_worker(sql: psycopg.Connection) -> None:
    """Have no delivery worker running."""
    sql.execute("DELETE FROM workers")


@pytest.fixture
def worker(sql: psycopg.Connection) -> Iterator[None]:
    """Have a delivery worker seen just now."""
    identity = uuid4()
    sql.execute("INSERT INTO workers (id, host) VALUES (%s, 'here')", [identity])
    yield
    sql.execute("DELETE FROM workers WHERE id = %s", [identity])
