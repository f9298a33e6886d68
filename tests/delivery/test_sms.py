"""Show that a text fits, is signed as the provider wants it, and that every refusal is explained."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contacts_app import config
from contacts_app.delivery import sample
from contacts_app.delivery.channels import Content, headline, outgoing, sms
from contacts_app.delivery.channels.aliyun import signature
from contacts_app.delivery.channels.sms import GSM_BASIC, GSM_EXTENSION, text_of
from contacts_app.delivery.models import MAX_TEXT
from contacts_app.intake import formats as intake
from tests.delivery.counterparts import (
    ALIYUN_SECRET,
    TWILIO_SID,
    TWILIO_TOKEN,
    AliyunSms,
    Authority,
    Https,
    TwilioSms,
    environment,
)
from tests.delivery.shown import Shown, shown
from tests.delivery.test_dingtalk import content

Send = Callable[..., Shown]
ALERT = content(text="97 % used & 磁盘 + ~*")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def aliyun(authority: Authority) -> Iterator[AliyunSms]:
    server = AliyunSms(authority)
    yield server
    server.close()


@pytest.fixture
def twilio(authority: Authority) -> Iterator[TwilioSms]:
    server = TwilioSms(authority)
    yield server
    server.close()


@pytest.fixture
def send(authority: Authority, tmp_path: Path) -> Send:
    """Return a function that sends over a provider; no answer quotes a secret or the number."""

    def send(
        server: AliyunSms | TwilioSms,
        mobile: str = "+8613800000000",
        alert: Content = ALERT,
        **environ: str,
    ) -> Shown:
        always = {"DATA_DIR": str(tmp_path)} | environment(authority.path, sms=server)
        settings = config.load(always | environ)
        with outgoing.Session(settings) as session:
            outcome = shown(sms.send(session, settings, mobile, alert))
        for secret in (ALIYUN_SECRET, TWILIO_TOKEN, TWILIO_SID, mobile, mobile[3:]):
            assert secret not in outcome.answer
        return outcome

    return send


def parts(text: str) -> int:
    """Return how many parts a text is charged as, counted as a telephone network does."""
    is_gsm = set(text) <= GSM_BASIC | GSM_EXTENSION
    costs = [2 if (character in GSM_EXTENSION if is_gsm else ord(character) > 0xFFFF) else 1 for character in text]
    whole, size = (160, 153) if is_gsm else (70, 67)
    if sum(costs) <= whole:
        return 1
    count, room = 1, size
    for cost in costs:
        if cost > room:
            count, room = count + 1, size
        room -= cost
    return count


@pytest.mark.parametrize(
    ("text", "length", "end"),
    [
        ("x" * 1000, 306, "x..."),
        ("很" * 1000, 134, "很…"),
        ("[" * 1000, None, "[..."),
        ("🔥" * 1000, None, "🔥…"),
        ("x🔥" * 1000, None, "…"),
        ("x" * 286, 306, "x"),
        ("x" * 287, 306, "x..."),
        ("很" * 114, 134, "很"),
        ("很" * 115, 134, "很…"),
    ],
)
def test_a_text_is_cut_to_two_parts(text: str, length: int | None, end: str) -> None:
    # A headline without brackets, which would take two septets each.
    cut = text_of(content("Disk full, and full", text, kind="system"))
    assert length is None or len(cut) == length
    assert cut.endswith(end)
    assert parts(cut) == 2
    assert parts(cut + "xx🔥xx") == 3 or len(cut) > 134


def test_a_short_text_stands_as_it_is() -> None:
    assert text_of(content(text=" 97 %\tused \n\n on db-1 ")) == "[Firing] Disk full\n97 % used\non db-1"
    assert text_of(content()) == "[Firing] Disk full"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("db–1 — “full”, it’s 97…", 'db-1 - "full", it\'s 97...'),
        ("97\u00a0% at\u202f12:00\u3000now\u200b", "97 % at 12:00 now"),
        ("• 3′ «a» − 5 → `b` ≥ 2", "- 3' \"a\" - 5 -> 'b' >= 2"),
        ("ＡＢＣ：１！", "ABC:1!"),
        ("Ä Ö ü € é", "Ä Ö ü € é"),
        # What would lose something keeps all its letters: it takes the wide alphabet in any case.
        ("磁盘 – “full” … ’", "磁盘 – “full” … ’"),
        ("“ê” – 5 °C", "“ê” – 5 °C"),
    ],
)
def test_a_text_is_written_in_the_alphabet_of_telephones_where_nothing_is_lost(text: str, sent: str) -> None:
    assert text_of(content(text=text)) == f"[Firing] Disk full\n{sent}"


def test_the_console_itself_makes_no_text_wide() -> None:
    alert = {"status": "firing", "labels": {"alertname": "Disk", "host": "db1"}, "startsAt": "2026-03-01T12:00:00Z"}
    alert["annotations"] = {"summary": "The disk is full", "description": "97 % " * 90}
    body = {"version": "4", "status": "firing", "groupKey": "k", "alerts": [alert]}
    found = intake.read(json.dumps(body).encode())
    text = text_of(content(found.title, found.text))
    assert set(text) <= GSM_BASIC | GSM_EXTENSION
    assert len(text) > 290


def test_a_letter_that_is_cut_off_makes_no_text_wide() -> None:
    assert text_of(content("Disk", "x" * 400 + "很", kind="system")) == "Disk\n" + "x" * 298 + "..."


def test_the_alphabet_is_the_one_of_telephones() -> None:
    assert len(GSM_BASIC) == 127  # and the escape
    assert len(GSM_EXTENSION) == 10


def test_the_signature_is_the_documented_one() -> None:
    # The example in Alibaba Cloud's description of RPC signatures, for DescribeRegions of ECS.
    parameters = {
        **{"Timestamp": "2016-02-23T12:46:24Z", "Format": "XML", "AccessKeyId": "testid", "Action": "DescribeRegions"},
        **{"SignatureMethod": "HMAC-SHA1", "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf"},
        **{"Version": "2014-05-26", "SignatureVersion": "1.0"},
    }
    assert signature("GET", parameters, "testsecret") == "OLeaidS1JvxuMvnyHOwuJ+uX5qY="


@pytest.mark.parametrize(("mobile", "known_as"), [("+8613800000000", "13800000000"), ("+12025550123", "12025550123")])
def test_alibaba_cloud_takes_a_text(aliyun: AliyunSms, send: Send, mobile: str, known_as: str) -> None:
    aliyun.most = 40
    outcome = send(aliyun, mobile, ALIYUN_CONTENT_LENGTH="40")
    assert outcome == ("sent", "Alibaba Cloud took the text.", None, False, "whole", 1)
    (message,) = aliyun.messages
    assert (message.mobile, message.text) == (known_as, "[Firing] Disk full\n97 % used & 磁盘 + ~*")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {"ALIYUN_ACCESS_KEY_SECRET": "wrong"},
            "The secret of the access key is wrong. Check ALIYUN_ACCESS_KEY_SECRET. (SignatureDoesNotMatch)",
        ),
        (
            {"ALIYUN_ACCESS_KEY_ID": "wrong"},
            "Alibaba Cloud does not know the access key. Check ALIYUN_ACCESS_KEY_ID. (InvalidAccessKeyId.NotFound)",
        ),
        (
            {"ALIYUN_SIGN_NAME": "wrong"},
            "Alibaba Cloud does not know the signature. Check ALIYUN_SIGN_NAME. (isv.SMS_SIGNATURE_ILLEGAL)",
        ),
        (
            {"ALIYUN_TEMPLATE_CODE": "SMS_0"},
            "Alibaba Cloud does not know the template, or has not approved it. Check ALIYUN_TEMPLATE_CODE. "
            "(isv.SMS_TEMPLATE_ILLEGAL)",
        ),
    ],
)
def test_a_wrong_setting_of_alibaba_cloud_is_explained(
    aliyun: AliyunSms, send: Send, environ: dict[str, str], words: str
) -> None:
    assert send(aliyun, **environ) == ("failed", words, None, False, "whole", 1)


@pytest.mark.parametrize(
    ("status", "code", "state", "words"),
    [
        (200, "isv.BUSINESS_LIMIT_CONTROL", "later", "too many texts"),
        (200, "isp.SYSTEM_ERROR", "later", "cannot send at the moment: isp.SYSTEM_ERROR"),
        (400, "Throttling.User", "later", "cannot send at the moment: Throttling.User"),
        (503, "ServiceUnavailable", "later", "cannot send at the moment"),
        (200, "isp.RAM_PERMISSION_DENY", "failed", "Give it the right"),
        (200, "isv.AMOUNT_NOT_ENOUGH", "failed", "balance"),
        (200, "isv.MOBILE_NUMBER_ILLEGAL", "failed", "Check it in the contact"),
        (200, "isv.TEMPLATE_MISSING_PARAMETERS", "failed", "${content}"),
        (200, "isv.SOMETHING_NEW", "failed", "refused the text: isv.SOMETHING_NEW of …"),
        (500, "OK", "sent", "took the text"),
    ],
)
def test_an_answer_of_alibaba_cloud_is_explained(
    aliyun: AliyunSms, send: Send, status: int, code: str, state: str, words: str
) -> None:
    aliyun.replies.append((status, {"Code": code, "Message": "of 13800000000"}))
    outcome = send(aliyun)
    assert (outcome.state, outcome.is_uncertain) == (state, False)
    assert words in outcome.answer


@pytest.mark.parametrize(
    ("code", "message", "state", "words"),
    [
        (
            "isv.SMS_TEMPLATE_ILLEGAL",
            "请检查模板内容与模板参数是否匹配",
            "failed",
            "The template does not fit. It has to",
        ),
        ("isv.SMS_TEMPLATE_ILLEGAL", "模板变量不匹配", "failed", "The template does not fit. It has to"),
        ("isv.SMS_TEMPLATE_ILLEGAL", "Template variables do not match", "failed", "The template does not fit. It has"),
        ("isv.SMS_TEMPLATE_ILLEGAL", "该账号下找不到对应模板", "failed", "does not know the template, or has not"),
        ("isv.SMS_TEMPLATE_ILLEGAL", "模板不合法(不存在或被拉黑)", "failed", "does not know the template, or has not"),
        ("isv.SMS_TEMPLATE_ILLEGAL", "something new", "failed", "refused the text: isv.SMS_TEMPLATE_ILLEGAL something"),
        (
            "isv.TEMPLATE_PARAMS_ILLEGAL",
            "模板变量里包含非法关键字",
            "sent",
            "holds a word that Alibaba Cloud does not",
        ),
        ("isv.SMS_SIGNATURE_SCENE_ILLEGAL", "签名和模板类型不一致", "failed", "not for templates of this kind"),
        ("isv.SMS_SIGN_ILLEGAL", "签名禁止使用", "failed", "has forbidden the signature"),
        ("isv.BUSINESS_LIMIT_CONTROL", "触发分钟级流控Permits:1", "later", "for the limit of one minute at"),
        ("isv.BUSINESS_LIMIT_CONTROL", "触发小时级流控Permits:5", "later", "for the limit of one hour at"),
        ("isv.BUSINESS_LIMIT_CONTROL", "触发天级流控Permits:10", "later", "for the limit of one day at"),
        ("isv.SOMETHING_THAT_IS_NEW_HERE", "x", "failed", "refused the text: isv.SOMETHING_THAT_IS_NEW_HERE x"),
        ("InvalidParamStringTemplateNew.Malformed", "x", "failed", "InvalidParamStringTemplateNew.Malformed x"),
    ],
)
def test_the_message_distinguishes_two_meanings_of_a_code_and_no_code_is_hidden(
    aliyun: AliyunSms, send: Send, code: str, message: str, state: str, words: str
) -> None:
    aliyun.replies.append((200, {"Code": code, "Message": message}))
    outcome = send(aliyun)
    assert outcome.state == state
    assert words in outcome.answer
    assert code in outcome.answer


LINKED = content(
    text="See https://wiki.example.com/disk now.\nwww.example.com\n见http://a:9093，满", url="https://c.io/1"
)


def test_a_text_has_no_link_unless_a_setting_allows_it(aliyun: AliyunSms, twilio: TwilioSms, send: Send) -> None:
    assert send(twilio, alert=LINKED).text_state == "whole"
    assert twilio.messages[0].text == "[Firing] Disk full\nSee (link) now.\n(link)\n见(link)，满"
    assert send(twilio, alert=LINKED, SMS_LINKS="1").text_state == "whole"
    assert twilio.messages[1].text == f"[Firing] Disk full\n{LINKED.text}"
    assert send(aliyun, alert=LINKED).text_state == "whole"


@pytest.mark.parametrize(
    ("most", "words", "alert", "environ", "code"),
    [
        (20, set(), content("Disk full on the db", "97 %"), {}, "PARAM_LENGTH_LIMIT"),
        (20, set(), content("磁盘满了" * 10, "97 %"), {}, "PARAM_LENGTH_LIMIT"),
        (35, set(), content(text="https://a.io"), {"SMS_LINKS": "1"}, "PARAM_NOT_SUPPORT_URL"),
        (35, {"casino"}, content(text="casino"), {}, "BLACK_KEY_CONTROL_LIMIT"),
    ],
)
def test_of_a_text_that_is_refused_the_headline_is_sent(
    aliyun: AliyunSms, send: Send, most: int, words: set[str], alert: Content, environ: dict[str, str], code: str
) -> None:
    aliyun.most, aliyun.words = most, words
    outcome = send(aliyun, alert=alert, **environ)
    assert (outcome.state, outcome.text_state, outcome.posts) == ("sent", "headline", 2)
    assert outcome.answer.startswith("Only the headline was sent. The ")
    assert outcome.answer.endswith(f"(isv.{code})")
    (message,) = aliyun.messages
    whole = headline(alert)
    assert message.text == whole or (len(message.text) in (19, 20) and message.text.rstrip(".…") in whole)


def test_a_code_that_may_mean_the_length_is_tried_with_the_headline(aliyun: AliyunSms, send: Send) -> None:
    wrong = (200, {"Code": "isv.INVALID_PARAMETERS", "Message": "参数异常"})
    aliyun.replies.append(wrong)
    assert send(aliyun).text_state == "headline"
    aliyun.replies.extend([wrong, wrong])
    # Refused again: then it was not for the text.
    expected = ("failed", "Alibaba Cloud refused the text: isv.INVALID_PARAMETERS 参数异常", None, False, "whole", 2)
    assert send(aliyun) == expected


@pytest.mark.parametrize("provider", [AliyunSms, TwilioSms])
def test_a_headline_that_is_refused_as_well_is_not_the_number_s_fault(
    authority: Authority, send: Send, provider: type[AliyunSms] | type[TwilioSms]
) -> None:
    server = provider(authority)
    server.words = {"Disk"}
    outcome = send(server)
    server.close()
    assert (outcome.state, outcome.text_state, outcome.posts, server.requests) == ("failed", "refused", 2, 2)
    assert send_once_refused(send, authority, provider).posts == 1


def send_once_refused(send: Send, authority: Authority, provider: type[AliyunSms] | type[TwilioSms]) -> Shown:
    """Return what becomes of an alert that is nothing but a short headline, which is not sent twice."""
    server = provider(authority)
    server.words = {"Disk"}
    outcome = send(server, alert=content("Disk"))
    server.close()
    assert server.requests == 1
    assert (outcome.state, outcome.text_state) == ("failed", "refused")
    return outcome


def test_a_variable_is_filled_up_to_its_length(aliyun: AliyunSms, send: Send) -> None:
    aliyun.most = 134
    for length, text in (("35", "x" * 400), ("134", "x" * 400), ("134", "很" * 400), ("100", "🔥" * 400)):
        assert send(aliyun, alert=content(text=text), ALIYUN_CONTENT_LENGTH=length).text_state == "whole"
        units = len(aliyun.messages[-1].text.encode("utf-16-le")) // 2
        assert int(length) - 1 <= units <= int(length)


@pytest.mark.parametrize("links", ["0", "1"])
def test_a_test_is_as_hard_as_an_alert_can_be(twilio: TwilioSms, send: Send, links: str) -> None:
    alert = content(sample.TITLE, sample.text("https://contacts.example.com"), kind="test")
    assert MAX_TEXT - 100 < len(alert.text) <= MAX_TEXT
    assert send(twilio, alert=alert, SMS_LINKS=links).text_state == "whole"
    text = twilio.messages[0].text
    assert parts(text) == 2
    assert 130 < len(text.encode("utf-16-le")) // 2 <= 134
    assert "测试" in text
    assert "“" in text
    assert ("https://contacts" in text) == (links == "1")


def test_a_test_finds_out_that_links_are_refused(aliyun: AliyunSms, send: Send) -> None:
    alert = content(sample.TITLE, sample.text(None), kind="test")
    assert send(aliyun, alert=alert).text_state == "whole"
    assert send(aliyun, alert=alert, SMS_LINKS="1").text_state == "headline"
    aliyun.most = 34
    assert send(aliyun, alert=alert).text_state == "headline"


def test_twilio_takes_a_text(twilio: TwilioSms, send: Send) -> None:
    assert send(twilio) == ("sent", "Twilio took the text.", None, False, "whole", 1)
    (message,) = twilio.messages
    assert (message.mobile, message.text) == ("+8613800000000", "[Firing] Disk full\n97 % used & 磁盘 + ~*")


def test_a_messaging_service_is_named_as_one(twilio: TwilioSms, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.delivery.counterparts.TWILIO_FROM", "MG0123456789abcdef")
    assert send(twilio).state == "sent"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TWILIO_AUTH_TOKEN": "wrong"}, "Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN. (20003)"),
        ({"TWILIO_FROM": "+15005550001"}, "Twilio refused the text: 21603 A 'From' phone number is required."),
    ],
)
def test_a_wrong_setting_of_twilio_is_explained(
    twilio: TwilioSms, send: Send, environ: dict[str, str], words: str
) -> None:
    outcome = send(twilio, **environ)
    assert outcome.state == "failed"
    assert outcome.answer.endswith(words)


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, {"code": 21211, "message": "+8613800000000"}, ("failed", "does not take the number")),
        (400, {"code": 21614, "message": ""}, ("failed", "not one of a mobile")),
        (400, {"code": 21610, "message": ""}, ("failed", "unsubscribed by answering STOP, and can subscribe by")),
        (403, {"code": 20003, "message": "Permission denied"}, ("failed", "Twilio refused the text: 20003 Permission")),
        (401, {"code": 20005, "message": ""}, ("failed", "not active. (20005)")),
        (400, {"code": 21611, "message": ""}, ("later", "rate limited. (21611)")),
        (400, {"code": 30007, "message": ""}, ("sent", "filtered the text for what it says. (30007)")),
        (400, {"code": 21617, "message": ""}, ("sent", "longer than Twilio takes. (21617)")),
        (400, {"code": 29999, "message": "The number +8613800000000"}, ("failed", "29999 The number …")),
        (404, [], ("failed", "HTTP 404")),
        (401, {}, ("failed", "TWILIO_AUTH_TOKEN")),
        (429, {"code": 20429}, ("later", "rate limited")),
        (400, {"code": 20429}, ("later", "rate limited")),
        (503, {}, ("later", "HTTP 503")),
        (200, {}, ("later", "HTTP 200")),
        (201, {"code": "x"}, ("later", "HTTP 201")),
    ],
)
def test_an_answer_of_twilio_is_explained(
    twilio: TwilioSms, send: Send, status: int, said: object, expected: tuple[str, str]
) -> None:
    twilio.replies.append((status, said))
    outcome = send(twilio)
    state, words = expected
    assert outcome.state == state
    assert words in outcome.answer
    assert outcome.is_uncertain == (status in (200, 201, 503))


@pytest.mark.parametrize("behaviour", ["garbage", "close", "500", "large", "hang"])
@pytest.mark.parametrize("provider", [AliyunSms, TwilioSms])
def test_what_may_have_arrived_is_uncertain(
    authority: Authority, send: Send, monkeypatch: pytest.MonkeyPatch, provider: type[Https], behaviour: str
) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    server = provider(authority)
    server.behaviour = behaviour
    outcome = send(server)
    server.close()
    assert (outcome.state, outcome.is_uncertain) == ("later", True)


def test_a_console_without_provider_says_so(tmp_path: Path) -> None:
    settings = config.load({"DATA_DIR": str(tmp_path)})
    with outgoing.Session(settings) as session:
        outcome = shown(sms.send(session, settings, "+8613800000000", content()))
    assert outcome == ("failed", "Text messages are not set up: SMS_PROVIDER is not set.", None, False, "whole", 1)
