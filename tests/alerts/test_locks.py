"""Show that what was sent is recorded as sent whatever rows somebody holds a lock on, as an idle `psql` does."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from contacts_app.alerts.models import CHANNELS
from contacts_app.alerts.recording import write_what_waited
from contacts_app.db import Base, db
from tests.alerts import test_worker as deliveries
from tests.alerts.counterparts import MailServer
from tests.alerts.test_worker import ANN, BOB, Courier, Robots, Texts, make_due, select, tell
from tests.conftest import Team, wait_for

# The parts that a worker is tried out with.
authority, _dingtalk, _smtp, _texts = deliveries.authority, deliveries._dingtalk, deliveries._smtp, deliveries._texts
chat, post, texts, database_url = deliveries.chat, deliveries.post, deliveries.texts, deliveries.database_url
settings, app, new_courier, team = deliveries.settings, deliveries.app, deliveries.new_courier, deliveries.team
TABLES = sorted(table.name for table in Base.metadata.sorted_tables)


@contextmanager
def locked(team: Team, table: str) -> Iterator[None]:
    """Hold a lock on each row of the table, as `SELECT … FOR UPDATE` in a psql that nobody looks at."""
    with psycopg.connect(team.sql.info.dsn) as holder:
        holder.execute("SET console.account_id = 'all'")
        holder.execute(f"SELECT FROM {table} FOR UPDATE")
        yield
        holder.rollback()


def run(couriers: dict[str, Courier]) -> list[threading.Thread]:
    """Have each channel delivered in a thread of its own until nothing is due."""

    def deliver(channel: str) -> None:
        while couriers[channel].step(channel):
            pass

    threads = [threading.Thread(target=deliver, args=(channel,)) for channel in CHANNELS]
    for thread in threads:
        thread.start()
    return threads


def write(team: Team) -> None:
    """Do what a worker does each second with what could not be written."""
    with team.app.app_context():
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
    tell(team, title="Before")
    new_courier().deliver()
    team.sql.execute("UPDATE channel_states SET worked_at = NULL, failing_since = now(), answer = 'Away.'")
    tell(team, title="Now")
    chat.hanging, texts.hanging, post.hanging = {"token-of-robot-1"}, {ANN, BOB}, {"Ann@example.com", "Bob@example.com"}
    threads = run({channel: new_courier(DELIVERY_THREADS="1") for channel in CHANNELS})
    wait_for(lambda: chat.hung and texts.hung and post.hung, what="a message on each channel")
    with locked(team, table):
        for server in (chat, texts, post):
            server.release()
        query = """
            SELECT channel FROM deliveries WHERE state = 'sent' AND alert_id = (SELECT max(id) FROM alerts)
            UNION ALL SELECT channel FROM sent_deliveries"""
        expected = dict.fromkeys(CHANNELS, 2)
        wait_for(lambda: Counter(row["channel"] for row in select(team, query)) == expected, 5, "the record of all")
        write(team)
        if table not in ("deliveries", "robots"):
            make_due(team)
        for channel in CHANNELS:  # another worker, which finds nothing that it may send
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
