"""Show that `make dev` serves, delivers to stand-ins, reloads and ends with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from contacts_app.config import PROJECT
from tests import dev
from tests.conftest import answers, free_port, wait_for
from tests.ops.test_embedded import new_folder

folder = pytest.fixture(new_folder)


def three_ports() -> int:
    """Return a port that is free with the two after it."""
    return wait_for(lambda: (port := free_port()) and not answers(port + 1) and not answers(port + 2) and port)


@pytest.fixture
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Return `make dev` on a folder of its own, its port and its log."""
    port, log = three_ports(), folder / "output"
    # As an environment file of a real console may have set them: nothing of it is used.
    environ = os.environ | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/real", "DATA_DIR": str(folder / "real")}
    environ |= {"PORT": str(port), "DEV_DIR": str(folder / "data")}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "tests.dev"], cwd=PROJECT, env=environ, stdout=file)
        try:
            wait_for(lambda: answers(port) or process.poll() is not None, what="the console")
            assert process.poll() is None
            yield process, port, log
        finally:
            process.terminate()
            process.wait(60)


def test_a_test_of_a_sample_arrives_and_ctrl_c_ends_all(running: tuple[subprocess.Popen[bytes], int, Path]) -> None:
    process, port, log = running
    console, received = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 2}"
    with requests.Session() as browser:

        def token(path: str) -> str:
            return re.search(r'name="csrf_token" value="([^"]+)"', browser.get(console + path).text)[1]

        log_on = {"email": dev.USER, "password": dev.PASSWORD, "csrf_token": token("/logon")}
        page = browser.post(f"{console}/logon", log_on).text
        contact = re.search(r'id="contact-(\d+)"', page)[1]
        path = f"/notifications/test?contact={contact}"
        assert browser.post(console + path, {"contact": contact, "csrf_token": token(path)}).ok
    wait_for(lambda: "[Test]" in requests.get(received, timeout=10).text, what="the message")
    wait_for(lambda: "received: " in log.read_text(), what="the line in the log")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not any(answers(each) for each in (port, port + 1, port + 2))


def test_a_change_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("before")
    known = dev.changes(["*.html"], tmp_path)
    assert dev.changes(["*.html"], tmp_path) == known
    (tmp_path / "other.html").write_text("new")
    assert dev.changes(["*.html"], tmp_path) != known
    os.utime(tmp_path / "page.html", (1, 1))
    assert dev.changes(["page.html"], tmp_path) != {tmp_path / "page.html": known[tmp_path / "page.html"]}


def test_what_is_watched_is_there() -> None:
    assert {PROJECT / name for name in ("wsgi.py", "templates/base.html", "static/app.css")} <= dev.changes().keys()
