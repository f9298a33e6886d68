"""Show that every error is a sentence for the person, and nobody's data in the log."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from psycopg.conninfo import conninfo_to_dict

from contacts_app import create_app
from contacts_app.accounts.permissions import public
from contacts_app.accounts.setup import setup_token
from contacts_app.contacts.models import Contact
from contacts_app.core import db
from contacts_app.core.db import all_accounts
from contacts_app.web import errors
from tests.conftest import HTMX, PASSWORD, ROBOT, Team, answers, free_port, wait_for
from tests.pages.accounts.test_views import log_on

SECRETS = ["Boom Personal", "8613800138111", "138 0013 8111", "boom.personal@example.com", "hunter2", "robot-secret"]
CONTACT = {
    "name": SECRETS[0],
    "mobile": SECRETS[2],
    "email": SECRETS[3],
    "dingtalk_url": f"{ROBOT}robot-secret",
    "receives_system_notifications": "y",
}


def shows_no_internals(text: str) -> bool:
    return not any(word in text for word in ("Traceback", "psycopg", "sqlalchemy", "/contacts_app/", "Werkzeug"))


@contextmanager
def relay(port: int, target: dict[str, str]) -> Iterator[None]:
    """Serve at `port` the database that `target` describes, until the end; connections end with it."""
    ends: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            host, target_port = target.get("host", "127.0.0.1"), int(target.get("port", 5432))
            if host.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{host}/.s.PGSQL.{target_port}")
            else:
                server = socket.create_connection((host, target_port))
            ends.extend((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for end in (listener, *ends):
            shut(end)


def shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def test_a_database_that_is_away_is_503_until_it_is_back(
    team: Team, settings: dict[str, str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "RESTART_SECONDS", 0.1)
    port, target = free_port(), {k: str(v) for k, v in conninfo_to_dict(database_url).items()}
    parts = {k: v for k, v in target.items() if k not in ("host", "port")}
    query = urlencode(parts | {"host": "127.0.0.1", "port": port, "sslmode": "disable"})
    app = create_app(settings | {"DATABASE_URL": f"postgresql:///?{query}"})
    client = app.test_client()
    client.set_cookie("console", team.cookie)

    def check_away() -> None:
        for path in ("/contacts", "/contacts/new", "/nowhere", "/logon"):
            for headers in ({}, HTMX):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 503, path
                assert int(answer.headers["Retry-After"]) > 0
                assert "Nothing was saved. Try again in a moment." in answer.text
                assert shows_no_internals(answer.text)
        answer = client.post("/contacts/new", data=CONTACT | {"csrf_token": team.csrf_token}, headers=HTMX)
        assert (answer.status_code, answer.headers["HX-Retarget"]) == (503, "#dialog-messages")
        assert client.get("/healthz").status_code == 503

    check_away()
    for _ in range(2):
        with relay(port, target):
            assert client.get("/contacts").status_code == 200
            assert client.get("/healthz").status_code == 200
        check_away()
    assert team.contacts() == []


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
def test_a_full_disk_is_507_with_a_sentence(
    team: Team, monkeypatch: pytest.MonkeyPatch, headers: dict[str, Any]
) -> None:
    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file: hunter2"))

    monkeypatch.setattr(Contact, "next_id", fail)
    answer = team.post("/contacts/new", CONTACT, **headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (507, "5")
    assert "The disk of the database is full" in answer.text
    assert "Nothing was saved. Tell your administrator to make room, then try again." in answer.text
    assert shows_no_internals(answer.text)
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/logon", 503),
        ("POST", "/logoff", 503),
        ("GET", "/setup?token={link}", 503),
        ("POST", "/setup?token={link}", 503),
        ("GET", "/setup?token=guess", 404),
        ("GET", "/healthz", 503),
    ],
)
def test_who_is_logged_on_is_informed_of_a_database_that_is_away_on_public_pages_too(
    team: Team, settings: dict[str, str], method: str, path: str, status: int, headers: dict[str, str]
) -> None:
    app = create_app(settings | {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"})
    client = app.test_client()
    client.set_cookie("console", team.cookie)
    with app.app_context(), all_accounts():
        path = path.format(link=setup_token())
    data = {"email": "ann@example.com", "password": "hunter2-secret", "account": "A", "csrf_token": team.csrf_token}
    answer = client.open(path, method=method, data=data if method == "POST" else None, headers=headers)
    assert answer.status_code == status
    assert shows_no_internals(answer.text)


def test_the_log_on_page_says_that_the_database_is_away(settings: dict[str, str]) -> None:
    app = create_app(settings | {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"})
    answer = log_on(app.test_client(), "ann@example.com", "hunter2-secret")
    assert answer.status_code == 503
    assert "hunter2-secret" not in answer.text


def test_a_database_that_takes_no_changes_still_shows_who_is_to_be_called(
    team: Team, settings: dict[str, str], database_url: str
) -> None:
    team.add("Ann")
    team.sql.execute("UPDATE sessions SET seen_at = now() - interval '1 hour' WHERE user_id = %s", [team.user_id])
    read_only = "&options=-c%20default_transaction_read_only%3Don"
    app = create_app(settings | {"DATABASE_URL": database_url + read_only})
    client = app.test_client()
    client.set_cookie("console", team.cookie)
    shown = client.get("/contacts")
    assert shown.status_code == 200
    assert "Ann" in shown.text
    form = CONTACT | {"csrf_token": team.csrf_token}
    for answer in (client.post("/contacts/new", data=form), log_on(app.test_client(), team.email, PASSWORD)):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "The database does not accept changes at the moment" in answer.text
        assert "Nothing was saved." in answer.text
        assert shows_no_internals(answer.text)
    assert len(team.contacts()) == 1


def test_a_lock_that_another_keeps_becomes_an_answer(team: Team, settings: dict[str, str], database_url: str) -> None:
    app = create_app(settings | {"DATABASE_URL": database_url + "&options=-c%20lock_timeout%3D50ms"})
    client = app.test_client()
    client.set_cookie("console", team.cookie)
    with team.sql.transaction():
        team.sql.execute("SELECT FROM accounts WHERE id = %s FOR UPDATE", [team.account_id])
        answer = client.post("/contacts/new", data=CONTACT | {"csrf_token": team.csrf_token})
        assert answer.status_code == 409
        assert "Nothing was saved. Try again." in answer.text
    assert team.contacts() == []
    assert team.post("/contacts/new", CONTACT).status_code == 303


@pytest.fixture
def surprise(team: Team) -> Iterator[str]:
    """Have the database refuse this team's rows by a constraint that no form knows."""
    name = f"surprise_{team.account_id}"
    team.sql.execute(
        f"ALTER TABLE contacts ADD CONSTRAINT {name} CHECK (account_id <> {team.account_id} OR name NOT LIKE 'Boom%%')"
    )
    yield name
    team.sql.execute(f"ALTER TABLE contacts DROP CONSTRAINT {name}")


@pytest.mark.parametrize("htmx", [False, True])
def test_an_unexpected_refusal_is_a_sentence_and_its_log_holds_no_personal_data(
    team: Team, surprise: str, htmx: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = team.post("/contacts/new?q=boom.personal@example.com", CONTACT, htmx=htmx, Referer="http://x/?q=hunter2")
    assert answer.status_code == 500
    assert "Nothing was saved. Try again, and tell your administrator if it happens again." in answer.text
    assert shows_no_internals(answer.text)
    written = caplog.text + "".join(capfd.readouterr())
    assert surprise in written, "the log names what went wrong"
    assert "contacts.new" in written, "and where"
    for secret in SECRETS:
        assert secret not in written
    assert team.contacts() == []
    assert team.get("/contacts").status_code == 200


def test_an_unexpected_exception_is_a_sentence_and_its_words_are_not_logged(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture, team: Team
) -> None:
    app = create_app(settings)

    @app.get("/fails")
    @public
    def fails() -> str:
        raise ValueError(f"no good value: {SECRETS[3]}")

    client = app.test_client()
    client.set_cookie("console", team.cookie)
    for headers in ({}, HTMX):
        answer = client.get("/fails?q=hunter2", headers=headers)
        assert answer.status_code == 500
        assert "Something went wrong here" in answer.text or headers
        assert SECRETS[3] not in answer.text
        assert shows_no_internals(answer.text)
    assert "ValueError" in caplog.text
    assert "test_errors.py" in caplog.text
    assert not any(secret in caplog.text for secret in SECRETS)


def test_a_known_refusal_logs_nothing(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        answer = team.post("/contacts/new", CONTACT)
    assert answer.status_code == 422
    assert not any(secret in caplog.text for secret in SECRETS)


@pytest.mark.parametrize("status", sorted(errors.TEXTS))
def test_every_error_has_a_title_and_a_sentence_with_what_to_do(status: int) -> None:
    title, sentence = errors.TEXTS[status]
    assert title[0].isupper()
    assert not title.endswith(".")
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/nowhere", 404, "The address is wrong, or what it led to has been deleted."),
        ("GET", "/contacts/0/edit", 404, "somebody has deleted it meanwhile"),
        ("GET", "/contacts/x/edit", 404, "The address is wrong"),
        ("GET", "/contacts?page=2", 404, "The list has no page 2."),
        ("GET", "/contacts?field=age", 400, "Contacts can be searched by"),
        ("GET", "/contacts?sort=age", 400, "Contacts can be sorted by"),
        ("GET", "/contacts?q=%00", 400, "cannot be searched for"),
        ("PUT", "/contacts", 405, "use the buttons of the page"),
        ("DELETE", "/contacts/1/edit", 405, "use the buttons of the page"),
        ("POST", "/contacts/new", 400, "Reload the page and try again."),
    ],
)
def test_an_error_says_what_happened(team: Team, method: str, path: str, status: int, sentence: str) -> None:
    for headers in ({}, HTMX):
        answer = team.client.open(path, method=method, headers=headers)
        assert answer.status_code == status
        assert sentence in answer.text
        assert shows_no_internals(answer.text)
    if status == 405:
        assert "GET" in answer.headers["Allow"]


@pytest.fixture(scope="module")
def served(
    app: Flask, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Path]]:
    """Return the port of a console as production serves it and the file that it logs to."""
    port, log = free_port(), tmp_path_factory.mktemp("served") / "log"
    environ = os.environ | settings | {"PORT": str(port), "HOST": "127.0.0.1", "WORKERS": "1"}
    command = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, what="gunicorn")
        yield port, log
    finally:
        process.terminate()
        process.wait()


def logged(log: Path, last: str) -> str:
    """Return what the server has logged as soon as `last` is in it."""
    wait_for(lambda: last in log.read_text(), what=f"{last} in the log")
    return log.read_text()


def test_the_servers_log_has_the_path_and_no_query_no_form_no_cookie(
    served: tuple[int, Path], team: Team, app: Flask
) -> None:
    port, log = served
    with app.app_context(), all_accounts():
        link = setup_token()
    values = CONTACT | {"csrf_token": team.csrf_token}
    form = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": "hunter2", "Referer": "http://x/hunter2"}
    for method, path, data in (
        ("GET", f"/setup?token={link}", {}),
        ("GET", "/contacts?q=boom.personal@example.com", {}),
        ("POST", "/contacts/new", values),
        ("POST", "/logon?next=hunter2", {"email": SECRETS[3], "password": "hunter2"}),
        ("GET", "/the-end", {}),
    ):
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(method, path, urlencode(data), form | {"Cookie": f"console={team.cookie}"})
        connection.getresponse().read()
        connection.close()
    written = logged(log, "/the-end")
    for part in (" GET /setup 303 ", " GET /contacts 200 ", " POST /contacts/new 303 ", " POST /logon 400 "):
        assert part in written
    for secret in (*SECRETS, link, team.cookie, team.csrf_token, "next", "?"):
        assert secret not in written


def raw(port: int, request: bytes) -> bytes:
    """Send `request` as it is and return the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def test_a_visitor_cannot_write_lines_into_the_servers_log(served: tuple[int, Path]) -> None:
    port, log = served
    raw(port, b"GET /a%0a[forged]%20line%0d%1b[31m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    raw(port, b"GET /the-very-end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    written = logged(log, "/the-very-end")
    assert "\n[forged]" not in written
    assert "\x1b" not in written


@pytest.mark.parametrize(
    "request_line",
    [
        *(b"GET /contacts?q=\xff\xfe HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET /%ff%00 HTTP/1.1", b"GET //[ HTTP/1.1"),
        *(b"GET http://[/ HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"TRACE / HTTP/1.1"),
        *(b"GET /" + b"a" * 9000 + b" HTTP/1.1", b"POST /logon HTTP/1.1\r\nContent-Length: -1", b"\x16\x03\x01\x00"),
        *(
            b"POST /logon HTTP/1.1\r\nContent-Length: 99999999999999",
            b"GET / HTTP/1.1\r\nCookie: console=" + b"x" * 7000,
        ),
    ],
)
def test_a_strange_request_on_the_wire_is_no_error_of_the_server(served: tuple[int, Path], request_line: bytes) -> None:
    answer = raw(served[0], request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    for name in (b"Content-Security-Policy: default-src 'none'", b"X-Content-Type-Options: nosniff"):
        assert not answer or name in answer
    assert b"<h1><p>" not in answer
    status = answer.split(b" ", 2)[1:2]
    assert status == [] or int(status[0]) < 500, answer[:400]
    assert shows_no_internals(answer.decode(errors="replace"))


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /contacts?q=hunter2 or so HTTP/1.1", 400),
        (b"GET /contacts?q=hunter2", 400),
        (b"GET /contacts HTTP/1.1\r\nCookie hunter2", 400),
        (b"GET /contacts HTTP/1.1\r\nCookie: hunter2\x01", 400),
        (b"POST /logon?next=hunter2 HTTP/1.1\r\nContent-Length: -1", 400),
        (b"GET /contacts?q=" + b"hunter2" * 1000 + b" HTTP/1.1", 414),
        (b"GET /contacts HTTP/1.1\r\nCookie: " + b"hunter2" * 2000, 431),
    ],
)
def test_what_is_no_request_gets_a_sentence_and_none_of_it_is_logged(
    served: tuple[int, Path], request_line: bytes, status: int
) -> None:
    port, log = served
    answer = raw(port, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert errors.TEXTS[status][1].encode() in answer
    raw(port, b"GET /after-%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % len(request_line))
    assert "hunter2" not in logged(log, f"/after-{len(request_line)}")
