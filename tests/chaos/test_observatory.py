"""Show that Mozilla's Observatory, run on this machine, gives the console its best grade and finds nothing amiss."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from flask import Flask

from contacts_app.config import PROJECT
from tests.conftest import Measured, answers, free_port, wait_for
from tests.delivery.counterparts import Authority

HERE = Path(__file__).parent / "observatory"
SCANNER = PROJECT / ".venv/observatory/node_modules/@mdn/mdn-http-observatory/src/scan.js"


class ToHttps(BaseHTTPRequestHandler):
    """Lead to the same address with https, as the web server before the console does."""

    def do_GET(self) -> None:
        self.send_response(301)
        self.send_header("Location", f"https://localhost{self.path}")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
def ports(app: Flask, settings: dict[str, str], authority: Authority) -> Iterator[dict[str, int]]:
    """Serve the console over TLS as production does; return where, by the port that browsers use."""
    ports = {"80": free_port(), "443": free_port()}
    environ = os.environ | settings | {"PORT": str(ports["443"]), "HOST": "127.0.0.1", "HTTPS": "1"}
    command = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf"]
    # In production a proxy ends TLS, which the console's own worker does not speak.
    command += ["--worker-class", "gthread", "--certfile", str(authority.certificate), "--keyfile", str(authority.key)]
    command += ["wsgi:app"]
    log = authority.path.with_name("gunicorn.log")
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=log.open("w"))
    plain = HTTPServer(("127.0.0.1", ports["80"]), ToHttps)
    Thread(target=plain.serve_forever, daemon=True).start()
    try:
        wait_for(lambda: answers(ports["443"]) or process.poll() is not None, what="gunicorn")
        yield ports
    finally:
        plain.shutdown()
        process.terminate()
        process.wait()
        assert log.read_text() == ""


def test_mozillas_observatory_gives_an_a_plus_and_finds_nothing_amiss(
    ports: dict[str, int], authority: Authority, measured: Measured
) -> None:
    subprocess.run([HERE / "get-observatory"], cwd=PROJECT, check=True)
    environ = os.environ | {"PORTS": json.dumps(ports), "NODE_EXTRA_CA_CERTS": str(authority.path)}
    command = ["node", "--import", str(HERE / "to_this_machine.mjs"), str(SCANNER), "localhost"]
    found = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    report = json.loads(found.stdout)
    assert {name: test["result"] for name, test in report["tests"].items() if not test["pass"]} == {}
    assert (report["scan"]["grade"], report["scan"]["testsFailed"]) == ("A+", 0)
    seen = f"{report['scan']['grade']}, {report['scan']['score']} points, {len(report['tests'])} of its tests passed"
    measured("enemies", "Mozilla's HTTP Observatory, over TLS", seen)
