"""Connect to PostgreSQL: the declarative base, the connection pool, and row-level security for each transaction."""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
import sqlalchemy as sa
from flask import Flask, Response, current_app, g, has_app_context, request
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row
from sqlalchemy import SQLColumnExpression
from sqlalchemy.engine.interfaces import Compiled
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

from ..config import current_settings
from . import postgres

SETTING = "console.account_id"  # the row-level security policies compare it with the account of each row
ALL_ACCOUNTS = "all"
TIMESTAMP = sa.DateTime(timezone=True)
RESTART_SECONDS = 3  # for which connecting is retried, so that a restart of the server goes unnoticed
CONNECTION_DEFAULTS = {
    "application_name": "alert-contacts",
    "connect_timeout": "5",
    # A machine that loses power sends no TCP FIN; with Linux' defaults a statement would wait 15 minutes for it.
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "tcp_user_timeout": "10000",
}


class Base(DeclarativeBase):
    """The declarative base; its naming convention gives constraints without a name the same name everywhere."""

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
    """Connect `app` to the database at `url`, any connection string that libpq understands.

    `start` makes sure that the embedded server runs. It is called before each new connection, because the server may
    have been killed.
    """
    parameters: dict[str, Any] = CONNECTION_DEFAULTS | conninfo_to_dict(url)
    required = postgres.required_settings(None if start else url)
    retries = _RetryWindow()

    def connect() -> psycopg.Connection:
        while True:
            try:
                if start:
                    start()
                connection = psycopg.connect(**parameters)
                try:
                    postgres.set_session(connection, required)
                except BaseException:
                    connection.close()
                    raise
                break
            except psycopg.OperationalError:
                if not retries.is_open():
                    raise
            time.sleep(0.05)
        retries.reset()
        return connection

    app.extensions["connect"] = connect
    app.config.update(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://",
        SQLALCHEMY_ENGINE_OPTIONS={
            "creator": connect,
            # Connections stay open: to open one costs more than most statements. Each thread uses at most one.
            "pool_size": 20,
            "max_overflow": 0,
            # LIFO: the connection used last has the tables in the caches of its server process.
            "pool_use_lifo": True,
            "pool_timeout": 5,
            # Parameters are personal data, and error messages go to the log.
            "hide_parameters": True,
        },
    )
    db.init_app(app)
    with app.app_context():
        engine = db.engine
    sa.event.listen(engine, "checkout", _discard_closed)
    app.after_request(_commit_reads)
    # A connection must not be shared between processes: gunicorn may load the app and then fork.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))


def connect() -> psycopg.Connection:
    """Return a new connection to the database of this app, outside the pool; the caller closes it."""
    connection: psycopg.Connection = current_app.extensions["connect"]()
    return connection


def check_server() -> None:
    """Raise StartError if the server of DATABASE_URL does not suit the console; the embedded server always does."""
    url = current_settings().database_url
    if url is not None:
        postgres.check(connect, postgres.required_settings(url))


class _RetryWindow:
    """Limit connection retries to RESTART_SECONDS after a failure; it opens again after the next success.

    Without this limit, every request would wait while the server is down. A server that never answered is not retried.
    """

    def __init__(self) -> None:
        self.was_connected, self.ends = False, 0.0

    def reset(self) -> None:
        """Allow retries again, after a successful connection."""
        self.was_connected = True

    def is_open(self) -> bool:
        """Return whether to try again; the window begins with the first failure."""
        now = time.monotonic()
        if self.was_connected:
            self.was_connected, self.ends = False, now + RESTART_SECONDS
        return now < self.ends


def _discard_closed(connection: psycopg.Connection, record: object, proxy: object) -> None:
    """Replace a pooled connection that the server has closed, which shows as data to read before any statement.

    The `pool_pre_ping` of SQLAlchemy sends a statement each time, which costs a tenth of the list page.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server has closed the connection")


def _commit_reads(response: Response) -> Response:
    """Commit the transaction of a read request: after a rollback, psycopg discards its prepared statements."""
    if request.method in ("GET", "HEAD") and response.status_code < 500 and db.session.registry.has():
        try:
            db.session.commit()
        except sa.exc.SQLAlchemyError:
            db.session.rollback()
    return response


_set = sa.text("""
    SELECT set_config(name, value, true)
    FROM unnest(CAST(:names AS text[]), CAST(:values AS text[])) AS setting (name, value)
""")


@sa.event.listens_for(db.session, "after_begin")
def _set_up(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Set the row-level-security account when a transaction begins: a query without a condition finds no other rows.

    Without an account no rows are visible, which is the setting of a new connection.
    """
    if has_app_context() and (settings := g.get("server_settings")):
        connection.execute(_set, {"names": list(settings), "values": list(settings.values())})


def show_all_accounts(connection: sa.Connection) -> None:
    """Make the rows of all accounts visible until the end of this transaction."""
    connection.execute(_set, {"names": [SETTING], "values": [ALL_ACCOUNTS]})


@contextmanager
def all_accounts(**settings: str) -> Iterator[None]:
    """Make the rows of all accounts visible in transactions that begin inside, for commands and workers.

    Other settings of the server for these transactions cost no statement of their own.
    """
    before = g.get("server_settings")
    g.server_settings = {SETTING: ALL_ACCOUNTS} | settings
    try:
        yield
    finally:
        g.server_settings = before


def show_account(account_id: int) -> None:
    """Make the rows of one account visible from the next transaction on."""
    g.server_settings = {SETTING: str(account_id)}


def set_account_to(account_id: SQLColumnExpression[int]) -> sa.ColumnElement[str]:
    """Return a column that, when selected, sets the row-level-security account for the rest of the transaction.

    It saves a statement where a query finds out which account a request belongs to.
    """
    return sa.func.set_config(SETTING, sa.cast(account_id, sa.Text), True)


def set_lock_timeout(seconds: int) -> None:
    """Set the lock timeout of this transaction: how long it waits for a row that another one has locked."""
    db.session.execute(sa.select(sa.func.set_config("lock_timeout", f"{seconds}s", True)))


def read_rows(statement: sa.Select[*tuple[Any, ...]], parameters: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement that selects columns and runs again and again, as named tuples.

    The driver runs it. To find what was compiled and to describe the rows, SQLAlchemy takes 0.16 ms of the 1.43 ms of
    processor time of the dialog Edit contacts, three statements: more than a tenth.
    """
    compiled = _compiled(statement)
    connection = db.session.connection()
    driver: Any = connection.connection.driver_connection
    try:
        cursor = driver.cursor(binary=True, row_factory=namedtuple_row)
        found: list[Any] = cursor.execute(str(compiled), compiled.construct_params(dict(parameters))).fetchall()
    except psycopg.Error as error:
        if driver.closed:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            str(compiled), None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    return found


@lru_cache(200)
def _compiled(statement: sa.Select[*tuple[Any, ...]]) -> Compiled:
    return statement.compile(dialect=db.engine.dialect)


def violated_constraint(error: sa.exc.IntegrityError) -> str | None:
    """Return the name of the constraint that refused the row."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
