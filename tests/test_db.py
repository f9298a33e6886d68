"""Show that a server that restarts is waited for, and one that stays away is not."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask

from contacts_app import create_app
from contacts_app import db as module
from contacts_app.db import db

PATIENCE = 0.3
real_connect = psycopg.connect


@pytest.fixture
def outage(
    settings: dict[str, str], app: Flask, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[float], tuple[bool, int]]]:
    """Return a function that lets the server be away for so long, and tells whether it was met, and at which try."""
    monkeypatch.setattr(module, "RESTART_SECONDS", PATIENCE)
    ends, tries = 0.0, 0

    def connect(**parameters: str) -> psycopg.Connection:
        nonlocal tries
        tries += 1
        if time.monotonic() < ends:
            raise psycopg.OperationalError("connection refused")
        return real_connect(**parameters)

    monkeypatch.setattr(module.psycopg, "connect", connect)
    own = create_app(settings)

    def ask(seconds: float) -> tuple[bool, int]:
        nonlocal ends, tries
        db.engine.dispose()
        ends, tries = time.monotonic() + seconds, 0
        try:
            db.session.execute(sa.text("SELECT 1"))
        except sa.exc.OperationalError:
            return False, tries
        finally:
            db.session.remove()
        return True, tries

    with own.app_context():
        yield ask
        db.engine.dispose()


def test_a_server_that_restarts_is_waited_for_each_time(outage: Callable[[float], tuple[bool, int]]) -> None:
    assert outage(0) == (True, 1)
    for _ in range(2):
        is_met, tries = outage(PATIENCE / 2)
        assert is_met
        assert tries > 1


def test_a_server_that_stays_away_is_waited_for_once(outage: Callable[[float], tuple[bool, int]]) -> None:
    assert outage(0) == (True, 1)
    is_met, tries = outage(60)
    assert not is_met
    assert tries > 1
    for _ in range(2):
        assert outage(60) == (False, 1)
    assert outage(0) == (True, 1)


def test_a_server_that_never_was_there_is_not_waited_for(outage: Callable[[float], tuple[bool, int]]) -> None:
    assert outage(60) == (False, 1)


def test_connections_are_kept_however_many_threads_there_are(settings: dict[str, str], app: Flask) -> None:
    own = create_app(settings)
    with own.app_context():

        def together() -> set[int]:
            with ExitStack() as stack:
                connections = [stack.enter_context(db.engine.connect()) for _ in range(12)]
                return {connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0 for connection in connections}

        assert together() == together()
        db.engine.dispose()
