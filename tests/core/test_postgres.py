"""Show that a session is what the console needs whatever the server is set to, and that no pooler takes it away."""

import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from contacts_app import create_app, migrations
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT, StartError
from contacts_app.core import postgres
from contacts_app.core.db import all_accounts, db
from contacts_app.ops import system_user
from tests.conftest import PASSWORD, answers, free_port, wait_for
from tests.ops.test_embedded import new_folder

folder = pytest.fixture(new_folder)
# As an operator may have set them for other programs, or for fun. The limits leave a busy machine time to connect.
HOSTILE = {
    "client_encoding": "LATIN1",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "exit_on_error": "on",
    "console.account_id": "all",
    "statement_timeout": "2s",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "2s",
    "synchronous_commit": "off",
    "search_path": "nowhere",
    # What is left to the operator.
    "enable_seqscan": "off",
    "enable_nestloop": "off",
    "plan_cache_mode": "force_generic_plan",
    "xmloption": "document",
    "default_text_search_config": "pg_catalog.simple",
}


def as_administrator(url: str) -> psycopg.Connection:
    parts: dict[str, Any] = conninfo_to_dict(os.environ.get("DATABASE_URL") or make_conninfo(url, user="postgres"))
    return psycopg.connect(make_conninfo(**parts | {"dbname": conninfo_to_dict(url)["dbname"]}), autocommit=True)


def set_for(url: str, settings: dict[str, str]) -> None:
    """Set half of it for the database and half for the role in it, which no other test notices."""
    with as_administrator(url) as connection:
        (database,) = connection.execute("SELECT current_database()").fetchone()
        role = conninfo_to_dict(url).get("user")
        for number, (name, value) in enumerate(settings.items()):
            whose = f"ROLE {role} IN DATABASE {database}" if number % 2 and role else f"DATABASE {database}"
            connection.execute(f"ALTER {whose} SET {name} = '{value}'")


@contextmanager
def console(settings: dict[str, str], url: str) -> Iterator[Flask]:
    """Give a console on this database, and let go of its connections."""
    app = create_app(settings | {"DATABASE_URL": url})
    try:
        yield app
    finally:
        with app.app_context(), all_accounts():
            db.engine.dispose()


def migrate(app: Flask) -> None:
    with app.app_context(), all_accounts():
        migrations.upgrade()


def refusal(settings: dict[str, str], url: str) -> str:
    """Return why this database is not migrated."""
    with console(settings, url) as app, pytest.raises(StartError) as refused:
        migrate(app)
    return str(refused.value)


def shown(app: Flask, *names: str) -> list[str]:
    """Return how the settings are in a session of the console."""
    with app.app_context():
        return [str(db.session.scalar(sa.text(f"SHOW {name}"))) for name in names]


def check_that_it_works(app: Flask) -> None:
    """Log on, write, and look at what was written."""
    migrate(app)
    with app.app_context(), all_accounts():
        user = Account.create("Überall", 10).add_user("ann@example.com", PASSWORD)
        db.session.commit()
        account_id = user.account_id
        db.session.remove()
    client = app.test_client()

    def token(path: str) -> str:
        return re.search(r'name="csrf_token" value="([^"]+)"', client.get(path).text)[1]

    values = {"csrf_token": token("/logon"), "email": "ann@example.com", "password": PASSWORD}
    assert client.post("/logon", data=values).status_code == 303
    for name in ("Zoë 张伟", "Bob \\ O'Brien"):
        values = {"csrf_token": token("/contacts/new"), "name": name, "email": f"a{len(name)}@example.com"}
        assert client.post("/contacts/new", data=values).status_code == 303
    same = client.post("/contacts/new", data=values)
    assert same.status_code == 422, "a row that a constraint refuses"
    page = client.get("/contacts").text
    assert all(text in page for text in ("Zoë 张伟", "Bob \\ O&#39;Brien", "2 of 10"))
    assert client.get("/healthz").text == "ok\n"
    with app.app_context(), all_accounts():
        query = "SELECT contact_count FROM accounts WHERE id = :id"
        assert db.session.scalar(sa.text(query), {"id": account_id}) == 2


def test_what_is_set_for_the_role_or_the_database_changes_nothing(
    settings: dict[str, str], new_database: Callable[[], str]
) -> None:
    url = new_database()
    with psycopg.connect(url) as connection:
        hostile = HOSTILE | ({"transaction_timeout": "2s"} if connection.info.server_version >= 170000 else {})
    set_for(url, hostile)
    with psycopg.connect(url, autocommit=True, client_encoding="") as connection:
        taken = {name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in hostile}
    assert taken == hostile, "or this test shows nothing"
    with console(settings, url) as app:
        check_that_it_works(app)
        wanted = postgres.SESSION | postgres.TIMEOUTS | {"synchronous_commit": "on", "search_path": "public"}
        names = sorted(hostile.keys() & wanted)
        assert shown(app, *names) == [wanted[name] for name in names]
    assert not wanted.keys() - hostile.keys() - {"session_replication_role", "transaction_timeout"}


def test_a_setting_that_only_a_superuser_may_change_is_refused_with_its_name(
    settings: dict[str, str], new_database: Callable[[], str]
) -> None:
    if os.environ.get("DATABASE_URL"):
        pytest.skip("needs a role that is no superuser")
    url = new_database()
    set_for(url, {"session_replication_role": "replica"})
    assert 'permission denied to set parameter "session_replication_role"' in refusal(settings, url)


def test_the_options_of_the_address_may_change_limits_and_nothing_else(
    settings: dict[str, str], database_url: str
) -> None:
    options = urllib.parse.quote("-c lock_timeout=50ms -c DateStyle=German --statement_timeout=2s")
    with console(settings, f"{database_url}&options={options}") as app:
        assert shown(app, "lock_timeout", "statement_timeout", "DateStyle") == ["50ms", "2s", "ISO, MDY"]


def test_tables_in_a_schema_of_their_own_are_found_there_and_not_made_again_elsewhere(
    settings: dict[str, str], new_database: Callable[[], str]
) -> None:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Own one"')
        set_for(url, {"search_path": "nowhere, Own one"})
        with as_administrator(url) as administrator:
            name = conninfo_to_dict(url)["dbname"]
            administrator.execute(f'ALTER DATABASE {name} SET search_path = nowhere, "Own one"')
            with console(settings, url) as app:
                check_that_it_works(app)
            tables = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'contacts'"
            assert connection.execute(tables).fetchall() == [("Own one",)]
            administrator.execute(f"ALTER DATABASE {name} RESET search_path")
        line = 'in the schema "Own one", but search_path leads the role to public.'
        assert line in refusal(settings, url)
        assert connection.execute(tables).fetchall() == [("Own one",)]


def test_healthz_is_not_ok_where_the_pages_cannot_work(
    settings: dict[str, str], new_database: Callable[[], str]
) -> None:
    url = new_database()
    with console(settings, url) as app, psycopg.connect(url, autocommit=True) as connection:
        client = app.test_client()
        assert client.get("/healthz").status_code == 503, "not migrated"
        migrate(app)
        for harm, repair in (
            ("UPDATE alembic_version SET version_num = '0001'", f"UPDATE alembic_version SET version_num = '{NEWEST}'"),
            ("ALTER TABLE alembic_version RENAME TO hidden", "ALTER TABLE hidden RENAME TO alembic_version"),
        ):
            assert client.get("/healthz").status_code == 200
            connection.execute(harm)
            assert client.get("/healthz").status_code == 503
            connection.execute(repair)
        assert client.get("/healthz").status_code == 200
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        assert client.get("/healthz").status_code == 200, "a later console is being started elsewhere"


NEWEST = migrations.newest()


def binary() -> tuple[str, dict[str, str]]:
    """Return PgBouncer's program, and the environment that it needs."""
    private = PROJECT / ".venv" / "pgbouncer"
    path = f"{private}:{os.environ['PATH']}:/usr/sbin"
    return "pgbouncer", os.environ | {"PATH": path, "LD_LIBRARY_PATH": str(private / "lib")}


@contextmanager
def pooler(folder: Path, url: str, **options: str) -> Iterator[str]:
    """Run PgBouncer before the server of this database; yield the database's address there."""
    parts, port = conninfo_to_dict(url), free_port()
    user = system_user.server_user()  # PgBouncer refuses to be root, and the server's socket is for its user alone
    target = " ".join(f"{name}={value}" for name, value in parts.items() if value)
    given = {"listen_addr": "127.0.0.1", "listen_port": str(port), "auth_type": "any", "unix_socket_dir": "''"}
    given |= {"ignore_startup_parameters": "options,extra_float_digits", "query_wait_timeout": "5"} | options
    lines = ["[databases]", f"{parts['dbname']} = {target}", "[pgbouncer]", *map(" = ".join, given.items())]
    (folder / "pgbouncer.ini").write_text("\n".join(lines).replace("''", "") + "\n")
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    program, environ = binary()
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with (folder / "output-of-pgbouncer").open("w") as output:
        process = subprocess.Popen(
            [program, "pgbouncer.ini"], cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT, **identity
        )
        try:
            wait_for(lambda: answers(port) or process.poll() is not None, what="PgBouncer")
            assert process.poll() is None, (folder / "output-of-pgbouncer").read_text()
            yield f"postgresql://{parts.get('user', '')}@127.0.0.1:{port}/{parts['dbname']}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def pooled(settings: dict[str, str], new_database: Callable[[], str]) -> str:
    """Return the address of a migrated database."""
    url = new_database()
    with console(settings, url) as app:
        migrate(app)
    return url


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"default_pool_size": "1"},
        {"server_round_robin": "1"},
        {"server_round_robin": "1", "min_pool_size": "5"},
        {"server_reset_query_always": "1"},
    ],
    ids=["defaults", "one session", "round robin", "round robin of five", "reset"],
)
def test_a_pooler_by_transaction_or_statement_is_refused_with_one_sentence(
    folder: Path, settings: dict[str, str], pooled: str, mode: str, options: dict[str, str]
) -> None:
    with pooler(folder, pooled, pool_mode=mode, **options) as url:
        for _ in range(3):
            assert refusal(settings, url) == postgres.SHARED_SESSIONS


def test_a_pooler_by_transaction_is_refused_while_others_use_it(
    folder: Path, settings: dict[str, str], pooled: str
) -> None:
    with pooler(folder, pooled, pool_mode="transaction", server_round_robin="1", default_pool_size="4") as url:
        stopping = threading.Event()

        def use() -> None:
            with psycopg.connect(url, prepare_threshold=None) as connection, suppress(psycopg.Error):
                while not stopping.wait(0.001):
                    connection.execute("SELECT pg_sleep(0.002)")
                    connection.commit()

        others = [threading.Thread(target=use) for _ in range(3)]
        for other in others:
            other.start()
        try:
            for _ in range(10):
                assert refusal(settings, url) == postgres.SHARED_SESSIONS
        finally:
            stopping.set()
            for other in others:
                other.join()


def test_every_way_to_start_refuses_a_pooler_by_transaction(
    folder: Path, settings: dict[str, str], pooled: str
) -> None:
    with pooler(folder, pooled, pool_mode="transaction") as url:
        environ = os.environ | settings | {"DATABASE_URL": url, "PORT": str(free_port())}
        gunicorn = ["gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"]
        for command in (["flask", "--app", "wsgi", "migrate"], gunicorn):
            ended = subprocess.run(
                [sys.executable, "-m", *command], cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60
            )
            assert (ended.returncode, ended.stdout) in ((1, ""), (4, ""))
            assert ended.stderr == f"alert-contacts: {postgres.SHARED_SESSIONS}\n"


@pytest.mark.parametrize("options", [{}, {"ignore_startup_parameters": "''"}], ids=["ignores options", "takes none"])
def test_the_console_works_behind_a_pooler_by_session(
    folder: Path, settings: dict[str, str], new_database: Callable[[], str], options: dict[str, str]
) -> None:
    direct = new_database()
    set_for(direct, {"DateStyle": "German", "default_transaction_isolation": "serializable"})
    with pooler(folder, direct, pool_mode="session", **options) as url, console(settings, url) as app:
        check_that_it_works(app)


def test_healthz_is_not_ok_behind_a_pooler_that_has_come_to_pool_by_transaction(
    folder: Path, settings: dict[str, str], pooled: str
) -> None:
    with pooler(folder, pooled, pool_mode="transaction") as url, console(settings, url) as app:
        client = app.test_client()
        client.get("/healthz")
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("DISCARD ALL")  # as the next one in that session finds it
        assert client.get("/healthz").status_code == 503


@pytest.fixture
def unprotected(pooled: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a database with a role to which row-level security does not apply."""
    role = f"unprotected_{os.getpid()}"
    with as_administrator(pooled) as connection:
        owner = conninfo_to_dict(pooled)["user"]
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret' {request.param} IN ROLE {owner}")
        yield pooled.replace(f"user={owner}", f"user={role}&password=s3cret")
        connection.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("unprotected", ["SUPERUSER", "BYPASSRLS"], indirect=True)
def test_a_role_past_row_level_security_is_reported_in_one_line(settings: dict[str, str], unprotected: str) -> None:
    with console(settings, unprotected) as app, app.app_context(), all_accounts():
        result = app.test_cli_runner().invoke(args=["migrate"])
    assert (result.exit_code, result.output) == (0, f"alert-contacts: {postgres.UNPROTECTED}\n")


def test_a_role_that_row_level_security_holds_for_is_not_reported(settings: dict[str, str], pooled: str) -> None:
    with console(settings, pooled) as app, app.app_context(), all_accounts():
        result = app.test_cli_runner().invoke(args=["migrate"])
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("unprotected", ["SUPERUSER"], indirect=True)
@pytest.mark.parametrize(
    "command",
    [
        ("flask", "--app", "wsgi", "serve"),
        ("gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"),
        ("flask", "--app", "wsgi", "deliver"),
    ],
    ids=["serve", "gunicorn", "deliver"],
)
def test_each_start_reports_it_once(
    folder: Path, settings: dict[str, str], unprotected: str, command: tuple[str, ...]
) -> None:
    port = free_port()
    environ = os.environ | settings | {"DATABASE_URL": unprotected, "PORT": str(port)}
    output = folder / "output"
    with output.open("w") as sink, as_administrator(unprotected) as connection:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=PROJECT, env=environ, stderr=sink)
        try:
            beats = "SELECT count(*) FROM workers WHERE seen_at > now() - interval '5 s'"
            is_up = {"deliver": lambda: connection.execute(beats).fetchone()[0]}.get(command[-1], lambda: answers(port))
            wait_for(lambda: is_up() or process.poll() is not None, what="the start")
        finally:
            process.terminate()
            process.wait(40)
    assert output.read_text().count(postgres.UNPROTECTED) == 1, output.read_text()
