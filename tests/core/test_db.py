"""Show that a server that restarts is waited for, and one that stays away is not."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask

from contacts_app import create_app
from contacts_app.core import db as module
from contacts_app.core.db import all_accounts, db

PATIENCE = 1.0
AWAY = 200  # tries: ten seconds
real_connect = psycopg.connect


@pytest.fixture
def outage(
    settings: dict[str, str], app: Flask, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], tuple[bool, int]]]:
    """Return a function that lets the server refuse so many tries, and returns whether it was met and how many it took.

    Tries and not seconds are counted: a machine that is busy makes them fewer, never more.
    """
    monkeypatch.setattr(module, "RESTART_SECONDS", PATIENCE)
    refused = tries = 0

    def connect(**parameters: Any) -> psycopg.Connection:
        nonlocal tries
        tries += 1
        if tries <= refused:
            raise psycopg.OperationalError("connection refused")
        return real_connect(**parameters)

    monkeypatch.setattr(psycopg, "connect", connect)
    own = create_app(settings)

    def ask(refusals: int) -> tuple[bool, int]:
        nonlocal refused, tries
        db.engine.dispose()
        refused, tries = refusals, 0
        try:
            db.session.execute(sa.text("SELECT 1"))
        except sa.exc.OperationalError:
            return False, tries
        finally:
            db.session.remove()
        return True, tries

    with own.app_context(), all_accounts():
        yield ask
        db.engine.dispose()


def test_a_server_that_restarts_is_waited_for_each_time(outage: Callable[[int], tuple[bool, int]]) -> None:
    assert outage(0) == (True, 1)
    for _ in range(2):
        assert outage(3) == (True, 4)


def test_a_server_that_stays_away_is_waited_for_once(outage: Callable[[int], tuple[bool, int]]) -> None:
    assert outage(0) == (True, 1)
    is_met, tries = outage(AWAY)
    assert not is_met
    assert 1 < tries <= PATIENCE / 0.05 + 1
    for _ in range(2):
        assert outage(AWAY) == (False, 1)
    assert outage(0) == (True, 1)


def test_a_server_that_never_was_there_is_not_waited_for(outage: Callable[[int], tuple[bool, int]]) -> None:
    assert outage(AWAY) == (False, 1)


def test_connections_are_kept_however_many_threads_there_are(settings: dict[str, str], app: Flask) -> None:
    own = create_app(settings)
    with own.app_context(), all_accounts():

        def together() -> set[int]:
            with ExitStack() as stack:
                connections = [stack.enter_context(db.engine.connect()) for _ in range(12)]
                return {connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0 for connection in connections}

        assert together() == together()
        db.engine.dispose()
