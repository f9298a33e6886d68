"""Show that what waits can be stopped: at once, for good, with who did it, and nothing else with it."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from contacts_app.cli.processes import CHORES
from contacts_app.core.db import all_accounts
from contacts_app.delivery import housekeeping, recording, robots, worker
from tests.api.test_alerts import add_integration, integration_of
from tests.conftest import Measured, Team, wait_for
from tests.delivery import test_worker as workers
from tests.delivery.test_worker import ANN, Courier, Robots, Texts, deliveries, make_due, queue_alert
from tests.pages.groups.test_views import add_group

authority, database_url, settings, app = workers.authority, workers.database_url, workers.settings, workers.app
dingtalk_server, mail_server, text_server = workers.dingtalk_server, workers.mail_server, workers.text_server
chat, post, texts, team = workers.chat, workers.post, workers.texts, workers.team
new_courier, courier = workers.new_courier, workers.courier


def states(team: Team, *alerts: int) -> Counter[str]:
    return Counter(row["state"] for row in deliveries(team, *alerts))


def come_in(team: Team, integration: int, *contacts: int, **columns: Any) -> int:
    """Queue an alert that came in through an integration."""
    return queue_alert(team, *contacts, integration_id=integration, integration_name="Prometheus", **columns)


def sending_begins(courier: Courier, texts: Texts) -> threading.Thread:
    """Have a thread claim texts and be held at the first of them."""
    texts.gate.clear()
    thread = threading.Thread(target=courier.step, args=("sms",))
    thread.start()
    wait_for(lambda: texts.requests == 1)
    return thread


def test_what_waits_of_a_notification_is_cancelled_and_can_be_sent_again(
    team: Team, courier: Courier, chat: Robots, texts: Texts
) -> None:
    team.add(mobile=ANN, email="ann@example.com", dingtalk_url=chat.add("token-of-robot-1"))
    other, alert = queue_alert(team, title="Other"), queue_alert(team)
    page = team.post(f"/notifications/{alert}/stop", {}, htmx=True)
    assert "3 cancelled" in page.text
    assert f"Cancelled</span> by <bdi>{team.email}</bdi>" in page.text
    courier.deliver()
    assert states(team, alert) == {"cancelled": 3}
    assert states(team, other) == {"sent": 3}
    assert [text.text.splitlines()[0] for text in texts.messages] == ["[Firing] Other"]
    assert {(row["cancelled_by"], row["attempts"]) for row in deliveries(team, alert)} == {(team.email, 0)}
    assert all(row["ended_at"] for row in deliveries(team, alert))
    assert "Disk full" in team.get("/notifications?show=cancelled").text
    assert team.get(f"/notifications/{alert}?state=cancelled").text.count('<li class="delivery ') == 3
    one = {"contact": deliveries(team, alert)[0]["contact_id"], "channel": "sms"}
    team.post(f"/notifications/{alert}/again", one)
    courier.deliver()
    assert states(team, alert) == {"sent": 1, "cancelled": 2}
    team.post(f"/notifications/{alert}/again", {"again": "cancelled"})
    courier.deliver()
    assert states(team, alert) == {"sent": 3}


def test_what_is_being_sent_is_recorded_and_the_rest_of_what_was_claimed_is_not_sent(
    team: Team, courier: Courier, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "WRITE_SECONDS", 0)  # after which it is looked whether the others are still wanted
    for number in range(8):
        team.add(mobile=f"+861380000000{number}")
    alert = queue_alert(team)
    thread = sending_begins(courier, texts)
    assert states(team) == {"sending": 8}
    team.post(f"/notifications/{alert}/stop", {})
    assert "stopped by" in team.get(f"/notifications/{alert}").text
    texts.gate.set()
    thread.join()
    assert len(texts.messages) == 1
    assert states(team) == {"sent": 1, "cancelled": 7}
    make_due(team)
    courier.deliver()
    assert len(texts.messages) == 1


def test_what_was_sent_is_recorded_also_where_it_cannot_be_asked_what_was_stopped(
    team: Team, courier: Courier, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "WRITE_SECONDS", 0)
    monkeypatch.setattr(recording, "cancelled_claims", sa.text("SELECT 1 / 0"))
    for number in range(8):
        team.add(mobile=f"+861380000000{number}")
    queue_alert(team)
    courier.deliver()
    assert states(team) == {"sent": 8}
    assert len(texts.messages) == 8


def test_a_stopped_message_whose_attempt_fails_is_not_tried_again(team: Team, courier: Courier, texts: Texts) -> None:
    team.add(mobile=ANN)
    alert = queue_alert(team)
    texts.loses_answers = True
    thread = sending_begins(courier, texts)
    team.post(f"/notifications/{alert}/stop", {})
    texts.gate.set()
    thread.join()
    (row,) = deliveries(team)
    assert (row["state"], row["cancelled_by"], row["attempts"]) == ("cancelled", team.email, 1)
    assert "HTTP 500" in row["answer"]  # what is known of the attempt stays
    # One that waits to be tried again is stopped as well.
    again = queue_alert(team)
    courier.deliver()
    assert states(team, again) == {"queued": 1}
    team.post(f"/notifications/{again}/stop", {})
    make_due(team)
    courier.deliver()
    assert states(team) == {"cancelled": 2}
    assert texts.requests == 2


def test_a_stopped_message_stays_stopped_when_its_worker_dies(
    team: Team, courier: Courier, chat: Robots, texts: Texts
) -> None:
    team.add(mobile=ANN, dingtalk_url=chat.add("token-of-robot-1"))
    alert = queue_alert(team)
    team.sql.execute("UPDATE deliveries SET state = 'sending', attempts = 1")
    team.post(f"/notifications/{alert}/stop", {})
    assert states(team) == {"sending": 2}
    make_due(team)
    courier.deliver()
    with team.app.app_context(), all_accounts():
        housekeeping.tidy(90, CHORES)
    courier.deliver()
    assert states(team) == {"cancelled": 2}
    assert texts.requests + chat.requests == 0


def test_a_bundle_that_may_have_arrived_goes_again_without_what_was_stopped(
    team: Team, courier: Courier, chat: Robots
) -> None:
    team.add(dingtalk_url=chat.add("token-of-robot-1"))
    alerts = [queue_alert(team, title=f"Alert {number:02}") for number in range(robots.ROBOT_LIMIT + 1)]
    chat.behaviour = "500"
    courier.deliver()
    chat.behaviour = None
    assert states(team) == {"queued": len(alerts)}
    team.post(f"/notifications/{alerts[0]}/stop", {})
    make_due(team)
    courier.deliver()
    assert states(team) == {"cancelled": 1, "sent": len(alerts) - 1}
    assert "Alert 00" not in "".join(message.text for message in chat.messages)


def test_an_integration_is_stopped_with_all_that_waits_of_it_and_nothing_else(
    team: Team, courier: Courier, texts: Texts, new_team: Callable[..., Team]
) -> None:
    group = add_group(team, "Night")
    add_integration(team, group)
    integration = integration_of(team)["id"]
    team.add(mobile=ANN)
    before = come_in(team, integration, title="Before")
    courier.deliver()
    stopped = [come_in(team, integration, title=f"Flood {number}") for number in range(12)]
    others = [come_in(team, integration + 1, title="Another integration"), queue_alert(team, title="None", kind="test")]
    page = team.get(f"/integrations/{integration}/stop").text
    assert "12 messages of 12 notifications" in page
    assert "12 messages of 12 notifications" in team.get(f"/integrations/{integration}").text
    assert new_team().post(f"/integrations/{integration}/stop", {}).status_code == 404
    team.post(f"/integrations/{integration}/stop", {})
    after = come_in(team, integration, title="After")
    courier.deliver()
    assert states(team, *stopped) == {"cancelled": 12}
    assert states(team, before, after, *others) == {"sent": 4}
    assert "there is nothing to stop" in team.get(f"/integrations/{integration}/stop").text


def test_what_waits_is_stopped_from_its_notification_when_the_integration_is_gone(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(mobile=ANN)
    alerts = [come_in(team, 5_000) for _ in range(3)]
    assert f"/notifications/{alerts[0]}/stop" in team.get(f"/notifications/{alerts[0]}").text
    assert "3 messages of 3 notifications" in team.get(f"/notifications/{alerts[0]}/stop").text
    team.post(f"/notifications/{alerts[0]}/stop", {"all": "1"})
    courier.deliver()
    assert states(team, *alerts) == {"cancelled": 3}
    assert texts.requests == 0
    test = queue_alert(team, kind="test")
    assert team.get(f"/notifications/{test}/stop").status_code == 404


@pytest.mark.parametrize("is_stopped", [True, False])
@pytest.mark.parametrize("what", ["integration", "groups"])
def test_whoever_deletes_a_way_in_may_stop_what_waits_of_it(
    team: Team, courier: Courier, texts: Texts, what: str, is_stopped: bool
) -> None:
    contact = team.add(mobile=ANN)
    integrations, groups = [], []
    for name in ("Night", "Day"):
        groups.append(add_group(team, name, contact))
        add_integration(team, groups[-1])
        query = "SELECT id FROM integrations WHERE group_id = %s"
        integrations += [row[0] for row in team.sql.execute(query, [groups[-1]]).fetchall()]
    gone = integrations[:1] if what == "integration" else integrations
    for integration in gone:
        come_in(team, integration, title="Flood")
        come_in(team, integration, title="Flood")
    chosen: dict[str, Any] = {"stop": "1"} if is_stopped else {}
    if what == "integration":
        path, data = f"/integrations/{gone[0]}/delete", chosen
        assert "2 messages of 2 notifications" in team.get(path).text
    else:
        path, data = "/groups/delete", chosen | {"id": groups}
        question = team.get(f"{path}?id={groups[0]}&id={groups[1]}").text
        assert "4 messages of 4 notifications" in question
        assert 'name="stop" value="1" autocomplete="off">' in question  # and not checked
    assert team.post(path, data).status_code == 303
    courier.deliver()
    assert states(team) == {"cancelled" if is_stopped else "sent": 2 * len(gone)}
    assert bool(texts.messages) is not is_stopped


@pytest.mark.long
@pytest.mark.parametrize("alerts", [50, pytest.param(500, marks=pytest.mark.chaos)])
def test_a_flood_is_stopped_quickly_and_keeps_no_worker_waiting(
    team: Team,
    new_team: Callable[..., Team],
    sql: psycopg.Connection,
    new_courier: Callable[..., Courier],
    texts: Texts,
    alerts: int,
    measured: Measured,
) -> None:
    """Of the 150,000 messages in `make chaos`, ANALYZE knows nothing."""
    for number in range(100):
        team.add(mobile=f"+861380000{number:04}", email=f"contact{number}@example.com")
    sql.execute(
        """INSERT INTO alerts (account_id, kind, source, integration_id, addressee, title, text, severity, status)
        SELECT %s, 'alert', 'plain', 7, 'Night', 'Flood ' || number, '', '', 'firing'
        FROM generate_series(1, %s) AS number""",
        [team.account_id, alerts],
    )
    sql.execute(
        """INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name)
        SELECT alerts.account_id, alerts.id, contacts.id, channel, name FROM alerts JOIN contacts USING (account_id),
            unnest(ARRAY['sms', 'email', 'dingtalk']) AS channel WHERE account_id = %s""",
        [team.account_id],
    )
    other = new_team()
    courier = new_courier()
    (first,) = sql.execute("SELECT min(id) FROM alerts WHERE account_id = %s", [team.account_id]).fetchone() or [0]
    longest, is_over, numbers = 0.0, threading.Event(), count()

    def deliver_to_others() -> None:
        nonlocal longest
        while not is_over.is_set():
            began = time.monotonic()
            contact = other.add(mobile=f"+861390000{next(numbers):04}")  # whose limit is not reached
            alert = queue_alert(other, contact)
            while courier.step("sms") and states(other, alert) != {"sent": 1}:
                pass
            longest = max(longest, time.monotonic() - began)

    thread = threading.Thread(target=deliver_to_others)
    thread.start()
    began = time.monotonic()
    team.post(f"/notifications/{first}/stop", {"all": "1"})
    seconds = time.monotonic() - began
    is_over.set()
    thread.join()
    with team.app.app_context(), all_accounts():
        recording.write_what_waited()  # what was sent at the moment when it was stopped
    left = states(team)
    measured(
        "enemies",
        f"{300 * alerts:,} messages of one team wait, and are stopped",
        f"{left['cancelled']:,} stopped within {seconds:.1f} s; another team's text arrives within {longest:.2f} s",
    )
    assert left["queued"] + left["sending"] == 0
    assert left["cancelled"] + left["sent"] == 300 * alerts
    assert left["cancelled"] > 200 * alerts
    assert seconds < 10
    assert longest < 3
