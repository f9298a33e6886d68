"""Hold the database: its declarative base, the names of its constraints and its connections."""

import os
import select
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
import sqlalchemy as sa
from flask import Flask, current_app, g, has_request_context
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import SQLColumnExpression
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler

from ..config import current_settings
from . import postgres

SETTING = "console.account_id"  # what the policies of the tables compare each row's account with
EVERY, NONE = "all", ""
TIMESTAMP = sa.DateTime(timezone=True)
RESTART_SECONDS = 3  # in which a server that was there is waited for
CONNECTION_DEFAULTS = {
    "application_name": "alert-contacts",
    "connect_timeout": "5",
    # A machine that vanishes says no farewell; Linux by itself would wait a quarter of an hour for its answer.
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "tcp_user_timeout": "10000",
}


class Base(DeclarativeBase):
    """Name constraints that have no name of their own the same way on every machine."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: sa.Text()}
    metadata = sa.MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(referred_table_name)s_fkey",
            "ix": "%(table_name)s_%(column_0_N_name)s",
        }
    )


db = SQLAlchemy()


def init_app(app: Flask, url: str, start: Callable[[], object] | None = None) -> None:
    """Connect `app` to the database at `url`, any address that libpq understands.

    `start` has a server of our own run, and is called before each new connection: it may have been killed.
    """
    parameters: dict[str, Any] = CONNECTION_DEFAULTS | conninfo_to_dict(url)
    wanted = postgres.wanted_settings(None if start else url)
    patience = _Patience()

    def connect() -> psycopg.Connection:
        while True:
            try:
                if start:
                    start()
                connection = psycopg.connect(**parameters)
                try:
                    postgres.set_session(connection, wanted)
                except BaseException:
                    connection.close()
                    raise
                break
            except psycopg.OperationalError:
                if not patience.is_left():
                    raise
            time.sleep(0.05)
        patience.renew()
        return connection

    app.extensions["connect"] = connect
    app.config.update(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://",
        SQLALCHEMY_ENGINE_OPTIONS={
            "creator": connect,
            "pool_pre_ping": True,
            # All are kept: opening one costs more than most statements. A thread has one at most.
            "pool_size": 20,
            "max_overflow": 0,
            # The one used last, whose server process still has the tables at hand.
            "pool_use_lifo": True,
            "pool_timeout": 5,
            # The values of a failed statement are people's names and numbers.
            "hide_parameters": True,
        },
    )
    db.init_app(app)
    with app.app_context():
        engine = db.engine
    _ping_only_in_doubt(engine.dialect)
    _show_what_may_be_seen(engine.dialect)
    # A connection belongs to the process that opened it, also where a server loads the app and then forks.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))


def connect() -> psycopg.Connection:
    """Return a new connection to the database of this app, beside its pool."""
    connection: psycopg.Connection = current_app.extensions["connect"]()
    return connection


def check_server() -> None:
    """Raise StartError where the console could not work on the server of DATABASE_URL; the embedded one is its own."""
    url = current_settings().database_url
    if url is not None:
        postgres.check(connect, postgres.wanted_settings(url))


class _Patience:
    """Wait for a server that restarts, but not again and again for one that stays away, and for none that never was."""

    def __init__(self) -> None:
        self.is_new, self.ends = False, 0.0

    def renew(self) -> None:
        """Note that the server is there."""
        self.is_new = True

    def is_left(self) -> bool:
        """Tell whether to try again; the time runs from the first failure."""
        now = time.monotonic()
        if self.is_new:
            self.is_new, self.ends = False, now + RESTART_SECONDS
        return now < self.ends


def _ping_only_in_doubt(dialect: sa.Dialect) -> None:
    """Have a connection that the pool gives out asked whether it still lives only when it has something to say.

    A server that ended has closed the connection, which can be seen without a round trip; asking each time costs a
    tenth of the list page.
    """
    ask = dialect.do_ping

    def ping(connection: Any) -> bool:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return ask(connection) if poll.poll(0) else True

    dialect.do_ping = ping  # type: ignore[method-assign, assignment]


def _show_what_may_be_seen(dialect: sa.Dialect) -> None:
    """Have each transaction begin with the rows of the account that asks: a query that forgets it finds no other.

    A connection keeps what it was told last, so that most need not be told again; a rollback cannot undo it.
    """
    begin = dialect.do_begin

    def begin_in_sight(connection: Any) -> None:
        sight = g.get("sight", NONE) if has_request_context() else EVERY  # commands and workers work for all
        if sight is not None and connection.info.get(SETTING) != sight:
            _tell(connection, sight)
        begin(connection)

    dialect.do_begin = begin_in_sight  # type: ignore[method-assign, assignment]


def _tell(connection: Any, sight: str) -> None:
    raw = connection.dbapi_connection
    was_autocommit = raw.autocommit
    try:
        connection.info.pop(SETTING, None)
        raw.autocommit = True
        raw.execute("SELECT set_config(%s, %s, false)", (SETTING, sight))
        raw.autocommit = was_autocommit
    except BaseException:
        raw.close()  # nobody knows what it shows now, or whether it still begins transactions
        raise
    connection.info[SETTING] = sight


def wait_at_most(seconds: int) -> None:
    """Have this transaction wait no longer for a row that somebody else keeps locked."""
    db.session.execute(sa.select(sa.func.set_config("lock_timeout", f"{seconds}s", True)))


def show_all() -> None:
    """Let this request see the rows of all accounts from its next transaction on, to find out which one it is for."""
    g.sight = EVERY


def show_only(account_id: int) -> None:
    """Have the later transactions of this request see the rows of one account."""
    g.sight = str(account_id)


def shown(account_id: SQLColumnExpression[int]) -> sa.ColumnElement[str]:
    """Return what a statement of `first_row` selects to have the rows of the account that it finds shown."""
    return sa.func.set_config(SETTING, sa.cast(account_id, sa.Text), sa.bindparam("until_commit", type_=sa.Boolean))


def first_row(statement: sa.Select[*tuple[Any, ...]], parameters: dict[str, Any], only_reads: bool) -> Any:
    """Run the statement that finds whose request this is, and return its row without its first column, `shown`.

    It shows the rows of the account by itself, so that no request waits for another answer of the database. Nothing
    else runs before it is through: what the request before on this connection saw is not seen by this one.
    """
    g.sight = None
    try:
        # What only reads needs no transaction. It would end with a rollback, and with that psycopg forgets the
        # statements that it has prepared.
        options = {"isolation_level": "AUTOCOMMIT"} if only_reads else None
        connection = db.session.connection(execution_options=options).connection
        until_commit = not connection.dbapi_connection.autocommit  # type: ignore[union-attr]
        if not until_commit:
            connection.info.pop(SETTING, None)
        rows = run(statement, parameters | {"until_commit": until_commit})
        found = rows[0] if rows else None
        sight = found[0] if found else NONE
        if not found:
            db.session.execute(sa.select(sa.func.set_config(SETTING, NONE, until_commit)))
        if not until_commit:
            connection.info[SETTING] = sight
        g.sight = sight
    except BaseException:
        g.sight = NONE
        db.session.rollback()
        raise
    return found and found[1:]


def run(statement: sa.Select[*tuple[Any, ...]], parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a statement that is kept and run again and again, as the driver gives them.

    What SQLAlchemy does around it, to look up the SQL and to describe the rows, takes longer than the statement.
    """
    compiled = _compiled(statement)
    connection = db.session.connection()
    raw: Any = connection.connection.dbapi_connection
    try:
        found: list[tuple[Any, ...]] = (
            raw.cursor(binary=True).execute(str(compiled), compiled.construct_params(parameters)).fetchall()
        )
    except psycopg.Error as error:
        if raw.closed:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            str(compiled), None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    return found


@lru_cache(200)
def _compiled(statement: sa.Select[*tuple[Any, ...]]) -> SQLCompiler:
    return statement.compile(dialect=db.engine.dialect)


def violated_constraint(error: sa.exc.IntegrityError) -> str | None:
    """Return the name of the constraint that refused the row."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
