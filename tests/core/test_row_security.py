"""Show that the database keeps accounts apart also where a query forgets to."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.ctx import RequestContext

from contacts_app import create_app
from contacts_app.accounts.models import Account, Session
from contacts_app.contacts.models import Contact
from contacts_app.core.db import SETTING, all_accounts, db
from contacts_app.groups.models import Group, Membership
from contacts_app.intake.models import Integration
from contacts_app.pages.visitors import visitor
from tests.conftest import Team, watched_statements

# They show whose request it is, and so are read before that is known.
READ_BEFORE = {"users", "sessions"}
ROW = {"name": "Eve", "email": "eve@example.com"}


@pytest.fixture(autouse=True)
def is_no_superuser(sql: psycopg.Connection) -> None:
    """Leave these out where the tests' server was given with a role that no policy holds for."""
    row = sql.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user").fetchone()
    if row[0]:
        pytest.skip("DATABASE_URL names a superuser")


@pytest.fixture
def one_connection(settings: dict[str, str], app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """Return the console with one connection to the database, which all requests take in turn."""
    make = sa.engine_from_config

    def with_one_connection(options: dict[str, Any], **rest: Any) -> sa.Engine:
        return make(options | {"pool_size": 1, "max_overflow": 0}, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(sa, "engine_from_config", with_one_connection)
        own = create_app(settings)
    with own.app_context():
        engine = db.engine
    assert isinstance(engine.pool, sa.QueuePool)
    assert engine.pool.size() == 1
    yield own
    engine.dispose()


def as_visitor(team: Team, app: Flask | None = None, method: str = "GET") -> RequestContext:
    """Return a request of the team, in which the console knows whose it is."""
    context = (app or team.app).test_request_context("/", method=method, headers={"Cookie": f"console={team.cookie}"})
    return context


def changed(statement: sa.Update | sa.Delete) -> int:
    """Return how many rows the statement has changed."""
    result = db.session.execute(statement)
    assert isinstance(result, sa.CursorResult)
    return result.rowcount


def visible_account() -> str:
    return db.session.scalar(sa.select(sa.func.current_setting(SETTING, True))) or ""


def test_every_table_of_a_team_is_locked(sql: psycopg.Connection) -> None:
    found = sql.execute("""
        SELECT relname, relrowsecurity AND relforcerowsecurity, (
            SELECT array_agg((polname, polcmd, polpermissive, polwithcheck IS NULL)::text) FROM pg_policy
            WHERE polrelid = pg_class.oid)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'account_id' AND NOT attisdropped)
    """).fetchall()
    assert len(found) > 10
    for table, is_locked, policies in found:
        expected = (False, None) if table in READ_BEFORE else (True, ["(rows_of_the_account,*,t,t)"])
        assert (is_locked, policies) == expected, table


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forgotten_account_reads_and_writes_nothing_of_another(
    team: Team, other_team: Team, sql: psycopg.Connection, method: str
) -> None:
    own, foreign = team.add("Own"), other_team.add("Foreign")
    with as_visitor(team, method=method):
        visitor()
        assert db.session.scalars(sa.select(Contact.id)).all() == [own]
        assert db.session.scalar(sa.select(Contact.id).where(Contact.id == foreign)) is None
        assert changed(sa.update(Contact).values(name="Taken")) == 1
        assert changed(sa.delete(Contact).where(Contact.id == foreign)) == 0
        db.session.commit()
        assert changed(sa.delete(Contact)) == 1
        db.session.rollback()
        # Each transaction again, also after one that was undone.
        assert db.session.scalars(sa.select(Contact.name)).all() in (["Taken"], [])
    assert other_team.contact(foreign)["name"] == "Foreign"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_can_be_written_for_another_account(team: Team, other_team: Team, method: str) -> None:
    with as_visitor(team, method=method):
        visitor()
        with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
            db.session.execute(sa.insert(Contact).values(account_id=other_team.account_id, **ROW))
        db.session.rollback()
        db.session.execute(sa.insert(Contact).values(account_id=team.account_id, **ROW))
        db.session.commit()
    assert [contact["name"] for contact in team.contacts()] == ["Eve"]
    assert other_team.contacts() == []


@pytest.mark.parametrize("model", [Contact, Group, Membership, Integration])
def test_nobody_sees_nothing(team: Team, model: type) -> None:
    contact = team.add()
    with team.app.app_context(), all_accounts():
        group = Group(account_id=team.account_id, name="Night shift")
        db.session.add(group)
        db.session.flush()
        group.add_members([contact])
        db.session.add(Integration(account_id=team.account_id, group_id=group.id, name="x", token_hash=bytes(32)))
        assert db.session.scalar(sa.select(sa.func.count()).select_from(model)) > 0
        db.session.commit()
    try:
        with team.app.test_request_context("/"):
            assert db.session.scalar(sa.select(sa.func.count()).select_from(model)) == 0
            assert db.session.scalar(sa.select(sa.func.count()).select_from(Account)) > 0
    finally:
        team.sql.execute("DELETE FROM integrations WHERE account_id = %s", [team.account_id])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_keeps_nothing_for_the_next_request(
    one_connection: Flask, team: Team, other_team: Team, method: str
) -> None:
    pids = set()
    first, second = team.add(), other_team.add()
    for _ in range(2):
        for who, expected in ((team, [first]), (None, []), (other_team, [second]), (team, [first])):
            context = as_visitor(who, one_connection, method) if who else one_connection.test_request_context("/")
            with context:
                if who:
                    visitor()
                pids.add(db.session.scalar(sa.select(sa.func.pg_backend_pid())))
                assert db.session.scalars(sa.select(Contact.id)).all() == expected
                db.session.rollback()
                assert db.session.scalars(sa.select(Contact.id)).all() == expected
                db.session.commit()
                assert db.session.scalars(sa.select(Contact.id)).all() == expected
        with one_connection.app_context(), all_accounts():  # a command
            assert {first, second} <= set(db.session.scalars(sa.select(Contact.id)))
    assert len(pids) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_that_has_ended_shows_nothing(one_connection: Flask, team: Team, method: str) -> None:
    team.add()
    with as_visitor(team, one_connection):
        visitor()
        assert visible_account() == str(team.account_id)
    team.sql.execute("DELETE FROM sessions WHERE account_id = %s", [team.account_id])
    with as_visitor(team, one_connection, method):
        assert Session.visitor(team.token) is None
        for end in (db.session.commit, db.session.rollback, db.session.commit):
            assert db.session.scalars(sa.select(Contact.id)).all() == []
            assert visible_account() == ""
            end()


def test_a_visitor_who_cannot_be_looked_up_sees_nothing(
    one_connection: Flask, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.add()
    broken = sa.text("SELECT set_config('console.account_id', 'all', true), 1/0, :digest")
    monkeypatch.setattr("contacts_app.accounts.models.visitor_of_session", broken)
    for method in ("GET", "POST"):
        with as_visitor(team, one_connection, method):
            with pytest.raises(sa.exc.DBAPIError):
                visitor()
            assert visible_account() == ""


def test_an_alert_that_comes_in_sees_the_account_of_its_token(team: Team, other_team: Team) -> None:
    other_team.add()
    contact = team.add()
    with team.app.app_context(), all_accounts():
        group = Group(account_id=team.account_id, name="Night shift")
        db.session.add(group)
        db.session.flush()
        integration = Integration(account_id=team.account_id, group_id=group.id, name="x")
        token = integration.renew_token()
        db.session.add(integration)
        db.session.commit()
    with team.app.test_request_context("/api/v1/alerts", method="POST"):
        assert Integration.seconds_to_wait(token, 100) == 0
        db.session.commit()
        assert db.session.scalars(sa.select(Contact.id)).all() == []
        db.session.commit()
        assert Integration.admit(token, 100).account_id == team.account_id
        for _ in range(2):
            assert db.session.scalars(sa.select(Contact.id)).all() == [contact]
            db.session.commit()


def test_what_works_for_no_request_has_to_ask_for_all_accounts(team: Team, other_team: Team) -> None:
    contacts = {team.add(), other_team.add()}
    with team.app.app_context():
        for _ in range(2):
            assert db.session.scalars(sa.select(Contact.id)).all() == []
            db.session.rollback()
            with all_accounts():
                assert contacts <= set(db.session.scalars(sa.select(Contact.id)))
                db.session.commit()
                assert contacts <= set(db.session.scalars(sa.select(Contact.id)))
                db.session.rollback()


def test_the_page_waits_no_longer_for_the_database(team: Team, other_team: Team) -> None:
    for who in (team, other_team, team):
        with watched_statements() as sent:
            assert who.get("/contacts").status_code == 200
        assert len(sent) == 3  # whose request it is, the page of the list, and what stands above it
