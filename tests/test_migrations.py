"""Show that the schema refuses every row that may not be, and the migrations a database that cannot hold it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from contacts_app import create_app, migrations
from contacts_app.config import StartError
from contacts_app.contacts.models import Contact, decrypted
from contacts_app.core import postgres
from contacts_app.core.db import Base, all_accounts, db
from contacts_app.delivery import answers
from contacts_app.delivery.answers import sentence
from contacts_app.delivery.channels.registry import KINDS
from contacts_app.ops import embedded
from tests.conftest import PASSWORD_HASH, ROBOT, Team, free_port
from tests.growth import administrator

CONTACT = {"name": "Bob", "email": "bob@example.com"}
# What stands in the table when each bad row comes.
PRESENT: dict[str, Any] = {"id": 7_000_000_001, "name": "Ann", "mobile": "+8613800138000", "email": "Ann@example.com"}
BAD_NAMES = ["", "x" * 65, " Bob", "Bob ", "B\nob", "Bo\tb", "\x7fBob", "Bob\x9f", "B\u2028b", "Zoe\u0308"]
# A robot as it stands in the table, before something of it is spoilt.
BAD_ROBOT: dict[str, Any] = {"dingtalk_url_encrypted": b"x" * 40, "dingtalk_url_hash": b"x" * 32}
BAD_CONTACTS: list[tuple[str, dict[str, Any]]] = [
    ("contact_has_a_channel", {"email": None}),
    *(("contact_name_is_clean", {"name": name}) for name in BAD_NAMES),
    *(
        ("contact_mobile_is_e164", {"mobile": mobile})
        for mobile in (
            *("", "13800138000", "+0123456", "+12345", "+1234567890123456", "+86 13800138000", "+١٣٨٠٠١٣٨"),
            *("+8613800138001\n", "x+8613800138001"),
        )
    ),
    *(
        ("contact_email_is_an_address", {"email": email})
        for email in (
            *("", "bob", "@example.com", "bob@", "a@b@example.com", "bob lee@example.com", "bob@example.com\n"),
            *("b" * 64 + "@" + "a" * 187 + ".de", "é" * 33 + "@example.com", "b" * 65 + "@example.com"),
            *("bob@[10.0.0.1]", "Bob<bob@example.com", "bob@example.com>", "b,c@example.com", '"b"@example.com'),
            *("b\\c@example.com", "=?utf-8?q?b?=@example.com", "bob@example.com;"),
        )
    ),
    *(
        ("contact_robot_is_whole", part)
        for part in (
            {"dingtalk_url_encrypted": b"x" * 40},
            {"dingtalk_url_hash": b"x" * 32},
            {"dingtalk_secret_encrypted": b"x" * 40},
            {"dingtalk_keyword": "alert"},
        )
    ),
    *(
        ("contact_robot_is_encrypted", BAD_ROBOT | part)
        for part in (
            {"dingtalk_url_encrypted": b"https://oapi.dingtalk.com/robot/s"[:32]},
            {"dingtalk_url_hash": b"x" * 31},
            {"dingtalk_secret_encrypted": b"SEC0123456789abcdef"},
        )
    ),
    *(("contact_keyword_is_short", BAD_ROBOT | {"dingtalk_keyword": word}) for word in ("", "x" * 65)),
    ("contact_mobile_is_unique", {"mobile": PRESENT["mobile"]}),
    ("contact_email_is_unique", {"email": PRESENT["email"]}),
    ("contact_email_is_unique", {"email": "aNN@EXAMPLE.com"}),
    ("contacts_pkey", {"id": PRESENT["id"]}),
    ("contacts_accounts_fkey", {"account_id": 9_000_000_000}),
]
BAD_ACCOUNTS: list[tuple[str, dict[str, Any]]] = [
    ("accounts_pkey", {"id": "account_id"}),
    ("account_name_is_unique", {"name": "account_name"}),
    *(("account_name_is_short", {"name": name}) for name in ("", "   ", "x" * 65)),
    ("account_is_within_quota", {"contact_count": 101}),
    ("account_is_within_quota", {"contact_count": -1}),
    ("account_is_within_quota", {"contact_quota": -1}),
]
BAD_USERS: list[tuple[str, dict[str, Any]]] = [
    ("users_pkey", {"id": "user_id"}),
    ("users_accounts_fkey", {"account_id": 9_000_000_000}),
    ("user_email_is_unique", {"email": "email"}),
    ("user_email_is_unique", {"email": "EMAIL"}),
    *(("user_email_is_an_address", {"email": email}) for email in ("", "bob", "a@b@c", "b ob@example.com")),
    *(("user_password_is_argon2id", {"password_hash": text}) for text in ("", "secret", "scrypt:32768:8:1$a$b")),
]
BAD_SESSIONS: list[tuple[str, dict[str, Any]]] = [
    ("sessions_pkey", {"token_hash": "token_hash"}),
    ("sessions_users_fkey", {"user_id": 9_000_000_000}),
    ("sessions_users_fkey", {"account_id": 9_000_000_000}),
    ("session_token_is_hashed", {"token_hash": b""}),
    ("session_token_is_hashed", {"token_hash": b"the token itself"}),
]
# "other" stands for what another account has; the group "Ops é" with id 7000000002 and its member are there already.
PRESENT_GROUP = {"id": 7_000_000_002, "name": "Ops é"}
BAD_GROUPS: list[tuple[str, dict[str, Any]]] = [
    *(("group_name_is_clean", {"name": name}) for name in BAD_NAMES),
    *(("group_name_is_unique", {"name": name}) for name in ("Ops é", "OPS É", "ops é", "Ｏｐｓ É", "Ops\u00a0é")),
    ("groups_pkey", {"id": PRESENT_GROUP["id"]}),
    ("groups_accounts_fkey", {"account_id": 9_000_000_000}),
]
BAD_MEMBERSHIPS: list[tuple[str, dict[str, Any]]] = [
    ("memberships_pkey", {}),
    ("memberships_groups_fkey", {"group_id": 9_000_000_000}),
    ("memberships_groups_fkey", {"group_id": "other group"}),
    ("memberships_contacts_fkey", {"contact_id": 9_000_000_000}),
    ("memberships_contacts_fkey", {"contact_id": "other contact"}),
    ("memberships_groups_fkey", {"account_id": "other account", "contact_id": "other contact"}),
    ("memberships_contacts_fkey", {"account_id": "other account", "group_id": "other group"}),
]
BAD_KEYS: list[tuple[str, dict[str, Any]]] = [
    ("encryption_keys_pkey", {}),
    *(("encryption_key_is_named", {"id": identity}) for identity in (b"", b"key", b"a whole key of thirty-two bytes!")),
]
# One good row of each table of the alerts, in the order in which they can be written. "mine" stands for what belongs to
# the account: the id of everything there is; "other" for what belongs to another account.
MINE = 7_000_000_009
ALERT_ROWS: dict[str, dict[str, Any]] = {
    "integrations": {"id": MINE, "group_id": MINE, "name": "Prometheus", "token_hash": b"t" * 32},
    "refusals": {"integration_id": MINE, "id": MINE, "status": 400, "sentence": "No.", "body": "x" * 2048},
    "alerts": {
        **{"id": MINE, "kind": "alert", "source": "plain", "integration_id": MINE, "addressee": "Ops"},
        **{"title": "Disk is full", "text": "", "severity": "", "status": "firing", "idempotency_key": "once"},
    },
    "deliveries": {"alert_id": MINE, "contact_id": MINE, "channel": "sms", "contact_name": "Ann"},
    "robots": {"url_hash": b"h" * 32},
    "channel_states": {"contact_id": MINE, "channel": "sms", "failing_since": "now", "answer": "No such number."},
    "send_windows": {"contact_id": MINE, "kind": "sms"},
    "system_checks": {},
    "system_notices": {"kind": "quota"},
    "told_facts": {"kind": "failing", "subject": "1:sms"},
    "sent_deliveries": {"alert_id": MINE, "contact_id": MINE, "channel": "sms", "answer": "Taken."},
    "channel_news": {"id": MINE, "contact_id": MINE, "channel": "sms", "works": True, "used": "+8613800138000"},
    "workers": {"id": "00000000-0000-0000-0000-000000000001", "host": "here"},
}
ENDED = {"state": "sent", "attempts": 1, "next_attempt_at": None, "ended_at": "now"}
BAD_ALERT_ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("integrations", "integrations_pkey", {"token_hash": b"u" * 32}),
    ("integrations", "integration_token_is_unique", {"id": 5}),
    ("integrations", "integrations_groups_fkey", {"id": 5, "token_hash": b"u" * 32, "group_id": 5}),
    *(("integrations", "integration_token_is_hashed", {"token_hash": text}) for text in (b"", b"token", b"t" * 33)),
    *(("integrations", "integration_name_is_clean", {"name": name}) for name in BAD_NAMES),
    *(
        ("integrations", "integration_refusals_have_a_time", row)
        for row in (
            {"refused_count": 1, "refused_at": "now"},
            {"refused_count": 1, "refused_since": "now"},
            {"refused_since": "now", "refused_at": "now"},
        )
    ),
    *(("alerts", "alert_facts_are_a_short_list", {"facts": facts}) for facts in ("{}", '["' + "x" * 40_000 + '"]')),
    ("refusals", "refusals_pkey", {}),
    ("refusals", "refusals_integrations_fkey", {"integration_id": 5}),
    *(("refusals", "refusal_status_is_the_senders_fault", {"status": status}) for status in (200, 399, 500)),
    *(("refusals", "refusal_sentence_is_short", {"sentence": sentence}) for sentence in ("", "x" * 501)),
    ("refusals", "refusal_body_is_short", {"body": "x" * 2049}),
    ("alerts", "alerts_pkey", {"idempotency_key": None}),
    ("alerts", "alert_idempotency_key_is_unique", {"id": 5}),
    ("alerts", "alert_kind_is_known", {"kind": "joke"}),
    ("alerts", "alert_status_is_known", {"status": "pending"}),
    *(
        ("alerts", "alert_codes_are_of_the_console", {"kind": kind, "codes": codes})
        for kind, codes in (("alert", '[{"code": "notice.quota"}]'), ("system", "{}"), ("system", "[]"))
    ),
    *(("alerts", "alert_title_is_short", {"title": title}) for title in ("", "x" * 201)),
    ("alerts", "alerts_accounts_fkey", {"account_id": 9_000_000_000}),
    ("deliveries", "deliveries_pkey", {}),
    ("deliveries", "deliveries_alerts_fkey", {"alert_id": 5}),
    ("deliveries", "delivery_channel_is_known", {"channel": "pigeon"}),
    ("deliveries", "delivery_state_is_known", ENDED | {"state": "lost"}),
    ("deliveries", "delivery_is_due_until_it_ends", {"next_attempt_at": None}),
    ("deliveries", "delivery_is_due_until_it_ends", {"ended_at": "now"}),
    ("deliveries", "delivery_is_due_until_it_ends", ENDED | {"next_attempt_at": "now"}),
    ("deliveries", "delivery_is_due_until_it_ends", ENDED | {"ended_at": None}),
    ("deliveries", "cancelled_delivery_says_by_whom", ENDED | {"state": "cancelled"}),
    ("deliveries", "stopped_delivery_does_not_wait", {"cancelled_by": "ann@example.com"}),
    ("deliveries", "overtaken_delivery_says_by_what", ENDED | {"state": "overtaken"}),
    ("deliveries", "overtaken_delivery_says_by_what", ENDED | {"state": "overtaken", "overtaken_by": 5}),
    ("deliveries", "delivery_attempts_are_counted", ENDED | {"attempts": 0}),
    ("deliveries", "delivery_attempts_are_counted", {"attempts": -1}),
    ("deliveries", "delivery_of_a_headline_is_sent", ENDED | {"state": "failed", "headline_only": True}),
    ("deliveries", "delivery_of_a_refused_text_has_failed", ENDED | {"text_refused": True}),
    ("robots", "robots_pkey", {}),
    ("robots", "robots_accounts_fkey", {"account_id": 9_000_000_000}),
    ("robots", "robot_is_hashed", {"url_hash": b"https://oapi"}),
    ("send_windows", "send_windows_pkey", {}),
    ("send_windows", "send_windows_contacts_fkey", {"contact_id": 5}),
    ("send_windows", "send_window_is_of_a_known_kind", {"kind": "pigeon"}),
    ("channel_states", "channel_states_pkey", {}),
    ("channel_states", "channel_states_contacts_fkey", {"contact_id": 5}),
    ("channel_states", "channel_state_is_of_a_channel", {"channel": "pigeon"}),
    ("channel_states", "channel_state_says_something", {"failing_since": None, "answer": None}),
    ("channel_states", "channel_failure_has_a_reason", {"answer": None}),
    ("channel_states", "channel_failure_has_a_reason", {"worked_at": "now", "failing_since": None}),
    ("system_checks", "system_checks_pkey", {}),
    ("system_checks", "system_checks_accounts_fkey", {"account_id": 9_000_000_000}),
    ("system_notices", "system_notices_pkey", {}),
    ("system_notices", "system_notices_accounts_fkey", {"account_id": 9_000_000_000}),
    ("told_facts", "told_facts_pkey", {}),
    ("told_facts", "told_facts_accounts_fkey", {"account_id": 9_000_000_000}),
    ("sent_deliveries", "sent_deliveries_pkey", {}),
    ("sent_deliveries", "sent_delivery_is_of_a_channel", {"channel": "pigeon"}),
    ("channel_news", "channel_news_pkey", {}),
    ("channel_news", "channel_news_is_of_a_channel", {"id": 5, "channel": "pigeon"}),
    ("channel_news", "channel_news_has_a_reason", {"id": 5, "answer": "No such number."}),
    ("channel_news", "channel_news_has_a_reason", {"id": 5, "works": False}),
    ("workers", "workers_pkey", {}),
]
TESTED_ELSEWHERE_HERE = {"logon_attempts_pkey", "alembic_version_pkc"}
NOT_NULL = [
    (table.name, column.name)
    for table in Base.metadata.sorted_tables
    for column in table.columns
    if not column.nullable and column.computed is None
]


def insert(sql: psycopg.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join(["%s"] * len(row))
    sql.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def refusal(sql: psycopg.Connection, table: str, row: dict[str, Any]) -> str | None:
    """Return the name of the constraint that refuses `row`."""
    with pytest.raises(errors.IntegrityError) as caught:
        insert(sql, table, row)
    return caught.value.diag.constraint_name


def row_id(value: Any) -> str:
    return value if isinstance(value, str) else ascii(value)[:50]


@pytest.mark.parametrize(("constraint", "bad"), BAD_CONTACTS, ids=row_id)
def test_a_bad_contact_is_refused_by_name(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    team.add(**PRESENT)
    assert refusal(team.sql, "contacts", {"account_id": team.account_id} | CONTACT | bad) == constraint
    assert [contact["name"] for contact in team.contacts()] == ["Ann"]


# A contact stays in its account by a trigger, which is no constraint.
@pytest.mark.parametrize(("constraint", "bad"), [row for row in BAD_CONTACTS if "account_id" not in row[1]], ids=row_id)
def test_a_good_contact_cannot_become_a_bad_one(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    team.add(**PRESENT)
    good = team.add(**CONTACT)
    sets = ", ".join(f"{column} = %s" for column in bad)
    with pytest.raises(errors.IntegrityError) as caught:
        team.sql.execute(f"UPDATE contacts SET {sets} WHERE id = %s", [*bad.values(), good])
    assert caught.value.diag.constraint_name == constraint


def test_good_contacts_are_taken(team: Team, other_team: Team) -> None:
    team.add(**PRESENT)
    other_team.add(**PRESENT)  # the same number, address and even id: another account's are no concern
    team.add("字" * 64, mobile="+123456")
    team.add("字" * 64, mobile="+123456789012345", email=None, dingtalk_url=None)
    team.add("b", email="b" * 64 + "@" + "a" * 186 + ".de")
    team.add("c", dingtalk_url=f"{ROBOT}a-Z_9")
    team.add("d", dingtalk_url=f"{ROBOT}a-Z_9")
    assert len(team.contacts()) == 6


@pytest.mark.parametrize(("constraint", "bad"), BAD_ACCOUNTS, ids=row_id)
def test_a_bad_account_is_refused_by_name(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    name = team.sql.execute("SELECT name FROM accounts WHERE id = %s", [team.account_id]).fetchone()[0]
    taken = {"account_id": team.account_id, "account_name": name}
    bad = {column: taken.get(value, value) for column, value in bad.items()}
    row = {"name": f"{constraint} of {team.account_id}", "contact_quota": 100} | bad
    assert refusal(team.sql, "accounts", row) == constraint


@pytest.mark.parametrize(("constraint", "bad"), BAD_USERS, ids=row_id)
def test_a_bad_user_is_refused_by_name(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    taken = {"user_id": team.user_id, "email": team.email, "EMAIL": team.email.upper()}
    bad = {column: taken.get(value, value) for column, value in bad.items()}
    row = {"account_id": team.account_id, "email": f"bob{team.user_id}@example.com", "password_hash": PASSWORD_HASH}
    assert refusal(team.sql, "users", row | bad) == constraint


@pytest.mark.parametrize(("constraint", "bad"), BAD_SESSIONS, ids=row_id)
def test_a_bad_session_is_refused_by_name(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    found = team.sql.execute("SELECT token_hash FROM sessions WHERE account_id = %s", [team.account_id]).fetchone()
    bad = {column: found[0] if value == "token_hash" else value for column, value in bad.items()}
    row = {"token_hash": b"x" * 32, "account_id": team.account_id, "user_id": team.user_id} | bad
    assert refusal(team.sql, "sessions", row) == constraint


def add_group(team: Team, *members: int, **columns: Any) -> int:
    """Write a group past the console and return its id."""
    row = {"account_id": team.account_id, "name": "Ops"} | columns
    insert(team.sql, "groups", row)
    found = team.sql.execute("SELECT max(id) FROM groups WHERE account_id = %s", [team.account_id]).fetchone()
    for member in members:
        row = {"account_id": team.account_id, "group_id": found[0], "contact_id": member}
        insert(team.sql, "memberships", row)
    return found[0]


def members(team: Team) -> list[tuple[int, int]]:
    query = "SELECT group_id, contact_id FROM memberships WHERE account_id = %s ORDER BY group_id, contact_id"
    return team.sql.execute(query, [team.account_id]).fetchall()


@pytest.mark.parametrize(("constraint", "bad"), BAD_GROUPS, ids=row_id)
def test_a_bad_group_is_refused_by_name(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    add_group(team, **PRESENT_GROUP)
    assert refusal(team.sql, "groups", {"account_id": team.account_id, "name": "Bob"} | bad) == constraint


@pytest.mark.parametrize(("constraint", "bad"), [row for row in BAD_GROUPS if "name" in row[1]], ids=row_id)
def test_a_good_group_cannot_become_a_bad_one(team: Team, constraint: str, bad: dict[str, Any]) -> None:
    add_group(team, **PRESENT_GROUP)
    good = add_group(team, id=7_000_000_003)
    with pytest.raises(errors.IntegrityError) as caught:
        team.sql.execute("UPDATE groups SET name = %s WHERE id = %s", [bad["name"], good])
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(("constraint", "bad"), BAD_MEMBERSHIPS, ids=row_id)
def test_a_bad_membership_is_refused_by_name(
    team: Team, other_team: Team, constraint: str, bad: dict[str, Any]
) -> None:
    contact, other_contact = team.add(), other_team.add()
    group, other_group = add_group(team, contact), add_group(other_team)
    others = {"other account": other_team.account_id, "other group": other_group, "other contact": other_contact}
    row = {"account_id": team.account_id, "group_id": group, "contact_id": contact}
    row |= {column: others.get(value, value) for column, value in bad.items()}
    assert refusal(team.sql, "memberships", row) == constraint
    assert (members(team), members(other_team)) == ([(group, contact)], [])


def test_good_groups_are_taken(team: Team, other_team: Team) -> None:
    contact = team.add()
    add_group(team, contact, **PRESENT_GROUP)
    add_group(other_team, **PRESENT_GROUP)  # the same name and even id: another account's are no concern
    second = add_group(team, contact, id=7_000_000_003, name="字" * 64)
    assert members(team) == [(PRESENT_GROUP["id"], contact), (second, contact)]


def test_memberships_go_with_the_contact_and_with_the_group(team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    first, second = add_group(team, ann, bob, name="First"), add_group(team, ann, bob, name="Second")
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [ann])
    assert members(team) == [(first, bob), (second, bob)]
    team.sql.execute("DELETE FROM groups WHERE account_id = %s AND id = %s", [team.account_id, first])
    assert members(team) == [(second, bob)]
    assert [contact["name"] for contact in team.contacts()] == ["Bob"]


def test_an_account_with_groups_cannot_be_deleted(team: Team) -> None:
    add_group(team)
    with pytest.raises(errors.ForeignKeyViolation) as caught:
        team.sql.execute("DELETE FROM accounts WHERE id = %s", [team.account_id])
    assert caught.value.diag.constraint_name == "groups_accounts_fkey"


def add_alerts(team: Team) -> None:
    """Write one good row into every table of the alerts."""
    team.add(id=MINE)
    add_group(team, MINE, id=MINE)
    # The contact and the group have the account looked at by themselves.
    team.sql.execute("DELETE FROM system_checks WHERE account_id = %s", [team.account_id])
    for table, row in ALERT_ROWS.items():
        insert(team.sql, table, row if table == "workers" else {"account_id": team.account_id} | row)


@pytest.mark.parametrize(("table", "constraint", "bad"), BAD_ALERT_ROWS, ids=row_id)
def test_a_bad_row_of_the_alerts_is_refused_by_name(
    team: Team, table: str, constraint: str, bad: dict[str, Any]
) -> None:
    with team.sql.transaction(force_rollback=True):
        add_alerts(team)
        account = {} if table == "workers" else {"account_id": team.account_id}
        assert refusal(team.sql, table, account | ALERT_ROWS[table] | bad) == constraint


@pytest.mark.parametrize("table", ["integrations", "channel_states"])
def test_nothing_of_the_alerts_can_hang_on_another_account(team: Team, other_team: Team, table: str) -> None:
    other_team.add(id=MINE)
    add_group(other_team, MINE, id=MINE)
    assert refusal(team.sql, table, {"account_id": team.account_id} | ALERT_ROWS[table]) in (
        "integrations_groups_fkey",
        "channel_states_contacts_fkey",
    )


def test_a_log_of_deliveries_outlives_contact_group_and_integration(team: Team) -> None:
    with team.sql.transaction(force_rollback=True):
        add_alerts(team)
        team.sql.execute("DELETE FROM groups WHERE account_id = %s", [team.account_id])
        team.sql.execute("DELETE FROM contacts WHERE account_id = %s", [team.account_id])
        count = "SELECT count(*) FROM {} WHERE account_id = %s"
        left = {
            name: team.sql.execute(count.format(name), [team.account_id]).fetchone()[0]
            for name in ALERT_ROWS
            if name != "workers"
        }
        assert [name for name, rows in left.items() if not rows] == [
            *("integrations", "refusals", "channel_states", "send_windows"),
        ]
        team.sql.execute("DELETE FROM alerts WHERE account_id = %s", [team.account_id])
        assert team.sql.execute(count.format("deliveries"), [team.account_id]).fetchone() == (0,)


ROBOT_NOW: dict[str, Any] = {"dingtalk_url_encrypted": b"kkkk" + b"x" * 40, "dingtalk_url_hash": b"x" * 32}
# What is changed of a contact with every channel, and the channels of which nothing is known any more.
FORGOTTEN: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"name": "Bob"}, ()),
    ({"mobile": "+8613800138009"}, ("sms",)),
    ({"mobile": None}, ("sms",)),
    ({"email": "bob@example.com"}, ("email",)),
    ({"dingtalk_url_hash": b"y" * 32}, ("dingtalk",)),
    ({"dingtalk_keyword": "alert"}, ("dingtalk",)),
    ({"dingtalk_secret_encrypted": b"kkkk" + b"z" * 40}, ("dingtalk",)),
    ({"dingtalk_secret_encrypted": None}, ("dingtalk",)),
    # The same secret with another key, as its first four bytes say.
    ({"dingtalk_secret_encrypted": b"llll" + b"z" * 40}, ()),
]


def test_each_kind_of_channel_has_a_change_of_its_address_here() -> None:
    assert {channel for _, channels in FORGOTTEN for channel in channels} == KINDS.keys()


@pytest.mark.parametrize(("change", "forgotten"), FORGOTTEN)
def test_what_is_known_of_a_channel_is_forgotten_with_its_address(
    team: Team, change: dict[str, Any], forgotten: tuple[str, ...]
) -> None:
    contact = team.add(
        **{"mobile": "+8613800138000", "email": "ann@example.com"},
        **(ROBOT_NOW | {"dingtalk_secret_encrypted": b"kkkk" + b"y" * 40}),
    )
    for channel in KINDS:
        row = {"account_id": team.account_id, "contact_id": contact, "channel": channel, "worked_at": "now"}
        insert(team.sql, "channel_states", row)
    sets = ", ".join(f"{column} = %s" for column in change)
    team.sql.execute(f"UPDATE contacts SET {sets} WHERE id = %s", [*change.values(), contact])
    found = team.sql.execute("SELECT channel FROM channel_states WHERE contact_id = %s", [contact]).fetchall()
    assert KINDS.keys() - {channel for (channel,) in found} == set(forgotten)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO contacts (account_id, name, email) VALUES (%(account)s, 'Bob', 'b@example.com')",
        "UPDATE contacts SET name = 'Bob' WHERE account_id = %(account)s",
        "DELETE FROM contacts WHERE account_id = %(account)s",
        "INSERT INTO groups (account_id, name) VALUES (%(account)s, 'Another')",
        "DELETE FROM groups WHERE account_id = %(account)s",
        "INSERT INTO memberships SELECT account_id, (SELECT max(id) FROM groups WHERE account_id = %(account)s), id"
        " FROM contacts WHERE account_id = %(account)s AND name = 'Alone'",
        "DELETE FROM memberships WHERE account_id = %(account)s",
    ],
)
def test_whatever_changes_who_can_be_reached_has_the_account_looked_at(team: Team, change: str) -> None:
    team.add("Alone", email="alone@example.com")
    add_group(team, team.add())
    parameters = {"account": team.account_id}
    for later in (
        "DELETE FROM system_checks WHERE",
        "INSERT INTO system_checks SELECT id, now() + interval '1 day' FROM accounts WHERE",
    ):
        with team.sql.transaction(force_rollback=True):
            team.sql.execute("DELETE FROM system_checks WHERE account_id = %(account)s", parameters)
            column = "account_id" if later.startswith("DELETE") else "id"
            team.sql.execute(f"{later} {column} = %(account)s", parameters)
            team.sql.execute(change, parameters)
            due = "SELECT due_at <= now() FROM system_checks WHERE account_id = %(account)s"
            assert team.sql.execute(due, parameters).fetchall() == [(True,)]


@pytest.mark.parametrize(("constraint", "bad"), BAD_KEYS, ids=row_id)
def test_a_key_is_noted_once_and_never_itself(sql: psycopg.Connection, constraint: str, bad: dict[str, Any]) -> None:
    with sql.transaction(force_rollback=True):
        insert(sql, "encryption_keys", {"id": b"mine"})
        assert refusal(sql, "encryption_keys", {"id": b"mine"} | bad) == constraint


def test_two_logon_attempts_cannot_share_an_id(team: Team) -> None:
    row = {"id": 8_000_000_000 + team.account_id, "email_hash": b"x", "address": "192.0.2.1"}
    insert(team.sql, "logon_attempts", row)
    assert refusal(team.sql, "logon_attempts", row) == "logon_attempts_pkey"


def test_every_constraint_of_the_schema_has_a_bad_row_here(sql: psycopg.Connection) -> None:
    query = """
        SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
        UNION SELECT indexrelid::regclass::text FROM pg_index
        WHERE indisunique AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    """  # noqa: E501
    schema = {name for (name,) in sql.execute(query)}
    tested = {name for _, name, _ in BAD_ALERT_ROWS} | {
        name
        for name, _ in BAD_CONTACTS + BAD_ACCOUNTS + BAD_USERS + BAD_SESSIONS + BAD_GROUPS + BAD_MEMBERSHIPS + BAD_KEYS
    }
    assert schema == tested | TESTED_ELSEWHERE_HERE


def test_every_trigger_of_the_schema_is_known_here(sql: psycopg.Connection) -> None:
    found = sql.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname").fetchall()
    assert [name for (name,) in found] == [
        *("channel_states_are_of_the_address", "contact_stays_in_its_account", "count_deleted", "count_inserted"),
        *["system_check_of_deleted"] * 3,
        *["system_check_of_inserted"] * 3,
        "system_check_of_updated",
    ]


@pytest.mark.parametrize(("table", "column"), NOT_NULL, ids=".".join)
def test_a_column_that_must_hold_something_cannot_be_emptied(team: Team, table: str, column: str) -> None:
    with team.sql.transaction(force_rollback=True):
        add_alerts(team)
        insert(team.sql, "logon_attempts", {"email_hash": b"x", "address": "192.0.2.1"})
        team.sql.execute("INSERT INTO encryption_keys (id) VALUES ('mine') ON CONFLICT DO NOTHING")
        with pytest.raises(errors.NotNullViolation) as caught:
            team.sql.execute(f"UPDATE {table} SET {column} = NULL")
    assert (caught.value.diag.table_name, caught.value.diag.column_name) == (table, column)


def test_a_contact_stays_in_its_account(team: Team, other_team: Team) -> None:
    contact = team.add()
    with pytest.raises(errors.IntegrityError, match="a contact stays in its account"):
        team.sql.execute("UPDATE contacts SET account_id = %s WHERE id = %s", [other_team.account_id, contact])
    assert (counted(team), counted(other_team)) == (1, 0)
    team.sql.execute("UPDATE contacts SET account_id = %s WHERE id = %s", [team.account_id, contact])


def test_the_form_that_names_are_found_by_cannot_be_written(team: Team) -> None:
    contact = team.add("ＡＮＮ")
    with pytest.raises(errors.GeneratedAlways):
        team.sql.execute("UPDATE contacts SET name_key = 'bob' WHERE id = %s", [contact])
    assert team.contact(contact)["name_key"] == "ann"


def test_an_account_with_contacts_cannot_be_deleted(team: Team) -> None:
    team.add()
    with pytest.raises(errors.ForeignKeyViolation) as caught:
        team.sql.execute("DELETE FROM accounts WHERE id = %s", [team.account_id])
    assert caught.value.diag.constraint_name == "contacts_accounts_fkey"


def test_users_and_sessions_go_with_their_account(team: Team) -> None:
    team.sql.execute("DELETE FROM accounts WHERE id = %s", [team.account_id])
    for table in ("users", "sessions"):
        found = team.sql.execute(f"SELECT count(*) FROM {table} WHERE account_id = %s", [team.account_id])
        assert found.fetchone() == (0,)


def counted(team: Team) -> int:
    return team.sql.execute("SELECT contact_count FROM accounts WHERE id = %s", [team.account_id]).fetchone()[0]


def add_many(team: Team, count: int, start: int = 0) -> None:
    team.sql.execute(
        "INSERT INTO contacts (account_id, name, email)"
        " SELECT %s, 'Ann', 'ann' || number || '@example.com' FROM generate_series(%s::int, %s::int) AS number",
        [team.account_id, start + 1, start + count],
    )


def test_the_count_follows_inserts_and_deletes(team: Team, other_team: Team) -> None:
    assert counted(team) == 0
    first = team.add()
    add_many(team, 20)
    add_many(other_team, 3)
    assert (counted(team), counted(other_team)) == (21, 3)
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [first])
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [first])
    assert (counted(team), counted(other_team)) == (20, 3)
    team.sql.execute("UPDATE contacts SET name = 'Bob' WHERE account_id = %s", [team.account_id])
    assert counted(team) == 20
    # One statement over two accounts counts for each.
    both = [team.account_id, other_team.account_id]
    team.sql.execute("DELETE FROM contacts WHERE account_id = ANY(%s) AND email LIKE 'ann1%%'", [both])
    assert (counted(team), counted(other_team)) == (len(team.contacts()), len(other_team.contacts())) == (9, 2)


def test_the_count_follows_what_really_happened(team: Team) -> None:
    add_many(team, 5)
    with team.sql.transaction(force_rollback=True):
        add_many(team, 5, start=5)
        assert counted(team) == 10
    assert counted(team) == 5
    team.sql.execute(
        "INSERT INTO contacts (account_id, name, email) SELECT account_id, name, email FROM contacts"
        " WHERE account_id = %s ON CONFLICT DO NOTHING",
        [team.account_id],
    )
    assert counted(team) == 5
    # As a superuser, because nobody else may copy into a table whose rows are locked.
    with (
        psycopg.connect(administrator(team.sql.info.dsn)) as connection,
        connection.cursor().copy("COPY contacts (account_id, name, email) FROM STDIN") as copy,
    ):
        copy.write_row((team.account_id, "Copied", "copied@example.com"))
    assert counted(team) == 6


def test_the_quota_is_a_fact_of_the_schema(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=3)
    add_many(team, 3)
    for more in (1, 2):
        with pytest.raises(errors.CheckViolation) as caught:
            add_many(team, more, start=3)
        assert caught.value.diag.constraint_name == "account_is_within_quota"
    assert counted(team) == len(team.contacts()) == 3


def catalogue(url: str) -> dict[str, set[tuple[Any, ...]]]:
    """Return columns, constraints and indexes of the schema at `url`, each as PostgreSQL writes it."""
    queries = {
        "columns": """
            SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated,
                pg_get_expr(adbin, adrelid)
            FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped""",
        "constraints": """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND contype <> 'n'""",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    }
    with psycopg.connect(url) as connection:
        return {
            kind: {row for row in connection.execute(query).fetchall() if row[0] != "alembic_version"}
            for kind, query in queries.items()
        }


def test_the_models_describe_the_migrated_schema(
    app: Flask, database_url: str, new_database: Callable[[], str], settings: dict[str, str]
) -> None:
    url = new_database()
    with create_app(settings | {"DATABASE_URL": url}).app_context(), all_accounts():
        Base.metadata.create_all(db.engine)
    modelled, migrated = catalogue(url), catalogue(database_url)
    for kind, found in migrated.items():
        assert modelled[kind] == found, kind


def test_alembic_finds_nothing_to_migrate(app: Flask) -> None:
    options = {"compare_type": True, "compare_server_default": True}
    with app.app_context(), all_accounts(), db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def revision(url: str) -> str:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def upgrade(url: str, settings: dict[str, str], target: str = "head") -> None:
    with create_app(settings | {"DATABASE_URL": url}).app_context(), all_accounts():
        try:
            migrations.upgrade(target)
        finally:
            db.engine.dispose()


def test_an_upgrade_encrypts_the_robots_that_are_there(
    new_database: Callable[[], str], settings: dict[str, str]
) -> None:
    url, robot = new_database(), f"{ROBOT}0123456789abcdef"
    upgrade(url, settings, "0002")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (id, name, contact_quota) OVERRIDING SYSTEM VALUE VALUES (7, 'Ops', 9)"
        )
        for name, address, email in (("Ann", robot, None), ("Bob", robot, "b@example.com"), ("Cid", None, "c@x.org")):
            row = {"account_id": 7, "name": name, "dingtalk_url": address, "email": email}
            insert(connection, "contacts", row)
        where = "SELECT pg_relation_filepath('contacts')"
        file = connection.execute(where).fetchone()
        upgrade(url, settings)
        # A new file: the old one had the addresses in it.
        assert connection.execute(where).fetchone() != file
    with create_app(settings | {"DATABASE_URL": url}).app_context(), all_accounts():
        found = db.session.scalars(sa.select(Contact).order_by(Contact.name)).all()
        assert [contact.dingtalk_url for contact in found] == [robot, robot, None]
        assert found[0].dingtalk_url_hash == found[1].dingtalk_url_hash
        assert found[0].dingtalk_url_encrypted != found[1].dingtalk_url_encrypted
        db.session.remove()
        db.engine.dispose()


@pytest.mark.parametrize("email", ["b" * 70 + "@example.com", "bob@example.com"])
def test_an_upgrade_keeps_a_mailbox_that_is_longer_than_mail_servers_take(
    new_database: Callable[[], str], settings: dict[str, str], email: str
) -> None:
    url = new_database()
    upgrade(url, settings, "0006")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (id, name, contact_quota) OVERRIDING SYSTEM VALUE VALUES (7, 'Ops', 9)"
        )
        insert(connection, "contacts", {"account_id": 7, "name": "Bob", "email": email})
        upgrade(url, settings)
        assert connection.execute("SELECT email FROM contacts").fetchall() == [(email,)]
        query = "SELECT convalidated FROM pg_constraint WHERE conname = 'contact_email_is_an_address'"
        assert connection.execute(query).fetchone() == (len(email) < 70,)
        with pytest.raises(errors.CheckViolation):
            insert(connection, "contacts", {"account_id": 7, "name": "Cid", "email": "c" * 70 + "@example.com"})


def test_an_upgrade_quotes_the_answers_that_are_there(
    new_database: Callable[[], str], settings: dict[str, str]
) -> None:
    url = new_database()
    upgrade(url, settings, "0015")
    said = 'The mail server refused the mailbox: 550 "Ann" \\ 没有 {"code":"mail.sent"}'
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET console.account_id = 'all'")
        connection.execute("INSERT INTO accounts (id, name, contact_quota) VALUES (7, 'Ops', 9)")
        insert(connection, "contacts", PRESENT | {"account_id": 7, "id": 7, "email": "ann@example.com"})
        key = {"account_id": 7, "contact_id": 7}
        insert(connection, "channel_states", key | {"channel": "sms", "worked_at": "now"})
        insert(connection, "channel_states", key | {"channel": "email", "failing_since": "now", "answer": said})
        for works, answer in ((True, None), (False, said)):
            row = {"channel": "email", "works": works, "answer": answer, "used": "ann@example.com"}
            insert(connection, "channel_news", key | row)
        insert(connection, "sent_deliveries", key | {"alert_id": 7, "channel": "email", "answer": said})
        upgrade(url, settings)
        stored = answers.dump(answers.answer("quoted", text=said))
        for table, expected in (
            ("channel_states", {None, stored}),
            ("channel_news", {None, stored}),
            ("sent_deliveries", {stored}),
        ):
            assert {answer for (answer,) in connection.execute(f"SELECT answer FROM {table}")} == expected
    assert sentence(stored) == said


REVISIONS = sorted(script.revision for script in ScriptDirectory(Path(migrations.__file__).parent).walk_revisions())
# One good row of each table there ever was; a version takes of it what it has columns for.
EARLIER_ROWS: dict[str, dict[str, Any]] = {
    "accounts": {"id": MINE, "name": "Ops", "contact_quota": 9},
    "users": {"account_id": MINE, "id": MINE, "email": "ann@example.com", "password_hash": PASSWORD_HASH},
    "sessions": {"account_id": MINE, "user_id": MINE, "token_hash": b"t" * 32},
    "logon_attempts": {"id": MINE, "email_hash": b"h", "address": "192.0.2.1"},
    "contacts": PRESENT | {"account_id": MINE, "id": MINE, "dingtalk_url": f"{ROBOT}0123456789abcdef"},
    "groups": {"account_id": MINE, "id": MINE, "name": "Ops é"},
    "memberships": {"account_id": MINE, "group_id": MINE, "contact_id": MINE},
    "encryption_keys": {"id": b"mine"},
    **{name: {"account_id": MINE} | row for name, row in ALERT_ROWS.items()},
    "system_checks": {},  # the contact has it written
}


def kept(connection: psycopg.Connection) -> dict[str, list[dict[str, Any]]]:
    """Return what stands in each table, by its columns."""
    connection.execute("SET console.account_id = 'all'")
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    names = [name for (name,) in connection.execute(query)]
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    return {name: cursor.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names}


@pytest.mark.long
@pytest.mark.parametrize("earlier", REVISIONS[:-1])
def test_an_upgrade_from_each_earlier_version_keeps_every_row(
    new_database: Callable[[], str], settings: dict[str, str], earlier: str
) -> None:
    url = new_database()
    upgrade(url, settings, earlier)
    app = create_app(settings | {"DATABASE_URL": url})
    with psycopg.connect(url, autocommit=True) as connection:
        tables = kept(connection)
        for table, row in EARLIER_ROWS.items():
            if table not in tables or not row:
                continue
            columns = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
            there = {name for (name,) in connection.execute(columns, [table])}
            if "dingtalk_url_encrypted" in there:
                with app.app_context(), all_accounts():
                    contact = Contact(account_id=MINE, id=MINE, dingtalk_url=row["dingtalk_url"])
                    robot = ("dingtalk_url_encrypted", "dingtalk_url_hash")
                    row = row | {name: getattr(contact, name) for name in robot}
            insert(connection, table, {name: value for name, value in row.items() if name in there})
        before = kept(connection)
        assert [name for name, rows in before.items() if not rows] == []
        upgrade(url, settings)
        after = kept(connection)
    assert revision(url) == REVISIONS[-1]
    for table, rows in before.items():
        assert len(after[table]) == len(rows)
        for old, new in zip(rows, after[table], strict=True):
            old.pop("dingtalk_url", None)
            read = {"answer": new["answer"] and sentence(new["answer"])} if "answer" in new else {}
            assert {name: (new | read)[name] for name in old} == old, table
    with app.app_context(), all_accounts():
        (row,) = after["contacts"]
        encrypted = row["dingtalk_url_encrypted"]
        assert decrypted(encrypted, MINE, MINE, "dingtalk_url") == EARLIER_ROWS["contacts"]["dingtalk_url"]
        db.engine.dispose()
    assert after["accounts"][0]["contact_count"] == 1


def test_an_upgrade_that_has_nothing_to_do_changes_nothing(
    team: Team, database_url: str, settings: dict[str, str]
) -> None:
    team.add()
    before = catalogue(database_url), revision(database_url), team.contacts()
    upgrade(database_url, settings)
    upgrade(database_url, settings)
    assert (catalogue(database_url), revision(database_url), team.contacts()) == before


@pytest.mark.long
def test_consoles_that_start_at_once_migrate_one_after_the_other(
    database_url: str, new_database: Callable[[], str], settings: dict[str, str], app: Flask
) -> None:
    url, barrier = new_database(), Barrier(4)

    def start(_: int) -> None:
        barrier.wait()
        upgrade(url, settings)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(start, range(4)))
    assert catalogue(url) == catalogue(database_url)
    assert revision(url) == revision(database_url)


def reason(url: str, settings: dict[str, str]) -> str:
    """Return the one line that a start on the database at `url` ends with."""
    with pytest.raises(StartError) as caught:
        upgrade(url, settings)
    line = str(caught.value)
    assert line.startswith("DATABASE_URL: ")
    assert "\n" not in line
    assert "s3cret" not in line
    return line


def test_a_database_out_of_reach_is_refused(settings: dict[str, str]) -> None:
    url = f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/contacts"
    assert "cannot be reached" in reason(url, settings)


def test_a_database_that_does_not_exist_is_refused(database_url: str, settings: dict[str, str]) -> None:
    missing = database_url.replace(str(conninfo_to_dict(database_url)["dbname"]), "missing")
    assert "missing" in reason(missing, settings)


def test_a_server_that_is_too_old_is_refused(
    database_url: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No such server is at hand: for this test, every server is too old.
    monkeypatch.setattr(postgres, "OLDEST_SERVER", 1000)
    assert "the console needs 1000 or later" in reason(database_url, settings)


@contextmanager
def database_made_with(options: str, data_dir: Path) -> Iterator[str]:
    """Yield the address of a database that CREATE DATABASE made with `options`, which new_database has no way to."""
    given = os.environ.get("DATABASE_URL")
    parts = conninfo_to_dict(given or embedded.url(data_dir))
    name, owner = f"odd_{os.getpid()}", parts.get("user") or "CURRENT_USER"
    admin = given or make_conninfo(embedded.url(data_dir), user="postgres", dbname="postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 {options}")
        try:
            parts = {key: value for key, value in parts.items() if value} | {"dbname": name}
            yield "postgresql:///?" + "&".join(f"{key}={value}" for key, value in parts.items())
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
def test_a_database_that_cannot_hold_any_letter_is_refused(
    app: Flask, data_dir: Path, settings: dict[str, str], encoding: str
) -> None:
    with database_made_with(f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'", data_dir) as url:
        assert "must be created with ENCODING 'UTF8' and a locale" in reason(url, settings)


@pytest.mark.parametrize(
    "spoil",
    ["ALTER DATABASE {} SET default_transaction_read_only = on", "DROP SCHEMA public"],
    ids=["read-only", "nowhere to create tables"],
)
def test_a_database_that_takes_no_tables_is_refused(
    new_database: Callable[[], str], settings: dict[str, str], spoil: str
) -> None:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(spoil.format(conninfo_to_dict(url)["dbname"]))
    assert "cannot be" in reason(url, settings)


@pytest.mark.long
@pytest.mark.parametrize(
    "statement", [f"SELECT pg_advisory_xact_lock({migrations.LOCK})", "LOCK TABLE accounts"], ids=["migration", "table"]
)
def test_a_lock_that_somebody_keeps_ends_a_migration_with_who_has_it(
    new_database: Callable[[], str], settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    url = new_database()
    upgrade(url, settings, "0001")
    monkeypatch.setattr(migrations, "PATIENCE", "100ms")
    monkeypatch.setattr(migrations, "TABLE_PATIENCE", "100ms")
    with psycopg.connect(url) as connection:
        connection.execute(statement)
        assert f"on the server the process {connection.info.backend_pid} held a lock." in reason(url, settings)
    assert revision(url) == "0001"
    upgrade(url, settings)
    assert revision(url) == migrations.newest()


def test_a_database_of_a_later_version_is_refused(new_database: Callable[[], str], settings: dict[str, str]) -> None:
    url = new_database()
    upgrade(url, settings)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "9999" in reason(url, settings) or "later version" in reason(url, settings)
    assert revision(url) == "9999"


def test_a_migration_that_fails_leaves_nothing_half_done(
    new_database: Callable[[], str], settings: dict[str, str]
) -> None:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE contacts (id int)")
        with pytest.raises((StartError, sa.exc.DBAPIError)):
            upgrade(url, settings)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("contacts",)]
