"""Measure what everybody else gets while 200 visitors send a byte a second, to the console or to a proxy before it."""

import re
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from contacts_app.config import PROJECT
from tests.chaos.site import Site
from tests.conftest import Measured, free_port, wait_for
from tests.ops.test_embedded import new_folder

VISITORS, SECONDS = 200, 5
(STYLES,) = (PROJECT / "static" / "vendor").glob("bootstrap-*.css")
FORM = b"Host: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
# What each of them sends first, and then a byte a second.
BEGINNINGS = {
    "nothing": b"",
    "half a head": b"GET /logon HTTP/1.1\r\nHost: x\r\nX: ",
    "half a form": b"POST /logon HTTP/1.1\r\n" + FORM + b"Content-Length: 900\r\n\r\nemail=",
    "all of it, and take nothing": f"GET /static/vendor/{STYLES.name} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
}
folder = pytest.fixture(new_folder, scope="module")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder, PROXY_COUNT="1")
    yield site
    site.stop()


@pytest.fixture(scope="module")
def proxy(folder: Path, site: Site) -> Iterator[int]:
    """Return the port of an nginx as docs/operating.md sets it up."""
    program = shutil.which("nginx")
    if not program:
        pytest.fail("nginx is not installed: apt-get install nginx", False)
    location = re.search(r"^    location / \{.*?^    \}", (PROJECT / "docs/operating.md").read_text(), re.M | re.S)
    assert location
    port, temporary = free_port(), folder / "nginx"
    temporary.mkdir()
    kept = " ".join(f"{name}_temp_path {temporary};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; {kept}
            server {{ listen 127.0.0.1:{port}; {location[0].replace("127.0.0.1:8000", f"127.0.0.1:{site.port}")} }}
        }}"""
    )
    with subprocess.Popen([program, "-e", f"{folder}/nginx.log", "-c", f"{folder}/nginx.conf"]) as nginx:
        wait_for(lambda: connects(port), what="nginx")
        yield port
        nginx.terminate()


def connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def trickle(port: int, beginning: bytes, stopping: threading.Event) -> None:
    """Be so many visitors, who begin anew when they are put out, until the end."""

    def begin() -> socket.socket:
        visitor = socket.socket()
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        visitor.connect(("127.0.0.1", port))
        visitor.sendall(beginning)
        visitor.setblocking(False)
        return visitor

    visitors = [begin() for _ in range(VISITORS)]
    while not stopping.wait(1):
        for index, visitor in enumerate(visitors):
            try:
                visitor.send(b"x")
            except BlockingIOError:
                pass
            except OSError:
                visitor.close()
                with suppress(OSError):
                    visitors[index] = begin()
    for visitor in visitors:
        visitor.close()


@pytest.mark.parametrize("way", ["directly", "behind nginx"])
@pytest.mark.parametrize("kind", BEGINNINGS)
def test_others_are_served_as_ever(site: Site, proxy: int, kind: str, way: str, measured: Measured) -> None:
    person = site.person(site.add_account(contacts=100))
    port = site.port if way == "directly" else proxy
    person.port, person.connection = port, None
    stopping, times = threading.Event(), []
    slow = threading.Thread(target=trickle, args=(port, BEGINNINGS[kind], stopping), daemon=True)
    slow.start()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        answer = person.again().get("/contacts")
        assert answer.status == 200
        times.append(answer.ended - answer.began)
    stopping.set()
    slow.join()
    median, worst = statistics.median(times) * 1000, max(times) * 1000
    seen = f"list page for others: median {median:.0f} ms, at worst {worst:.0f} ms"
    measured("faults", f"{VISITORS} visitors who send {kind}, {way}", seen)
    assert worst < 1000
