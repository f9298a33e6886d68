"""Show that no visitor who is slow, silent or many keeps others waiting, and that HTTP is spoken as it was."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from urllib.parse import urlencode, urlparse

import psutil
import psycopg
import pytest
from flask import Flask

from contacts_app.config import PROJECT
from contacts_app.ops import front
from contacts_app.ops.places import ALERT_PATIENCE
from contacts_app.ops.visits import Visit
from contacts_app.web.machines import ALERT_BYTES, API
from tests.api.test_alerts import add_integration
from tests.conftest import CSRF_SECRET, PASSWORD, Measured, Team, answers, cookie_signer, free_port, wait_for
from tests.pages.groups.test_views import add_group

FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
ALERT = b"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer "
LOGON = b"GET /logon HTTP/1.1\r\nHost: x\r\n"
(STYLES,) = (PROJECT / "static" / "vendor").glob("bootstrap-*.css")
FILE = f"GET /static/vendor/{STYLES.name} HTTP/1.1\r\nHost: x\r\n".encode()
# What each visitor sends first, and then nothing, taking no answer either.
BEGINNINGS = {
    "nothing": b"",
    "half a head": LOGON + b"X: ",
    "half a body": b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 900\r\n\r\nemail=",
    "half an alert": ALERT + b"token\r\nContent-Length: 900\r\n\r\n{",
    "half of the chunks": ALERT + b"token\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    # More than the kernel keeps for one that takes nothing (4 MB), or no thread would have to wait for it.
    "all of it, and take nothing": 40 * (FILE + b"\r\n"),
}
VISITORS = 200
_numbers = count(1)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = CHUNKED + b"1;a=b\r\nx\r\n0C\r\nGET / HTTP/1\r\n0\r\nT: x\r\n\r\n"
# Where two would see the next request at different places.
NO_CHUNKS = [
    b"1\r\nxXX0\r\n\r\n",
    b"1;a\rb\r\nx\r\n0\r\n\r\n",
    b"1;a\nb\r\nx\r\n0\r\n\r\n",
    b"1 \r\nx\r\n0\r\n\r\n",
    b"+1\r\nx\r\n0\r\n\r\n",
    b"0x1\r\nx\r\n0\r\n\r\n",
]


def visitor(port: int, beginning: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    """Connect, send that, and read nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    sock.settimeout(40)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    sock.sendall(beginning)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Return all that comes until the console closes."""
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, float]:
    """Return the status and the text of an answer over a new connection, and how many seconds it took."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, time.monotonic() - began


def list_of(team: Team, port: int) -> float:
    """Return how many seconds the team waits for its list."""
    status, text, seconds = ask(port, "GET", "/contacts", Cookie=f"console={team.cookie}")
    assert (status, "Contact Management" in text) == (200, True)
    return seconds


@pytest.fixture(scope="module")
def port(console: str) -> int:
    return urlparse(console).port or 0


@contextmanager
def served(settings: dict[str, str], *arguments: str, **more: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Yield the port of a console that gunicorn serves, and its process."""
    port = free_port()
    environ = os.environ | settings | {"PORT": str(port), "HOST": "127.0.0.1", "WORKERS": "1"} | more
    command = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", *arguments]
    process = subprocess.Popen([*command, "wsgi:app"], env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, what="gunicorn")
        yield port, process
    finally:
        process.terminate()
        process.wait(40)


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_200_visitors_who_are_slow_or_silent_leave_others_served_at_once(port: int, team: Team, kind: str) -> None:
    list_of(team, port)
    with ExitStack() as visitors:
        for _ in range(VISITORS):
            visitors.enter_context(visitor(port, BEGINNINGS[kind]))
        assert max(list_of(team, port) for _ in range(10)) < 1


def test_a_head_that_is_not_complete_after_10_seconds_is_answered_408(port: int) -> None:
    began = time.monotonic()
    with (
        visitor(port) as silent,
        visitor(port, BEGINNINGS["half a head"]) as slow,
        visitor(port, LOGON + b"\r\n" + BEGINNINGS["half a head"]) as second,
    ):
        for _ in range(16):  # a byte now and then makes no difference
            time.sleep(0.5)
            slow.sendall(b"x")
        for sock, statuses in ((silent, ["408"]), (slow, ["408"]), (second, ["200", "408"])):
            text = read_all(sock).decode()
            assert re.findall(r"HTTP/1.1 (\d+)", text) == statuses
            assert "It did not arrive completely in time. Try again." in text
            assert 10 <= time.monotonic() - began < 12


@pytest.mark.chaos
def test_a_body_that_is_not_complete_after_30_seconds_is_answered_408(port: int) -> None:
    began = time.monotonic()
    kinds = ["half a body", "half an alert", "half of the chunks"]
    with ExitStack() as visitors:
        for sock in [visitors.enter_context(visitor(port, BEGINNINGS[kind])) for kind in kinds]:
            assert read_all(sock).startswith(b"HTTP/1.1 408 ")
            assert 30 <= time.monotonic() - began < 32


def test_visitors_beyond_the_bound_shut_out_nobody_from_another_address(settings: dict[str, str], team: Team) -> None:
    with served(settings, "--worker-connections", "50") as (port, _), ExitStack() as visitors:
        list_of(team, port)
        kept = visitors.enter_context(visitor(port, b"GET /hea", source="127.0.0.2"))
        many = [visitors.enter_context(visitor(port, BEGINNINGS["half a head"])) for _ in range(300)]
        assert list_of(team, port) < 1  # from the same address, as behind a proxy: the oldest goes
        kept.sendall(b"lthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(kept).startswith(b"HTTP/1.1 200 ")
        text = read_all(many[0]).decode()
        assert text.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 5\r\n" in text


def test_bodies_that_do_not_end_are_held_only_so_far(settings: dict[str, str], team: Team, measured: Measured) -> None:
    """Forty senders of 4 MB each hold less than they would, and one from elsewhere goes on."""
    head = ALERT + b"token\r\nContent-Length: %d\r\n\r\n" % ALERT_BYTES
    with served(settings) as (port, process), ExitStack() as visitors:
        list_of(team, port)
        kept = visitors.enter_context(visitor(port, head + b" " * 100_000, source="127.0.0.2"))
        for _ in range(40):
            sock = visitors.enter_context(visitor(port, head))
            try:
                sock.sendall(b" " * (ALERT_BYTES - 1))
            except OSError:  # the console has closed it already
                continue
        assert list_of(team, port) < 1
        (worker,) = psutil.Process(process.pid).children()
        held = worker.memory_info().rss / 2**20
        assert held < 240, f"{held:.0f} MiB"
        kept.sendall(b" " * (ALERT_BYTES - 100_000))
        assert kept.recv(12) == b"HTTP/1.1 401"
    measured("faults", "40 senders of 4 MB each stop before the last byte", f"a web worker holds {held:.0f} MiB")


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (LOGON + b"\r\n" + LOGON + b"Connection: close\r\n\r\n", [200, 200]),
        (b"HEAD /logon HTTP/1.1\r\nHost: x\r\n\r\n" + LOGON + b"Connection: close\r\n\r\n", [200, 200]),
        (b"GET /logon HTTP/1.0\r\n\r\n", [200]),
        (b"GET /logon HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /logon HTTP/1.0\r\n\r\n", [200, 200]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 3\r\n\r\na=b" + LOGON + b"\r\n", [400, 200]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [411]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", [400]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 70000\r\n\r\n" + b"a" * 70000, [413]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + b"Content-Length: 9999999\r\n\r\n" + b"a" * 5000, [413]),
        (ALERT + b"x\r\nContent-Length: %d\r\n\r\n" % (ALERT_BYTES + 1) + b" " * 5000, [401]),
        (ALERT + b"x\r\nContent-Length: 2\r\n\r\n{}" + LOGON + b"\r\n", [401, 200]),
        (b"POST /logon HTTP/1.1\r\nHost: x\r\n" + FORM + CHUNKS + LOGON + b"\r\n", [411, 200]),
        *((ALERT + b"x\r\n" + CHUNKED + chunks + LOGON + b"\r\n", [400]) for chunks in NO_CHUNKS),
        (b"GET /" + b"a" * 70000, [414]),
        (LOGON + b"X: " + b"a" * 70000, [431]),
        (b"\r\n\r\n", [400]),
        (b"nonsense\r\n\r\n", [400]),
    ],
)  # fmt: skip
def test_requests_are_answered_in_turn_however_they_come(port: int, sent: bytes, statuses: list[int]) -> None:
    """In one piece, and as many pieces as there are bytes at the places where they matter."""
    cuts = {len(sent), *range(1, 200), *range(len(sent) - 200, len(sent))}
    for ends in ([len(sent)], sorted(cut for cut in cuts if 0 < cut <= len(sent))):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begin = 0
            try:
                for end in ends:
                    sock.sendall(sent[begin:end])
                    begin = end
            except OSError:
                assert statuses[-1] >= 400  # it was answered before its end
            answer = read_all(sock).decode()
        assert [int(status) for status in re.findall(r"HTTP/1.[01] (\d+)", answer)] == statuses


@pytest.mark.parametrize(("beyond", "status"), [(-1, 200), (0, 200), (1, 431), (50_000, 431)])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_how_long_a_head_may_be_does_not_depend_on_how_it_comes(
    port: int, beyond: int, status: int, pieces: int
) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    while (left := front.HEAD_BYTES + beyond - len(head) - 2) > 0:
        size = min(left, 8000)
        head += b"X: " + b"a" * (size - 5) + b"\r\n"
    head += b"\r\n"
    assert len(head) == front.HEAD_BYTES + beyond
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = len(head) // pieces + 1
        try:
            for begin in range(0, len(head), size):
                sock.sendall(head[begin : begin + size])
        except OSError:
            assert status == 431  # it was answered before its end
        assert read_all(sock).startswith(b"HTTP/1.1 %d " % status)


def test_a_sender_that_asks_first_may_go_on(port: int, team: Team) -> None:
    token = add_integration(team, add_group(team, "Night"))
    body = json.dumps({"title": "Disk is full"}).encode()
    head = ALERT + token.encode() + b"\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with visitor(port, head) as sock:
        assert sock.recv(1000) == front.CONTINUE
        sock.sendall(body)
        assert sock.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_whoever_has_a_network_of_ipv6_addresses_counts_as_one() -> None:
    mine = {Visit(None, (f"2001:db8:0:1:{number:x}::1", 9, 0, 0), None).host for number in range(1, 99)}
    assert mine == {"2001:db8:0:1::/64"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--proxy-protocol", "auto"], "no PROXY protocol"), (["--certfile", "README.md"], "no TLS")],
)
def test_what_the_front_does_not_speak_is_refused_at_the_start(
    settings: dict[str, str], arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second request of a visitor could begin with an address of its own choice."""
    with served(settings, *arguments) as (_, process):
        assert process.wait(20) == 4
    assert sentence in capfd.readouterr().err


@pytest.mark.parametrize("beyond", [1, 1000, 9 * 65536])
def test_a_body_in_chunks_that_is_too_long_is_refused_for_that(port: int, team: Team, beyond: int) -> None:
    token = add_integration(team, add_group(team, "Night"))
    pieces = [b" " * 50_000] * ((ALERT_BYTES + beyond) // 50_000) + [b" " * ((ALERT_BYTES + beyond) % 50_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    with visitor(port, ALERT + token.encode() + b"\r\n" + CHUNKED) as sock:
        sock.sendall(chunks + b"0\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 413"


def test_a_connection_is_kept_for_the_next_request_and_closed_when_none_comes(port: int) -> None:
    with visitor(port, LOGON + b"\r\n") as sock:
        assert b"Connection: keep-alive\r\n" in sock.recv(400)
        began = time.monotonic()
        assert read_all(sock)
        assert 1.5 < time.monotonic() - began < 4


def test_an_answer_that_is_taken_slowly_comes_whole(port: int) -> None:
    with visitor(port, FILE + b"Connection: close\r\n\r\n") as sock:
        found = b""
        while data := sock.recv(4096):
            found += data
            time.sleep(0.001)
    assert found.partition(b"\r\n\r\n")[2] == STYLES.read_bytes()


def test_the_front_knows_an_alert_by_its_path(app: Flask) -> None:
    assert any(rule.rule.startswith(API) for rule in app.url_map.iter_rules())


def alert(port: int, token: str, path: str = "/api/v1/alerts") -> tuple[int, str, float]:
    """Post an alert as no other is."""
    body = json.dumps({"title": f"Disk {next(_numbers)} is full"}).encode()
    return ask(port, "POST", path, body, Authorization=f"Bearer {token}", Content_Type="application/json")


def post(port: int, path: str, cookie: str, **fields: object) -> tuple[int, str, float]:
    """Post a form as a browser with that cookie does."""
    form = "application/x-www-form-urlencoded"
    return ask(port, "POST", path, urlencode(fields).encode(), Cookie=f"console={cookie}", Content_Type=form)


def delete(port: int, team: Team, identity: int) -> tuple[int, str, float]:
    return post(port, "/contacts/delete", team.cookie, csrf_token=team.csrf_token, id=identity)


def log_on(port: int, team: Team) -> tuple[int, str, float]:
    """Log on with the team's password in a new browser."""
    cookie = cookie_signer(team.app).dumps({"csrf_token": CSRF_SECRET})
    return post(port, "/logon", cookie, csrf_token=team.csrf_token, email=team.email, password=PASSWORD)


# Locks


@contextmanager
def locked(url: str, query: str, *values: object) -> Iterator[Callable[[], int]]:
    """Keep rows locked, as somebody at psql does; yield a function that returns how many wait for them."""
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as observer:
        assert holder.execute(query, values).rowcount
        number = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        yield lambda: observer.execute(number).fetchone()[0]


def at_once(number: int, act: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=act, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def test_alerts_that_wait_for_a_locked_row_leave_places_for_another_teams_pages_and_alerts(
    console: str, port: int, team: Team, other_team: Team, database_url: str
) -> None:
    """The way in has fewer places than there are threads, and nothing waits there for longer than 2 s."""
    mine, others = (add_integration(each, add_group(each, "Night")) for each in (team, other_team))
    list_of(other_team, port)
    answers: list[tuple[int, str, float]] = []

    def send() -> None:
        answers.append(alert(port, mine))

    with locked(database_url, "SELECT FROM integrations WHERE account_id = %s FOR UPDATE", team.account_id) as waiting:
        senders = at_once(24, send)
        wait_for(lambda: waiting() >= 2, what="alerts that wait")
        for _ in range(5):
            assert list_of(other_team, port) < 1
            status, text, seconds = alert(port, others)
            assert (status, seconds < 2) == (202, True), text
        for sender in senders:
            sender.join()
    assert {status for status, _, _ in answers} == {503}
    assert max(seconds for _, _, seconds in answers) < 2 * ALERT_PATIENCE + 1
    assert all("Try again" in json.loads(text)["error"] for _, text, _ in answers)
    assert alert(port, mine)[0] == 202


@pytest.mark.parametrize("table", ["accounts", "contacts"])
def test_pages_of_a_team_that_wait_for_a_locked_row_leave_a_thread_to_another_team(
    port: int, team: Team, other_team: Team, database_url: str, table: str
) -> None:
    ids = [team.add(f"Ann {number}") for number in range(24)]
    token = add_integration(other_team, add_group(other_team, "Night"))
    list_of(other_team, port)
    numbers = iter(ids)
    key = "id" if table == "accounts" else "account_id"
    with locked(database_url, f"SELECT FROM {table} WHERE {key} = %s FOR UPDATE", team.account_id) as waiting:
        deleters = at_once(24, lambda: delete(port, team, next(numbers)))
        wait_for(lambda: waiting() >= 4, what="pages that wait")
        for _ in range(5):
            assert list_of(other_team, port) < 1
            status, text, seconds = alert(port, token)
            assert (status, seconds < 1) == (202, True), text
    for deleter in deleters:
        deleter.join()


def test_who_shows_something_new_with_each_request_gets_no_more_threads(
    settings: dict[str, str], team: Team, other_team: Team, database_url: str
) -> None:
    """Neither with cookies of their own making, nor with a token that is written in another way, nor at other pages."""
    ids = [team.add(f"Ann {number}") for number in range(16)]
    mine, others = (add_integration(each, add_group(each, "Night")) for each in (team, other_team))
    answers: list[tuple[int, str, float]] = []
    form = {"csrf_token": team.csrf_token}
    with served(settings) as (port, _):
        list_of(other_team, port)
        with locked(database_url, "SELECT FROM contacts WHERE account_id = %s FOR UPDATE", team.account_id) as waiting:
            numbers = iter(ids)

            def remove() -> None:
                cookie, identity = f"{team.cookie}; other={next(_numbers)}", next(numbers)
                answers.append(post(port, "/contacts/delete", cookie, **form, id=identity))

            deleters = at_once(16, remove)
            wait_for(lambda: waiting() >= 3, what="pages that wait")
            for _ in range(5):
                assert list_of(other_team, port) < 1
                status, text, seconds = alert(port, others)
                assert (status, seconds < 1) == (202, True), text
        for deleter in deleters:
            deleter.join()
        assert [status for status, _, _ in answers] == 16 * [303]
        query = "SELECT FROM integrations WHERE account_id = %s FOR UPDATE"
        with locked(database_url, query, team.account_id) as waiting:
            spaces = count(1)
            senders = at_once(
                16, lambda: alert(port, " " * next(spaces) + mine, f"/api/v1/{'alerts' * (next(spaces) % 2)}")
            )
            wait_for(lambda: waiting() >= 2, what="alerts that wait")
            for _ in range(5):
                assert list_of(other_team, port) < 1
                status, text, seconds = alert(port, others)
                assert (status, seconds < 1) == (202, True), text
        for sender in senders:
            sender.join()


def test_nobody_has_strangers_counted_as_their_account(settings: dict[str, str], team: Team, database_url: str) -> None:
    ids = [team.add(f"Ann {number}") for number in range(8)]
    cookies = f"Cookie: console={team.cookie}; a=\r\nCookie: None\r\n".encode()
    with served(settings) as (port, _):
        with visitor(port, b"GET /contacts HTTP/1.0\r\nHost: x\r\n" + cookies + b"\r\n") as sock:
            assert b"Contact Management" in read_all(sock)
        with locked(database_url, "SELECT FROM contacts WHERE account_id = %s FOR UPDATE", team.account_id) as waiting:
            numbers = iter(ids)
            deleters = at_once(8, lambda: delete(port, team, next(numbers)))
            wait_for(lambda: waiting() >= 3, what="pages that wait")
            status, _, seconds = ask(port, "GET", "/logon")
            assert (status, seconds < 1) == (200, True)
        for deleter in deleters:
            deleter.join()


def test_log_ons_of_a_user_whose_row_is_locked_keep_nobody_else_from_logging_on(
    port: int, app: Flask, team: Team, other_team: Team, database_url: str
) -> None:
    query = "SELECT FROM users WHERE account_id = %s FOR UPDATE"
    with locked(database_url, query, team.account_id) as waiting:
        loggers = at_once(8, lambda: log_on(port, team))
        wait_for(lambda: waiting() >= 4, what="log-ons that wait")
        status, _, seconds = log_on(port, other_team)
        assert (status, seconds < 3) == (303, True)
        for logger in loggers:
            logger.join()
    assert log_on(port, team)[0] == 303


def test_what_is_under_way_when_the_end_is_asked_for_is_finished(
    settings: dict[str, str], team: Team, database_url: str
) -> None:
    identity, answers = team.add("Ann"), []
    with served(settings) as (port, process):
        with locked(database_url, "SELECT FROM contacts WHERE id = %s FOR UPDATE", identity) as waiting:
            (thread,) = at_once(1, lambda: answers.append(delete(port, team, identity)))
            wait_for(waiting, what="the page that waits")
            process.terminate()
        thread.join()
        assert process.wait(20) == 0
    assert answers[0][0] == 303
    assert team.contacts() == []
