"""Migrate the schema of the database.

Alembic is imported inside functions: it would take a seventh of the start of every process, and few of them use it.
"""

from contextlib import closing
from functools import cache
from pathlib import Path

import psycopg
import sqlalchemy as sa

from ..config import StartError
from ..core.db import check_server, connect, db, show_all_accounts

LOCK = 0x616C657274  # key of the advisory lock by which consoles that start at once migrate one after the other

PATIENCE, TABLE_PATIENCE = "10min", "90s"
_HOLDERS = """
    SELECT DISTINCT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE granted AND pid <> pg_backend_pid() AND datname = current_database()
        AND (locktype = 'relation' AND relation >= 16384  -- not a system table
            OR locktype = 'advisory' AND classid::bigint << 32 | objid::bigint = %(lock)s)
    ORDER BY pid
"""


def upgrade(revision: str = "head") -> None:
    """Migrate the database to `revision`; raise StartError if it cannot be reached, is locked, or is newer."""
    import alembic.command
    import alembic.config
    import alembic.util

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    try:
        check_server()
        with db.engine.connect() as connection:
            # The migration of a large table takes long, and so does waiting for that of another process.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            # Longer than any transaction of the console, but limited: while this waits for the lock on a table,
            # all other sessions that need the table queue behind it.
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{TABLE_PATIENCE}'"))
            show_all_accounts(connection)
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, revision)
            connection.commit()
    except alembic.util.CommandError as error:
        raise StartError(f"DATABASE_URL: the database belongs to a later version of the console: {error}.") from None
    except (sa.exc.DBAPIError, psycopg.Error) as error:
        if isinstance(getattr(error, "orig", error), psycopg.errors.LockNotAvailable):
            raise StartError(
                f"DATABASE_URL: the schema cannot be brought up to date, because {_holders()} a lock. If it is"
                " another migrate, wait for its end; else end what holds it, then try again."
            ) from None
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise StartError(f"DATABASE_URL: the database cannot be reached or used: {reason}") from None


def _holders() -> str:
    """Describe the server processes that hold locks on the console's tables, or the migration lock."""
    with closing(connect()) as connection:
        pids = [str(pid) for (pid,) in connection.execute(_HOLDERS, {"lock": LOCK})]
    if not pids:
        return "something on the server had"
    return f"on the server the {'process' if len(pids) == 1 else 'processes'} {', '.join(pids)} held"


@cache
def newest() -> str:
    """Return the newest revision of this version of the console; revisions sort as text."""
    return max(path.name[:4] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))


def knows(revision: str) -> bool:
    """Return whether this version of the console can migrate a schema of `revision`."""
    from alembic.script import ScriptDirectory

    return revision in {script.revision for script in ScriptDirectory(Path(__file__).parent).walk_revisions()}
