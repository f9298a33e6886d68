"""Show that every delivery arrives once, is tried again as long as that helps, and that its story is kept."""

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask

from contacts_app import config, create_app, migrations
from contacts_app.cli.processes import CHORES
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery import attempts, housekeeping, messages, robots, worker
from contacts_app.delivery.answers import answer, sentence
from contacts_app.delivery.channels import Outcome, sms
from contacts_app.delivery.channels.kinds import Senders
from contacts_app.delivery.channels.registry import KINDS
from contacts_app.delivery.channels.sms import SMS
from contacts_app.delivery.models import Notification
from contacts_app.delivery.queueing import notify, send_again
from contacts_app.delivery.robots import ROBOT_LIMIT
from contacts_app.delivery.worker import Worker
from tests.conftest import Team, wait_for
from tests.delivery.counterparts import (
    SMTP_PASSWORD,
    TWILIO_TOKEN,
    AliyunSms,
    Authority,
    DingTalk,
    Https,
    MailServer,
    Request,
    TwilioSms,
    environment,
)
from tests.ops.test_embedded import FLASK

PUBLIC_URL = "https://contacts.example.com"
SECRET = "SEC0123456789abcdef0123456789abcdef"
ANN, BOB = "+8613800000001", "+8613800000002"
Row = dict[str, Any]


class Held(Https):
    """A server that keeps whoever calls waiting while `gate` is closed, and whose answer is lost if `loses_answers`."""

    def __init__(self, authority: Authority) -> None:
        self.gate = threading.Event()
        self.reset()
        super().__init__(authority)

    def reset(self) -> None:
        self.gate.set()
        self.loses_answers = False

    def answer(self, request: Request) -> tuple[int, Any]:
        self.gate.wait(60)
        answer = super().answer(request)
        return (500, {}) if self.loses_answers else answer


class Robots(Held, DingTalk):
    pass


class Texts(Held, TwilioSms):
    pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def dingtalk_server(authority: Authority) -> Iterator[Robots]:
    server = Robots(authority)
    yield server
    server.gate.set()
    server.close()


@pytest.fixture(scope="module")
def mail_server(authority: Authority) -> Iterator[MailServer]:
    server = MailServer(authority)
    yield server
    server.close()


@pytest.fixture(scope="module")
def text_server(authority: Authority) -> Iterator[Texts]:
    server = Texts(authority)
    yield server
    server.gate.set()
    server.close()


def well_behaved(server: Robots | Texts) -> None:
    server.messages.clear()
    server.words = set()
    server.replies.clear()
    server.behaviour, server.requests = None, 0
    server.reset()


@pytest.fixture
def chat(dingtalk_server: Robots) -> Robots:
    """Return DingTalk with no robots yet, well-behaved."""
    well_behaved(dingtalk_server)
    dingtalk_server.robots.clear()
    dingtalk_server.duplicates = 0
    return dingtalk_server


@pytest.fixture
def post(mail_server: MailServer) -> MailServer:
    """Return the mail server, well-behaved."""
    mail_server.messages.clear()
    mail_server.unknown.clear()
    mail_server.words.clear()
    mail_server.busy.clear()
    mail_server.behaviour = None
    return mail_server


@pytest.fixture
def texts(text_server: Texts) -> Texts:
    """Return Twilio, well-behaved."""
    well_behaved(text_server)
    return text_server


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[], str]) -> str:
    """Return the address of a database of this module's own: a worker works for all accounts."""
    return new_database()


@pytest.fixture(scope="module")
def settings(
    database_url: str,
    data_dir: Path,
    authority: Authority,
    dingtalk_server: Robots,
    mail_server: MailServer,
    text_server: Texts,
) -> dict[str, str]:
    """Return the environment of a console whose channels lead to the counterparts."""
    own = {"DATABASE_URL": database_url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40, "PUBLIC_URL": PUBLIC_URL}
    return own | environment(authority.path, dingtalk_server, mail_server, text_server)


@pytest.fixture(scope="module")
def app(settings: dict[str, str]) -> Flask:
    app = create_app(settings)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    return app


class Courier:
    """A worker that takes one step after the other, when the test says so."""

    def __init__(self, app: Flask, environ: dict[str, str]) -> None:
        self.app = app
        settings = config.load(environ)
        self.worker = Worker(app, settings, CHORES)
        self.senders = Senders(settings)

    def step(self, channel: str) -> bool:
        try:
            with self.app.app_context(), all_accounts():
                return self.worker.step(channel, self.senders)
        finally:
            self.worker.lanes[channel].let_go()

    def deliver(self) -> None:
        """Deliver until nothing is due."""
        for channel in KINDS:
            while self.step(channel):
                pass


@pytest.fixture
def new_courier(app: Flask, settings: dict[str, str]) -> Iterator[Callable[..., Courier]]:
    """Return a function that makes a courier with other settings; one of None is not set."""
    made = []

    def make(**changes: str | None) -> Courier:
        environ = {name: value for name, value in (settings | changes).items() if value is not None}
        made.append(Courier(app, environ))
        return made[-1]

    yield make
    for courier in made:
        courier.senders.close()


@pytest.fixture
def courier(new_courier: Callable[..., Courier], chat: Robots, post: MailServer, texts: Texts) -> Courier:
    return new_courier()


@pytest.fixture
def team(new_team: Callable[..., Team], sql: psycopg.Connection) -> Team:
    """Return a team; nothing waits that another test has left."""
    sql.execute(
        "TRUNCATE alerts, deliveries, robots, channel_states, system_checks, workers, sent_deliveries, channel_news"
    )
    return new_team(quota=1000)


def queue_alert(team: Team, *contacts: int, title: str = "Disk full", **columns: Any) -> int:
    """Queue an alert for the contacts, by default to all of the team, and return its id."""
    values = {"kind": "alert", "source": "script", "addressee": "On call", "text": "Only 1 % is left.\nOn db1."}
    values |= {"severity": "critical", "status": "firing"} | columns
    with team.app.app_context(), all_accounts():
        alert = Notification(account_id=team.account_id, title=title, **values)
        everybody = sa.select(Contact.id).where(Contact.account_id == team.account_id)
        notify(alert, contacts or db.session.scalars(everybody).all())
        db.session.commit()
        return alert.id


def select(team: Team, query: str, *values: Any) -> list[Row]:
    """Return the rows, with the sentence of an answer in its place."""
    cursor = team.sql.cursor(row_factory=psycopg.rows.dict_row)
    rows = cursor.execute(query, values or None).fetchall()
    return [row | {"answer": sentence(row["answer"])} if row.get("answer") else row for row in rows]


def deliveries(team: Team, *alerts: int) -> list[Row]:
    """Return the team's deliveries, by default of all alerts, in the order of their channels."""
    query = """SELECT *, extract(epoch FROM next_attempt_at - now())::float AS wait FROM deliveries
        WHERE account_id = %s AND (%s::bigint[] = '{}' OR alert_id = ANY (%s)) ORDER BY channel, contact_id, alert_id"""
    return select(team, query, team.account_id, list(alerts), list(alerts))


def only(team: Team) -> Row:
    (row,) = deliveries(team)
    return row


def make_due(team: Team) -> None:
    """Let the time pass until what waits is due, and what was sent lies a minute back."""
    team.sql.execute("UPDATE deliveries SET next_attempt_at = now() - interval '1 second' WHERE ended_at IS NULL")
    team.sql.execute("UPDATE robots SET due_at = now(), blocked_until = NULL, sent_at = '{}'")


def channel_state(team: Team, channel: str) -> str | None:
    found = select(
        team, "SELECT * FROM channel_states WHERE account_id = %s AND channel = %s", team.account_id, channel
    )
    return None if not found else "fails" if found[0]["failing_since"] else "works"


def test_each_channel_says_what_it_is_about_and_what_became_of_it_is_recorded(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts
) -> None:
    ann = team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    alert = queue_alert(team)
    courier.deliver()
    url = f"{PUBLIC_URL}/notifications/{alert}"
    (message,) = chat.messages
    assert (message.title, message.mobiles) == ("[Firing] Disk full", ("13800000001",))
    assert "Only 1 % is left.  \nOn db1." in message.text
    assert f"({url})" in message.text
    (mail,) = post.messages
    assert (mail.recipient, mail.message["Subject"]) == ("ann@example.com", "[Firing] Disk full")
    for kind in ("plain", "html"):
        body = mail.message.get_body((kind,))
        assert body is not None
        assert "Only 1 % is left." in body.get_content()
        assert url in body.get_content()
    (text,) = texts.messages
    assert (text.mobile, text.text) == (ANN, "[Firing] Disk full\nOnly 1 % is left.\nOn db1.")
    expected = {
        "dingtalk": (f"localhost:{chat.port} …ot-1", "The robot took the message."),
        "email": ("ann@example.com", "The mail server took the message."),
        "sms": ("+86 138 0000 0001", "Twilio took the text."),
    }
    rows = deliveries(team)
    assert {row["channel"]: (row["address"], row["answer"]) for row in rows} == expected
    assert {(row["state"], row["attempts"], row["contact_id"]) for row in rows} == {("sent", 1, ann)}
    assert all(row["next_attempt_at"] is None and row["ended_at"] is not None for row in rows)
    assert {channel_state(team, channel) for channel in expected} == {"works"}


def test_alibaba_cloud_is_another_way_for_texts(
    team: Team, new_courier: Callable[..., Courier], authority: Authority
) -> None:
    server = AliyunSms(authority)
    courier = new_courier(**environment(authority.path, sms=server))
    team.add(mobile=ANN)
    queue_alert(team)
    courier.deliver()
    server.close()
    assert [text.mobile for text in server.messages] == ["13800000001"]
    assert (only(team)["state"], only(team)["answer"]) == ("sent", "Alibaba Cloud took the text.")


def test_times_are_shown_in_the_zone_of_the_settings_and_a_mail_is_dated_when_the_alert_came_in(
    team: Team, new_courier: Callable[..., Courier], chat: Robots, post: MailServer
) -> None:
    team.add(email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    alert = queue_alert(team)
    team.sql.execute("UPDATE alerts SET received_at = '2026-03-01 23:30:00+00' WHERE id = %s", [alert])
    new_courier(TIMEZONE="Asia/Shanghai").deliver()
    words = "Time: 2026-03-02 07:30:00 UTC+08:00"
    assert words in chat.messages[0].text
    assert words in post.messages[0].message.get_body(("plain",)).get_content()
    assert post.messages[0].message["Date"] == "Mon, 02 Mar 2026 07:30:00 +0800"


def test_only_whom_the_alert_is_for_is_notified(team: Team, courier: Courier, post: MailServer, new_team: Any) -> None:
    ann, _ = team.add(email="ann@example.com"), team.add(email="bob@example.com")
    new_team().add(email="ann@example.com")
    queue_alert(team, ann)
    courier.deliver()
    assert [mail.recipient for mail in post.messages] == ["ann@example.com"]


def test_a_channel_that_is_not_set_up_fails_and_says_so(team: Team, new_courier: Callable[..., Courier]) -> None:
    team.add(mobile=ANN, email="ann@example.com")
    queue_alert(team)
    new_courier(SMTP_HOST=None, SMS_PROVIDER=None).deliver()
    email, sms = deliveries(team)
    assert (email["state"], email["answer"]) == ("failed", "E-mail is not set up: SMTP_HOST is not set.")
    assert (sms["state"], sms["answer"]) == ("failed", "Text messages are not set up: SMS_PROVIDER is not set.")
    assert [channel_state(team, channel) for channel in ("email", "sms")] == [None, None]


def test_what_was_to_be_sent_to_a_deleted_contact_fails(team: Team, courier: Courier, chat: Robots) -> None:
    ann = team.add(name="Ann", mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [ann])
    courier.deliver()
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    rows = deliveries(team)
    assert {(row["state"], row["answer"], row["contact_name"]) for row in rows} == {
        ("failed", "The contact has been deleted.", "Ann")
    }
    assert len(rows) == 3
    assert chat.requests == 0


def test_an_address_that_was_removed_meanwhile_fails(team: Team, courier: Courier, chat: Robots) -> None:
    ann = team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    team.sql.execute(
        "UPDATE contacts SET mobile = NULL, dingtalk_url_encrypted = NULL, dingtalk_url_hash = NULL WHERE id = %s",
        [ann],
    )
    courier.deliver()
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    assert {row["channel"]: (row["state"], row["answer"]) for row in deliveries(team)} == {
        "email": ("sent", "The mail server took the message."),
        "sms": ("failed", "The contact has no mobile phone number any more."),
        "dingtalk": ("failed", "The contact has no DingTalk robot any more."),
    }
    assert channel_state(team, "sms") is None


def test_what_waits_is_sent_although_the_clock_was_set_back(
    team: Team, courier: Courier, chat: Robots, texts: Texts
) -> None:
    team.add(mobile=ANN, dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    team.sql.execute("UPDATE deliveries SET next_attempt_at = now() + '20 minutes' WHERE state = 'queued'")
    team.sql.execute("UPDATE robots SET due_at = now() + '20 minutes', blocked_until = now() + '20 minutes'")
    courier.deliver()
    assert texts.messages == []
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    courier.deliver()
    assert [text.mobile for text in texts.messages] == [ANN]
    assert [message.token for message in chat.messages] == ["token-of-robot-1"]


def test_an_address_that_was_changed_meanwhile_is_the_one_that_counts(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts
) -> None:
    ann = team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    with team.app.app_context(), all_accounts():
        contact = db.session.get_one(Contact, (team.account_id, ann))
        contact.mobile, contact.email, contact.dingtalk_url = BOB, "new@example.com", chat.add("token-of-robot-2")
        db.session.commit()
        team.sql.execute("UPDATE deliveries SET next_attempt_at = now() - interval '11 seconds'")
        housekeeping.tidy(90, CHORES)  # the robot of before was scheduled, not this one
    courier.deliver()
    assert [message.token for message in chat.messages] == ["token-of-robot-2"]
    assert [mail.recipient for mail in post.messages] == ["new@example.com"]
    assert [text.mobile for text in texts.messages] == [BOB]
    assert [row["address"] for row in deliveries(team)] == [
        f"localhost:{chat.port} …ot-2",
        "new@example.com",
        "+86 138 0000 0002",
    ]


def test_an_address_that_was_changed_while_it_was_tried_is_not_judged_by_that(
    team: Team, courier: Courier, texts: Texts
) -> None:
    ann = team.add(mobile=ANN)
    queue_alert(team)
    texts.gate.clear()
    thread = threading.Thread(target=courier.deliver)
    thread.start()
    wait_for(lambda: texts.requests == 1)
    team.sql.execute("UPDATE contacts SET mobile = %s WHERE id = %s", [BOB, ann])
    texts.gate.set()
    thread.join()
    assert (only(team)["state"], only(team)["address"]) == ("sent", "+86 138 0000 0001")
    assert channel_state(team, "sms") is None


def test_of_many_wrong_secrets_few_are_tried_at_once_and_count_against_the_limit_of_a_robot(
    team: Team, courier: Courier, chat: Robots
) -> None:
    url, most = chat.add("token-of-robot-1", SECRET), robots.MAX_SECRETS
    for number in range(2 * most + 2):
        team.add(dingtalk_url=url, dingtalk_secret=f"SEC{number:032}")
    team.add(dingtalk_url=url, dingtalk_secret=SECRET)
    queue_alert(team)
    for times in (1, 2):
        courier.deliver()
        assert chat.requests == times * most == len(select(team, "SELECT unnest(sent_at) FROM robots"))
        states = Counter(row["state"] for row in deliveries(team))
        assert states == {"failed": times * most, "queued": 3 + (2 - times) * most}
        waiting = [row for row in deliveries(team) if row["state"] == "queued"]
        words = f"The secret of this contact was not tried yet: {most} of other contacts were refused before it."
        words += " Correct those."
        assert {row["answer"] for row in waiting} == {words}
        assert all(row["wait"] > 10 for row in waiting)
        sent_at = select(team, "SELECT sent_at FROM robots")[0]["sent_at"]
        make_due(team)
        team.sql.execute("UPDATE robots SET sent_at = %s", [sent_at])
    courier.deliver()
    assert Counter(row["state"] for row in deliveries(team)) == {"failed": 2 * most, "sent": 3}
    assert len(chat.messages) == 1
    assert chat.requests == 2 * most + 3 == len(select(team, "SELECT unnest(sent_at) FROM robots"))
    before = chat.requests
    queue_alert(team, title="Another")  # now it is known which one works
    courier.deliver()
    assert (chat.requests, len(chat.messages)) == (before + 1, 2)


def test_the_secret_that_most_contacts_of_a_robot_have_is_tried_first(
    team: Team, courier: Courier, chat: Robots
) -> None:
    url = chat.add("token-of-robot-1", SECRET)
    for secret in (*(f"SEC{number:032}" for number in range(6)), SECRET, SECRET):
        team.add(dingtalk_url=url, dingtalk_secret=secret)
    queue_alert(team)
    courier.deliver()
    assert (chat.requests, len(chat.messages)) == (1, 1)


def test_who_got_only_the_headline_is_known_and_a_refused_text_is_no_fault_of_the_channel(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts
) -> None:
    team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    for server in (chat, post, texts):
        server.words = {"casino"}
    half, none = queue_alert(team, text="A casino"), queue_alert(team, title="A casino")
    courier.deliver()
    rows = deliveries(team, half)
    assert {(row["state"], row["headline_only"], row["text_refused"]) for row in rows} == {("sent", True, False)}
    assert all(row["answer"].startswith("Only the headline was sent. ") for row in rows)
    assert {channel_state(team, row["channel"]) for row in rows} == {"works"}
    rows = deliveries(team, none)
    assert {(row["state"], row["headline_only"], row["text_refused"]) for row in rows} == {("failed", False, True)}
    assert {channel_state(team, row["channel"]) for row in rows} == {"works"}
    for server in (chat, post, texts):
        server.words = set()
    with team.app.app_context(), all_accounts():
        assert len(send_again(db.session.get_one(Notification, (team.account_id, none)))) == 3
        db.session.commit()
    make_due(team)
    courier.deliver()
    assert {(row["state"], row["text_refused"]) for row in deliveries(team, none)} == {("sent", False)}


def test_one_text_that_is_refused_does_not_take_the_others_of_its_message_along(
    team: Team, courier: Courier, chat: Robots
) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    chat.words = {"casino"}
    alerts = [queue_alert(team, title=f"Disk {number}" if number != 17 else "A casino") for number in range(30)]
    for _ in range(10):  # a minute after the other, if need be
        courier.deliver()
        make_due(team)
    states = {row["alert_id"]: (row["state"], row["text_refused"]) for row in deliveries(team)}
    assert states == dict.fromkeys(alerts, ("sent", False)) | {alerts[17]: ("failed", True)}
    for number in range(30):
        assert sum(f"Disk {number}\n" in message.text for message in chat.messages) == (number != 17)
    assert all(row["headline_only"] is False for row in deliveries(team))
    assert channel_state(team, "dingtalk") == "works"
    assert not any(robot.blocked_until for robot in chat.robots.values())


def test_headlines_are_sent_together_where_one_of_the_texts_is_refused(
    team: Team, courier: Courier, chat: Robots
) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    chat.words = {"casino"}
    for number in range(30):
        queue_alert(team, title=f"Disk {number}", text="casino" if number == 17 else "full")
    courier.deliver()
    assert {(row["state"], row["headline_only"]) for row in deliveries(team)} == {("sent", True)}
    (message,) = chat.messages
    assert message.text.startswith("### 30 alerts")
    # Both messages count for the robot's limit.
    assert chat.requests == len(select(team, "SELECT unnest(sent_at) FROM robots")) == 2


def test_a_robot_whose_key_is_missing_is_explained(team: Team, courier: Courier, chat: Robots) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    # The key's id comes first; each of its bytes may be any of 256, so one is turned, not set.
    team.sql.execute(
        "UPDATE contacts SET dingtalk_url_encrypted ="
        " set_byte(dingtalk_url_encrypted, 0, get_byte(dingtalk_url_encrypted, 0) # 255)"
    )
    queue_alert(team)
    courier.deliver()
    # For another worker may have it, and a contact is not to blame for a setting.
    words = "The robot's address cannot be read, because ENCRYPTION_KEYS of this worker lacks its key."
    assert (only(team)["state"], only(team)["answer"]) == ("queued", words)
    assert channel_state(team, "dingtalk") is None
    assert chat.requests == 0


def test_a_member_with_an_outdated_secret_does_not_silence_a_shared_robot(
    team: Team, courier: Courier, chat: Robots
) -> None:
    url = chat.add("token-of-robot-1", SECRET)
    ann = team.add(name="Ann", dingtalk_url=url, dingtalk_secret=SECRET[:-1])
    bob = team.add(name="Bob", dingtalk_url=url, dingtalk_secret=SECRET)
    queue_alert(team)
    courier.deliver()
    assert [row["state"] for row in deliveries(team)] == ["sent", "sent"]
    assert len(chat.messages) == 1
    states = select(team, "SELECT contact_id, failing_since IS NULL AS works FROM channel_states")
    assert [(row["contact_id"], row["works"]) for row in states] == [(bob, True)]
    alone = queue_alert(team, ann)
    courier.deliver()
    (row,) = deliveries(team, alone)
    assert row["state"] == "failed"
    assert "signature does not match" in row["answer"]


@pytest.mark.long
def test_an_account_with_much_to_send_has_its_turn_like_the_others(
    team: Team, new_team: Callable[..., Team], courier: Courier, post: MailServer
) -> None:
    others = [new_team() for _ in range(3)]
    for number in range(70):
        team.add(email=f"many{number}@example.com")
    for _ in range(2):
        queue_alert(team)
    for number, other in enumerate(others):
        queue_alert(other, other.add(email=f"one{number}@example.com"))
    for _ in range(len(others) + 1):
        courier.step("email")
    assert {f"one{number}@example.com" for number in range(3)} < {mail.recipient for mail in post.messages}
    courier.deliver()
    assert len(post.messages) == 2 * 70 + 3


def test_a_passing_fault_is_tried_again_at_growing_intervals_and_given_up_after_an_hour(
    team: Team, courier: Courier, post: MailServer
) -> None:
    for number in range(20):
        team.add(email=f"contact{number}@example.com")
        post.busy.add(f"contact{number}@example.com")
    queue_alert(team)
    for count, seconds in enumerate((5, 15, 45, 135, 405, 600, 600), 1):
        courier.deliver()
        rows = deliveries(team)
        assert {(row["state"], row["attempts"]) for row in rows} == {("queued", count)}
        assert {row["answer"] for row in rows} == {"The mail server refused the mailbox: 451 4.3.0 Come back later"}
        waits = [row["wait"] for row in rows]
        assert seconds * 0.75 - 3 < min(waits) < max(waits) < seconds * 1.25
        assert max(waits) - min(waits) > seconds * 0.1  # not all at once
        make_due(team)
    team.sql.execute("UPDATE deliveries SET give_up_at = now() + interval '5 minutes'")
    courier.deliver()
    rows = deliveries(team)
    expected = "The mail server refused the mailbox: 451 4.3.0 Come back later Given up after an hour."
    assert {(row["state"], row["attempts"], row["answer"]) for row in rows} == {("failed", 8, expected)}
    assert all(row["ended_at"] for row in rows)
    assert post.messages == []


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("email", "localhost closed the connection."),
        ("sms", "localhost closed the connection without an answer that can be read."),
        ("dingtalk", "DingTalk is out of order (HTTP 500)."),
    ],
)
def test_the_first_passing_fault_is_no_failure_of_the_channel_but_the_second_is(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts, channel: str, words: str
) -> None:
    columns = {"email": "ann@example.com", "sms": ANN, "dingtalk": chat.add("token-of-robot-1")}
    team.add(**{{"sms": "mobile", "dingtalk": "dingtalk_url"}.get(channel, channel): columns[channel]})
    servers: dict[str, tuple[MailServer | Robots | Texts, str]]
    servers = {"email": (post, "drop"), "sms": (texts, "close"), "dingtalk": (chat, "500")}
    server, behaviour = servers[channel]
    server.behaviour = behaviour
    queue_alert(team)
    courier.deliver()
    assert (only(team)["state"], only(team)["attempts"], only(team)["answer"]) == ("queued", 1, words)
    assert channel_state(team, channel) is None
    make_due(team)
    courier.deliver()
    assert (only(team)["state"], only(team)["attempts"]) == ("queued", 2)
    (state,) = select(team, "SELECT * FROM channel_states")
    assert (state["worked_at"], state["answer"]) == (None, words)
    server.behaviour = None
    make_due(team)
    courier.deliver()
    assert (only(team)["state"], only(team)["attempts"]) == ("sent", 3)
    assert channel_state(team, channel) == "works"
    assert len(server.messages) == 1


def test_a_failure_keeps_when_the_channel_last_worked_and_since_when_it_fails(
    team: Team, courier: Courier, post: MailServer
) -> None:
    team.add(email="ann@example.com")
    queue_alert(team)
    courier.deliver()
    (works,) = select(team, "SELECT * FROM channel_states")
    post.unknown.add("ann@example.com")
    since = []
    for _ in range(2):
        queue_alert(team)
        courier.deliver()
        (state,) = select(team, "SELECT * FROM channel_states")
        since.append(state["failing_since"])
        assert state["worked_at"] == works["worked_at"]
        assert state["answer"] == "The mail server refused the mailbox: 550 5.1.1 <ann@example.com>: no such mailbox"
    assert since[0] == since[1]


@pytest.mark.parametrize("channel", ["email", "sms", "dingtalk"])
def test_a_refusal_is_final(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts, channel: str
) -> None:
    columns = {"email": {"email": "ann@example.com"}, "sms": {"mobile": ANN}}
    columns["dingtalk"] = {"dingtalk_url": chat.add("token-of-robot-1", keywords=["alarm"])}
    team.add(**columns[channel])
    post.unknown.add("ann@example.com")
    texts.replies.append((400, {"code": 21614, "message": "not a mobile number", "status": 400}))
    queue_alert(team)
    courier.deliver()
    assert (only(team)["state"], only(team)["attempts"], only(team)["next_attempt_at"]) == ("failed", 1, None)
    assert channel_state(team, channel) == "fails"
    make_due(team)
    courier.deliver()
    assert only(team)["attempts"] == 1
    assert texts.requests + chat.requests + len(post.messages) == (0 if channel == "email" else 1)


def test_a_failed_delivery_can_be_sent_again(team: Team, courier: Courier, post: MailServer) -> None:
    team.add(email="ann@example.com")
    post.unknown.add("ann@example.com")
    alert = queue_alert(team)
    courier.deliver()
    post.unknown.clear()
    with team.app.app_context(), all_accounts():
        send_again(db.session.get_one(Notification, (team.account_id, alert)))
        db.session.commit()
    courier.deliver()
    assert (only(team)["state"], only(team)["attempts"]) == ("sent", 1)
    assert channel_state(team, "email") == "works"


def test_a_mail_that_may_have_arrived_goes_again_as_the_same_message(
    team: Team, courier: Courier, post: MailServer
) -> None:
    team.add(email="ann@example.com")
    queue_alert(team)
    post.behaviour = "drop-data"
    courier.deliver()
    assert only(team)["state"] == "queued"
    post.behaviour = None
    make_due(team)
    courier.deliver()
    first, second = (mail.message["Message-ID"] for mail in post.messages)
    assert first == second
    assert only(team)["state"] == "sent"


def test_firing_and_resolved_are_one_thread_in_the_mailbox(team: Team, courier: Courier, post: MailServer) -> None:
    ann = team.add(email="ann@example.com")
    queue_alert(team, ann, key="disk")
    queue_alert(team, ann, key="disk", status="resolved")
    queue_alert(team, ann, key="other")
    queue_alert(team, ann)
    courier.deliver()
    firing, resolved, other, alone = (mail.message for mail in post.messages)
    assert resolved["Subject"] == "[Resolved] Disk full"
    assert firing["References"] == resolved["References"] != other["References"]
    assert alone["References"] is None
    assert len({mail.message["Message-ID"] for mail in post.messages}) == 4


def test_a_defect_of_the_console_itself_is_one_more_attempt(
    team: Team, courier: Courier, texts: Texts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        number = "+86" + "13800000001"
        raise RuntimeError(number)

    team.add(mobile=ANN)
    queue_alert(team)
    with monkeypatch.context() as patch:
        patch.setattr("contacts_app.delivery.channels.sms.send", fail)
        courier.deliver()
    words = "The console itself failed (RuntimeError). Tell your administrator."
    assert (only(team)["state"], only(team)["answer"]) == ("queued", words)
    assert "RuntimeError" in caplog.text
    assert "test_worker.py" in caplog.text  # where it happened
    assert ANN not in caplog.text
    make_due(team)
    courier.deliver()
    assert only(team)["state"] == "sent"


def test_an_answer_that_cannot_be_kept_is_replaced_and_nothing_is_sent_twice(
    team: Team, courier: Courier, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.add(mobile=ANN)
    queue_alert(team)
    with monkeypatch.context() as patch:
        # PostgreSQL keeps no half of a character, and psycopg says so before it is sent.
        send, half = sms.send, answer("twilio.refused", said="\ud83d")
        patch.setattr("contacts_app.delivery.channels.sms.send", lambda *given: send(*given)._replace(answer=half))
        courier.deliver()
    words = "The answer could not be written down. Tell your administrator."
    assert (only(team)["state"], only(team)["answer"], only(team)["attempts"]) == ("sent", words, 1)
    assert len(texts.messages) == 1


def test_an_alert_is_one_message_to_a_robot_that_mentions_all_who_share_it(
    team: Team, courier: Courier, chat: Robots
) -> None:
    url = chat.add("token-of-robot-1", SECRET, ["alarm"])
    team.add(name="Ann", dingtalk_url=url, mobile=ANN)
    team.add(name="Bob", dingtalk_url=url, mobile=BOB, dingtalk_secret=SECRET)
    team.add(name="Cid", dingtalk_url=url, dingtalk_keyword="alarm")
    queue_alert(team)
    courier.deliver()
    (message,) = chat.messages
    assert sorted(message.mobiles) == ["13800000001", "13800000002"]
    assert "alarm" in message.text
    rows = [row for row in deliveries(team) if row["channel"] == "dingtalk"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("sent", 1)] * 3
    (robot,) = select(team, "SELECT * FROM robots")
    assert (robot["due_at"], len(robot["sent_at"])) == (None, 1)


@pytest.mark.long
def test_the_robot_is_not_sent_more_than_it_takes_and_nothing_is_dropped(
    team: Team, courier: Courier, chat: Robots
) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    for number in range(15):
        queue_alert(team, title=f"Early {number:02}")
    courier.deliver()
    assert [message.title for message in chat.messages] == [f"[Firing] Early {number:02}" for number in range(15)]
    for number in range(50):
        queue_alert(team, title=f"Late {number:02}", text="很长的正文。\n" * 50)
    courier.deliver()
    assert [message.title for message in chat.messages[15:]] == ["50 alerts"]
    for number in range(10):
        queue_alert(team, title=f"Last {number:02}")
        courier.deliver()  # each as soon as it comes
    assert len(chat.messages) == chat.requests == ROBOT_LIMIT
    (robot,) = select(team, "SELECT extract(epoch FROM due_at - sent_at[1])::float AS pause FROM robots")
    assert robot["pause"] == pytest.approx(60)
    for row in deliveries(team):
        assert row["state"] in ("sent", "queued")
    chat.robots["token-of-robot-1"].sent_at.clear()  # a minute goes by
    make_due(team)
    courier.deliver()
    assert {(row["state"], row["attempts"]) for row in deliveries(team)} == {("sent", 1)}
    arrived = Counter(re.findall(r"(?:Early|Late|Last) \d\d", "\n".join(message.text for message in chat.messages)))
    assert len(arrived) == 75
    assert set(arrived.values()) == {1}


def test_a_blocked_robot_is_left_alone_until_it_takes_messages_again(
    team: Team, courier: Courier, chat: Robots
) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    chat.robots["token-of-robot-1"].blocked_until = time.time() + 600
    queue_alert(team, title="One")
    queue_alert(team, title="Two")
    courier.deliver()
    queue_alert(team, title="Three")
    courier.deliver()
    assert chat.requests == 1
    assert [(row["state"], row["attempts"]) for row in deliveries(team)] == [
        ("queued", 1),
        ("queued", 0),
        ("queued", 0),
    ]
    (robot,) = select(team, "SELECT *, extract(epoch FROM blocked_until - now())::float AS wait FROM robots")
    assert robot["due_at"] == robot["blocked_until"]
    assert robot["wait"] == pytest.approx(600, abs=30)
    chat.robots["token-of-robot-1"].blocked_until = 0
    make_due(team)
    courier.deliver()
    assert [message.title for message in chat.messages] == ["[Firing] One", "[Firing] Two", "[Firing] Three"]
    assert {row["state"] for row in deliveries(team)} == {"sent"}


def test_a_message_to_a_robot_that_may_have_arrived_is_shown_once(team: Team, courier: Courier, chat: Robots) -> None:
    team.add(name="Ann", dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team, title="One")
    chat.loses_answers = True
    courier.deliver()
    chat.loses_answers = False
    assert only(team)["state"] == "queued"
    queue_alert(team, title="Two")
    make_due(team)
    courier.deliver()
    assert [message.title for message in chat.messages] == ["[Firing] One", "[Firing] Two"]
    assert chat.duplicates == 1
    assert [(row["state"], row["attempts"]) for row in deliveries(team)] == [("sent", 2), ("sent", 1)]


def test_a_robot_does_not_wait_for_another(team: Team, courier: Courier, chat: Robots) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    chat.robots["token-of-robot-1"].blocked_until = time.time() + 600
    queue_alert(team)
    courier.deliver()
    team.add(dingtalk_url=chat.add("token-of-robot-2"))
    queue_alert(team)
    courier.deliver()
    assert [message.token for message in chat.messages] == ["token-of-robot-2"]


def test_a_robot_that_is_slow_holds_up_only_itself(
    team: Team, courier: Courier, new_courier: Callable[..., Courier], chat: Robots
) -> None:
    chat.gate.clear()
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    thread = threading.Thread(target=courier.step, args=("dingtalk",))
    thread.start()
    wait_for(lambda: chat.requests == 1)
    ann = team.add(dingtalk_url=chat.add("token-of-robot-2"))
    queue_alert(team, ann)
    other = threading.Thread(target=new_courier().step, args=("dingtalk",))
    other.start()
    wait_for(lambda: chat.requests == 2)
    chat.gate.set()
    thread.join()
    other.join()
    assert {message.token for message in chat.messages} == {"token-of-robot-1", "token-of-robot-2"}
    assert {row["state"] for row in deliveries(team)} == {"sent"}


def test_alerts_are_removed_when_they_are_too_old(
    team: Team, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "TIDY_ROWS", 2)  # at a time
    team.add(email="ann@example.com")
    old, kept = [queue_alert(team) for _ in range(5)], queue_alert(team)
    courier.deliver()
    team.sql.execute("UPDATE alerts SET received_at = now() - interval '90 days 1 minute' WHERE id = ANY (%s)", [old])
    team.sql.execute("UPDATE alerts SET received_at = now() - interval '89 days 23 hours' WHERE id = %s", [kept])
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    assert [row["id"] for row in select(team, "SELECT id FROM alerts")] == [kept]
    assert only(team)["alert_id"] == kept


def test_workers_that_are_gone_for_a_day_are_forgotten(team: Team) -> None:
    team.sql.execute(
        """INSERT INTO workers (id, host, seen_at) VALUES
            (gen_random_uuid(), 'gone', now() - interval '25 hours'), (gen_random_uuid(), 'here', now())"""
    )
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    assert [row["host"] for row in select(team, "SELECT host FROM workers")] == ["here"]


def test_a_robot_that_nobody_looks_at_is_found(team: Team, courier: Courier, chat: Robots) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    queue_alert(team)
    team.sql.execute("DELETE FROM robots")
    courier.deliver()
    assert only(team)["state"] == "queued"
    make_due(team)
    team.sql.execute("UPDATE deliveries SET next_attempt_at = now() - interval '11 seconds'")
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    courier.deliver()
    assert only(team)["state"] == "sent"


def test_what_a_worker_left_behind_is_claimed_again_when_its_lease_is_over(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(mobile=ANN)
    queue_alert(team)
    team.sql.execute("UPDATE deliveries SET state = 'sending', attempts = 1, next_attempt_at = now() + interval '1 h'")
    courier.deliver()
    assert texts.messages == []
    make_due(team)
    courier.deliver()
    assert len(texts.messages) == 1
    assert (only(team)["state"], only(team)["attempts"]) == ("sent", 2)


@pytest.mark.parametrize(("is_lost", "state"), [(False, "sent"), (True, "sending")])
def test_of_results_that_come_after_the_lease_only_success_counts(
    team: Team, courier: Courier, texts: Texts, is_lost: bool, state: str
) -> None:
    team.add(mobile=ANN)
    queue_alert(team)
    texts.loses_answers = is_lost
    texts.gate.clear()
    thread = threading.Thread(target=courier.step, args=("sms",))
    thread.start()
    wait_for(lambda: texts.requests == 1)
    # Another worker has claimed it since, and is sending.
    team.sql.execute("UPDATE deliveries SET attempts = 2, next_attempt_at = now() + interval '1 minute'")
    texts.gate.set()
    thread.join()
    assert (only(team)["state"], only(team)["attempts"]) == (state, 2)


class Process:
    """A worker as production runs it: `flask --app wsgi deliver`."""

    def __init__(self, output: Path, environ: dict[str, str]) -> None:
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [*FLASK, "deliver"], cwd=config.PROJECT, env=os.environ | environ, stdout=file, stderr=file
            )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def start(
    settings: dict[str, str], tmp_path: Path, team: Team, chat: Robots, post: MailServer, texts: Texts
) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a worker; none of them prints whom it notifies, or with what it logs on."""
    started: list[Process] = []

    def start(**changes: str) -> Process:
        started.append(Process(tmp_path / f"output-{len(started)}", settings | changes))
        return started[-1]

    yield start
    texts.gate.set()
    for process in started:
        process.stop()
        printed = process.output.read_text()
        for marked in ("+86", "1380000", "@example", "token-of", "access_token", SECRET, SMTP_PASSWORD, TWILIO_TOKEN):
            assert marked not in printed
        assert "Traceback" not in printed


def workers_seen(team: Team) -> int:
    return len(select(team, "SELECT FROM workers"))


def listeners(team: Team) -> int:
    return len(
        select(team, "SELECT FROM pg_stat_activity WHERE query = 'LISTEN deliveries' AND datname = current_database()")
    )


def has_ended(team: Team) -> bool:
    return select(team, "SELECT FROM deliveries WHERE ended_at IS NULL") == []


@pytest.mark.long
def test_several_workers_send_each_delivery_once(
    team: Team, start: Callable[..., Process], chat: Robots, post: MailServer, texts: Texts
) -> None:
    robots = [chat.add(f"token-of-robot-{number}") for number in range(10)]
    for number in range(100):
        mobile, email = f"+8613800000{number:03}", f"contact{number}@example.com"
        team.add(f"Contact {number}", mobile=mobile, email=email, dingtalk_url=robots[number % 10])
    processes = [start(DELIVERY_THREADS="2") for _ in range(3)]
    wait_for(lambda: listeners(team) == 3, 60)
    queue_alert(team)
    wait_for(lambda: has_ended(team), 60)
    assert {(row["state"], row["attempts"]) for row in deliveries(team)} == {("sent", 1)}
    assert len({text.mobile for text in texts.messages}) == len(texts.messages) == 100
    assert len({mail.recipient for mail in post.messages}) == len(post.messages) == 100
    assert len({message.token for message in chat.messages}) == chat.requests == 10
    assert sum(len(message.mobiles) for message in chat.messages) == 100
    wait_for(lambda: workers_seen(team) == 3)
    assert [process.stop() for process in processes] == [0, 0, 0]
    assert workers_seen(team) == 0


@pytest.mark.long
def test_an_alert_is_picked_up_as_it_comes(team: Team, start: Callable[..., Process], texts: Texts) -> None:
    team.add(mobile=ANN)
    start(TEXTS_PER_NUMBER="100")
    wait_for(lambda: listeners(team) == 1, 60)

    def queue_and_wait() -> None:
        count = len(texts.messages)
        queue_alert(team)
        wait_for(lambda: len(texts.messages) == count + 1)

    queue_and_wait()
    began = time.monotonic()
    for _ in range(10):
        queue_and_wait()
    # Who only looks every few seconds finds each of them when that time is over.
    assert time.monotonic() - began < 10 * worker.POLL_SECONDS / 2
    again = """
        UPDATE deliveries SET state = 'queued', attempts = 0, next_attempt_at = now(), ended_at = NULL
        WHERE state = 'sent' AND (account_id, alert_id) = (SELECT account_id, max(id) FROM alerts
            WHERE account_id = %s GROUP BY account_id)
        RETURNING 1
    """
    began = time.monotonic()
    for _ in range(5):
        before = len(texts.messages)
        wait_for(lambda: team.sql.execute(again, [team.account_id]).fetchone())  # once the last result is recorded
        team.sql.execute("NOTIFY deliveries")  # as the version before does, without the kinds of channels
        wait_for(partial(lambda before: len(texts.messages) > before, before))
    assert time.monotonic() - began < 5 * worker.POLL_SECONDS / 2


@pytest.mark.long
def test_a_worker_keeps_house(team: Team, start: Callable[..., Process], post: MailServer) -> None:
    team.add(name="Ann", email="ann@example.com", receives_system_notifications=True)
    bob = team.add(name="Bob", email="bob@example.com")
    post.unknown.add("bob@example.com")
    old = queue_alert(team, bob)
    team.sql.execute("UPDATE alerts SET received_at = now() - interval '31 days' WHERE id = %s", [old])
    # At its end: one that is being sent at this moment is locked, and stays until the next time.
    team.sql.execute("UPDATE deliveries SET state = 'sent', attempts = 1, next_attempt_at = NULL, ended_at = now()")
    start(RETENTION_DAYS="30")
    wait_for(lambda: select(team, "SELECT FROM alerts WHERE id = %s", old) == [], 60)
    queue_alert(team, bob)
    (mail,) = wait_for(lambda: list(post.messages))
    assert (mail.recipient, mail.message["Subject"]) == ("ann@example.com", "A channel of the team has begun to fail")
    wait_for(lambda: workers_seen(team) == 1)


@pytest.mark.long
def test_a_worker_that_is_stopped_finishes_what_it_sends_and_releases_the_rest(
    team: Team, start: Callable[..., Process], courier: Courier, texts: Texts
) -> None:
    for number in range(60):
        team.add(mobile=f"+86138000000{number:02}")
    texts.gate.clear()
    process = start(DELIVERY_THREADS="2")
    queue_alert(team)
    wait_for(lambda: texts.requests == 2, 60)
    assert Counter(row["state"] for row in deliveries(team)) == {"sending": 20, "queued": 40}
    process.process.send_signal(signal.SIGTERM)
    pid = process.process.pid
    wait_for(lambda: not has_pending_signals(pid), what="the signal's arrival")
    texts.gate.set()
    assert process.process.wait(40) == 0
    counts = Counter(row["state"] for row in deliveries(team))
    assert counts == {"sent": len(texts.messages), "queued": 60 - len(texts.messages)}
    assert 2 <= len(texts.messages) < 20
    assert workers_seen(team) == 0
    courier.deliver()  # at once, without a lease to wait for
    assert {(row["state"], row["attempts"]) for row in deliveries(team)} == {("sent", 1)}
    assert len({text.mobile for text in texts.messages}) == len(texts.messages) == 60


@pytest.mark.long
def test_what_was_sent_while_the_database_was_away_is_not_sent_again(
    team: Team, start: Callable[..., Process], post: MailServer, texts: Texts
) -> None:
    for number in range(60):
        team.add(mobile=f"+86138000000{number:02}")
    texts.gate.clear()
    process = start()
    queue_alert(team)
    wait_for(lambda: texts.requests == 4, 60)
    with is_away(team.sql):
        texts.gate.set()
        wait_for(lambda: "has to wait" in process.output.read_text() and len(texts.messages) >= 4)
        # Each thread has what it claimed, and sends no more until that is written down.
        assert len(texts.messages) <= 4 * SMS.batch
        assert {row["state"] for row in deliveries(team)} == {"queued", "sending"}
    wait_for(lambda: has_ended(team), 50)
    assert {(row["state"], row["attempts"]) for row in deliveries(team)} == {("sent", 1)}
    assert len(texts.messages) == 60
    wait_for(lambda: listeners(team) == 1)
    team.add(email="ann@example.com")
    queue_alert(team)
    wait_for(lambda: len(post.messages) == 1)
    wait_for(lambda: has_ended(team))


@contextmanager
def is_away(sql: psycopg.Connection) -> Iterator[None]:
    """Cut all connections to the database but this one, and let in nobody."""
    name = sql.info.dbname
    with psycopg.connect(sql.info.dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
                [name, sql.info.backend_pid],
            )
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def has_pending_signals(pid: int) -> bool:
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return any(int(mask, 16) for mask in pending)


@contextmanager
def plans_of(pattern: str) -> Iterator[list[str]]:
    """Yield the list of the plans of those statements that match, as PostgreSQL has them before each is run."""
    plans: list[str] = []

    def explain(connection: sa.Connection, cursor: psycopg.Cursor, statement: str, parameters: Any, *_: Any) -> None:
        if re.search(pattern, statement, re.DOTALL):
            rows = cursor.connection.execute(f"EXPLAIN {statement}", parameters).fetchall()
            plans.append("\n".join(line for (line,) in rows))

    sa.event.listen(db.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(db.engine, "before_cursor_execute", explain)


@pytest.mark.parametrize("name", ["record", "release"])
def test_what_became_of_a_message_is_written_by_its_key_however_many_wait(team: Team, name: str) -> None:
    """PostgreSQL knows of no row yet: for all it knows any index would do, the one of all that waits as well."""
    for number in range(20):
        team.add(mobile=f"+86138000000{number:02}")
    for _ in range(10):
        queue_alert(team)
    with team.app.app_context(), all_accounts():
        claimed = messages.claim("sms", 0, config.current_settings()).claimed[0]
        result = attempts.Result(
            claimed=claimed, channel="sms", outcome=Outcome("sent", answer("twilio.sent")), address=None, used=None
        )
        with plans_of(r"UPDATE deliveries\b") as plans:
            if name == "record":
                messages.record("sms", [result], patience=1)
            else:
                messages.release("sms", [claimed])
    (plan,) = plans
    assert "deliveries_pkey" in plan, plan
    assert "deliveries_due" not in plan
