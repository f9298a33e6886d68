"""Show that of one key nothing older arrives after something newer, and that the last news always does."""

import random
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from contacts_app.core.times import shown
from contacts_app.delivery.channels.registry import KINDS
from tests.conftest import Team, wait_for
from tests.delivery import test_worker as workers
from tests.delivery.counterparts import MailServer
from tests.delivery.test_stopping import come_in, sending_begins, states
from tests.delivery.test_worker import ANN, Courier, Robots, Texts, deliveries, make_due, queue_alert
from tests.reach.test_notices import ask, new_group, pass_a_day, set_state

authority, database_url, settings, app = workers.authority, workers.database_url, workers.settings, workers.app
dingtalk_server, mail_server, text_server = workers.dingtalk_server, workers.mail_server, workers.text_server
chat, post, texts, team = workers.chat, workers.post, workers.texts, workers.team
new_courier, courier = workers.new_courier, workers.courier
INTEGRATION, KEY = 77, "disk-of-db1"


def fire(team: Team, status: str = "firing", key: str | None = KEY, title: str = "Disk full", **columns: Any) -> int:
    return come_in(team, INTEGRATION, key=key, status=status, title=title, **columns)


def move_back(team: Team, alert: int, minutes: int) -> None:
    """Have an alert come in some minutes ago."""
    query = "UPDATE alerts SET received_at = now() - %s * interval '1 minute' WHERE id = %s"
    team.sql.execute(query, [minutes, alert])


def at(team: Team, alert: int, beside: int, zone: ZoneInfo = ZoneInfo("UTC")) -> str:  # noqa: B008
    """Return when an alert came in, as it is written in the message of another."""
    query = "SELECT received_at FROM alerts WHERE id = %s"
    found = [team.sql.execute(query, [one]).fetchone() or [datetime.now(UTC)] for one in (alert, beside)]
    times = [row[0].astimezone(zone) for row in found]
    return shown(times[0], "%H:%M" if times[0].date() == times[1].date() else "%Y-%m-%d %H:%M")


@pytest.mark.parametrize("channel", ["sms", "email", "dingtalk"])
def test_what_is_tried_again_goes_into_the_news_that_overtakes_it(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts, channel: str
) -> None:
    columns = {"sms": {"mobile": ANN}, "email": {"email": "ann@example.com"}}
    team.add(**columns.get(channel) or {"dingtalk_url": chat.add("token-of-robot-1")})
    post.behaviour, texts.behaviour, chat.behaviour = "drop", "close", "500"
    firing = fire(team)
    courier.deliver()
    assert states(team) == {"queued": 1}
    post.behaviour = texts.behaviour = chat.behaviour = None
    resolved = fire(team, "resolved")
    move_back(team, firing, 4)
    move_back(team, resolved, 0)
    courier.deliver()
    make_due(team)
    courier.deliver()
    assert [(row["state"], row["overtaken_by"]) for row in deliveries(team)] == [
        ("overtaken", resolved),
        ("sent", None),
    ]
    bodies = [text.text for text in texts.messages] + [message.text for message in chat.messages]
    bodies += [str(mail.message.get_body(("plain",))) for mail in post.messages]
    (only,) = bodies
    assert "Resolved" in only
    words = f"Was firing from {at(team, firing, resolved)} to {at(team, resolved, resolved)}."
    assert words in only
    page = team.get(f"/notifications/{firing}").text
    assert f'Overtaken</span> by <a href="/notifications/{resolved}">' in page
    assert "1 overtaken" in page
    assert "failed" not in re.sub(r"<a [^>]*>Failed</a>", "", page)


def test_several_that_were_overtaken_one_after_the_other_are_named(team: Team, courier: Courier, texts: Texts) -> None:
    team.add(mobile=ANN)
    texts.behaviour = "close"
    alerts = []
    for minutes, status in ((9, "firing"), (7, "resolved"), (5, "firing")):
        alerts.append(fire(team, status))
        move_back(team, alerts[-1], minutes)
        courier.deliver()
    texts.behaviour = None
    make_due(team)
    courier.deliver()
    assert [row["state"] for row in deliveries(team)] == ["overtaken", "overtaken", "sent"]
    (text,) = texts.messages
    before = f"Before: firing {at(team, alerts[0], alerts[2])}, resolved {at(team, alerts[1], alerts[2])}."
    assert text.text.splitlines()[:2] == ["[Firing] Disk full", before]


def test_the_newer_waits_for_the_older_that_is_being_sent(
    team: Team, courier: Courier, new_courier: Callable[..., Courier], texts: Texts
) -> None:
    team.add(mobile=ANN)
    fire(team)
    thread = sending_begins(courier, texts)
    resolved = fire(team, "resolved")
    new_courier().step("sms")
    (row,) = deliveries(team, resolved)
    assert (row["state"], row["attempts"]) == ("queued", 0)
    assert 0 < row["wait"] <= 1
    texts.gate.set()
    thread.join()
    make_due(team)
    courier.deliver()
    assert states(team) == {"sent": 2}
    assert [text.text.splitlines()[0] for text in texts.messages] == ["[Firing] Disk full", "[Resolved] Disk full"]


def test_what_a_dead_worker_was_sending_is_overtaken_when_its_lease_is_over(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(mobile=ANN)
    firing = fire(team)
    team.sql.execute("UPDATE deliveries SET state = 'sending', attempts = 1, next_attempt_at = now() + interval '40 s'")
    resolved = fire(team, "resolved")
    courier.deliver()
    assert texts.messages == []
    make_due(team)
    courier.deliver()
    assert [text.text.splitlines()[0] for text in texts.messages] == ["[Resolved] Disk full"]
    assert states(team, firing) == {"overtaken": 1}
    assert states(team, resolved) == {"sent": 1}


def test_an_old_one_that_a_person_sends_again_says_what_has_come_since(
    team: Team, courier: Courier, post: MailServer
) -> None:
    team.add(email="ann@example.com")
    post.unknown.add("ann@example.com")
    firing = fire(team)
    courier.deliver()
    post.unknown.clear()
    resolved = fire(team, "resolved")
    move_back(team, resolved, 0)
    courier.deliver()
    team.post(f"/notifications/{firing}/again", {})
    courier.deliver()
    assert states(team) == {"sent": 2}
    assert [mail.message["Subject"] for mail in post.messages] == ["[Resolved] Disk full", "[Firing] Disk full"]
    body = post.messages[-1].message.get_body(("plain",))
    assert body is not None
    since = f"Since then: resolved {at(team, resolved, firing)}."
    assert f"Sent again because somebody asked. {since}" in " ".join(body.get_content().split())
    # What comes in after that overtakes it like all others.
    team.sql.execute(
        "UPDATE deliveries SET state = 'queued', next_attempt_at = now(), ended_at = NULL WHERE alert_id = %s", [firing]
    )
    latest = fire(team)
    courier.deliver()
    assert [row["state"] for row in deliveries(team, firing)] == ["overtaken"]
    assert states(team, latest) == {"sent": 1}


def test_only_news_of_the_same_key_integration_contact_and_channel_overtakes(
    team: Team, courier: Courier, post: MailServer, texts: Texts
) -> None:
    team.add(name="Ann", mobile=ANN, email="ann@example.com")
    for columns in ({"key": "a"}, {"key": "b"}, {"key": None}, {"key": None}):
        fire(team, **columns)
    queue_alert(team, key="a", integration_id=INTEGRATION + 1)
    queue_alert(team, key="a", kind="test")
    courier.deliver()
    assert states(team) == {"sent": 12}
    bob = team.add(name="Bob", mobile="+8613800000002")
    post.behaviour = "drop"
    first = fire(team)
    courier.deliver()
    queue_alert(team, bob, key=KEY, integration_id=INTEGRATION)
    post.behaviour = None
    make_due(team)
    courier.deliver()
    assert states(team, first) == {"sent": 3}


def test_what_is_sent_long_after_it_came_in_says_so(
    team: Team, courier: Courier, chat: Robots, post: MailServer, texts: Texts
) -> None:
    """A text has no time of its own; after a night without a worker people would take old alerts for new ones."""
    team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    alert, keyed = queue_alert(team), fire(team)
    team.sql.execute(
        "UPDATE alerts SET received_at = now() - interval '10 hours' WHERE account_id = %s", [team.account_id]
    )
    (at,) = team.sql.execute("SELECT received_at FROM alerts WHERE id = %s", [alert]).fetchone() or [None]
    courier.deliver()
    assert states(team, alert, keyed) == {"sent": 6}
    line = f"Late: this alert arrived at {at:%Y-%m-%d %H:%M} UTC."
    assert [text.text.splitlines()[1] for text in texts.messages] == [line] * 2
    bodies = [mail.message.get_body(("plain",)).get_content() for mail in post.messages]
    assert all(line in text for text in [*bodies, *(message.text for message in chat.messages)])


def test_the_newest_notice_of_the_console_overtakes_the_older_and_says_all_that_they_did(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(name="Ann", mobile=ANN, receives_system_notifications=True)
    bob, cid = (team.add(name=name, email=f"{name}@example.com") for name in ("Bob", "Cid"))
    texts.behaviour = "close"
    set_state(team, bob, fails=True)
    courier.deliver()
    set_state(team, cid, fails=True)
    pass_a_day(team)
    courier.deliver()
    set_state(team, bob, fails=False)
    new_group(team, "Night", minutes=11)  # is news of another key
    ask(team)
    texts.behaviour = None
    make_due(team)
    courier.deliver()
    assert states(team) == {"overtaken": 2, "sent": 2}
    (works, still), (unreachable, _) = (text.text.split("\n", 1) for text in texts.messages)
    assert "A channel of the team works again" in works
    assert re.search(r"Before: .*firing.*\nBob: Mailbox\nStill failing:\nCid: Mailbox, since ", still)
    assert "A contact group has no reachable members" in unreachable


def numbers(text: str) -> dict[str, int]:
    """Return the number of the news of each key that a message lists."""
    return {key: int(number) for key, number in re.findall(r"(key-\d) no\.? ?(\d+)", text)}


@pytest.mark.parametrize("limit", ["1000", "3"])
@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(3, 40))])
def test_whatever_fails_and_whoever_works_news_stay_in_order_and_the_last_arrive(
    team: Team,
    new_courier: Callable[..., Courier],
    chat: Robots,
    post: MailServer,
    texts: Texts,
    seed: int,
    limit: str,
) -> None:
    chance = random.Random(seed)
    couriers = [new_courier(TEXTS_PER_NUMBER=limit, MAILS_PER_MAILBOX=limit) for _ in range(2)]
    team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    last: dict[str, int] = {}

    def let_time_pass() -> None:
        make_due(team)
        team.sql.execute("UPDATE send_windows SET sent_at = '{}'")
        chat.robots["token-of-robot-1"].sent_at.clear()

    def work() -> None:
        channel = chance.choice(list(KINDS))
        threads = [threading.Thread(target=one.step, args=(channel,)) for one in couriers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for number in range(1, 61):
        act = chance.random()
        if act < 0.4:
            key = f"key-{chance.randint(1, 3)}"
            last[key] = number
            fire(team, chance.choice(["firing", "resolved"]), key=key, title=f"{key} no {number}", text="")
        elif act < 0.55:
            texts.behaviour = chance.choice([None, None, "close", "500"])
            post.behaviour = chance.choice([None, None, "drop", "drop-data"])
            chat.behaviour = chance.choice([None, None, "500"])
            chat.loses_answers = chance.random() < 0.2
        elif act < 0.7:
            let_time_pass()
        else:
            work()
    texts.behaviour = post.behaviour = chat.behaviour = None
    chat.loses_answers = False

    def is_over() -> bool:
        let_time_pass()
        couriers[0].deliver()
        return not any(row["next_attempt_at"] for row in deliveries(team))

    wait_for(is_over)
    received = {
        "sms": [text.text for text in texts.messages],
        "email": [f"{mail.message['Subject']}\n{mail.message.get_body(('plain',))}" for mail in post.messages],
        "dingtalk": [message.text for message in chat.messages],
    }
    for channel, messages in received.items():
        heard: dict[str, list[int]] = defaultdict(list)
        for message in messages:
            for key, number in numbers(message).items():
                heard[key].append(number)
        for key, found in heard.items():
            assert found == sorted(found), (channel, key, found)
        assert {key: found[-1] for key, found in heard.items()} == last, channel
    assert set(states(team)) <= {"sent", "overtaken"}


def test_what_was_overtaken_is_listed_in_the_zone_of_the_settings(
    team: Team, courier: Courier, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(team.app.extensions["settings"], timezone=ZoneInfo("Asia/Shanghai"))
    monkeypatch.setitem(team.app.extensions, "settings", settings)
    team.add(mobile=ANN)
    texts.behaviour = "close"
    firing = fire(team)
    courier.deliver()
    texts.behaviour = None
    resolved = fire(team, "resolved")
    move_back(team, firing, 4)
    move_back(team, resolved, 0)
    make_due(team)
    courier.deliver()
    times = [at(team, alert, resolved, ZoneInfo("Asia/Shanghai")) for alert in (firing, resolved)]
    assert all(time.endswith(" UTC+08:00") for time in times)
    assert f"Was firing from {times[0]} to {times[1]}." in texts.messages[-1].text
