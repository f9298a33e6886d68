"""Show that what hangs for one account delays no message of another."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.conftest import Measured, Team, wait_for, watched_statements
from tests.delivery import test_worker as deliveries
from tests.delivery.counterparts import MailServer
from tests.delivery.test_worker import Courier, Process, Robots, Texts, listeners, queue_alert

authority, dingtalk_server = deliveries.authority, deliveries.dingtalk_server
mail_server, text_server = deliveries.mail_server, deliveries.text_server
chat, post, texts, database_url = deliveries.chat, deliveries.post, deliveries.texts, deliveries.database_url
settings, app, team, start = deliveries.settings, deliveries.app, deliveries.team, deliveries.start
new_courier = deliveries.new_courier
SHARE = 4  # of the threads of a channel, which an account may hold
DELAY = 2  # seconds that another account may cost


@pytest.mark.parametrize(
    ("accounts", "counterparts"),
    [(1, 100), pytest.param(2, 100, marks=pytest.mark.chaos), pytest.param(10, 70, marks=pytest.mark.chaos)],
)
def test_what_hangs_for_some_accounts_delays_no_other(
    team: Team,
    new_team: Callable[..., Team],
    start: Callable[..., Process],
    chat: Robots,
    post: MailServer,
    texts: Texts,
    accounts: int,
    counterparts: int,
    measured: Measured,
) -> None:
    hanging = [new_team(quota=1000) for _ in range(accounts)]
    for index, other in enumerate(hanging):
        for number in range(counterparts):
            token = f"token-{index}-{number}"
            mobile, email = f"+861380000{index:02}{number:02}", f"c{index}-{number}@example.com"
            other.add(f"Contact {number}", mobile=mobile, email=email, dingtalk_url=chat.add(token))
            chat.hanging.add(token)
            texts.hanging.add(mobile)
            post.hanging.add(email)
    url = chat.add("token-of-robot-9")
    team.add(mobile="+8613900000001", email="ann@example.com", dingtalk_url=url)
    start()
    wait_for(lambda: listeners(team) == 1, 60)

    def seconds_until_sent(title: str) -> dict[str, float]:
        """Queue the alert, and return for each channel how long it took to arrive."""
        begin = time.time()
        queue_alert(team, title=title)

        def arrived() -> dict[str, float]:
            at = {"sms": [text.at for text in texts.messages if title in text.text]}
            at["email"] = [mail.at for mail in post.messages if title in mail.message["Subject"]]
            at["dingtalk"] = [message.at for message in chat.messages if title in message.title]
            return {channel: min(times) - begin for channel, times in at.items() if times}

        return wait_for(lambda: len(found := arrived()) == 3 and found, what=title)

    seconds_until_sent("To warm up")
    quiet = seconds_until_sent("While all is quiet")
    for other in hanging:
        queue_alert(other)
    wait_for(lambda: min(chat.hung, texts.hung, post.hung) >= SHARE, what="what hangs")
    found = [seconds_until_sent(f"Number {number}") for number in range(3)]
    later = max(took - quiet[channel] for seconds in found for channel, took in seconds.items())
    measured(
        "enemies",
        f"{counterparts} counterparts of each of {accounts} accounts hang, on each channel",
        f"another account's alert arrives at most {max(0, later):.1f} s later than while all is quiet",
    )
    try:
        for seconds in found:
            assert {channel: took for channel, took in seconds.items() if took > quiet[channel] + DELAY} == {}
    finally:
        for server in (chat, texts, post):
            server.release()


def test_a_thread_asks_once_for_others_while_one_account_may_hold_no_more_threads(
    team: Team, new_team: Callable[..., Team], new_courier: Callable[..., Courier], texts: Texts
) -> None:
    courier = new_courier(DELIVERY_THREADS="1")
    lane = courier.worker.lanes["sms"]
    team.add(mobile="+8613900000001")
    queue_alert(team)
    held = threading.Thread(target=lane.hold, args=(team.account_id,))
    held.start()
    held.join()
    with watched_statements() as sent:
        assert not courier.step("sms")
        assert sent
        sent.clear()
        assert not courier.step("sms")
        assert sent == []
    other = new_team()
    other.add(mobile="+8613900000002")
    queue_alert(other)
    lane.announce()
    assert courier.step("sms")
    assert [text.mobile for text in texts.messages] == ["+8613900000002"]
    wait_for(lambda: not lane.is_quiet([team.account_id]), what="the next look, which nobody announces")
