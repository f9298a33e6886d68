"""Check what the console needs of a PostgreSQL server (version, encoding, session pooling) and set up its sessions.

Session settings are applied by statements after connecting, not by the `options` of the connection, because connection
poolers drop those. They take precedence over the configuration of the server, the database and the role.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..config import StartError

OLDEST_SERVER = 15
WRONG_ENCODING = (
    "DATABASE_URL: the database must be created with ENCODING 'UTF8' and a locale that supports letters"
    " beyond ASCII, such as C.UTF-8 or en_US.UTF-8."
)
SHARED_SESSIONS = (
    "DATABASE_URL: a connection pooler gives the console a different server session for each transaction, so lists"
    " would be empty. Set it to session pooling (PgBouncer: pool_mode = session), or connect to the server directly."
)
UNSET = "DATABASE_URL: the server does not accept the session settings that the console needs"
UNPROTECTED = (
    "DATABASE_URL: row-level security, the second barrier between accounts, is off, because the role is a superuser or"
    " has BYPASSRLS. Use a role with neither that owns the database."
)
# Values in the server's own spelling, so that they can be compared with current_setting(). Planner settings are left to
# the operator, as they change no result, and so is default_transaction_read_only, which some managed servers set when
# their disk is full.
SESSION = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "row_security": "on",
    "session_replication_role": "origin",  # with "replica", triggers and foreign keys would be ignored
    "exit_on_error": "off",
    "console.account_id": "",  # rows of no account, until a transaction sets one
}
# A query that hangs, or a lock that another session holds, becomes an error page instead of a stuck one. The options in
# DATABASE_URL override these.
TIMEOUTS = {
    "statement_timeout": "15s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
# A setting for superusers is changed only if it differs; settings that this version does not know are skipped.
_SET = """
    SELECT set_config(name, value, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS required (name, value)
    WHERE current_setting(name, true) IS NOT NULL
        AND (name <> 'session_replication_role' OR current_setting(name) <> value)
    UNION ALL
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
    UNION ALL
    SELECT set_config('search_path', coalesce(
        (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('logon_attempts')),
        quote_ident(nullif(current_schema(), 'pg_catalog')),
        'public'), false)
"""
_UNMET = """
    SELECT name FROM unnest(%(names)s::text[], %(values)s::text[]) AS required (name, value)
    WHERE current_setting(name, true) <> value
"""
_OTHER_SCHEMA = """
    SELECT relnamespace::regnamespace::text, current_schema() FROM pg_class
    WHERE relname = 'logon_attempts' AND relkind = 'r' AND relowner = current_user::regrole
        AND to_regclass('logon_attempts') IS NULL
"""


def required_settings(url: str | None) -> dict[str, str]:
    """Return the session settings for DATABASE_URL `url`; its options may override the timeouts."""
    options = str(conninfo_to_dict(url or "").get("options", ""))
    given = re.findall(r"(?:-c\s*|--)(\w+)\s*=", options)
    return SESSION | {name: value for name, value in TIMEOUTS.items() if name not in given}


def set_session(connection: psycopg.Connection, required: Mapping[str, str]) -> None:
    """Apply the session settings to a new connection; raise StartError if the server does not allow them."""
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise StartError(WRONG_ENCODING)  # here, because SQLAlchemy fails on such a server before any check
    connection.autocommit = True
    if limit := required.get("statement_timeout"):
        # First, because a shorter timeout of the role could cancel the next statement.
        connection.execute(f"SET statement_timeout = '{limit}'")
    try:
        connection.execute(_SET, _arrays(required))
    except psycopg.errors.InsufficientPrivilege as error:
        raise StartError(f"{UNSET}: {error.diag.message_primary}.") from None
    connection.autocommit = False


def unmet_settings(connection: psycopg.Connection, required: Mapping[str, str]) -> list[str]:
    """Return the names of the settings that do not have the required value."""
    return [name for (name,) in connection.execute(_UNMET, _arrays(required))]


def _arrays(required: Mapping[str, str]) -> dict[str, list[str]]:
    return {"names": list(required), "values": list(required.values())}


def check(connect: Callable[[], psycopg.Connection], required: Mapping[str, str]) -> None:
    """Raise StartError if the console cannot use the server that `connect` connects to."""
    with closing(connect()) as first, closing(connect()) as second:
        first.autocommit = second.autocommit = True
        version = first.info.server_version // 10000
        if version < OLDEST_SERVER:
            raise StartError(
                f"DATABASE_URL: the server is PostgreSQL {version}; the console needs {OLDEST_SERVER} or later."
            )
        if _shares_sessions(first, second):
            raise StartError(SHARED_SESSIONS)
        if unmet := unmet_settings(first, required):
            raise StartError(f"{UNSET}: {', '.join(unmet)}.")
        if first.execute("SELECT lower('Ä') <> 'ä'").fetchone() == (True,):
            raise StartError(WRONG_ENCODING)
        if found := first.execute(_OTHER_SCHEMA).fetchone():
            raise StartError(
                f"DATABASE_URL: the console's tables are in the schema {found[0]}, but search_path leads the role to"
                f" {found[1]}. Change the search_path with ALTER ROLE or ALTER DATABASE."
            )


def _shares_sessions(first: psycopg.Connection, second: psycopg.Connection) -> bool:
    """Return whether a connection pooler with transaction or statement pooling stands before the server.

    Without one, each of two connections has its own server session all the time. With one, both would meet the same
    session, or one of them several, whichever free session it picks: they send statements in uneven turns, and at the
    end one holds its session in a transaction while the other asks. The backend PID that libpq reports on connecting
    proves nothing, because it comes from the pooler.
    """
    pids: tuple[set[int], set[int]] = set(), set()

    def ask(*turns: int) -> bool:
        for turn in turns:
            found = (first, second)[turn].execute("SELECT pg_backend_pid()").fetchone()
            pids[turn].add(found[0] if found else 0)
        return any(len(own) > 1 for own in pids) or not pids[0].isdisjoint(pids[1])

    if ask(0, 1, 1, 0, 1, 0, 0, 1):
        return True
    with second.transaction():
        return ask(1, 0, 0)


def is_protected(connection: psycopg.Connection) -> bool:
    """Return whether row-level security applies to the role of `connection`."""
    return connection.execute("SELECT row_security_active(to_regclass('contacts'))").fetchone() != (False,)
