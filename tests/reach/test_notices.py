"""Show which system notifications are sent: to which contacts, once for each fact, one a day of each kind."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from flask import Flask

from contacts_app import create_app
from contacts_app.core.db import all_accounts
from contacts_app.reach import notices
from contacts_app.reach.sentences import SENTENCES, in_words
from tests.conftest import Team

REFUSED = "The mail server refused the mailbox: 550 no such mailbox"
FAILING = "A channel of the team has begun to fail"
WORKING = "A channel of the team works again"
QUOTA = "The contact quota is nearly used up"
UNREACHABLE_GROUP = "A contact group has no reachable members"


@pytest.fixture(scope="module")
def app(app: Flask, settings: dict[str, str]) -> Flask:
    """Return a console that can send mail, and nothing else."""
    return create_app(settings | {"SMTP_HOST": "localhost", "SMTP_FROM": "console@example.com"})


@pytest.fixture
def team(team: Team) -> Team:
    """Return a team in which Ann receives system notifications; no check is due."""
    team.add(name="Ann", email="ann@example.com", receives_system_notifications=True)
    check(team)
    return team


def check(team: Team) -> None:
    """Run the checks that are due, as a worker does."""
    with team.app.app_context(), all_accounts():
        while notices.check_next():
            pass


def ask(team: Team) -> None:
    """Schedule a check of the account, and run it."""
    team.sql.execute(
        "INSERT INTO system_checks (account_id) VALUES (%s) ON CONFLICT (account_id) DO UPDATE SET due_at = now()",
        [team.account_id],
    )
    check(team)


def set_state(team: Team, contact: int, fails: bool, channel: str = "email") -> None:
    """Record the result of an attempt, as a worker does."""
    team.sql.execute(
        """INSERT INTO channel_states (account_id, contact_id, channel, worked_at, failing_since, answer)
        SELECT %(account)s, %(contact)s, %(channel)s, now(),
            CASE WHEN %(fails)s THEN now() END, CASE WHEN %(fails)s THEN %(answer)s END
        ON CONFLICT (account_id, contact_id, channel) DO UPDATE SET
            failing_since = excluded.failing_since, answer = excluded.answer""",
        {
            "account": team.account_id,
            "contact": contact,
            "channel": channel,
            "fails": fails,
            "answer": REFUSED,
        },
    )
    ask(team)


def pass_a_day(team: Team) -> None:
    """Let a day pass, and run the checks that are due then."""
    mine = [team.account_id]
    team.sql.execute("UPDATE system_notices SET sent_at = sent_at - interval '1 day' WHERE account_id = %s", mine)
    team.sql.execute("UPDATE system_checks SET due_at = due_at - interval '1 day' WHERE account_id = %s", mine)
    check(team)


def sent(team: Team) -> list[tuple[str, str]]:
    """Return title and text of the team's system notifications, oldest first."""
    query = "SELECT title, text, codes FROM alerts WHERE account_id = %s AND kind = 'system' ORDER BY id"
    found = team.sql.execute(query, [team.account_id]).fetchall()
    with team.app.app_context():
        for title, text, codes in found:
            assert (in_words(codes[:1], ""), in_words(codes[1:], "")) == (title, text), "the codes say what was sent"
    return [(title, text) for title, text, _ in found]


def titles(team: Team) -> list[str]:
    return [title for title, _ in sent(team)]


def one(team: Team, query: str, *values: Any) -> tuple[Any, ...]:
    """Return the row that the query finds."""
    (row,) = team.sql.execute(query, values).fetchall()
    return row


def new_group(team: Team, name: str, *members: int, minutes: int = 0) -> int:
    query = "INSERT INTO groups (account_id, name, created_at) VALUES (%s, %s, now() - make_interval(mins => %s))"
    (group,) = one(team, f"{query} RETURNING id", team.account_id, name, minutes)
    for member in members:
        team.sql.execute("INSERT INTO memberships VALUES (%s, %s, %s)", [team.account_id, group, member])
    return int(group)


def test_a_channel_that_fails_is_reported_with_its_reason(team: Team) -> None:
    bob = team.add(name="Bob", email="bob@example.com")
    set_state(team, bob, fails=True)
    ((title, text),) = sent(team)
    as_shown = "to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')"
    (since,) = one(team, f"SELECT {as_shown} FROM channel_states WHERE contact_id = %s", bob)
    assert title == FAILING
    assert text == f"Bob: Mailbox, since {since} UTC: {REFUSED}"
    columns = "source, addressee, severity, status"
    found = one(team, f"SELECT {columns} FROM alerts WHERE account_id = %s", team.account_id)
    assert found == ("console", "System notifications", "warning", "firing")


def test_a_time_is_shown_in_the_zone_of_the_settings(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(team.app.extensions["settings"], timezone=ZoneInfo("Asia/Shanghai"))
    monkeypatch.setitem(team.app.extensions, "settings", settings)
    bob = team.add(name="Bob", email="bob@example.com")
    set_state(team, bob, fails=True)
    as_shown = "to_char(failing_since AT TIME ZONE 'Asia/Shanghai', 'YYYY-MM-DD HH24:MI')"
    (since,) = one(team, f"SELECT {as_shown} FROM channel_states WHERE contact_id = %s", bob)
    assert sent(team)[0][1] == f"Bob: Mailbox, since {since} UTC+08:00: {REFUSED}"


def test_only_contacts_with_the_switch_are_notified_over_each_of_their_channels(team: Team, other_team: Team) -> None:
    team.add(name="Cid", mobile="+8613800000001", email="cid@example.com", receives_system_notifications=True)
    other_team.add(name="Eve", receives_system_notifications=True)
    set_state(team, team.add(name="Bob", email="bob@example.com"), fails=True)
    found = team.sql.execute(
        """SELECT contact_name, channel FROM deliveries
        JOIN alerts ON (alerts.account_id, id) = (deliveries.account_id, alert_id)
        WHERE deliveries.account_id = %s AND kind = 'system' ORDER BY 1, 2""",
        [team.account_id],
    ).fetchall()
    assert found == [("Ann", "email"), ("Cid", "email"), ("Cid", "sms")]
    assert sent(other_team) == []


def test_without_receivers_nothing_is_sent_and_the_first_receiver_gets_everything(team: Team) -> None:
    team.sql.execute(
        "UPDATE contacts SET receives_system_notifications = false WHERE account_id = %s", [team.account_id]
    )
    set_state(team, team.add(name="Bob", email="bob@example.com"), fails=True)
    assert sent(team) == []
    assert team.sql.execute("SELECT FROM system_checks WHERE account_id = %s", [team.account_id]).fetchone() is None
    team.sql.execute(
        "UPDATE contacts SET receives_system_notifications = true WHERE account_id = %s AND name = 'Ann'",
        [team.account_id],
    )
    check(team)  # a trigger on the switch schedules it
    assert titles(team) == [FAILING]


def test_a_fact_is_not_reported_again_while_it_lasts(team: Team) -> None:
    bob = team.add(name="Bob", email="bob@example.com")
    set_state(team, bob, fails=True)
    for _ in range(3):
        pass_a_day(team)
        set_state(team, bob, fails=True)
    assert titles(team) == [FAILING]


def test_a_recovery_is_reported_and_so_is_the_next_failure(team: Team) -> None:
    bob = team.add(name="Bob", email="bob@example.com")
    set_state(team, bob, fails=True)
    set_state(team, bob, fails=False)
    assert sent(team)[1:] == [(WORKING, "Bob: Mailbox\nNo other channel fails.")]
    status = "SELECT status, severity FROM alerts WHERE account_id = %s ORDER BY id DESC LIMIT 1"
    assert one(team, status, team.account_id) == ("resolved", "info")
    set_state(team, bob, fails=True)
    assert titles(team) == [FAILING, WORKING]  # the day's message is used up
    pass_a_day(team)  # the check was scheduled
    assert titles(team) == [FAILING, WORKING, FAILING]


def test_failures_after_the_days_notification_are_reported_together_when_the_day_is_over(team: Team) -> None:
    for name in ("Bob", "Cid", "Dan"):
        set_state(team, team.add(name=name, email=f"{name}@example.com"), fails=True)
    assert titles(team) == [FAILING]
    pass_a_day(team)
    title, text = sent(team)[-1]
    assert title == "3 channels of the team fail"
    assert [line.partition(",")[0] for line in text.splitlines()] == ["Bob: Mailbox", "Cid: Mailbox", "Dan: Mailbox"]
    pass_a_day(team)
    assert len(sent(team)) == 2


def test_what_ended_before_it_could_be_reported_is_not_reported(team: Team) -> None:
    bob, cid = (team.add(name=name, email=f"{name}@example.com") for name in ("Bob", "Cid"))
    set_state(team, bob, fails=True)
    set_state(team, cid, fails=True)
    set_state(team, cid, fails=False)
    pass_a_day(team)
    assert titles(team) == [FAILING]


@pytest.mark.parametrize(
    "change",
    ["UPDATE contacts SET email = 'new@example.com' WHERE id = %s", "DELETE FROM contacts WHERE id = %s"],
    ids=["new address", "deleted"],
)
def test_a_failure_that_is_gone_with_its_address_is_no_recovery(team: Team, change: str) -> None:
    bob = team.add(name="Bob", email="bob@example.com")
    set_state(team, bob, fails=True)
    team.sql.execute(change, [bob])
    check(team)
    assert titles(team) == [FAILING]
    query = "SELECT FROM told_facts WHERE account_id = %s"
    assert team.sql.execute(query, [team.account_id]).fetchall() == []


def test_a_receiver_whose_own_channel_fails_does_not_cause_notification_after_notification(team: Team) -> None:
    (ann,) = (contact["id"] for contact in team.contacts())
    for _ in range(5):
        set_state(team, ann, fails=True)  # as each notification about it ends
    assert titles(team) == [FAILING]


def test_of_many_channels_that_fail_some_are_named_and_the_rest_counted(team: Team) -> None:
    ids = [team.add(name=f"Bob {number:02}", email=f"bob{number}@example.com") for number in range(55)]
    team.sql.execute(
        """INSERT INTO channel_states (account_id, contact_id, channel, failing_since, answer)
        SELECT %s, unnest(%s), 'email', now(), 'no'""",
        [team.account_id, ids],
    )
    ask(team)
    ((title, text),) = sent(team)
    assert title == "55 channels of the team fail"
    assert (text.count("\n"), text.splitlines()[-1]) == (notices.MAX_LISTED, "and 5 more")


def test_the_quota_is_reported_at_nine_tenths_and_again_after_it_had_been_lower(new_team: Any) -> None:
    team = new_team(quota=20)
    team.add(name="Ann", email="ann@example.com", receives_system_notifications=True)
    for _ in range(16):
        team.add(name="Bob")
    check(team)
    assert sent(team) == []
    bob = team.add(name="Bob")
    check(team)
    assert sent(team) == [(QUOTA, "The account has 18 of 20 contacts.")]
    team.add(name="Bob")
    pass_a_day(team)
    assert len(sent(team)) == 1
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s AND id >= %s", [team.account_id, bob])
    check(team)
    team.add(name="Bob")
    check(team)
    assert len(sent(team)) == 2


def test_a_group_is_reported_when_none_of_its_members_can_be_reached(team: Team) -> None:
    bob, cid = (team.add(name=name, email=f"{name}@example.com") for name in ("Bob", "Cid"))
    new_group(team, "On call", bob, cid)
    check(team)
    set_state(team, bob, fails=True)
    assert UNREACHABLE_GROUP not in titles(team)
    set_state(team, cid, fails=True)
    assert sent(team)[-1] == (UNREACHABLE_GROUP, "On call: none of its members can be reached")
    pass_a_day(team)
    assert titles(team).count(UNREACHABLE_GROUP) == 1
    set_state(team, cid, fails=False)
    set_state(team, cid, fails=True)
    pass_a_day(team)
    assert titles(team).count(UNREACHABLE_GROUP) == 2


def test_a_group_whose_members_have_only_channels_that_are_not_set_up_is_unreachable(team: Team) -> None:
    new_group(team, "On call", team.add(name="Bob", mobile="+8613800000001"))
    check(team)
    assert sent(team) == [(UNREACHABLE_GROUP, "On call: none of its members can be reached")]


def test_an_empty_group_is_reported_when_it_is_not_new_any_more(team: Team) -> None:
    group = new_group(team, "On call")
    check(team)
    assert sent(team) == []
    move = "UPDATE groups SET created_at = created_at - interval '11 minutes' WHERE id = %s"
    team.sql.execute(move, [group])
    team.sql.execute(
        "UPDATE system_checks SET due_at = due_at - interval '11 minutes' WHERE account_id = %s", [team.account_id]
    )
    check(team)  # the check was scheduled
    assert sent(team) == [(UNREACHABLE_GROUP, "On call: it has no members")]


def test_several_groups_are_reported_in_one_notification(team: Team) -> None:
    new_group(team, "Night", minutes=11)
    new_group(team, "Day", minutes=11)
    check(team)
    assert sent(team) == [
        ("2 contact groups have no reachable members", "Day: it has no members\nNight: it has no members")
    ]


def test_each_kind_has_a_notification_a_day_of_its_own(team: Team) -> None:
    set_state(team, team.add(name="Bob", email="bob@example.com"), fails=True)
    new_group(team, "Night", minutes=11)
    check(team)
    assert titles(team) == [FAILING, UNREACHABLE_GROUP]


def test_an_account_that_another_worker_checks_is_skipped(team: Team) -> None:
    ask_only = "INSERT INTO system_checks (account_id) VALUES (%s)"
    team.sql.execute(ask_only, [team.account_id])
    with psycopg.connect(team.sql.info.dsn) as other:
        other.execute("SELECT FROM system_checks WHERE account_id = %s FOR UPDATE", [team.account_id])
        with team.app.app_context(), all_accounts():
            assert not notices.check_next()


def test_each_sentence_is_used() -> None:
    text = Path(notices.__file__).read_text()
    found = set(re.findall(r'"(notice\.[a-z_]+)"', text))
    several = {notices.FAILING.title, notices.WORKING.title, notices.UNREACHABLE_GROUP.title}
    assert found | {f"{code}_several" for code in several} == set(SENTENCES)
