"""Know what the console needs of a PostgreSQL: its version, its encoding, and sessions of its own that are set its way.

All of a session is set by statements once it is connected, not by the options of the connection: poolers drop those,
and what stands in the server's configuration or is set for the role or the database holds where nothing is said.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ..config import StartError

OLDEST_SERVER = 15
WRONG_ENCODING = (
    "DATABASE_URL: the database must be made with ENCODING 'UTF8' and a locale that knows letters"
    " beyond ASCII, such as C.UTF-8 or en_US.UTF-8."
)
SHARED_SESSIONS = (
    "DATABASE_URL: a pooler gives the console another session of the server for each transaction, which would show"
    " lists without rows. Set it to session pooling (PgBouncer: pool_mode = session), or connect to the server itself."
)
UNSET = "DATABASE_URL: the session cannot be set as the console needs it"
UNPROTECTED = (
    "DATABASE_URL: row-level security, the second lock between accounts, is off, because the role is a superuser or has"
    " BYPASSRLS. Use a role with neither, which owns the database."
)
# The spelling is the server's, so that what was set can be compared. How plans are made is left to the operator, as it
# changes no result; so is default_transaction_read_only, by which a server that guards its disk says that it is full.
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
    "session_replication_role": "origin",  # else no trigger counts contacts, and no foreign key is looked at
    "exit_on_error": "off",
    "console.account_id": "",  # rows of no account, until a transaction says whose it is for
}
# A query that hangs, or a lock that another user keeps, becomes an answer instead of a stuck page. The options in
# DATABASE_URL may say otherwise.
TIMEOUTS = {
    "statement_timeout": "15s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "1min",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
# What only a superuser may set is set where it is wrong, and what this server does not know yet is not.
_SET = """
    SELECT set_config(name, value, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
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
    SELECT name FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
    WHERE current_setting(name, true) <> value
"""
_ELSEWHERE = """
    SELECT relnamespace::regnamespace::text, current_schema() FROM pg_class
    WHERE relname = 'logon_attempts' AND relkind = 'r' AND relowner = current_user::regrole
        AND to_regclass('logon_attempts') IS NULL
"""


def wanted_settings(url: str | None) -> dict[str, str]:
    """Return how the sessions of a console are set whose DATABASE_URL is `url`."""
    options = str(conninfo_to_dict(url or "").get("options", ""))
    given = re.findall(r"(?:-c\s*|--)(\w+)\s*=", options)
    return SESSION | {name: value for name, value in TIMEOUTS.items() if name not in given}


def set_session(connection: psycopg.Connection, wanted: Mapping[str, str]) -> None:
    """Set the session of a new connection; raise StartError where the server lets nobody work as the console does."""
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise StartError(WRONG_ENCODING)  # SQLAlchemy cannot even ask such a server for its version
    connection.autocommit = True
    if limit := wanted.get("statement_timeout"):
        connection.execute(f"SET statement_timeout = '{limit}'")  # alone and first: the role's may end what comes next
    try:
        connection.execute(_SET, _arrays(wanted))
    except psycopg.errors.InsufficientPrivilege as error:
        raise StartError(f"{UNSET}: {error.diag.message_primary}.") from None
    connection.autocommit = False


def unmet_settings(connection: psycopg.Connection, wanted: Mapping[str, str]) -> list[str]:
    """Return the names of what is not as it was set."""
    return [name for (name,) in connection.execute(_UNMET, _arrays(wanted))]


def _arrays(wanted: Mapping[str, str]) -> dict[str, list[str]]:
    return {"names": list(wanted), "values": list(wanted.values())}


def check(connect: Callable[[], psycopg.Connection], wanted: Mapping[str, str]) -> None:
    """Raise StartError where the console could not work on the server that `connect` leads to."""
    with closing(connect()) as first, closing(connect()) as second:
        first.autocommit = second.autocommit = True
        version = first.info.server_version // 10000
        if version < OLDEST_SERVER:
            raise StartError(
                f"DATABASE_URL: the server is PostgreSQL {version}; the console needs {OLDEST_SERVER} or later."
            )
        if _shares_sessions(first, second):
            raise StartError(SHARED_SESSIONS)
        if unmet := unmet_settings(first, wanted):
            raise StartError(f"{UNSET}: {', '.join(unmet)}.")
        if first.execute("SELECT lower('Ä') <> 'ä'").fetchone() == (True,):
            raise StartError(WRONG_ENCODING)
        if found := first.execute(_ELSEWHERE).fetchone():
            raise StartError(
                f"DATABASE_URL: the console's tables are in the schema {found[0]}, but search_path leads the role to"
                f" {found[1]}. Change it with ALTER ROLE or ALTER DATABASE."
            )


def _shares_sessions(first: psycopg.Connection, second: psycopg.Connection) -> bool:
    """Tell whether two connections have not one session of the server each, all the time.

    A pooler that gives out its sessions by transaction or statement has to give one to both, or several to one,
    whether it takes the one that was free last, first, or any: they ask in uneven turns, and one holds its session
    while the other asks. What the connection itself says of its session is the pooler's word.
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
    """Tell whether row-level security holds for the role of `connection`."""
    return connection.execute("SELECT row_security_active(to_regclass('contacts'))").fetchone() != (False,)
