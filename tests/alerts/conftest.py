"""Give tests a console that has every channel set up, and a delivery worker to be seen."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from flask import Flask

from contacts_app import create_app
from contacts_app.db import db
from tests.conftest import Team

ALL_CHANNELS = {
    "SMTP_HOST": "localhost",
    "SMTP_FROM": "console@example.com",
    "SMS_PROVIDER": "twilio",
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "x",
    "TWILIO_FROM": "+15005550006",
}


@pytest.fixture(scope="session")
def full_app(app: Flask, settings: dict[str, str]) -> Iterator[Flask]:
    """Return the console with every channel set up; it sends nothing by itself."""
    full = create_app(settings | ALL_CHANNELS)
    yield full
    with full.app_context():
        db.engine.dispose()


@pytest.fixture
def full_team(full_app: Flask, new_team: Callable[..., Team]) -> Team:
    """Return a team whose console has every channel set up."""
    team = new_team()
    client = full_app.test_client()
    client.set_cookie("console", team.cookie)
    return replace(team, app=full_app, client=client)


@pytest.fixture
def no_worker(sql: psycopg.Connection) -> None:
    """Have no delivery worker running."""
    sql.execute("DELETE FROM workers")


@pytest.fixture
def worker(sql: psycopg.Connection) -> Iterator[None]:
    """Have a delivery worker seen just now."""
    identity = uuid4()
    sql.execute("INSERT INTO workers (id, host) VALUES (%s, 'here')", [identity])
    yield
    sql.execute("DELETE FROM workers WHERE id = %s", [identity])
