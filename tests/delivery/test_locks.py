"""Show that what was sent is recorded as sent whatever rows somebody holds a lock on, as an idle `psql` does."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from contacts_app.cli.processes import CHORES
from contacts_app.core.db import Base, all_accounts, db
from contacts_app.delivery import housekeeping, messages, worker
from contacts_app.delivery.channels.registry import KINDS
from contacts_app.delivery.recording import write_what_waited
from contacts_app.reach import notices
from tests.conftest import Team, wait_for
from tests.delivery import test_worker as deliveries
from tests.delivery.counterparts import MailServer
from tests.delivery.test_worker import ANN, BOB, Courier, Robots, Texts, make_due, queue_alert, select

# The parts that a worker is tried out with.
authority, dingtalk_server = deliveries.authority, deliveries.dingtalk_server
mail_server, text_server = deliveries.mail_server, deliveries.text_server
chat, post, texts, database_url = deliveries.chat, deliveries.post, deliveries.texts, deliveries.database_url
settings, app, new_courier, team = deliveries.settings, deliveries.app, deliveries.new_courier, deliveries.team
TABLES = sorted(table.name for table in Base.metadata.sorted_tables)


@contextmanager
def locked(team: Team, table: str, condition: str = "true") -> Iterator[None]:
    """Hold a lock on rows of the table, by default on each, as `SELECT … FOR UPDATE` in a psql nobody looks at."""
    with psycopg.connect(team.sql.info.dsn) as holder:
        holder.execute("SET console.account_id = 'all'")
        holder.execute(f"SELECT FROM {table} WHERE {condition} FOR UPDATE")
        yield
        holder.rollback()


def run(couriers: dict[str, Courier]) -> list[threading.Thread]:
    """Have each channel delivered in a thread of its own until nothing is due."""

    def deliver(channel: str) -> None:
        while couriers[channel].step(channel):
            pass

    threads = [threading.Thread(target=deliver, args=(channel,)) for channel in KINDS]
    for thread in threads:
        thread.start()
    return threads


def write(team: Team) -> None:
    """Do what a worker does each second with what could not be written."""
    with team.app.app_context(), all_accounts():
        write_what_waited()
        db.session.remove()


@pytest.mark.parametrize("table", TABLES)
def test_what_was_sent_is_recorded_and_not_sent_again_whatever_is_locked(
    team: Team,
    new_courier: Callable[..., Courier],
    chat: Robots,
    post: MailServer,
    texts: Texts,
    table: str,
) -> None:
    url = chat.add("token-of-robot-1")
    for name, mobile in (("Ann", ANN), ("Bob", BOB)):
        team.add(name=name, mobile=mobile, email=f"{name}@example.com", dingtalk_url=url)
    queue_alert(team, title="Before")
    new_courier().deliver()
    team.sql.execute("UPDATE channel_states SET worked_at = NULL, failing_since = now(), answer = 'Away.'")
    queue_alert(team, title="Now")
    chat.hanging, texts.hanging, post.hanging = {"token-of-robot-1"}, {ANN, BOB}, {"Ann@example.com", "Bob@example.com"}
    threads = run({channel: new_courier(DELIVERY_THREADS="1") for channel in KINDS})
    wait_for(lambda: chat.hung and texts.hung and post.hung, what="a message on each channel")
    with locked(team, table):
        for server in (chat, texts, post):
            server.release()
        query = """
            SELECT channel FROM deliveries WHERE state = 'sent' AND alert_id = (SELECT max(id) FROM alerts)
            UNION ALL SELECT channel FROM sent_deliveries"""
        expected = dict.fromkeys(("sms", "email", "dingtalk"), 2)
        wait_for(lambda: Counter(row["channel"] for row in select(team, query)) == expected, 5, "the record of all")
        write(team)
        if table not in ("deliveries", "robots"):
            make_due(team)
        for channel in KINDS:  # another worker, which finds nothing that it may send
            new_courier().step(channel)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    if table == "robots":
        assert [len(row["sent_at"]) for row in select(team, "SELECT sent_at FROM robots")] == [2]
    make_due(team)  # what could not be written is claimed by nobody when its lease is over
    new_courier().deliver()
    arrived = [text.text.splitlines()[0] for text in texts.messages]
    arrived += [mail.message["Subject"] for mail in post.messages]
    arrived += [message.title for message in chat.messages]
    assert Counter(arrived) == {"[Firing] Before": 5, "[Firing] Now": 5}
    write(team)
    assert {(row["state"], row["attempts"]) for row in deliveries.deliveries(team)} == {("sent", 1)}
    assert {row["failing_since"] for row in select(team, "SELECT * FROM channel_states")} == {None}
    assert select(team, "SELECT FROM sent_deliveries") == select(team, "SELECT FROM channel_news") == []


def leave_work(team: Team) -> None:
    """Leave something to do for each part of the housekeeping."""
    ann = team.add(email="ann@example.com")
    late = "now() + interval '1 day'"
    for title, change in (
        ("hopeless", "state = 'sending', attempts = 21, give_up_at = now(), next_attempt_at = now()"),
        ("stopped", "state = 'sending', cancelled_by = 'ann@example.com', next_attempt_at = now()"),
        ("planned late", f"next_attempt_at = {late}"),
        ("without robot", "channel = 'dingtalk'"),
        ("old", "attempts = 1"),
    ):
        alert = queue_alert(team, ann, title=title)
        team.sql.execute(f"UPDATE deliveries SET {change} WHERE alert_id = %s", [alert])
    bob = team.add(email="bob@example.com", dingtalk_url="https://oapi.dingtalk.com/robot/send?access_token=1")
    alert = queue_alert(team, bob, title="overlooked")
    team.sql.execute("DELETE FROM robots WHERE account_id = %s", [team.account_id])
    overdue = "next_attempt_at = now() - interval '11 seconds'"
    team.sql.execute(f"UPDATE deliveries SET {overdue} WHERE alert_id = %s AND channel = 'dingtalk'", [alert])
    mine = {"account": team.account_id, "hash": b"r" * 32}
    for statement in (
        f"INSERT INTO robots (account_id, url_hash, due_at) VALUES (%(account)s, %(hash)s, {late})",
        "INSERT INTO groups (account_id, name) VALUES (%(account)s, 'On call')",
        """INSERT INTO integrations
            (account_id, group_id, name, token_hash, refused_count, refused_since, refused_at)
            SELECT account_id, id, 'Script', sha256(id::text::bytea), 1, at, at
            FROM groups, (SELECT now() - interval '8 days' AS at) AS at WHERE account_id = %(account)s""",
        """INSERT INTO refusals (account_id, integration_id, status, sentence, body, refused_at)
            SELECT account_id, id, 400, 'No.', '', refused_at FROM integrations WHERE account_id = %(account)s""",
        "UPDATE alerts SET received_at = now() - interval '91 days' WHERE account_id = %(account)s AND title = 'old'",
    ):
        team.sql.execute(statement, mine)


def left(team: Team) -> dict[str, list[deliveries.Row]]:
    """Return what the housekeeping leaves of it."""
    queries = {
        "deliveries": """SELECT title, channel, state, next_attempt_at > now() + interval '1 minute' AS is_late
            FROM deliveries JOIN alerts ON id = alert_id WHERE deliveries.account_id = %s ORDER BY title, channel""",
        "robots": "SELECT due_at <= now() AS is_due FROM robots WHERE account_id = %s",
        "refusals": "SELECT id FROM refusals WHERE account_id = %s",
        "integrations": "SELECT refused_count FROM integrations WHERE account_id = %s",
        "workers": "SELECT host FROM workers WHERE host = %s::text",
    }
    return {name: select(team, query, team.account_id) for name, query in queries.items()}


@pytest.mark.parametrize(
    "table", ["accounts", "alerts", "contacts", "deliveries", "integrations", "refusals", "robots", "workers"]
)
def test_what_is_locked_stops_the_housekeeping_for_no_other(
    team: Team, new_team: Callable[..., Team], table: str
) -> None:
    mine, other = team, new_team()
    for each in (mine, other):
        leave_work(each)
        gone = "INSERT INTO workers (id, host, seen_at) VALUES (gen_random_uuid(), %s, now() - interval '25 hours')"
        team.sql.execute(gone, [each.account_id])
    column = {"accounts": "id", "workers": "host"}.get(table, "account_id")

    def tidy() -> float:
        begin = time.monotonic()
        with team.app.app_context(), all_accounts():
            housekeeping.tidy(90, CHORES)
        return time.monotonic() - begin

    with locked(team, table, f"{column} = '{mine.account_id}'"):
        assert tidy() < 5
        found = left(other)
    assert found == {
        "deliveries": [
            {"title": "hopeless", "channel": "email", "state": "failed", "is_late": None},
            {"title": "overlooked", "channel": "dingtalk", "state": "queued", "is_late": False},
            {"title": "overlooked", "channel": "email", "state": "queued", "is_late": False},
            {"title": "planned late", "channel": "email", "state": "queued", "is_late": False},
            {"title": "stopped", "channel": "email", "state": "cancelled", "is_late": None},
            {"title": "without robot", "channel": "dingtalk", "state": "failed", "is_late": None},
        ],
        "robots": [{"is_due": True}] * 2,
        "refusals": [],
        "integrations": [{"refused_count": 0}],
        "workers": [],
    }
    tidy()
    assert left(mine) == found


def test_an_account_that_is_locked_when_a_worker_starts_is_looked_at_later(
    team: Team, new_team: Callable[..., Team]
) -> None:
    other = new_team()
    planned = "SELECT account_id FROM system_checks WHERE account_id = ANY (%s)"
    both = [team.account_id, other.account_id]
    team.sql.execute("DELETE FROM system_checks")
    with locked(team, "accounts", f"id = {team.account_id}"), team.app.app_context(), all_accounts():
        assert housekeeping.check_all() == [team.account_id]
        db.session.commit()
        assert [row["account_id"] for row in select(team, planned, both)] == [other.account_id]
    with team.app.app_context(), all_accounts():
        assert housekeeping.check_all([team.account_id]) == []
        db.session.commit()
    assert {row["account_id"] for row in select(team, planned, both)} == set(both)


def test_notices_of_others_do_not_wait_for_an_account_that_is_locked(team: Team, new_team: Callable[..., Team]) -> None:
    locked_ones, other = [team, new_team(), new_team()], new_team()
    for each in (*locked_ones, other):  # in which a group has nobody who can be reached
        each.add(email="ann@example.com", receives_system_notifications=True)
        each.sql.execute(
            "INSERT INTO groups (account_id, name, created_at) VALUES (%s, 'Unreachable', now() - interval '1 day')",
            [each.account_id],
        )
    due = "UPDATE system_checks SET due_at = now() - interval '1 hour' * (account_id <> %s)::integer"
    team.sql.execute(due, [other.account_id])

    def notified() -> set[int]:
        return {row["account_id"] for row in select(team, "SELECT account_id FROM alerts WHERE kind = 'system'")}

    def check() -> None:
        with team.app.app_context(), all_accounts():
            while notices.check_next():
                pass

    ids = ", ".join(str(each.account_id) for each in locked_ones)
    begin = time.monotonic()
    with locked(team, "accounts", f"id IN ({ids})"):
        check()
        assert time.monotonic() - begin < 3
        assert notified() == {other.account_id}
    team.sql.execute("UPDATE system_checks SET due_at = now()")
    check()
    assert notified() == {each.account_id for each in (*locked_ones, other)}


def test_what_a_worker_does_not_come_to_is_returned_but_for_what_is_locked(
    team: Team, new_courier: Callable[..., Courier]
) -> None:
    ann, bob = (team.add(mobile=mobile) for mobile in (ANN, BOB))
    queue_alert(team)
    settings = new_courier().worker.settings
    with team.app.app_context(), all_accounts():
        claims = messages.claim("sms", 0, settings).claimed
        assert {one.contact_id for one in claims} == {ann, bob}
        begin = time.monotonic()
        with locked(team, "deliveries", f"contact_id = {ann}"):
            messages.release("sms", claims)
        assert time.monotonic() - begin < 2
        assert {row["contact_id"]: row["state"] for row in deliveries.deliveries(team)} == {
            ann: "sending",
            bob: "queued",
        }


def test_a_new_contact_that_is_locked_keeps_nobody_else_of_the_team_waiting(
    team: Team, new_courier: Callable[..., Courier], texts: Texts
) -> None:
    ann, _ = (team.add(mobile=mobile) for mobile in (ANN, BOB))
    queue_alert(team)
    courier = new_courier()
    with locked(team, "contacts", f"id = {ann}"):
        courier.step("sms")
        assert [text.mobile for text in texts.messages] == [BOB]
    courier.step("sms")
    assert [text.mobile for text in texts.messages] == [BOB, ANN]


def test_a_worker_whose_row_is_locked_is_seen_all_the_same(
    team: Team, new_courier: Callable[..., Courier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.1)
    one = new_courier().worker
    for lane in one.lanes.values():
        lane.let_go()
    thread = threading.Thread(target=one.beat)
    alive = "SELECT FROM workers WHERE seen_at > now() - interval '1 minute'"
    thread.start()
    try:
        wait_for(lambda: select(team, alive), 10, "its row")
        with psycopg.connect(team.sql.info.dsn) as holder:
            holder.execute("UPDATE workers SET seen_at = now() - interval '1 hour'")
            holder.commit()
            holder.execute("UPDATE workers SET seen_at = now() - interval '1 hour'")
            wait_for(lambda: select(team, alive), 5, "another row")
            holder.commit()
        with team.app.app_context(), all_accounts():
            one.leave()
    finally:
        one.stopping.set()
        thread.join()
    assert not select(team, "SELECT FROM workers WHERE seen_at < now() - interval '1 minute'")
