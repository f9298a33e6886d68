"""Run a real Alertmanager on 127.0.0.1, and raise and resolve alerts in it as a person does with amtool."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contacts_app.config import PROJECT
from tests.conftest import wait_for

UNPACKED = PROJECT / ".venv" / "alertmanager"


def find(*names: str) -> str:
    """Return the path of the first program that there is; without one the tests fail: skipping would hide it."""
    path = f"{UNPACKED / 'usr' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if not found:
        pytest.fail(f"There is no {names[0]}: run tests/intake/get-alertmanager, as `make test` does.", False)
    return found


def amtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run amtool and return what it says and how it ended."""
    return subprocess.run([find("amtool"), *arguments], capture_output=True, text=True, timeout=60)


def hurried(config: str) -> str:
    """Return a configuration of the console with waits of at most a second, for a test that waits for news."""
    for patient, quick in (("group_wait: 30s", "group_wait: 0s"), ("group_interval: 5m", "group_interval: 1s")):
        assert patient in config
        config = config.replace(patient, quick)
    return config


@dataclass
class Alertmanager:
    """An Alertmanager that runs; an alert in it is known by its name and labels."""

    url: str
    log: Path

    def fire(
        self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None, source: str = ""
    ) -> None:
        """Raise an alert, with the address that it came from."""
        self._add(name, labels, annotations, *([f"--generator-url={source}"] if source else []))

    def resolve(self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> None:
        """End an alert now."""
        self._add(name, labels, annotations, f"--end={datetime.now(UTC).isoformat()}")

    def _add(self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None, *options: str) -> None:
        described = [f"{key}={value}" for key, value in labels.items()]
        annotated = [f"--annotation={key}={value}" for key, value in (annotations or {}).items()]
        result = amtool(f"--alertmanager.url={self.url}", "alert", "add", name, *described, *annotated, *options)
        assert result.returncode == 0, result.stderr


@contextmanager
def running(config: str, folder: Path) -> Iterator[Alertmanager]:
    """Start an Alertmanager with `config` that keeps its data in `folder`, and stop it at the end."""
    program = find("prometheus-alertmanager", "alertmanager")
    path, log = folder / "alertmanager.yml", folder / "alertmanager.log"
    path.write_text(config)
    command = [
        program,
        f"--config.file={path.absolute()}",
        f"--storage.path={folder.absolute() / 'alertmanager'}",
        "--web.listen-address=127.0.0.1:0",
        "--web.external-url=http://alertmanager.example.com/",
        "--cluster.listen-address=",
    ]
    # What get-alertmanager unpacked looks for its templates below the folder that it is started in.
    place = UNPACKED if Path(program).is_relative_to(UNPACKED) else folder
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=place, stdout=file, stderr=subprocess.STDOUT)

    def port() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"Listening on.*127\.0\.0\.1:([0-9]+)", log.read_text())
        return found[1] if found else None

    try:
        yield Alertmanager(f"http://127.0.0.1:{wait_for(port, what='Alertmanager')}", log)
    finally:
        process.terminate()
        process.wait()
