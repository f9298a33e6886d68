"""Show that the commands do their work, whether the console runs or not, and say plainly why they cannot."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from psycopg.conninfo import make_conninfo

from contacts_app import create_app
from contacts_app.contacts.addresses import clean_dingtalk_url
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.ops import embedded
from contacts_app.reach import notices
from tests.conftest import PASSWORD, ROBOT, Team, wait_for
from tests.ops.test_embedded import flask, is_ready, let_go, migrated, new_folder, processes, use
from tests.ops.test_serve import Console

COMMANDS = (
    *("serve", "migrate", "create-account", "create-user", "set-password", "deliver", "reencrypt", "demo"),
    *("backup", "restore", "version"),
)
_numbers = count(1)


folder = pytest.fixture(new_folder)


@pytest.fixture
def run(app: Flask) -> Callable[..., Result]:
    """Return a function that runs a command in this process, as `flask --app wsgi` does in one of its own."""

    def invoke(*arguments: str, text: str = "") -> Result:
        with app.app_context(), all_accounts():
            return app.test_cli_runner().invoke(args=arguments, input=text)

    return invoke


@pytest.fixture
def account(sql: psycopg.Connection) -> str:
    """Return the name of an account without users."""
    name = f"Account {next(_numbers)}"
    sql.execute("INSERT INTO accounts (name, contact_quota) VALUES (%s, 100)", [name])
    return name


def new_email() -> str:
    return f"somebody{next(_numbers)}@example.com"


def can_log_on(app: Flask, email: str, password: str) -> bool:
    """Return whether the log-on page lets this pair in."""
    browser = app.test_client()
    token = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/logon").text)[1]
    answer = browser.post("/logon", data={"csrf_token": token, "email": email, "password": password})
    return answer.status_code == 303


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Callable[..., Result], command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")
    wanted = {"create-account": ("--account", "--email", "--password-stdin"), "demo": ("--contacts",)}
    wanted |= {"create-user": wanted["create-account"], "set-password": ("--email", "--password-stdin")}
    for option in wanted.get(command, ()):
        assert re.search(rf"{option} .*\w", result.output)


def test_create_account_makes_an_account_and_its_first_user(app: Flask, run: Callable[..., Result]) -> None:
    email, name = new_email(), f"Rechenzentrum Süd {next(_numbers)}"
    arguments = ["create-account", "--account", f" {name} ", "--email", email, "--password-stdin"]
    result = run(*arguments, text=f"{PASSWORD}\n")
    assert (result.exit_code, result.output) == (0, f"Created the account {name} with the user {email}.\n")
    assert can_log_on(app, email, PASSWORD)
    assert not can_log_on(app, email, PASSWORD + "x")


def test_a_password_that_is_asked_for_is_not_shown(app: Flask, run: Callable[..., Result], account: str) -> None:
    email = new_email()
    arguments = ["create-user", "--account", account, "--email", email]
    result = run(*arguments, text=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    assert can_log_on(app, email, PASSWORD)


def test_create_user_adds_to_the_account_that_is_named(
    run: Callable[..., Result], sql: psycopg.Connection, account: str
) -> None:
    email = new_email()
    arguments = ["create-user", "--account", account, "--email", email, "--password-stdin"]
    result = run(*arguments, text=PASSWORD)
    assert (result.exit_code, result.output) == (0, f"Created the user {email} in the account {account}.\n")
    found = "SELECT a.name FROM users u JOIN accounts a ON a.id = u.account_id WHERE u.email = %s"
    assert sql.execute(found, [email]).fetchall() == [(account,)]


@pytest.mark.parametrize("domain", ["corp.local", "intranet"])
def test_a_user_may_have_an_address_that_only_the_company_knows(
    app: Flask, run: Callable[..., Result], account: str, domain: str
) -> None:
    email = f"{new_email().partition('@')[0]}@{domain}"
    assert run("create-user", "--account", account, "--email", email, "--password-stdin", text=PASSWORD).exit_code == 0
    assert can_log_on(app, email, PASSWORD)


def test_set_password_replaces_the_password_and_ends_all_sessions_of_that_user(
    app: Flask, run: Callable[..., Result], team: Team, other_team: Team
) -> None:
    assert (team.get("/contacts").status_code, other_team.get("/contacts").status_code) == (200, 200)
    arguments = ["set-password", "--email", team.email.upper(), "--password-stdin"]
    result = run(*arguments, text="another good password\n")
    assert result.exit_code == 0, result.output
    assert (team.get("/contacts").status_code, other_team.get("/contacts").status_code) == (303, 200)
    assert can_log_on(app, team.email, "another good password")
    assert not can_log_on(app, team.email, PASSWORD)


@pytest.mark.parametrize("contacts", [1, 37, 130])
def test_demo_makes_an_account_of_contacts_and_says_how_to_log_on(
    app: Flask, run: Callable[..., Result], sql: psycopg.Connection, contacts: int
) -> None:
    result = run("demo", "--contacts", str(contacts))
    assert result.exit_code == 0, result.output
    name = re.search(rf"^Created the account (Demo \d+) with {contacts} contacts.$", result.output, re.M)[1]
    email, password = re.search(r"^Log on as (\S+) with the password (\S+)$", result.output, re.M).groups()
    assert sql.execute("SELECT contact_count FROM accounts WHERE name = %s", [name]).fetchone() == (contacts,)
    assert can_log_on(app, email, password)


def test_demo_shows_the_heart_of_the_console_and_leaves_nothing_to_send(
    app: Flask, run: Callable[..., Result], sql: psycopg.Connection, new_team: Callable[..., Team]
) -> None:
    name = re.search(r"^Created the account (Demo \d+)", run("demo").output, re.M)[1]
    (account,) = sql.execute("SELECT id FROM accounts WHERE name = %s", [name]).fetchone()

    def found(query: str) -> Any:
        return [row[0] if len(row) == 1 else row for row in sql.execute(query, [account])]

    # Groups that integrations use, and what came in through these: several senders, firing and resolved.
    assert found("SELECT count(DISTINCT group_id) FROM integrations WHERE account_id = %s") == [4]
    shown = found("SELECT DISTINCT source, status FROM alerts WHERE account_id = %s AND kind = 'alert' ORDER BY 1, 2")
    assert shown == [
        ("alertmanager", "firing"),
        ("alertmanager", "resolved"),
        ("grafana", "firing"),
        ("plain", "firing"),
    ]
    # A channel that fails with its reason, and all messages at their end: none is in the queue of a worker.
    assert found("SELECT count(*) FROM channel_states WHERE account_id = %s AND failing_since IS NOT NULL") == [2]
    states = found("SELECT DISTINCT state FROM deliveries WHERE account_id = %s ORDER BY 1")
    assert states == ["failed", "sent"]
    assert found("SELECT count(*) FROM robots WHERE account_id = %s") == [0]
    # What fails would be reported to whom it concerns: nobody is.
    assert found("SELECT count(*) FROM contacts WHERE account_id = %s AND receives_system_notifications") == [0]
    real = found(
        "SELECT name FROM contacts WHERE account_id = %s"
        " AND (mobile !~ '^\\+1[0-9]{3}55501[0-9]{2}$' OR email !~ '@example\\.com$')"
    )
    assert real == []
    with app.app_context(), all_accounts():
        mine = sa.select(Contact).where(Contact.account_id == account, Contact.dingtalk_url_hash.is_not(None))
        addresses = [contact.dingtalk_url for contact in db.session.scalars(mine)]
        assert len(addresses) > 5
        # What is no token, at a host that the form takes when the contact is edited.
        assert [it for it in addresses if clean_dingtalk_url(it) != it or not re.search("=placeholder-", it)] == []
        while notices.check_next():
            pass
    assert found("SELECT count(*) FROM deliveries WHERE account_id = %s AND ended_at IS NULL") == [0]
    # And the pages show it: who cannot be reached, and how many of which group.
    visitor = new_team()
    sql.execute(
        "UPDATE sessions SET account_id = %s, user_id = (SELECT id FROM users WHERE account_id = %s)"
        " WHERE user_id = %s",
        [account, account, visitor.user_id],
    )
    listed = visitor.get("/contacts").text
    assert "cannot be reached right now" in listed
    assert "never tried" in listed
    assert "cannot be reached" in visitor.get("/groups").text.partition("<table")[2]
    assert "1 failed" in visitor.get("/notifications").text


def test_migrate_can_be_repeated(run: Callable[..., Result]) -> None:
    for _ in range(2):
        assert run("migrate").exit_code == 0


@pytest.mark.parametrize("command", ["create-account", "create-user", "set-password"])
@pytest.mark.parametrize(
    ("email", "password", "expected"),
    [
        ("nobody", PASSWORD, "e-mail address"),
        ("a@b@c.example.com", PASSWORD, "e-mail address"),
        ("", PASSWORD, "'--email'"),
        ("somebody@example.com", "elevenchars", "at least 12 characters"),
        ("somebody@example.com", "", "at least 12 characters"),
        ("somebody@example.com", "twelve\tletters", "control characters"),
    ],
)
def test_a_bad_address_or_password_is_refused_and_nothing_written(
    run: Callable[..., Result],
    sql: psycopg.Connection,
    account: str,
    command: str,
    email: str,
    password: str,
    expected: str,
) -> None:
    place = {"create-account": ["--account", "New one"], "create-user": ["--account", account], "set-password": []}
    arguments = [command, *place[command], "--email", email, "--password-stdin"]
    result = run(*arguments, text=f"{password}\n")
    assert result.exit_code not in (0, None)
    assert expected in result.output.splitlines()[-1]
    assert sql.execute("SELECT count(*) FROM accounts WHERE name = 'New one'").fetchone() == (0,)
    assert sql.execute("SELECT count(*) FROM users WHERE email = %s", [email]).fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (lambda team, name: ["create-account", "--account", name, "--email", new_email()], "of this name already"),
        (lambda team, name: ["create-account", "--account", "Two", "--email", team.email], "this address already"),
        (lambda team, name: ["create-user", "--account", name, "--email", team.email.upper()], "this address already"),
        (lambda team, name: ["create-user", "--account", "Nowhere", "--email", new_email()], "no account named"),
        (lambda team, name: ["set-password", "--email", new_email()], "no user with the address"),
        (
            lambda team, name: ["create-account", "--account", "x" * 65, "--email", new_email()],
            "at most 64 are possible",
        ),
        (lambda team, name: ["create-user", "--account", name, "--email", "a" * 65 + "@b.de"], "64 characters before"),
        (lambda team, name: ["create-account", "--account", " ", "--email", new_email()], "'--account'"),
        (lambda team, name: ["create-account", "--account", "a\0b", "--email", new_email()], "characters in this"),
        (lambda team, name: ["create-account", "--account", "\udcff", "--email", new_email()], "characters in this"),
    ],
)
def test_what_is_taken_unknown_or_too_long_is_refused_and_nothing_written(
    run: Callable[..., Result],
    sql: psycopg.Connection,
    team: Team,
    account: str,
    arguments: Callable[[Team, str], list[str]],
    expected: str,
) -> None:
    counted = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM users)"
    before = sql.execute(counted).fetchone()
    result = run(*arguments(team, account), "--password-stdin", text=PASSWORD)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code not in (0, None)
    assert expected in result.output.splitlines()[-1]
    assert sql.execute(counted).fetchone() == before


@pytest.mark.parametrize("contacts", ["0", "-1", "many", "20001"])
def test_demo_refuses_a_number_it_cannot_make(run: Callable[..., Result], contacts: str) -> None:
    result = run("demo", "--contacts", contacts)
    assert result.exit_code == 2
    assert "--contacts" in result.output.splitlines()[-1]


def test_a_command_without_the_services_quota_leaves_the_quotas_as_they_are(
    run: Callable[..., Result], new_team: Callable[..., Team], sql: psycopg.Connection
) -> None:
    # Whoever types the command rarely has the settings of the service in the shell.
    team = new_team(quota=500)
    result = run("set-password", "--email", team.email, "--password-stdin", text=PASSWORD)
    assert result.exit_code == 0
    query = "SELECT contact_quota FROM accounts WHERE id = %s"
    assert sql.execute(query, [team.account_id]).fetchone() == (500,)


def _make_and_change(data_dir: Path, email: str, account: str) -> None:
    for arguments in (
        ["create-account", "--account", account, "--email", email, "--password-stdin"],
        ["create-user", "--account", account, "--email", f"second.{email}", "--password-stdin"],
        ["set-password", "--email", email, "--password-stdin"],
        ["demo"],
    ):
        result = flask(data_dir, *arguments, text=PASSWORD)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout


def _users(data_dir: Path, account: str) -> set[str]:
    with psycopg.connect(embedded.url(data_dir)) as connection:
        query = "SELECT email FROM users JOIN accounts ON accounts.id = account_id WHERE accounts.name = %s"
        return {email for (email,) in connection.execute(query, [account])}


def test_commands_work_while_the_console_runs(folder: Path) -> None:
    console = Console(migrated(folder)).wait()
    _make_and_change(console.data_dir, "ann@example.com", "Meanwhile")
    assert _users(console.data_dir, "Meanwhile") == {"ann@example.com", "second.ann@example.com"}
    assert console.is_healthy()
    assert console.stop() == 0


def test_commands_work_while_the_console_does_not_run(folder: Path) -> None:
    data_dir = migrated(folder)
    _make_and_change(data_dir, "bob@example.com", "Afterwards")
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")
    user = use(data_dir)
    assert is_ready(user)
    assert _users(data_dir, "Afterwards") == {"bob@example.com", "second.bob@example.com"}
    let_go(user)


@contextmanager
def using(data_dir: Path, **settings: str) -> Iterator[tuple[Flask, Callable[..., Result]]]:
    """Have the server in `data_dir` run, and give a console on it and a function that runs its commands."""
    user = use(data_dir)
    assert is_ready(user)
    app = create_app({"DATA_DIR": str(data_dir)} | settings)

    def run(*arguments: str) -> Result:
        with app.app_context(), all_accounts():
            return app.test_cli_runner().invoke(args=arguments)

    try:
        yield app, run
    finally:
        with app.app_context(), all_accounts():
            db.engine.dispose()
        let_go(user)


def rows(data_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return what stands in each table; what runs in a console writes its own small ones all the time."""
    with psycopg.connect(make_conninfo(embedded.url(data_dir), user="postgres")) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        names = {name for (name,) in connection.execute(query)} - {"workers", "system_checks"}
        return {
            name: connection.execute(f"SELECT row::text FROM {name} AS row ORDER BY 1").fetchall() for name in names
        }


def robots(app: Flask) -> list[str | None]:
    """Return the robots' addresses that can be read."""
    with app.app_context(), all_accounts():
        found = db.session.scalars(sa.select(Contact).where(Contact.dingtalk_url_hash.is_not(None)))
        return [contact.dingtalk_url for contact in found]


def test_a_backup_fills_an_empty_installation_and_no_other(folder: Path) -> None:
    source, file, line = migrated(folder).rename(folder / "source"), folder / "contacts.dump", "alert-contacts: {}\n"
    with using(source) as (_, run):
        shown = run("demo").output
        before = rows(source)
        result = run("backup", str(file))
        assert (result.exit_code, file.stat().st_mode & 0o077) == (0, 0)
        assert result.output.startswith(f"Saved the database to {file}.\n")
        assert str(source / "encryption_key") in result.output
        assert run("backup", str(file)).exit_code == 0  # over the one that is there
        nowhere = folder / "no" / "folder"
        refused = line.format(f"{nowhere} cannot be written: No such file or directory.")
        assert run("backup", str(nowhere)).output == refused
        refused = line.format(f"DATA_DIR {source} has accounts already; restore into an empty one.")
        assert run("restore", str(file)).output == refused
        assert rows(source) == before
    assert sorted(path.name for path in folder.iterdir()) == ["contacts.dump", "source"]
    target = migrated(folder)
    with using(target) as (app, run):
        assert run("restore", str(file)).output == "Restored 1 accounts with 37 contacts.\n"
        assert rows(target) == before
        assert can_log_on(app, *re.search(r"^Log on as (\S+) with the password (\S+)$", shown, re.M).groups())
        assert (found := robots(app))
        assert all(url.startswith(ROBOT) for url in found)
        assert "Created the account Demo 2" in run("demo").output  # what is written next gets an id of its own
        with psycopg.connect(embedded.url(target)) as connection:
            databases = connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate").fetchall()
    assert {name for (name,) in databases} == {"postgres", "contacts"}


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_restore_says_what_waits_in_the_backup_and_stops_it_if_asked(folder: Path, is_stopped: bool) -> None:
    source, file = migrated(folder).rename(folder / "source"), folder / "contacts.dump"
    wait = "UPDATE deliveries SET state = %s, next_attempt_at = now() - interval '1 day', ended_at = NULL"
    one = " WHERE (alert_id, contact_id, channel) = (SELECT alert_id, contact_id, channel FROM deliveries {} LIMIT 1)"
    with using(source) as (_, run):
        assert run("demo").exit_code == 0
        with psycopg.connect(embedded.url(source), autocommit=True) as connection:
            connection.execute("SELECT set_config('console.account_id', 'all', false)")
            for state in ("queued", "sending"):
                found = one.format("WHERE state = 'sent' AND NOT headline_only ORDER BY 1, 2, 3")
                assert connection.execute(wait + found, [state]).rowcount == 1
        assert run("backup", str(file)).exit_code == 0
    target = migrated(folder)
    with using(target) as (_, run):
        output = run("restore", *["--stop-waiting"][: int(is_stopped)], str(file)).output.splitlines()
        with psycopg.connect(embedded.url(target)) as connection:
            connection.execute("SELECT set_config('console.account_id', 'all', false)")
            query = "SELECT state, cancelled_by FROM deliveries WHERE {} ORDER BY state"
            waiting = connection.execute(query.format("next_attempt_at IS NOT NULL")).fetchall()
            stopped = connection.execute(query.format("state = 'cancelled' AND ended_at IS NOT NULL")).fetchall()
    assert output[0] == "Restored 1 accounts with 37 contacts."
    if is_stopped:
        assert output[1:] == ["Messages that waited in it and have been cancelled: 2."]
        assert (waiting, stopped) == ([], [("cancelled", "restore")] * 2)
    else:
        assert output[1].startswith("Messages that wait in it, and are sent as soon as a worker runs: 2.")
        assert "--stop-waiting" in output[1]
        assert (waiting, stopped) == ([("queued", None), ("sending", None)], [])


def test_what_is_no_backup_that_this_console_can_work_with_is_refused(folder: Path) -> None:
    with using(migrated(folder)) as (_, run):
        file = folder / "contacts.dump"
        assert run("backup", str(file)).exit_code == 0
        before, refusals = rows(folder / "data"), []
        for content in (
            b"",
            b"no backup" * 99,
            (whole := file.read_bytes())[:-1000],
            whole[:-200] + b"x" + whole[-199:],
        ):
            (folder / "spoilt").write_bytes(content)
            refusals.append(run("restore", str(folder / "spoilt")).output)
        damaged = "is damaged, or no backup that this console has made."
        assert refusals == [f"alert-contacts: {folder / 'spoilt'} {damaged}\n"] * 4
        with psycopg.connect(embedded.url(folder / "data"), autocommit=True) as connection:
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            for spoil, mend, reason in (
                (
                    "INSERT INTO encryption_keys (id) VALUES ('lost')",
                    "DELETE FROM encryption_keys WHERE id = 'lost'",
                    "ENCRYPTION_KEYS lacks a key",
                ),
                (
                    "UPDATE alembic_version SET version_num = '9999'",
                    f"UPDATE alembic_version SET version_num = '{revision}'",
                    "the backup is of a later version of the console",
                ),
                (
                    "ALTER TABLE alembic_version RENAME TO other",
                    "ALTER TABLE other RENAME TO alembic_version",
                    "this is no backup of the console",
                ),
            ):
                connection.execute(spoil)
                assert run("backup", str(file)).exit_code == 0
                connection.execute(mend)
                assert run("restore", str(file)).output.startswith(f"alert-contacts: {reason}")
        assert rows(folder / "data") == before


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_database_that_is_given_has_its_own_tools(run: Callable[..., Result], tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.touch()
    result = run(command, str(file))
    assert result.output == (
        "alert-contacts: this is for the embedded PostgreSQL; with DATABASE_URL use pg_dump and pg_restore.\n"
    )
