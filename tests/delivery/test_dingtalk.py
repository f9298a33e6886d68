"""Show that a robot receives what it takes, mentions who it should, and that every refusal is explained."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from contacts_app import config
from contacts_app.delivery import sample
from contacts_app.delivery.answers import words
from contacts_app.delivery.channels import Content, dingtalk, headline, outgoing, quoted
from contacts_app.delivery.channels.dingtalk import escaped, text_of
from contacts_app.delivery.channels.registry import kind_of
from tests.delivery.counterparts import Authority, DingTalk, environment
from tests.delivery.shown import Shown, shown

SECRET = "SEC0123456789abcdef0123456789abcdef"
Send = Callable[..., Shown]
_uuids = count(1)


def content(title: str = "Disk full", text: str = "", **columns: Any) -> Content:
    values: dict[str, Any] = {
        **{"id": 1, "title": title, "text": text, "severity": "critical", "status": "firing", "group": "On call"},
        **{"received_at": datetime(2026, 3, 1, 12, 30, tzinfo=UTC), "url": None, "kind": "alert"},
    }
    return Content(**values | columns)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[DingTalk]:
    server = DingTalk(authority)
    yield server
    server.close()


@pytest.fixture
def chat(server: DingTalk) -> DingTalk:
    """Return the server with no robots yet, well-behaved."""
    server.robots.clear()
    server.messages.clear()
    server.replies.clear()
    server.behaviour, server.offset, server.requests = None, 0.0, 0
    server.words = set()
    return server


@pytest.fixture
def settings(authority: Authority, server: DingTalk, tmp_path: Path) -> config.Settings:
    return config.load({"DATA_DIR": str(tmp_path)} | environment(authority.path, server))


@pytest.fixture
def session(settings: config.Settings) -> Iterator[outgoing.Session]:
    with outgoing.Session(settings) as session:
        yield session


@pytest.fixture
def send(session: outgoing.Session, settings: config.Settings) -> Send:
    """Return a function that sends; no answer quotes the token or the secret."""

    def send(
        url: str,
        alerts: Sequence[Content] = (content(),),
        secret: str | None = None,
        keyword: str | None = None,
        mobiles: Sequence[str] = (),
        uuid: str | None = None,
        may_repeat: bool = True,
    ) -> Shown:
        uuid = uuid or f"uuid-{next(_uuids)}"
        outcome = shown(dingtalk.send(session, settings, url, secret, keyword, alerts, mobiles, uuid, may_repeat))
        assert url.partition("=")[2] not in outcome.answer
        assert not secret or secret not in outcome.answer
        return outcome

    return send


def test_a_message_shows_the_alert(chat: DingTalk, send: Send) -> None:
    alert = content(text="97 % used\non db-1", url="https://console.example.com/notifications/1")
    assert send(chat.add("robot-1"), [alert]) == ("sent", "The robot took the message.", None, False, "whole", 1)
    (message,) = chat.messages
    assert message.title == "[Firing] Disk full"
    assert message.text.splitlines() == [
        *("#### \\[Firing\\] Disk full", "", "97 % used  ", "on db-1", ""),
        *("Severity: critical · Group: On call · Time: 2026-03-01 12:30:00 UTC", ""),
        "[Open in the console](https://console.example.com/notifications/1)",
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "[Firing] Disk full"),
        ({"status": "resolved"}, "[Resolved] Disk full"),
        ({"kind": "test"}, "[Test] Disk full"),
        ({"kind": "system"}, "Disk full"),
        ({"title": "Disk\r\nfull "}, "[Firing] Disk full"),
    ],
)
def test_a_headline_says_what_it_is(columns: dict[str, str], expected: str) -> None:
    assert headline(content(**columns)) == expected


def test_several_alerts_are_one_message(chat: DingTalk, send: Send) -> None:
    alerts = [content("Disk full", "one\ntwo\nthree\nfour"), content("Disk full", status="resolved"), content("Fan")]
    assert send(chat.add("robot-1"), alerts).state == "sent"
    (message,) = chat.messages
    assert message.title == "3 alerts"
    assert message.text.startswith("### 3 alerts\n\n#### \\[Firing\\] Disk full\n\none  \ntwo  \nthree …\n\n")
    assert "#### \\[Resolved\\] Disk full" in message.text
    assert "#### \\[Firing\\] Fan" in message.text


def test_no_alert_of_many_is_left_out(chat: DingTalk, send: Send) -> None:
    alerts = [content(f"{number:02} {'很' * 198}", "很" * 200) for number in range(dingtalk.MAX_ALERTS)]
    assert send(chat.add("robot-1"), alerts, keyword="报警", mobiles=["+12025550123"] * 2000).state == "sent"
    (message,) = chat.messages
    assert 14_000 < len(json.dumps(message.text, ensure_ascii=False).encode()) < 17_000
    titles = re.findall(r"^(?:####|-) \\\[Firing\\\] ([0-9]+) 很", message.text, re.MULTILINE)
    assert titles == [f"{number:02}" for number in range(dingtalk.MAX_ALERTS)]
    assert "#### " in message.text
    assert "\n- " in message.text
    assert "报警" in message.text
    assert message.text.endswith("and 1900 more")


@pytest.mark.parametrize("text", ["很" * 20_000, "x" * 30_000, "[" * 20_000, "\\" * 20_000, "🔥" * 9000])
def test_a_long_alert_is_cut(chat: DingTalk, send: Send, text: str) -> None:
    assert send(chat.add("robot-1"), [content(text=text)], keyword="k" * 60).state == "sent"
    text = chat.messages[0].text
    assert 16_000 < len(json.dumps(text, ensure_ascii=False).encode()) < 17_000
    kept = text.partition(" …\n")[0]
    assert (len(kept) - len(kept.rstrip("\\"))) % 2 == 0
    assert " …\n\nSeverity: critical" in text


def test_a_mobile_is_mentioned_in_the_way_dingtalk_knows_it(chat: DingTalk, send: Send) -> None:
    mobiles = ["+8613800000000", "+12025550123", "+85251234567", "+447400123456"]
    mobiles += ["+8614912345678", "+8612912345678", "+12005550123", "+9991234567"]  # which the table does not know
    send(chat.add("robot-1"), mobiles=mobiles)
    expected: tuple[str, ...] = ("13800000000", "+1-2025550123", "+852-51234567", "+44-7400123456")
    expected += ("14912345678", "12912345678", "+1-2005550123", "+9991234567")
    assert chat.messages[0].mobiles == expected  # those that stand in the text as well
    assert chat.messages[0].text.endswith("\n\n" + " ".join(f"@{number}" for number in expected))


@pytest.mark.parametrize(
    "text",
    [
        "[log on](https://evil.example)",
        "![x](https://evil.example/x.png)",
        "[x][y]\n\n[y]: https://evil.example",
        '<a href="https://evil.example">x</a>',
        "<https://evil.example>",
        "a\\[x](https://evil.example)",
        "# heading",
        "**bold** __bold__ `code` ~~gone~~ a|b",
    ],
)
def test_words_of_an_alert_are_no_markup(text: str) -> None:
    for line in text.splitlines():
        shown = escaped(line)
        assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]<`*_~|]|^[#>]", shown)
        assert re.sub(r"\\(.)", r"\1", shown) == line


def test_words_of_an_alert_mention_nobody() -> None:
    assert "@13800000000" not in escaped("@13800000000 @all")
    assert "@all" not in escaped("@13800000000 @all")


def test_an_address_in_an_alert_stays_as_it_is() -> None:
    url = "https://wiki.example.com/run_book/disk_full?a=1&b=2#top"
    assert escaped(f"See {url} *now*") == f"See {url} \\*now\\*"


def test_a_keyword_that_is_missing_is_put_in(chat: DingTalk, send: Send) -> None:
    assert send(chat.add("robot-1", keywords=["报警"]), keyword="报警").state == "sent"
    assert chat.messages[0].text.endswith("\n\n报警")


@pytest.mark.parametrize(
    ("keyword", "shown"),
    [
        ("[x](http://evil.example)", "\\[x](http://evil.example)"),
        ("# Alert", "\\# Alert"),
        ("> Alert", "\\> Alert"),
        ("*alert*", "\\*alert*"),
        ("<b>", "\\<b>"),
        ("@all", "@all"),  # mentions nobody: isAtAll is not set
        ("报警", "报警"),
    ],
)
def test_a_keyword_is_no_markup_as_far_as_it_stands_literally(
    chat: DingTalk, send: Send, keyword: str, shown: str
) -> None:
    assert send(chat.add("robot-1", keywords=[keyword]), keyword=keyword).state == "sent"
    assert chat.messages[0].text.endswith(f"\n\n{shown}")


def test_a_keyword_that_stands_in_the_text_is_not_repeated() -> None:
    assert text_of([content()], "Disk", [], 0).count("Disk") == 1


def test_a_keyword_that_is_escaped_in_the_text_is_put_in(chat: DingTalk, send: Send) -> None:
    assert send(chat.add("robot-1", keywords=["[Firing]"]), keyword="[Firing]").state == "sent"


def test_a_time_is_shown_with_its_zone(
    chat: DingTalk, session: outgoing.Session, authority: Authority, tmp_path: Path
) -> None:
    zone = ZoneInfo("Asia/Shanghai")
    alert = content(received_at=datetime(2026, 3, 1, 20, 30, tzinfo=zone))
    assert "Time: 2026-03-01 20:30:00 UTC+08:00" in text_of([alert], None, [], 0)
    chat.replies.append((200, {"errcode": 130101, "errmsg": ""}))
    environ = {"DATA_DIR": str(tmp_path), "TIMEZONE": "Asia/Shanghai"} | environment(authority.path, chat)
    outcome = shown(dingtalk.send(session, config.load(environ), chat.add("robot-1"), None, None, [alert], [], "u"))
    times = {f"{datetime.now(zone) + timedelta(seconds=seconds):%H:%M}" for seconds in (590, 600)}
    assert any(f"blocked until {at} UTC+08:00," in outcome.answer for at in times)


def test_a_signature_is_right(chat: DingTalk, send: Send) -> None:
    url = chat.add("robot-1", secret=SECRET)
    for _ in range(20):  # some of the signatures hold + and /, which have to be encoded once
        assert send(url, secret=SECRET).state == "sent"


def test_the_same_message_arrives_once(chat: DingTalk, send: Send) -> None:
    url = chat.add("robot-1")
    assert [send(url, uuid="same").state for _ in range(2)] == ["sent", "sent"]
    assert len(chat.messages) == 1


def test_a_missing_keyword_is_explained(chat: DingTalk, send: Send) -> None:
    url = chat.add("robot-1", keywords=["报警"])
    advice = "Enter the robot's keyword in the contact."
    assert send(url) == (
        "failed",
        f"The robot wants a keyword in the text, and none is set. {advice} (310000)",
        None,
        False,
        "whole",
        1,
    )
    words = f"The robot wants a keyword in the text, and 'alert' is not one of its keywords. {advice} (310000)"
    assert send(url, keyword="alert") == ("failed", words, None, False, "whole", 1)


def test_a_missing_signature_is_explained(chat: DingTalk, send: Send) -> None:
    outcome = send(chat.add("robot-1", secret=SECRET))
    assert outcome[:2] == ("failed", "The robot wants a signature. Enter its secret (SEC…) in the contact. (310000)")


def test_a_wrong_signature_is_explained(chat: DingTalk, send: Send) -> None:
    outcome = send(chat.add("robot-1", secret=SECRET), secret=f"{SECRET}f")
    words = "The signature does not match: the secret in the contact is not the robot's. Enter it again. (310000)"
    assert outcome[:2] == ("failed", words)


@pytest.mark.parametrize(("offset", "words"), [(-7200, "120 minutes fast"), (5400, "90 minutes slow")])
def test_a_clock_that_is_off_is_explained(chat: DingTalk, send: Send, offset: int, words: str) -> None:
    chat.offset = offset
    outcome = send(chat.add("robot-1", secret=SECRET), secret=SECRET)
    assert outcome[:2] == ("failed", f"The clock of the console's machine is {words}. Set it right. (310000)")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("description:关键词不匹配;solution:请在发送的信息中包含此关键词;", "wants a keyword"),
        ("description:机器人发送签名不匹配;solution:请确认签名和生成签名的时间戳必须都放在网址中;", "does not match"),
        ("description:机器人发送签名过期;solution:签名生成时间和发送时间请保持一致;", "Check the clock"),
        ("description:来源IP地址不在白名单中;solution:x;", "IP addresses"),
        ("ip 1.2.3.4 not in whitelist", "IP addresses"),
        ("something new", "DingTalk refused the message: 310000 something new"),
    ],
)
def test_a_refusal_is_understood_in_both_languages(chat: DingTalk, send: Send, message: str, words: str) -> None:
    chat.replies.append((200, {"errcode": 310000, "errmsg": message}))
    outcome = send(chat.add("robot-1"), secret=SECRET)
    assert outcome.state == "failed"
    assert words in outcome.answer


def test_an_unknown_token_is_reported(chat: DingTalk, send: Send) -> None:
    outcome = send(f"https://localhost:{chat.port}/robot/send?access_token=gone")
    words = "DingTalk does not know the token. Copy the robot's address from its settings again. (300005)"
    assert outcome[:2] == ("failed", words)


def test_a_robot_that_is_blocked_is_left_alone(chat: DingTalk, send: Send) -> None:
    url = chat.add("robot-1")
    assert {send(url).state for _ in range(20)} == {"sent"}
    outcome = send(url)
    assert (outcome.state, outcome.wait, outcome.is_uncertain) == ("later", 600, False)
    times = {f"{datetime.now(UTC) + timedelta(seconds=seconds):%H:%M}" for seconds in (598, 600)}
    assert any(f"blocked until {at} UTC" in outcome.answer for at in times)
    assert len(chat.messages) == 20


def test_an_unknown_error_is_reported_without_what_is_secret(chat: DingTalk, send: Send) -> None:
    url = chat.add("robot-1")
    message = f"no https://x.example/?access_token=robot-1 {SECRET} 13800000000 robot-1 of key {'k' * 40}\n!"
    chat.replies.append((200, {"errcode": 409999, "errmsg": message}))
    outcome = send(url, secret=SECRET)
    assert outcome[:2] == ("failed", "DingTalk refused the message: 409999 no … … … … of key … !")


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (200, {"errcode": -1, "errmsg": "系统繁忙"}, ("later", "DingTalk is busy. (-1)", None, False, "whole", 1)),
        (503, {}, ("later", "DingTalk is out of order (HTTP 503).", None, True, "whole", 1)),
        (429, {}, ("later", "DingTalk: rate limited (HTTP 429).", None, False, "whole", 1)),
        (403, [], ("failed", "DingTalk refused the message (HTTP 403).", None, False, "whole", 1)),
        (200, [], ("later", "DingTalk: unexpected response.", None, True, "whole", 1)),
        (200, {"errcode": None}, ("later", "DingTalk: unexpected response.", None, True, "whole", 1)),
        (200, {"errcode": "0"}, ("sent", "The robot took the message.", None, False, "whole", 1)),
    ],
)
def test_what_is_passing_is_tried_again(
    chat: DingTalk, send: Send, status: int, said: object, expected: tuple[object, ...]
) -> None:
    chat.replies.append((status, said))
    assert send(chat.add("robot-1")) == expected


@pytest.mark.parametrize("behaviour", ["garbage", "close", "500", "large", "hang"])
def test_what_may_have_arrived_is_uncertain(
    chat: DingTalk, send: Send, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    chat.behaviour = behaviour
    outcome = send(chat.add("robot-1"))
    assert (outcome.state, outcome.is_uncertain) == ("later", True)


def test_another_host_is_not_called(chat: DingTalk, send: Send) -> None:
    outcome = send("https://dingtalk.example/robot/send?access_token=robot-1")
    assert (outcome.state, outcome.answer[:14]) == ("failed", "The robot's ho")


def test_what_a_server_says_is_shortened() -> None:
    assert quoted("x " * 500)[-1] == "…"
    assert len(quoted("x " * 500)) == 200


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (400013, "dissolved"),
        (400102, "switched off"),
        (400106, "not in its group chat any more"),
    ],
)
def test_a_code_is_explained_and_shown(chat: DingTalk, send: Send, code: int, words: str) -> None:
    chat.replies.append((200, {"errcode": code, "errmsg": "x"}))
    outcome = send(chat.add("robot-1"))
    assert (outcome.state, outcome.text_state, chat.requests) == ("failed", "whole", 1)
    assert words in outcome.answer
    assert outcome.answer.endswith(f" ({code})")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (430101, "a link"),
        (430102, "a word"),
        (430103, "a picture"),
        (430104, "something that DingTalk does not send"),
        (460101, "longer"),
    ],
)
def test_of_a_text_that_is_refused_the_headline_is_sent(chat: DingTalk, send: Send, code: int, words: str) -> None:
    chat.replies.append((200, {"errcode": code, "errmsg": "x"}))
    alert = content("See https://evil.example/x", "the text", url="https://c.io/1", integration="the sender")
    outcome = send(chat.add("robot-1", keywords=["报警"]), [alert], keyword="报警", mobiles=["+8613800000000"])
    assert (outcome.state, outcome.text_state, outcome.posts) == ("sent", "headline", 2)
    assert outcome.answer.startswith("Only the headline was sent. The text ")
    assert words in outcome.answer
    assert outcome.answer.endswith(f" ({code})")
    (message,) = chat.messages
    assert message.text.startswith("#### \\[Firing\\] See (link)\n\nTime: ")
    assert message.text.endswith("\n\n报警\n\n@13800000000")


def test_a_headline_that_is_refused_as_well_is_not_the_robot_s_fault(chat: DingTalk, send: Send) -> None:
    chat.words = {"Disk"}
    url = chat.add("robot-1")
    outcome = send(url)
    words = "The text holds a word that DingTalk does not send. (430102)"
    assert outcome == ("failed", words, None, False, "refused", 2)
    # Where the robot takes no further message just now, the headline waits.
    assert send(url, may_repeat=False) == ("later", words, None, False, "refused", 1)


def test_a_robot_takes_the_hardest_alert(chat: DingTalk, send: Send) -> None:
    alert = content(sample.TITLE, sample.text("https://contacts.example.com"), kind="test")
    assert send(chat.add("robot-1"), [alert]).text_state == "whole"
    assert len(chat.messages[0].text) > 4000


@pytest.mark.parametrize(
    "name",
    [
        *("isv.TEMPLATE_MISSING_PARAMETERS", "InvalidParamStringTemplate", "over-sending-quota-of-the-day"),
        *("errcode 310000", "554 5.7.1", "ERROR_LIMIT_OF_THE_DAY_404"),
    ],
)
def test_a_code_in_a_message_is_not_taken_for_a_key(name: str) -> None:
    assert quoted(f"It said {name}!") == f"It said {name}!"


@pytest.mark.parametrize(
    "key", ["k" * 40, "Ab3" * 10, "QmFzZTY0LWtleS1vZi1zb21lb25l", "0123456789abcdef" * 2, "13800000000"]
)
def test_a_key_or_number_in_a_message_is_hidden(key: str) -> None:
    assert quoted(f"It said {key}!") == "It said …!"


def test_a_robot_needs_no_setting_up(settings: config.Settings) -> None:
    assert kind_of("dingtalk").not_set_up(settings) is None
    assert words(kind_of("email").not_set_up(settings) or ()) == "E-mail is not set up: SMTP_HOST is not set."
    assert words(kind_of("sms").not_set_up(settings) or ()) == "Text messages are not set up: SMS_PROVIDER is not set."
