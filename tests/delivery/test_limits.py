"""Show that a number and a mailbox get no more than a person can read, and that what waits for that is not lost."""

import re
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from contacts_app.core.db import all_accounts, db
from contacts_app.delivery import limits
from contacts_app.delivery.models import Delivery
from tests.conftest import Team
from tests.delivery import test_worker as workers
from tests.delivery.counterparts import MailServer
from tests.delivery.test_stopping import states
from tests.delivery.test_worker import (
    ANN,
    BOB,
    PUBLIC_URL,
    Courier,
    Texts,
    deliveries,
    make_due,
    queue_alert,
    select,
)
from tests.pages.groups.test_views import add_group

authority, database_url, settings, app = workers.authority, workers.database_url, workers.settings, workers.app
dingtalk_server, mail_server, text_server = workers.dingtalk_server, workers.mail_server, workers.text_server
chat, post, texts, team = workers.chat, workers.post, workers.texts, workers.team
new_courier, courier = workers.new_courier, workers.courier


def let_minutes_pass(team: Team, minutes: int = 10) -> None:
    """Let what was sent lie further back, and be due what waited for that."""
    shift = f"interval '{minutes} minutes'"
    team.sql.execute(f"UPDATE send_windows SET sent_at = ARRAY(SELECT at - {shift} FROM unnest(sent_at) AS at)")
    team.sql.execute(f"UPDATE deliveries SET next_attempt_at = next_attempt_at - {shift} WHERE ended_at IS NULL")


def is_late(team: Team) -> bool:
    with team.app.app_context(), all_accounts():
        return bool(db.session.scalar(db.select(Delivery.is_late(team.account_id))))


def test_what_is_over_the_limit_of_a_number_waits_and_goes_into_one_text(
    team: Team, courier: Courier, texts: Texts
) -> None:
    ann, bob = team.add(mobile=ANN), team.add(mobile=BOB)
    for number in range(30):
        queue_alert(team, ann, title=f"Flood {number:02}")
        courier.deliver()
    assert [text.text.splitlines()[0] for text in texts.messages] == [f"[Firing] Flood {n:02}" for n in range(10)]
    rows = deliveries(team)
    assert {(row["state"], row["attempts"], row["is_held"]) for row in rows[10:]} == {("queued", 0, True)}
    assert all(590 < row["wait"] <= 600 for row in rows[10:])
    assert ": this number has reached its limit" in team.get(f"/notifications/{rows[-1]['alert_id']}").text
    assert not is_late(team)  # which would be the console's fault
    queue_alert(team, bob)
    courier.deliver()
    assert [text.mobile for text in texts.messages[10:]] == [BOB]  # another's limit is his own
    let_minutes_pass(team)
    courier.deliver()
    (digest,) = texts.messages[11:]
    assert digest.text.splitlines()[:2] == ["20 alerts: 20 firing", "[Firing] Flood 29"]
    assert len(digest.text) <= 2 * 153
    assert "http" not in digest.text
    rows = deliveries(team)
    assert {row["state"] for row in rows} == {"sent"}
    assert {"It went in one message with 19 others" in row["answer"] for row in rows[10:30]} == {True}
    (window,) = select(team, "SELECT * FROM send_windows WHERE contact_id = %s", ann)
    assert len(window["sent_at"]) == 1


def test_a_digest_by_mail_holds_all_and_leads_to_each(team: Team, courier: Courier, post: MailServer) -> None:
    team.add(email="ann@example.com")
    alerts = [queue_alert(team, title=f"Flood {number:02}") for number in range(61)]
    alerts.append(queue_alert(team, title="Over", status="resolved"))
    alerts.append(queue_alert(team, title="A test", kind="test"))
    courier.deliver()
    (mail,) = post.messages
    assert mail.message["Subject"] == "63 alerts: 61 firing, 1 resolved"
    body = mail.message.get_body(("plain",))
    assert body is not None
    lines = body.get_content().splitlines()
    assert re.findall(r"/notifications/(\d+)", body.get_content()) == [str(alert) for alert in reversed(alerts)]
    assert {"[Firing] Flood 00", "[Resolved] Over", "[Test] A test", f"{PUBLIC_URL}/notifications"} < set(lines)
    assert states(team) == {"sent": 63}


def test_a_digest_that_may_have_arrived_goes_again_as_it_was(team: Team, courier: Courier, post: MailServer) -> None:
    team.add(email="ann@example.com")
    for number in range(61):
        queue_alert(team, title=f"Flood {number:02}")
    post.behaviour = "drop-data"
    courier.deliver()
    post.behaviour = None
    queue_alert(team, title="Later")
    make_due(team)
    courier.deliver()
    first, second, later = post.messages
    assert first.message["Message-ID"] == second.message["Message-ID"] != later.message["Message-ID"]
    assert (second.message["Subject"], later.message["Subject"]) == ("61 alerts: 61 firing", "[Firing] Later")
    assert states(team) == {"sent": 62}


def test_what_has_not_arrived_does_not_count_and_the_hour_does_not_run_while_it_waits(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(mobile=ANN)
    first = queue_alert(team)
    texts.replies += [(429, {"code": 20429, "message": "Too many requests"})] * 3
    for _ in range(3):
        courier.deliver()
        make_due(team)
    (window,) = select(team, "SELECT * FROM send_windows WHERE account_id = %s", team.account_id)
    assert window["sent_at"] == []
    team.sql.execute("UPDATE deliveries SET next_attempt_at = now() + interval '1 minute'")
    for number in range(10):
        queue_alert(team, title=f"Other {number}")
    courier.deliver()
    assert len(texts.messages) == 10
    (before,) = select(team, "SELECT give_up_at FROM deliveries WHERE alert_id = %s", first)
    make_due(team)
    courier.deliver()
    (row,) = deliveries(team, first)
    assert (row["state"], row["is_held"], row["attempts"]) == ("queued", True, 3)
    assert 590 < (row["give_up_at"] - before["give_up_at"]).total_seconds() <= 600
    let_minutes_pass(team)
    courier.deliver()
    assert states(team) == {"sent": 11}


def test_a_refused_message_makes_room_again(team: Team, courier: Courier, post: MailServer) -> None:
    team.add(email="ann@example.com")
    post.unknown.add("ann@example.com")
    for _ in range(3):
        queue_alert(team)
    courier.deliver()
    assert states(team) == {"failed": 3}
    (window,) = select(team, "SELECT * FROM send_windows WHERE account_id = %s", team.account_id)
    assert window["sent_at"] == []


def test_several_workers_together_keep_to_the_limit(
    team: Team, new_courier: Callable[..., Courier], texts: Texts
) -> None:
    team.add(mobile=ANN)
    couriers = [new_courier() for _ in range(4)]
    is_over = threading.Event()

    def work(courier: Courier) -> None:
        while not is_over.is_set():
            courier.step("sms")

    threads = [threading.Thread(target=work, args=(courier,)) for courier in couriers]
    for thread in threads:
        thread.start()
    for number in range(30):
        queue_alert(team, title=f"Flood {number:02}")
    is_over.set()
    for thread in threads:
        thread.join()
    couriers[0].deliver()
    first, waiting = len(texts.messages), states(team).get("queued", 0)
    assert first <= 10
    assert all(row["state"] == "sent" or row["is_held"] for row in deliveries(team))
    let_minutes_pass(team)
    # All at once, however long it took to send them: each alert has its own text as long as the limit lets it.
    team.sql.execute("UPDATE deliveries SET next_attempt_at = now() WHERE ended_at IS NULL")
    couriers[0].deliver()
    assert states(team) == {"sent": 30}
    assert len(texts.messages) == first + (1 if waiting > 10 else waiting)


def test_what_somebody_has_locked_neither_waits_nor_keeps_a_worker_busy(
    team: Team, courier: Courier, texts: Texts
) -> None:
    team.add(mobile=ANN)
    for _ in range(10):
        queue_alert(team)
    courier.deliver()
    alert = queue_alert(team)
    with psycopg.connect(team.sql.info.dsn) as other:
        other.execute("SELECT FROM deliveries WHERE alert_id = %s FOR UPDATE", [alert])
        assert not courier.step("sms")
    courier.deliver()
    assert [row["is_held"] for row in deliveries(team, alert)] == [True]


def test_the_limits_are_settings(team: Team, new_courier: Callable[..., Courier], texts: Texts) -> None:
    team.add(mobile=ANN)
    courier = new_courier(TEXTS_PER_NUMBER="2")
    for _ in range(3):
        queue_alert(team)
        courier.deliver()
    assert len(texts.messages) == 2
    assert states(team) == {"sent": 2, "queued": 1}


# Tests


def send_test(team: Team, **fields: Any) -> int:
    answer = team.post("/notifications/test", fields)
    if answer.status_code == 429:
        assert re.search(r"A contact gets at most 6 tests a minute\. Try again in \d+ seconds?\.", answer.text)
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    return answer.status_code


def test_a_contact_gets_at_most_six_tests_a_minute(team: Team, new_team: Callable[..., Team]) -> None:
    ann, bob = team.add(name="Ann", mobile=ANN), team.add(name="Bob", mobile=BOB)
    assert [send_test(team, contact=ann) for _ in range(8)] == [303] * limits.TESTS + [429] * 2
    assert send_test(team, contact=bob) == 303
    assert states(team) == {"queued": 7}
    # A group's other members get it, and of who does not it is said.
    group = add_group(team, "Night", ann, bob)
    answer = team.client.post(
        "/notifications/test", data={"csrf_token": team.csrf_token, "group": group}, follow_redirects=True
    )
    assert "Cancelled</span> <time" in answer.text
    assert "A contact gets at most 6 tests a minute.</p>" in answer.text
    assert states(team) == {"queued": 8, "cancelled": 1}
    (by,) = select(team, "SELECT cancelled_by FROM deliveries WHERE state = 'cancelled'")
    assert by == {"cancelled_by": '{"code":"delivery.limit_of_tests","tests":6}'}
    alone = add_group(team, "Day", ann)
    assert send_test(team, group=alone) == 429
    team.sql.execute(
        "UPDATE send_windows SET sent_at = ARRAY(SELECT at - interval '1 minute' FROM unnest(sent_at) AS at)"
    )
    assert send_test(team, contact=ann) == 303


def test_a_contact_is_saved_although_no_test_may_be_sent(team: Team) -> None:
    ann = team.add(name="Ann", mobile=ANN)
    for _ in range(limits.TESTS):
        send_test(team, contact=ann)
    fields = {"name": "Anne", "mobile": ANN, "version": "1", "action": "test"}
    answer = team.client.post(
        f"/contacts/{ann}/edit", data={"csrf_token": team.csrf_token} | fields, follow_redirects=True
    )
    assert (answer.status_code, (team.contact(ann) or {})["name"]) == (200, "Anne")
    assert "Anne has been saved. A contact gets at most 6 tests a minute. Try again in" in answer.text


@pytest.mark.parametrize("at_once", [10])
def test_of_tests_at_the_same_moment_no_more_are_let_through(team: Team, at_once: int) -> None:
    ann = team.add(name="Ann", mobile=ANN)
    found: list[int] = []

    def send() -> None:
        client = team.app.test_client()
        client.set_cookie("console", team.cookie)
        data = {"csrf_token": team.csrf_token, "contact": ann}
        found.append(client.post("/notifications/test", data=data).status_code)

    threads = [threading.Thread(target=send) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [303] * limits.TESTS + [429] * (at_once - limits.TESTS)
