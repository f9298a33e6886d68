"""Back up the database of the embedded PostgreSQL to a file, and restore it."""

from collections.abc import Callable
from pathlib import Path
from typing import IO

import psycopg

from ..config import StartError
from ..core import locks
from .embedded import connect_to, socket_dir, starting
from .programs import run

DRAFT, OLD = "contacts_draft", "contacts_old"  # databases that exist only during `restore`


def dump(data_dir: Path, sink: IO[bytes]) -> None:
    """Write a consistent dump of the console's database to `sink`, in the custom format of pg_dump."""
    run("pg_dump", *_as_administrator(data_dir), "--format=custom", "contacts", sink=sink)


def restore(data_dir: Path, source: IO[bytes], check: Callable[[psycopg.Connection], None]) -> None:
    """Replace the console's database with a dump; raise StartError if the database already has accounts.

    The dump is restored into a draft database, which is renamed in one transaction: if the process is killed at any
    time, a complete database remains. `check` gets a connection to the draft first, and may raise StartError.
    """
    with locks.open_private(data_dir / "restore.lock") as lock, connect_to(data_dir, "postgres") as server:
        locks.hold(lock, timeout=0)
        try:
            _check_old(server, data_dir)
            server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            server.execute(f"CREATE DATABASE {DRAFT} OWNER console TEMPLATE template0")
            try:
                options = ("--exit-on-error", "--single-transaction", "--dbname", DRAFT)
                run("pg_restore", *_as_administrator(data_dir), *options, source=source)
                with connect_to(data_dir, DRAFT) as connection:
                    check(connection)
                _check_empty(data_dir, "contacts")
                _swap(server, data_dir)
            finally:
                server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            server.execute(f"DROP DATABASE {OLD} WITH (FORCE)")
        except psycopg.Error as error:
            raise StartError(f"the backup cannot be restored: {str(error).splitlines()[0]}.") from None


def _swap(server: psycopg.Connection, data_dir: Path) -> None:
    """Rename the draft to the console's database, and that to the old one."""
    # No process connects meanwhile, because each calls `ensure` first and waits there for the start lock.
    with starting(data_dir):
        server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'contacts'")
        with server.transaction():
            server.execute(f"ALTER DATABASE contacts RENAME TO {OLD}")
            server.execute(f"ALTER DATABASE {DRAFT} RENAME TO contacts")
        try:
            _check_empty(data_dir, OLD)  # in case an account was created in the meantime
        except StartError:
            _swap_back(server)
            raise


def _swap_back(server: psycopg.Connection) -> None:
    with server.transaction():
        server.execute(f"ALTER DATABASE contacts RENAME TO {DRAFT}")
        server.execute(f"ALTER DATABASE {OLD} RENAME TO contacts")


def _check_old(server: psycopg.Connection, data_dir: Path) -> None:
    """Drop the old database that a killed `restore` left, or rename it back and raise StartError if it has accounts."""
    if not server.execute("SELECT FROM pg_database WHERE datname = %s", [OLD]).rowcount:
        return
    try:
        _check_empty(data_dir, OLD)
    except StartError:
        with starting(data_dir):
            server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'contacts'")
            server.execute(f"DROP DATABASE IF EXISTS {DRAFT} WITH (FORCE)")
            _swap_back(server)
        raise
    server.execute(f"DROP DATABASE {OLD} WITH (FORCE)")


def _check_empty(data_dir: Path, database: str) -> None:
    with connect_to(data_dir, database) as connection:
        if connection.execute("SELECT FROM accounts LIMIT 1").rowcount:
            raise StartError(f"DATA_DIR {data_dir} has accounts already; restore into an empty one.")


def _as_administrator(data_dir: Path) -> tuple[str, ...]:
    return "--host", str(socket_dir(data_dir)), "--username", "postgres"
