"""Show that slow visitors and odd ones hold no thread of the web server, and that whoever is slow is served."""

import http.client
import os
import re
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from contacts_app.config import PROJECT
from contacts_app.gunicorn_worker import FORM_BYTES, HEAD_BYTES

THREADS = 8  # of all workers together
(STYLES,) = (PROJECT / "static" / "vendor").glob("bootstrap-*.css")
FORM = b"Host: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
# What each of them sends, and then nothing more, or not for a long time.
BEGINNINGS = {
    "nothing": b"",
    "half a head": b"GET /logon HTTP/1.1\r\nHost: x\r\nX: ",
    "half a form": b"POST /logon HTTP/1.1\r\n" + FORM + b"Content-Length: 900\r\n\r\nemail=",
    "half of what is too large": b"POST /logon HTTP/1.1\r\n" + FORM + b"Content-Length: 90000\r\n\r\nemail=",
    "a form in chunks": b"POST /logon HTTP/1.1\r\n" + FORM + b"Transfer-Encoding: chunked\r\n\r\n9\r\nemail",
    "all of it, and stays": b"GET /logon HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "all of it, and takes nothing": f"GET /static/vendor/{STYLES.name} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
}


def connect(address: str, buffer: int | None = None) -> socket.socket:
    """Connect to the console, with so small a buffer for its answer."""
    visitor = socket.socket()
    if buffer:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    visitor.settimeout(10)
    visitor.connect(("127.0.0.1", urlsplit(address).port))
    return visitor


def ask(address: str, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") -> bytes:
    """Send `request` on a connection of its own and return all that comes back."""
    with connect(address) as visitor:
        visitor.sendall(request)
        return rest(visitor)


def rest(visitor: socket.socket) -> bytes:
    """Return what comes until the console closes the connection."""
    found = b""
    while part := visitor.recv(65536):
        found += part
    return found


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_visitors_who_stop_in_the_middle_hold_up_nobody(console: str, beginning: bytes) -> None:
    slow = [connect(console, 1024) for _ in range(5 * THREADS)]
    for visitor in slow:
        visitor.sendall(beginning)
    for _ in range(3):
        began = time.monotonic()
        assert ask(console).endswith(b"\r\n\r\nok\n")
        assert time.monotonic() - began < 1.5
    for visitor in slow:
        visitor.close()


def test_a_request_that_comes_in_pieces_is_answered(console: str) -> None:
    body = b"email=ann%40example.com&password=wrong"
    request = b"POST /logon HTTP/1.1\r\n" + FORM + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with connect(console) as visitor:
        for at in range(0, len(request), 7):
            visitor.sendall(request[at : at + 7])
            time.sleep(0.002)
        assert b"has been open for too long" in rest(visitor)


def test_requests_that_come_at_once_are_answered_one_after_the_other(console: str) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    found = ask(console, 3 * one + one.replace(b"Host", b"Connection: close\r\nHost"))
    assert found.count(b"HTTP/1.1 200 OK") == found.count(b"ok\n") == 4


def test_a_connection_is_used_again(console: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(console).port, timeout=10)
    connection.connect()
    line = connection.sock
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        assert connection.sock is line
        time.sleep(0.05)
    connection.close()


@pytest.mark.parametrize("size", [900, FORM_BYTES + 1])
def test_who_asks_first_whether_to_send_is_told_to(console: str, size: int) -> None:
    head = b"POST /api/v1/alerts HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
    with connect(console) as visitor:
        visitor.sendall(head + b"Content-Length: %d\r\n\r\n" % size)
        assert visitor.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        visitor.sendall(b"x" * size)
        assert b"HTTP/1.1 401 " in rest(visitor)


@pytest.mark.parametrize("line", [b"X: " + b"x" * 1000 + b"\r\n", b"X: " + b"x" * (HEAD_BYTES + 9)])
def test_a_head_without_an_end_is_refused_with_a_sentence(console: str, line: bytes) -> None:
    with connect(console) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\n" + line * (1 + HEAD_BYTES // len(line)))
        assert rest(visitor).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_who_takes_a_large_answer_slowly_gets_all_of_it(console: str) -> None:
    with connect(console, 4096) as visitor:
        request = BEGINNINGS["all of it, and takes nothing"]
        visitor.sendall(request.replace(b"Host", b"Connection: close\r\nHost"))
        time.sleep(0.2)
        head, _, body = rest(visitor).partition(b"\r\n\r\n")
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(body) == os.stat(STYLES).st_size


@pytest.mark.parametrize("wait", [lambda visitor: None, lambda visitor: time.sleep(0.1)], ids=["at once", "later"])
def test_who_goes_in_the_middle_leaves_nothing_behind(console: str, wait: Callable[[socket.socket], None]) -> None:
    for beginning in BEGINNINGS.values():
        with connect(console, 1024) as visitor:
            visitor.sendall(beginning)
            wait(visitor)
    assert ask(console).endswith(b"ok\n")
