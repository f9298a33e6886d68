"""Show that `gunicorn wsgi:app` serves by itself, and that no worker uses a connection made before the fork."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from contacts_app.config import PROJECT
from contacts_app.ops import embedded
from tests.conftest import answers, free_port, wait_for
from tests.ops.test_embedded import environment, migrated, new_folder, new_server, processes

GUNICORN = [sys.executable, "-m", "gunicorn"]
CONFIGURED = ["--config", "python:contacts_app.ops.gunicorn_conf"]
# The console, having used the database before any fork, with an address that shows a worker's connections.
USED_BEFORE_FORK = """
import os
import sqlalchemy as sa
from contacts_app.pages.accounts.views import public
from contacts_app.core.db import db, all_accounts
from wsgi import app

def backend():
    pid = db.session.scalar(sa.text("SELECT pg_backend_pid()"))
    db.session.remove()
    return pid

with app.app_context(), all_accounts():
    parent = {"process": os.getpid(), "backend": backend()}

@app.get("/connection")
@public
def connection():
    return {"parent": parent, "process": os.getpid(), "backend": backend()}
"""

folder = pytest.fixture(new_folder)
in_use = pytest.fixture(new_server, scope="module")


@contextmanager
def serving(folder: Path, data_dir: Path, *arguments: str, **settings: str) -> Iterator[str]:
    """Run gunicorn and give the address it serves; stop it afterwards and see that it goes quietly."""
    port = free_port()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [*GUNICORN, *arguments, "--bind", f"127.0.0.1:{port}"],
            cwd=PROJECT,
            env=environment(data_dir, PYTHONPATH=str(folder), PORT=str(port), **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, what="gunicorn")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(40) == 0
    assert "Traceback" not in (folder / "output").read_text()


def opened(address: str) -> tuple[int, str]:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.status, answer.read().decode()


def address_of(data_dir: Path) -> str:
    """Return the address of the database in `data_dir` as DATABASE_URL takes it."""
    return "postgresql:///?" + urllib.parse.urlencode(conninfo_to_dict(embedded.url(data_dir)))


def test_gunicorn_alone_serves_on_the_embedded_database_and_stops_it(folder: Path) -> None:
    data_dir = migrated(folder)
    with serving(folder, data_dir, "wsgi:app", "--workers", "2") as address:
        assert opened(f"{address}/healthz") == (200, "ok\n")
        status, page = opened(f"{address}/")
        assert status == 200
        assert "<form" in page
        with psycopg.connect(embedded.url(data_dir)) as connection:
            assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (0,)
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")


def test_gunicorn_alone_serves_on_a_database_that_is_given(folder: Path, in_use: Path) -> None:
    with serving(folder, folder / "data", "wsgi:app", DATABASE_URL=address_of(in_use)) as address:
        assert opened(f"{address}/healthz") == (200, "ok\n")
        assert opened(f"{address}/logon")[0] == 200
    assert {path.name for path in (folder / "data").iterdir()} == {"secret_key", "encryption_key"}


@pytest.mark.parametrize("arguments", [[], ["--preload"], CONFIGURED], ids=["alone", "preload", "configured"])
def test_a_wrong_setting_stops_gunicorn_with_one_line(folder: Path, arguments: list[str]) -> None:
    process = subprocess.Popen(
        [*GUNICORN, *arguments, "wsgi:app", "--bind", f"127.0.0.1:{free_port()}", "--log-level", "critical"],
        cwd=PROJECT,
        env=environment(folder / "data", CONTACT_QUOTA="many"),
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    # Gunicorn would start a worker that cannot work again and again; the second time is the proof.
    while (line := process.stderr.readline()) and len(lines) < 2:
        lines += [line] if "CONTACT_QUOTA" in line else []
        assert "Traceback" not in line
    process.terminate()
    assert process.wait(20) != 0
    assert len(lines) == 1
    assert "CONTACT_QUOTA must be a number from 1 to 1000000, not 'many'." in lines[0]


@pytest.mark.parametrize("arguments", [["--preload", "--workers", "2"], CONFIGURED], ids=["preload", "configured"])
def test_no_connection_is_shared_across_a_fork(folder: Path, in_use: Path, arguments: list[str]) -> None:
    (folder / "used_before_fork.py").write_text(USED_BEFORE_FORK)
    backends: dict[int, set[int]] = {}

    def ask(address: str) -> bool:
        answer = json.loads(opened(f"{address}/connection")[1])
        for each in (answer, answer["parent"]):
            backends.setdefault(each["process"], set()).add(each["backend"])
        return len(backends) == 3

    url = address_of(in_use)
    with serving(folder, folder / "data", *arguments, "used_before_fork:app", DATABASE_URL=url) as address:
        wait_for(lambda: ask(address), what="answers of two workers")
    used = [backend for those in backends.values() for backend in those]
    assert len(used) == len(set(used))


def test_no_worker_takes_all_connections_that_come_at_once(folder: Path, in_use: Path) -> None:
    (folder / "used_before_fork.py").write_text(USED_BEFORE_FORK)

    def workers(address: urllib.parse.SplitResult) -> int:
        """Return how many workers answered 16 connections that came at once."""
        with ExitStack() as stack:
            connections = [HTTPConnection(str(address.hostname), address.port, timeout=20) for _ in range(16)]
            for connection in connections:
                stack.callback(connection.close)
                connection.request("GET", "/connection")
            return len({json.load(connection.getresponse())["process"] for connection in connections})

    with serving(folder, folder / "data", *CONFIGURED, "used_before_fork:app", DATABASE_URL=address_of(in_use)) as url:
        alone = []
        for _ in range(3):  # for a machine that is busy may not wake a worker in time
            alone.append([workers(urllib.parse.urlsplit(url)) for _ in range(40)].count(1))
            if alone[-1] <= 8:
                return
    pytest.fail(f"One worker took all in {alone} of 40 times.")  # about 17 where they do not share


def test_the_former_name_of_the_configuration_sets_the_same(folder: Path) -> None:
    def printed(name: str) -> list[str]:
        command = [*GUNICORN, "--print-config", "--config", f"python:{name}", "wsgi:app"]
        environ = environment(folder / "data")
        found = subprocess.run(command, cwd=PROJECT, env=environ, check=True, capture_output=True, text=True)
        return [line for line in found.stdout.splitlines() if not line.startswith("config ")]

    assert printed("contacts_app.gunicorn_conf") == printed("contacts_app.ops.gunicorn_conf")
