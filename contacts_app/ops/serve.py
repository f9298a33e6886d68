"""Run the whole console in the foreground: database, migrations and web server."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import click

from .. import migrations
from ..accounts.models import Account
from ..accounts.setup import setup_token
from ..config import PROJECT, Settings, StartError, current_settings, make_private
from ..core.db import connect, db
from ..core.encryption import note_key
from ..core.locks import hold, open_private
from ..core.postgres import UNPROTECTED, is_protected
from . import embedded

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104
BY_SERVE = "ALERT_CONTACTS_STARTED_BY_SERVE"  # set in the environment of the processes that `serve` starts
SHORT_LIFE, LONGEST_PAUSE = 30, 30  # seconds: after a shorter life the restart is delayed, up to the longest pause
PORT_PATIENCE = 3  # seconds for the workers of a killed server to exit and release the port


def prepare() -> None:
    """Start the embedded database if it is used, and run the migrations."""
    settings = current_settings()
    if settings.database_url is None:
        embedded.ensure(settings.data_dir)
    migrations.upgrade()


def warn_about_role() -> None:
    """Warn if row-level security does not apply to the role of DATABASE_URL; `serve` warns for its child processes."""
    if current_settings().database_url is None or BY_SERVE in os.environ:
        return
    with closing(connect()) as connection:
        if not is_protected(connection):
            click.echo(f"alert-contacts: {UNPROTECTED}", err=True)


def apply_settings() -> None:
    """Apply the quota of the settings to every account; only `serve` and `migrate` do so."""
    note_key()
    Account.apply_quota(current_settings().contact_quota)
    db.session.commit()


def run() -> None:
    """Serve until Ctrl-C or SIGTERM; restart a child process that exits."""
    settings = current_settings()
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    # Handle signals from the start, so that an interrupted start also stops its database.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    with _alone(settings.data_dir if settings.database_url is None else None):
        _check_port(settings)
        prepare()
        apply_settings()
        warn_about_role()
        is_new = not Account.any_exists()
        db.session.remove()
        db.engine.dispose()
        server = Child("web server", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app")
        worker = Child("delivery worker", "flask", "--app", "wsgi", "deliver")
        announced = False
        try:
            while not stopping:
                if not announced and _answers(settings):
                    _announce(settings, is_new)
                    announced = True
                if server.has_ended() and not announced:
                    raise StartError("the web server did not start; its own message stands above.")
                for child in (server, worker):
                    child.keep_alive()
                time.sleep(0.1 if announced else 0.05)
        finally:
            for child in (server, worker):
                child.stop()
            for child in (server, worker):
                child.wait()


@contextmanager
def _alone(data_dir: Path | None) -> Iterator[None]:
    """Lock the data folder; raise StartError if another console serves it."""
    if data_dir is None:
        yield
        return
    make_private(data_dir)
    try:
        lock = open_private(data_dir / "serve.lock")
    except OSError as error:
        raise StartError(f"DATA_DIR must be a folder this user can write to; {data_dir}: {error.strerror}.") from None
    with lock:
        try:
            hold(lock, timeout=0)
        except StartError as error:
            raise StartError(
                f"DATA_DIR {data_dir} is in use by another console; stop that one or set another DATA_DIR. {error}"
            ) from None
        yield


def _check_port(settings: Settings) -> None:
    deadline = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return
        except (socket.gaierror, UnicodeError):
            raise StartError(f"HOST must be an address of this machine, not {settings.host!r}.") from None
        except OSError as error:
            if time.monotonic() > deadline:
                raise StartError(
                    f"PORT {settings.port} on HOST {settings.host} cannot be used:"
                    f" {(error.strerror or str(error)).lower()}. Stop what uses it or set another."
                ) from None
            time.sleep(0.1)


class Child:
    """A child process that runs as long as the console, and is restarted if it exits."""

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        self.name = name
        self.command = [sys.executable, "-m", module, *arguments]
        self.failures = 0
        self.pause_until: float | None = None
        self._start()

    def _start(self) -> None:
        parent = os.getpid()

        def end_with_parent() -> None:
            # If the console is killed, the server must not keep the port.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent exited before prctl
                os._exit(1)

        self.started = time.monotonic()
        self.process = subprocess.Popen(  # nosec B603
            self.command,
            cwd=PROJECT,
            env=os.environ | {BY_SERVE: "1"},
            start_new_session=True,  # Ctrl-C must reach only the console, which lets requests in progress finish
            preexec_fn=end_with_parent,
        )

    def has_ended(self) -> bool:
        """Return whether the process has exited."""
        return self.process.poll() is not None

    def keep_alive(self) -> None:
        """Restart the process if it has exited, with exponential backoff if it exits soon after each start."""
        if not self.has_ended():
            return
        now = time.monotonic()
        if self.pause_until is None:
            self.failures = self.failures + 1 if now - self.started < SHORT_LIFE else 0
            self.pause_until = now + min(2**self.failures - 1, LONGEST_PAUSE)
            click.echo(f"The {self.name} has ended; starting it again.", err=True)
        if now >= self.pause_until:
            self.pause_until = None
            self._start()

    def stop(self) -> None:
        """Send SIGTERM, so that the process finishes its work in progress and exits."""
        if not self.has_ended():
            self.process.terminate()

    def wait(self) -> None:
        """Wait until the process has exited."""
        self.process.wait()


def _answers(settings: Settings) -> bool:
    host = ANY_ADDRESS.get(settings.host, settings.host)
    try:
        with socket.create_connection((host, settings.port), timeout=1):
            return True
    except OSError:
        return False


def _announce(settings: Settings, is_new: bool) -> None:
    host = socket.gethostname() if settings.host in ANY_ADDRESS else settings.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    if settings.proxy_count and settings.trusted_hosts:  # the URL that browsers use
        address = f"{'https' if settings.https else 'http'}://{settings.trusted_hosts[0].removeprefix('.')}"
    if is_new:
        link = f"{address}/setup?token={setup_token()}"
        click.echo(f"Set up the first account (this link works once): {link}")
    click.echo(f"The console is ready: {address}/")
    sys.stdout.flush()
