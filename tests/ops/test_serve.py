"""Show that the console starts with one command, stops cleanly, survives `kill -9` and says why it cannot start."""

import http.client
import os
import re
import signal
import socket
import socketserver
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.cookiejar import CookieJar
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from contacts_app.config import PROJECT
from contacts_app.ops import embedded
from tests.conftest import PASSWORD, free_port, wait_for
from tests.ops.test_embedded import (
    FLASK,
    environment,
    flask,
    is_ready,
    kill,
    let_go,
    migrated,
    new_folder,
    new_server,
    postmasters,
    processes,
    use,
)

folder = pytest.fixture(new_folder)
_numbers = count(1)
in_use = pytest.fixture(new_server, scope="module")


class Console:
    """A console started by the command behind `make run`, or by another."""

    def __init__(self, data_dir: Path, command: Sequence[str] = (*FLASK, "serve"), **settings: str) -> None:
        self.data_dir = data_dir
        self.port = int(settings.setdefault("PORT", str(free_port())))
        self.address = f"http://127.0.0.1:{self.port}"
        self.output = data_dir.parent / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment(data_dir, **settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait(self) -> "Console":
        """Return when the console says that it is ready."""
        wait_for(lambda: "is ready" in self.output.read_text() or self.process.poll() is not None, what="the console")
        assert self.process.poll() is None, self.printed()
        return self

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/healthz", timeout=10) as answer:
                return answer.status == 200
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def gunicorn(self) -> list[psutil.Process]:
        """Return gunicorn's first process, then its workers."""
        children = psutil.Process(self.process.pid).children()
        (server,) = (child for child in children if "gunicorn" in child.cmdline())
        return [server, *server.children()]

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(embedded.url(self.data_dir), autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_make_run_ends_with_the_address_and_stops_everything(folder: Path, number: int) -> None:
    console = Console(migrated(folder), ("make", "--no-print-directory", "run")).wait()
    assert console.printed()[-1] == f"The console is ready: {console.address}/"
    assert console.is_healthy()
    if number == signal.SIGINT:
        os.killpg(console.process.pid, number)  # as Ctrl-C does
    else:
        console.process.send_signal(number)
    console.process.wait(40)
    wait_for(lambda: processes(console.data_dir) == [], what="the end of every process")


def _page(browser: urllib.request.OpenerDirector, address: str, **fields: str) -> tuple[str, str]:
    """Open `address`, or post `fields` to it, and return where that led and what stands there."""
    data = urllib.parse.urlencode(fields).encode() if fields else None
    with browser.open(address, data=data, timeout=20) as answer:
        return answer.geturl(), answer.read().decode()


def test_a_new_installation_can_be_set_up_once_by_the_link_that_the_start_prints(folder: Path) -> None:
    console = Console(folder / "data").wait()
    link, ready = console.printed()
    assert ready == f"The console is ready: {console.address}/"
    link = link.removeprefix("Set up the first account (this link works once): ")
    assert link.startswith(f"{console.address}/setup?")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    token = re.search(r'name="csrf_token" value="([^"]+)"', _page(browser, link)[1])[1]
    fields = {"csrf_token": token, "account": "Operations", "email": "ann@example.com", "password": PASSWORD}
    where, page = _page(browser, link, **fields)
    assert where.startswith(f"{console.address}/contacts")
    assert "Contact Management" in page
    stranger = urllib.request.build_opener()
    assert _page(stranger, link)[0].startswith(f"{console.address}/logon")
    assert console.stop() == 0
    console = Console(folder / "data").wait()
    assert console.printed() == [f"The console is ready: {console.address}/"]
    assert console.sql("SELECT name FROM accounts") == [("Operations",)]
    assert console.stop() == 0
    assert "not properly shut down" not in (folder / "data" / "postgres.log").read_text()


def stops_cleanly(console: Console, number: signal.Signals) -> None:
    """Require that the signal ends the console, everything that it has started, and the database as it should."""
    assert console.stop(number) == 0
    wait_for(lambda: processes(console.data_dir) == [], what="the end of every process")
    assert "Traceback" not in console.output.read_text()
    assert (console.data_dir / "postgres.log").read_text().endswith("database system is shut down\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # SIGTERM ends the consoles that were killed below
def test_a_signal_stops_web_server_and_database_cleanly(folder: Path, number: signal.Signals) -> None:
    console = Console(migrated(folder)).wait()
    assert console.is_healthy()
    stops_cleanly(console, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    console = Console(migrated(folder))
    wait_for((console.data_dir / "postgres" / "postmaster.pid").exists, what="the database's start")
    console.stop(number)
    wait_for(lambda: processes(console.data_dir) == [], what="the end of every process")
    assert "Traceback" not in console.output.read_text()


def _kill_console(console: Console) -> None:
    kill([psutil.Process(console.process.pid)])


def _kill_gunicorn(console: Console) -> None:
    kill(console.gunicorn()[:1])


def _kill_console_and_gunicorn(console: Console) -> None:
    kill([psutil.Process(console.process.pid), *console.gunicorn()])


def _kill_worker(console: Console) -> None:
    kill([child for child in psutil.Process(console.process.pid).children() if "deliver" in child.cmdline()])


def _kill_postmaster(console: Console) -> None:
    kill(postmasters(console.data_dir))


def _kill_all(console: Console) -> None:
    kill(processes(console.data_dir))


@pytest.mark.parametrize(
    "kills",
    [
        [_kill_gunicorn, _kill_worker, _kill_postmaster, _kill_all],
        pytest.param([_kill_console, _kill_console_and_gunicorn], marks=pytest.mark.chaos),
    ],
    ids=["what the console has started", "the console"],
)
def test_what_was_confirmed_survives_kill_9(folder: Path, kills: list[Callable[[Console], None]]) -> None:
    console = Console(migrated(folder)).wait()
    assert console.is_healthy()
    confirmed = []
    for kill_some in kills:
        confirmed.append((kill_some.__name__,))
        console.sql(f"INSERT INTO accounts (name, contact_quota) VALUES ('{kill_some.__name__}', 100)")
        kill_some(console)
        if console.process.poll() is not None:
            console = Console(console.data_dir, PORT=str(console.port)).wait()
        wait_for(console.is_healthy, 40, f"an answer after {kill_some.__name__}")
        assert console.sql("SELECT name FROM accounts ORDER BY id") == confirmed
        assert len(postmasters(console.data_dir)) == 1
    with psycopg.connect(embedded.url(console.data_dir), autocommit=True) as connection:
        since = connection.execute("SELECT now()").fetchone()
        is_seen = "SELECT FROM workers WHERE seen_at > %s"
        wait_for(lambda: connection.execute(is_seen, since).rowcount, 40, "a delivery worker")
    stops_cleanly(console, signal.SIGTERM)


def refusal(data_dir: Path, command: str = "serve", **settings: str) -> str:
    """Return the one line with which the console refuses to start."""
    settings.setdefault("PORT", str(free_port()))
    result = flask(data_dir, command, **settings)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("alert-contacts: ")
    return line.removeprefix("alert-contacts: ")


def test_a_data_folder_or_a_port_in_use_is_named(folder: Path) -> None:
    console = Console(migrated(folder)).wait()
    assert re.match(rf"DATA_DIR {console.data_dir} is in use by another console", refusal(console.data_dir))
    port = str(console.port)
    line = refusal(folder / "other", PORT=port)
    assert re.match(rf"PORT {port} on HOST 127.0.0.1 cannot be used: address already in use", line)
    assert console.is_healthy()
    assert console.stop() == 0
    wait_for(lambda: processes(folder / "other") == [], what="the end of every process")


def test_a_host_that_is_not_this_machine_is_named(folder: Path) -> None:
    assert "HOST 192.0.2.1 cannot be used" in refusal(folder / "data", HOST="192.0.2.1")


@pytest.mark.parametrize("key", ["", "k" * 40], ids=["made", "given"])
def test_a_data_folder_that_cannot_be_written_to_is_named(folder: Path, key: str) -> None:
    (folder / "file").touch()
    assert re.match(rf"DATA_DIR\b.*{folder}/file", refusal(folder / "file", **({"SECRET_KEY": key} if key else {})))


def test_a_data_folder_of_somebody_else_is_named(folder: Path) -> None:
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o555)
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # Root without the privilege to pass over permissions meets them as an ordinary user does.
        os.chown(data_dir, 65534, 65534)
        before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    result = flask(data_dir, "serve", before=before, PORT=str(free_port()))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(rf"alert-contacts: DATA_DIR\b.*{data_dir}.*Permission denied", line)


def test_a_database_that_is_out_of_reach_is_named_without_its_password(folder: Path) -> None:
    url = f"postgresql://console:s3cret@127.0.0.1:{free_port()}/contacts"
    line = refusal(folder / "data", DATABASE_URL=url)
    assert line.startswith("DATABASE_URL: the database cannot be reached")
    assert "s3cret" not in line


def _as_tcp_address(url: str, port: int) -> str:
    parts = conninfo_to_dict(url)
    return f"postgresql://{parts['user']}:s3cret@127.0.0.1:{port}/{parts['dbname']}"


@contextmanager
def _server_that_says_it_is(version: bytes, url: str) -> Iterator[int]:
    """Pass all bytes to the real server and back, only the version that it reports is another one."""
    target = conninfo_to_dict(url)

    class Passing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(f"{target['host']}/.s.PGSQL.{target.get('port', 5432)}")
                back = threading.Thread(target=self.copy, args=(server, self.request, True))
                back.start()
                self.copy(self.request, server, False)
                back.join()

        def copy(self, source: socket.socket, sink: socket.socket, changes: bool) -> None:
            while data := source.recv(65536):
                if changes:
                    data = re.sub(rb"(?<=server_version\0)[0-9.]{4}", version, data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Passing) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,)).start()
        yield proxy.server_address[1]
        proxy.shutdown()


def test_a_database_that_is_too_old_is_refused_with_both_versions(folder: Path, in_use: Path) -> None:
    url = embedded.url(in_use)
    with _server_that_says_it_is(b"14.9", url) as port:
        line = refusal(folder / "data", DATABASE_URL=_as_tcp_address(url, port))
    assert line == "DATABASE_URL: the server is PostgreSQL 14; the console needs 15 or later."
    with _server_that_says_it_is(b"15.1", url) as port:
        key = (in_use / "encryption_key").read_text()
        result = flask(folder / "data", "migrate", DATABASE_URL=_as_tcp_address(url, port), ENCRYPTION_KEYS=key)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arrange", "connect", "expected"),
    [
        ("CREATE DATABASE {0} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc", "", "UTF8"),
        ("CREATE DATABASE {0}; CREATE ROLE {0} LOGIN", "user={0}", "permission denied"),
        ("SELECT 1", "", "does not exist"),
    ],
    ids=["encoding", "permission", "missing"],
)
def test_a_database_that_cannot_hold_the_console_is_refused(
    folder: Path, in_use: Path, arrange: str, connect: str, expected: str
) -> None:
    parts = conninfo_to_dict(embedded.url(in_use))
    name = f"unfit_{next(_numbers)}"
    with psycopg.connect(host=parts["host"], user="postgres", dbname="postgres", autocommit=True) as connection:
        for statement in arrange.format(name).split(";"):
            connection.execute(statement)
    query = urllib.parse.urlencode({"host": parts["host"], "user": "postgres", "dbname": name})
    url = f"postgresql:///?{query}&{connect.format(name)}".rstrip("&")
    line = refusal(folder / "data", DATABASE_URL=url)
    assert line.startswith("DATABASE_URL")
    assert expected in line


def test_a_database_of_a_newer_console_is_refused(folder: Path) -> None:
    data_dir = migrated(folder)
    user = use(data_dir)
    assert is_ready(user)
    with psycopg.connect(embedded.url(data_dir)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    let_go(user)
    assert "version of the console" in refusal(data_dir)
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")
