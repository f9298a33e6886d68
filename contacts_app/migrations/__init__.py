"""Bring the schema of a database up to date.

Alembic is imported where it is used: it would be a seventh of the start of every process, most of which never use it.
"""

from pathlib import Path

import psycopg
import sqlalchemy as sa

from ..config import StartError
from ..db import OLDEST_SERVER, WRONG_ENCODING, db

LOCK = 0x616C657274  # an advisory lock of our own: two consoles that start at once migrate one after the other


def upgrade(revision: str = "head") -> None:
    """Migrate the app's database to `revision`; raise StartError when it is out of reach or cannot hold us."""
    import alembic.command
    import alembic.config
    import alembic.util

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    try:
        with db.engine.connect() as connection:
            _check_server(connection)
            # A migration of a big table, or waiting for somebody else's, may take its time.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, revision)
            connection.commit()
    except alembic.util.CommandError as error:
        raise StartError(f"DATABASE_URL: the database belongs to a later version of the console: {error}.") from None
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StartError(f"DATABASE_URL: the database cannot be reached or used: {reason}") from None


def knows(revision: str) -> bool:
    """Tell whether this version of the console can bring a schema of `revision` up to date."""
    from alembic.script import ScriptDirectory

    return revision in {script.revision for script in ScriptDirectory(Path(__file__).parent).walk_revisions()}


def _check_server(connection: sa.Connection) -> None:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, psycopg.Connection)
    version = raw.info.server_version
    if version < OLDEST_SERVER * 10000:
        raise StartError(
            f"DATABASE_URL: the server is PostgreSQL {version // 10000}; the console needs {OLDEST_SERVER} or later."
        )
    if not connection.scalar(sa.text("SELECT lower('Ä') = 'ä'")):
        raise StartError(WRONG_ENCODING)
