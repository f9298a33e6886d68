"""Measure what everybody else gets while 200 visitors send a byte a second, in each place where they can be slow."""

import socket
import statistics
import threading
import time
from contextlib import suppress

import pytest

from tests.chaos.site import Site, told
from tests.test_embedded import new_folder
from tests.test_gunicorn_worker import BEGINNINGS, connect

VISITORS, SECONDS = 200, 3
folder = pytest.fixture(new_folder, scope="module")


@pytest.fixture(scope="module")
def site(folder):
    site = Site(folder)
    yield site
    site.stop()


def trickle(site: Site, beginning: bytes, stopping: threading.Event) -> None:
    """Be so many visitors, who begin anew when they are put out, until the end."""

    def begin() -> socket.socket:
        visitor = connect(site.console.address, 1024)
        visitor.sendall(beginning)
        visitor.setblocking(False)
        return visitor

    takes = beginning.endswith(b"\r\n\r\n")
    visitors = [begin() for _ in range(VISITORS)]
    while not stopping.wait(1):
        for index, visitor in enumerate(visitors):
            try:
                gone = beginning and takes and visitor.recv(1) == b""
                if beginning and not takes:
                    visitor.send(b"x")
            except BlockingIOError:
                continue
            except OSError:
                gone = True
            if gone:
                visitor.close()
                with suppress(OSError):
                    visitors[index] = begin()
    for visitor in visitors:
        visitor.close()


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_others_are_served_as_ever(site: Site, kind: str) -> None:
    account = site.add_account(contacts=100)
    person, stopping, times = site.person(account), threading.Event(), []
    slow = threading.Thread(target=trickle, args=(site, BEGINNINGS[kind], stopping), daemon=True)
    slow.start()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        answer = person.again().get("/contacts")
        assert answer.status == 200
        times.append(answer.ended - answer.began)
    stopping.set()
    slow.join()
    median, worst = statistics.median(times) * 1000, max(times) * 1000
    told(f"{VISITORS} visitors who send {kind}", more=f"list page for others {median:.0f} ms, at worst {worst:.0f} ms")
    assert worst < 2000
