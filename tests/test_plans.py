"""Show that what people and workers do reads the rows of one account, however many accounts there are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from flask import Flask

from contacts_app import create_app, migrations
from contacts_app.config import StartError
from contacts_app.core.db import all_accounts, db
from contacts_app.core.encryption import encrypt_again
from contacts_app.delivery import housekeeping
from contacts_app.web.arguments import LONGEST_SEARCH
from tests.conftest import watched_statements
from tests.growth import (
    CHANNELS_SET_UP,
    CONTACTS,
    PEOPLE,
    WORKERS,
    Act,
    Explainer,
    Team,
    administrator,
    faults,
    fill,
    rows_read,
)

ACCOUNTS = 1_200  # more than MAX_ROWS
# 150,000 messages of the first account, which wait.
FLOOD = """
    INSERT INTO alerts (account_id, id, kind, source, integration_id, integration_name, addressee, title, text,
        severity, status, key)
    SELECT 1, 1000 + n, 'alert', 'Alertmanager', 1, 'Alertmanager', 'Group 1', 'Flood ' || n, '', 'critical',
        'firing', 'key-' || n % 100
    FROM generate_series(1, 500) AS n;
    INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name)
    SELECT 1, 1000 + n, contact_id, channel, 'Contact'
    FROM generate_series(1, 500) AS n, generate_series(1, 100) AS contact_id,
        unnest(ARRAY['sms', 'email', 'dingtalk']) AS channel;
    UPDATE robots SET due_at = now();
"""


Full = tuple[Flask, psycopg.Connection]


@pytest.fixture(scope="module")
def full(new_database: Callable[[], str], data_dir: Path) -> Iterator[Full]:
    """Return a console with many accounts, and a superuser's connection to its database."""
    url = new_database()
    app = create_app({"DATABASE_URL": url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40} | CHANNELS_SET_UP)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    with psycopg.connect(administrator(url), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = current_user AND rolsuper").fetchone():
            pytest.skip("only a superuser may see the plans of others")
        fill(connection, 1, ACCOUNTS)
        connection.execute("VACUUM ANALYZE")
        yield app, connection
    with app.app_context(), all_accounts():
        db.engine.dispose()


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_no_plan_reads_beyond_an_account(full: Full, mode: str) -> None:
    app, connection = full
    teams = [Team(app, number) for number in (7, 200)]
    with Explainer(app, connection, mode) as explainer:
        for act in PEOPLE:
            explainer.run(act, teams)
        for act in WORKERS:
            explainer.run(act, teams[:1])
    assert {plan.act for plan in explainer.plans} == {act.name for act in PEOPLE + WORKERS}
    assert faults(explainer.plans, connection) == []


def test_a_claim_costs_the_same_however_many_accounts_wait(full: Full) -> None:
    app, connection = full
    claim = next(act for act in WORKERS if act.name == "worker: claim and send texts")
    pages = []
    for _ in range(2):
        with Explainer(app, connection, "auto") as explainer:
            explainer.run(claim, 2 * [Team(app, 1)])
        pages.append(sum(plan.pages for plan in explainer.plans))
        connection.execute("""
            UPDATE deliveries SET state = 'queued', attempts = 0, next_attempt_at = now(), ended_at = NULL
            WHERE channel = 'sms' AND state = 'sent' AND alert_id % 3 = 0 AND contact_id % 100 = 1
        """)
        connection.execute("VACUUM ANALYZE deliveries")
    few, many = pages
    assert many < 1.3 * few, pages


def test_encrypting_again_goes_on_where_its_last_part_ended(full: Full) -> None:
    app, connection = full

    def act(team: Team) -> None:
        with team.app.app_context(), all_accounts(), pytest.raises(StartError):  # those here are encrypted with no key
            encrypt_again()

    with Explainer(app, connection, "force_generic_plan") as explainer:
        explainer.run(Act("encrypt again", act), [Team(app, 1)])
    nodes = [node for plan in explainer.plans for node in plan.nodes() if "Index Name" in node]
    assert [(node["Index Name"], node["Index Cond"].split(" > ")[0]) for node in nodes] == [
        ("contacts_pkey", "(ROW(account_id, id)")
    ]


def test_the_start_of_a_worker_reads_no_contacts(full: Full) -> None:
    app, connection = full

    def check_all(team: Team) -> None:
        with team.app.app_context(), all_accounts():
            housekeeping.check_all()

    with Explainer(app, connection, "auto") as explainer:
        explainer.run(Act("start", check_all), [Team(app, 1)])
    relations = {node["Relation Name"] for plan in explainer.plans for node in plan.nodes() if "Relation Name" in node}
    assert relations == {"accounts", "system_checks"}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_a_page_is_as_cheap_before_the_server_has_counted_its_rows(
    new_database: Callable[[], str], data_dir: Path, mode: str
) -> None:
    url = new_database()
    app = create_app({"DATABASE_URL": url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40} | CHANNELS_SET_UP)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    with psycopg.connect(administrator(url), autocommit=True) as connection:
        for table in ("contacts", "groups", "memberships", "channel_states"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        fill(connection, 1, 1)
        with Explainer(app, connection, mode) as explainer:
            explainer.run(Act("list", lambda team: team.get("/contacts")), [Team(app, 1)])
    with app.app_context(), all_accounts():
        db.engine.dispose()
    steps = [node for plan in explainer.plans for node in plan.nodes()]
    assert sum(step["Actual Rows"] for step in steps) > 500  # of 100 contacts, their groups and channels
    # At worst each row looks at what is known of all others, in memory.
    assert max(step["Actual Rows"] * step["Actual Loops"] for step in steps) <= CONTACTS**2


def test_a_worker_reads_what_it_takes_of_a_flood_that_the_server_has_not_counted(
    new_database: Callable[[], str], data_dir: Path
) -> None:
    """Of 150,000 messages two digests of 500 alerts are claimed and recorded; with statistics and without."""
    url = new_database()
    app = create_app({"DATABASE_URL": url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40} | CHANNELS_SET_UP)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    with psycopg.connect(administrator(url), autocommit=True) as connection:
        for table in ("alerts", "deliveries", "send_windows", "sent_deliveries"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        fill(connection, 1, 1)
        connection.execute("ANALYZE deliveries")  # of a few
        connection.execute(FLOOD)
        plans = []
        for _ in range(2):
            for mode in ("force_generic_plan", "force_custom_plan"):
                with Explainer(app, connection, mode) as explainer:
                    for act in WORKERS[:3]:
                        explainer.run(act, [Team(app, 1)])
                plans += explainer.plans
            connection.execute("ANALYZE")
    with app.app_context(), all_accounts():
        db.engine.dispose()
    assert [plan.statement for plan in plans if "INSERT INTO sent_deliveries" in plan.statement]
    much = {
        f"{plan.act}: {read:,.0f} rows in {node['Node Type']} of {' '.join(plan.statement.split())[:200]}"
        for plan in plans
        for node in plan.nodes()
        if (read := rows_read(node)) > 10_000
    }
    assert much == set()


def test_a_claim_reads_little_more_than_it_takes_of_a_burst(new_database: Callable[[], str], data_dir: Path) -> None:
    """Of 4,000 mails to 100 contacts 20 are claimed, with statistics from before: the planner expects few to be due."""
    url = new_database()
    app = create_app({"DATABASE_URL": url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40} | CHANNELS_SET_UP)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    with psycopg.connect(administrator(url), autocommit=True) as connection:
        connection.execute("ALTER TABLE deliveries SET (autovacuum_enabled = off)")
        fill(connection, 1, 1)
        connection.execute("ANALYZE deliveries")
        connection.execute(FLOOD.replace("(1, 500)", "(1, 40)").replace("'sms', 'email', 'dingtalk'", "'email'"))
        with Explainer(app, connection, "auto") as explainer:
            explainer.run(WORKERS[0], [Team(app, 1)])
    with app.app_context(), all_accounts():
        db.engine.dispose()
    read = {" ".join(plan.statement.split())[:90]: sum(map(rows_read, plan.nodes())) for plan in explainer.plans}
    assert sum(read.values()) < 4_000, read  # 9,700 where the index of what is due was read for each contact


def test_a_large_account_among_many_small_ones_is_read_by_its_keys(
    new_database: Callable[[], str], data_dir: Path
) -> None:
    url = new_database()
    app = create_app({"DATABASE_URL": url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40})
    with app.app_context(), all_accounts():
        migrations.upgrade()
        db.engine.dispose()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (name, contact_quota) SELECT 'a' || n, 9 FROM generate_series(1, 2000) n"
        )
        connection.execute(
            "INSERT INTO contacts (account_id, name, email) SELECT id, 'x', 'x@example.com' FROM accounts"
        )
        connection.execute("ANALYZE contacts")
        # How a foreign key looks a contact up.
        plan = connection.execute("EXPLAIN SELECT 1 FROM contacts WHERE account_id = 1 AND id = 1 FOR KEY SHARE")
        assert "contacts_pkey" in "".join(line for (line,) in plan)


# Names and texts that many searches agree with for long, and 1,000 alerts of the greatest length.
ALIKE = """
    UPDATE contacts SET name = repeat('a', 64), email = repeat('a', 50) || id || '@' || repeat('a', 60) || '.io'
    WHERE account_id = 300;
    UPDATE groups SET name = repeat('a', 60) || id WHERE account_id = 300;
    INSERT INTO alerts (account_id, id, kind, source, integration_id, integration_name, addressee, title, text,
        severity, status)
    SELECT 300, 10000000 + n, 'alert', 'Alertmanager', 300, 'Alertmanager', repeat('a', 64), repeat('a', 200),
        repeat('a', 4000), '', 'firing'
    FROM generate_series(1, 1000) AS n;
    ANALYZE alerts, contacts, groups;
"""
SEARCHES = (
    *(
        "%",
        "_",
        "\\",
        "%_\\",
        "%a",
        "_%",
        "\\%",
        "'",
        '"',
        "$",
        "(a+)+",
        ".*",
        "[a-z]*",
        "^$",
        " a",
        "a",
        "1",
        "a@",
        ".",
    ),
    *("\ufdfa", "\u0316\u0300", "\u0130", "\u1100\u1161\u11a8", "\u1e9e", "0x", "::", "/*", "--"),
)


def test_no_search_costs_the_server_much_more_than_plain_letters(full: Full) -> None:
    app, connection = full
    connection.execute(ALIKE)
    team, found = Team(app, 300), {}
    texts = {text: (text * LONGEST_SEARCH)[:LONGEST_SEARCH] for text in SEARCHES}
    texts |= {
        "the first differs": "b" + "a" * (LONGEST_SEARCH - 1),
        "the last differs": "a" * (LONGEST_SEARCH - 1) + "b",
    }
    texts |= {"one differs": "a" * 100 + "b" + "a" * (LONGEST_SEARCH - 101), "half": "b" + "a" * (LONGEST_SEARCH // 2)}

    def page(path: str) -> Callable[[str], int]:
        return lambda text: team.client.get(path + quote(text)).status_code

    def picker(text: str) -> int:
        return team.client.post("/groups/members", data={"csrf_token": team.csrf_token, "pick": text}).status_code

    asked = {f"{field}": page(f"/contacts?field={field}&q=") for field in ("name", "mobile", "email")}
    asked |= {"groups": page("/groups?q="), "notifications": page("/notifications?q="), "picker": picker}

    def seconds(ask: Callable[[str], int], text: str) -> float:
        """Return what the server takes for all that is asked of it."""
        with watched_statements() as sent:
            assert ask(text) == 200
        return sum(one.seconds for one in sent)

    for name, ask in asked.items():
        plain = max(min(seconds(ask, "x" * LONGEST_SEARCH) for _ in range(3)), 0.002)
        for words, text in texts.items():
            took = seconds(ask, text)
            for _ in range(4):  # the least of several: what else the machine does only adds
                if took <= 20 * plain:
                    break
                took = min(took, seconds(ask, text))
            else:
                found[f"{name} {words}"] = f"{took * 1000:.1f} ms for {plain * 1000:.1f} ms"
    assert not found
