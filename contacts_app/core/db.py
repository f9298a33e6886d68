"""Hold the database: its declarative base, the names of its constraints and its connections."""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
import sqlalchemy as sa
from flask import Flask, Response, current_app, g, has_app_context, request
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import SQLColumnExpression
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

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
    sa.event.listen(engine, "checkout", _refuse_closed)
    app.after_request(_end_reading)
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


def _refuse_closed(connection: psycopg.Connection, record: object, proxy: object) -> None:
    """Have the pool open another connection for one that has something to say before it is asked: the server is gone.

    To ask each time, as `pool_pre_ping` does, costs a tenth of the list page.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server has closed the connection")


def _end_reading(response: Response) -> Response:
    """End what was only read with a commit: after a rollback psycopg has forgotten the statements it had prepared."""
    if request.method in ("GET", "HEAD") and db.session.registry.has():
        try:
            db.session.commit()
        except sa.exc.SQLAlchemyError:
            db.session.rollback()
    return response


@sa.event.listens_for(db.session, "after_begin")
def _show_account(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    """Begin a transaction with the rows of the account that it is for: a query that forgets the account finds no other.

    Without an account nothing is shown, which is how a connection begins.
    """
    shown = g.get("shown_account", NONE) if has_app_context() else NONE
    if shown != NONE:
        connection.execute(_show, {"account": shown})


def show_all_accounts(connection: sa.Connection) -> None:
    """Show the rows of all accounts to the end of this transaction."""
    connection.execute(_show, {"account": EVERY})


_show = sa.text(f"SELECT set_config('{SETTING}', :account, true)")


@contextmanager
def all_accounts() -> Iterator[None]:
    """Show the rows of all accounts in the transactions that begin within, as commands and workers need them."""
    former = g.get("shown_account", NONE)
    g.shown_account = EVERY
    try:
        yield
    finally:
        g.shown_account = former


def show_account(account_id: int) -> None:
    """Show the rows of one account from the next transaction on."""
    g.shown_account = str(account_id)


def narrowed_to(account_id: SQLColumnExpression[int]) -> sa.ColumnElement[str]:
    """Return what a statement selects to show the rows of the account that it finds, to the end of its transaction."""
    return sa.func.set_config(SETTING, sa.cast(account_id, sa.Text), True)


def wait_at_most(seconds: int) -> None:
    """Have this transaction wait no longer for a row that somebody else keeps locked."""
    db.session.execute(sa.select(sa.func.set_config("lock_timeout", f"{seconds}s", True)))


def read_rows(statement: sa.Executable, parameters: Mapping[str, Any]) -> Sequence[sa.Row[Any]]:
    """Return the rows of a statement that selects columns.

    Past the ORM, which takes as long to find out that it has no object to make as the list takes in the database.
    """
    return db.session.connection().execute(statement, parameters).all()


def violated_constraint(error: sa.exc.IntegrityError) -> str | None:
    """Return the name of the constraint that refused the row."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
