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
) -> Iterator[Callable[[float], tuple[bool, float]]]:
    """Return a function that lets the server be away for so long, and tells whether it was met and how late."""
    monkeypatch.setattr(module, "RESTART_SECONDS", PATIENCE)
    ends = 0.0

    def connect(**parameters: str) -> psycopg.Connection:
        if time.monotonic() < ends:
            raise psycopg.OperationalError("connection refused")
        return real_connect(**parameters)

    monkeypatch.setattr(module.psycopg, "connect", connect)
    own = create_app(settings)

    def ask(seconds: float) -> tuple[bool, float]:
        nonlocal ends
        db.engine.dispose()
        began = time.monotonic()
        ends = began + seconds
        try:
            db.session.execute(sa.text("SELECT 1"))
        except sa.exc.OperationalError:
            return False, time.monotonic() - began
        finally:
            db.session.remove()
        return True, time.monotonic() - began

    with own.app_context():
        yield ask
        db.engine.dispose()


def test_a_server_that_restarts_is_waited_for_each_time(outage: Callable[[float], tuple[bool, float]]) -> None:
    assert outage(0)[0]
    for _ in range(2):
        is_met, seconds = outage(PATIENCE / 2)
        assert is_met
        assert PATIENCE / 2 <= seconds < 2 * PATIENCE


def test_a_server_that_stays_away_is_waited_for_once(outage: Callable[[float], tuple[bool, float]]) -> None:
    assert outage(0)[0]
    is_met, seconds = outage(60)
    assert not is_met
    assert PATIENCE <= seconds < 3 * PATIENCE
    for _ in range(2):
        is_met, seconds = outage(60)
        assert not is_met
        assert seconds < PATIENCE / 2
    assert outage(0)[0]


def test_a_server_that_never_was_there_is_not_waited_for(outage: Callable[[float], tuple[bool, float]]) -> None:
    is_met, seconds = outage(60)
    assert not is_met
    assert seconds < PATIENCE / 2


def test_connections_are_kept_however_many_threads_there_are(settings: dict[str, str], app: Flask) -> None:
    own = create_app(settings)
    with own.app_context():

        def together() -> set[int]:
            with ExitStack() as stack:
                connections = [stack.enter_context(db.engine.connect()) for _ in range(12)]
                return {connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0 for connection in connections}

        assert together() == together()
        db.engine.dispose()
