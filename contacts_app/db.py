"""Hold the database: its declarative base, the names of its constraints and its connections."""

import os
import select
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import DeclarativeBase

from . import embedded
from .config import StartError

OLDEST_SERVER = 15
WRONG_ENCODING = (
    "DATABASE_URL: the database must be made with ENCODING 'UTF8' and a locale that knows letters"
    " beyond ASCII, such as C.UTF-8 or en_US.UTF-8."
)
CONNECTION_DEFAULTS = {
    "application_name": "alert-contacts",
    "connect_timeout": "5",
    # A query that hangs, or a lock that another user keeps, becomes an answer instead of a stuck page.
    "options": "-c timezone=UTC -c statement_timeout=15s -c lock_timeout=10s"
    " -c idle_in_transaction_session_timeout=60s",
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


def init_app(app: Flask, url: str | None, data_dir: Path) -> None:
    """Connect `app` to the database at `url`, any address that libpq understands, or to the embedded one."""
    parameters: dict[str, Any] = CONNECTION_DEFAULTS | conninfo_to_dict(url or embedded.url(data_dir))

    def connect() -> psycopg.Connection:
        if url is None:
            embedded.ensure(data_dir)  # also after it was killed
        connection = psycopg.connect(**parameters)
        if connection.info.parameter_status("server_encoding") != "UTF8":
            connection.close()
            raise StartError(WRONG_ENCODING)  # SQLAlchemy cannot even ask such a server for its version
        return connection

    app.config.update(
        SQLALCHEMY_DATABASE_URI="postgresql+psycopg://",
        SQLALCHEMY_ENGINE_OPTIONS={
            "creator": connect,
            "pool_pre_ping": True,
            "pool_size": 4,
            "max_overflow": 16,
            "pool_timeout": 5,
            # The values of a failed statement are people's names and numbers.
            "hide_parameters": True,
        },
    )
    db.init_app(app)
    with app.app_context():
        engine = db.engine
    _ping_only_in_doubt(engine.dialect)
    # A connection belongs to the process that opened it, also where a server loads the app and then forks.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))


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


def violated_constraint(error: sa.exc.IntegrityError) -> str | None:
    """Return the name of the constraint that refused the row."""
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
