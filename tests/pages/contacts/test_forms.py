"""Show that the form of a contact takes what people usually type, and says beside the field what it cannot take."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import phonenumbers
import pytest
from flask import Flask
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType
from werkzeug.exceptions import BadRequest

from contacts_app import create_app
from contacts_app.config import DINGTALK_HOSTS
from contacts_app.contacts.addresses import (
    CAN_BE_MOBILE,
    clean_dingtalk_url,
    clean_mobile,
    is_doubtful_mobile,
    shown_mobile,
    shown_robot,
)
from contacts_app.contacts.models import Contact
from contacts_app.pages.contacts.forms import ContactForm, read_query
from contacts_app.pages.contacts.listing import Query
from contacts_app.web.arguments import read_ids
from contacts_app.web.fields import Doubtful, clean_email
from tests.conftest import ROBOT, Team

repeatable = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NO_CHANNEL = "Enter a mobile phone number, a mailbox or a DingTalk robot: at least one of the three."
FULL_WIDTH = str.maketrans("0123456789+", "０１２３４５６７８９＋")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
EXAMPLES = {
    region: phonenumbers.format_number(number, PhoneNumberFormat.E164)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    if (number := phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE))
}
chinese_mobiles = st.builds(
    "+86{}{:08}".format, st.sampled_from(["138", "139", "150", "177", "186", "199"]), st.integers(0, 99_999_999)
)
names = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=70)


@pytest.fixture(scope="module")
def console_in(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that sets up a console by its settings alone; these rules need no database."""
    folder: Path = tmp_path_factory.mktemp("data")

    def make(**environ: str) -> Flask:
        always = {"DATABASE_URL": "postgresql://127.0.0.1/none", "DATA_DIR": str(folder), "SECRET_KEY": "k" * 40}
        return create_app(always | environ)

    return make


@pytest.fixture(scope="module")
def in_china(console_in: Any) -> Any:
    """Run the module's tests in a console with the default settings."""
    with console_in().app_context():
        yield


def filled(app: Flask, **typed: str) -> ContactForm:
    """Return the form as it stands after `typed` was sent."""
    with app.test_request_context("/contacts/new", method="POST", data={"name": "Ann"} | typed):
        form = ContactForm(meta={"csrf": False})
        form.is_good = form.validate()
        assert form.is_good == (not form.errors)
        return form


def errors(app: Flask, **typed: str) -> dict[str, list[str]]:
    return {name: list(found) for name, found in filled(app, **typed).errors.items()}


@pytest.fixture(scope="module")
def plain(console_in: Any) -> Flask:
    return console_in()


@pytest.mark.parametrize(
    "typed",
    [
        "13800138000",
        "138 0013 8000",
        "138-0013-8000",
        "138.0013.8000",
        "+86-138-0013-8000",
        "+86 138 0013 8000",
        "+8613800138000",
        "8613800138000",
        "86 138 0013 8000",
        "008613800138000",
        "0086 138 0013 8000",
        "(0086)13800138000",
        "(+86)13800138000",
        "（＋８６）138 0013 8000",
        "（0086）13800138000",
        "１３８００１３８０００",
        "＋８６　１３８　００１３　８０００",
        "١٣٨٠٠١٣٨٠٠٠",
        "\u202a+86 138 0013 8000\u202c",
        "\u200e138\u200b0013\u20608000\ufeff",
        "138\u00a00013\u00a08000",
        "138\u20110013\u20118000",
        "  13800138000\t\n",
    ],
    ids=ascii,
)
def test_any_usual_spelling_of_a_number_is_kept_as_e164(in_china: None, typed: str) -> None:
    assert clean_mobile(typed) == "+8613800138000"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("+1 (202) 555-0123", "+12025550123"),
        ("001 202 555 0123", "+12025550123"),
        ("+44 7400 123456", "+447400123456"),
        ("+44 (0)7400 123456", "+447400123456"),
        ("+39 312 345 6789", "+393123456789"),
        ("+852 5123 4567", "+85251234567"),
        ("00852 5123 4567", "+85251234567"),
    ],
)
def test_a_number_of_another_country_is_kept_as_e164(in_china: None, typed: str, kept: str) -> None:
    assert clean_mobile(typed) == kept


@pytest.mark.parametrize(
    ("region", "typed", "kept"),
    [
        ("US", "(202) 555-0123", "+12025550123"),
        ("US", "1-202-555-0123", "+12025550123"),
        ("US", "0086 138 0013 8000", "+8613800138000"),
        ("US", "011 86 138 0013 8000", "+8613800138000"),
        ("GB", "07400 123456", "+447400123456"),
        ("GB", "00 86 138 0013 8000", "+8613800138000"),
        ("de", "0151 23456789", "+4915123456789"),
        ("IT", "312 345 6789", "+393123456789"),
        ("AR", "011 15-2345-6789", "+5491123456789"),
        ("JP", "090-1234-5678", "+819012345678"),
        ("AU", "0412 345 678", "+61412345678"),
    ],
)
def test_a_number_without_a_country_code_belongs_to_the_default_region(
    console_in: Any, region: str, typed: str, kept: str
) -> None:
    with console_in(DEFAULT_REGION=region).app_context():
        assert clean_mobile(typed) == kept


@pytest.mark.parametrize(
    ("reason", "typed"),
    [
        *(("too short", typed) for typed in ("1", "138", "00", "1380013800", "+86 138 0013 800", "149 1234 567")),
        *(("too long", typed) for typed in ("138001380000", "149 1234 56789", "١" * 40, "1" * 300, "0" * 300)),
        *(("too long", f"13800138000{sign}13900139000") for sign in " ,/"),
        *(("not one mobile", f"13800138000{sign}13900139000") for sign in ";|"),
        *(("country code that does not exist", typed) for typed in ("+999 138 0013 8000", "00999 138 0013 8000")),
        *(("is not a mobile", typed) for typed in ("+", "-", "()", "+" * 300)),
        *(("no letters", typed) for typed in ("138OO138OOO", "1-800-FLOWERS", "ann@example.com", "张三")),
        *(("no letters", typed) for typed in ("²¹³⁸⁰⁰¹³⁸⁰⁰⁰", "①③⑧⓪⓪①③⑧⓪⓪⓪", "Ann 13800138000")),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_what_is_no_number_is_refused_with_the_reason_and_an_example(in_china: None, reason: str, typed: str) -> None:
    with pytest.raises(ValueError, match=rf"{reason}.*\. A correct number looks like \+86 1") as caught:
        clean_mobile(typed)
    assert not isinstance(caught.value, Doubtful)


@pytest.mark.parametrize("typed", ["13800138000 ext 5", "13800138000#5", "tel:+8613800138000;ext=5"])
def test_a_number_with_an_extension_is_refused_as_such(in_china: None, typed: str) -> None:
    with pytest.raises(ValueError, match="has an extension"):
        clean_mobile(typed)


@pytest.mark.parametrize(
    "typed", ["13800\n138000", "13800138\x00000", "13800138\ud800000", "13800138000\ufffd"], ids=ascii
)
def test_a_number_with_what_cannot_be_shown_is_refused(in_china: None, typed: str) -> None:
    with pytest.raises(ValueError, match="cannot be shown"):
        clean_mobile(typed)


@pytest.mark.parametrize(
    ("typed", "mobile", "shown"),
    [
        ("14912345678", "+8614912345678", "+86 149 1234 5678"),
        ("0086 149 1234 5678", "+8614912345678", "+86 149 1234 5678"),
        ("tel:+86-149-1234-5678", "+8614912345678", "+86 149 1234 5678"),
        ("12912345678", "+8612912345678", "+86 12912345678"),
        ("+1 200 555 0123", "+12005550123", "+1 200-555-0123"),
        ("+44 7024 123456", "+447024123456", "+44 70 2412 3456"),  # known, as a personal number: some take texts
    ],
)
def test_a_number_of_a_possible_length_that_is_not_known_is_asked_about(
    in_china: None, team: Team, typed: str, mobile: str, shown: str
) -> None:
    with pytest.raises(Doubtful) as caught:
        clean_mobile(typed)
    assert str(caught.value) == f"{shown} is not known as a mobile number. Save it all the same?"
    assert caught.value.normal == mobile
    assert shown_mobile(mobile) == shown
    assert read_query({"q": typed, "field": "mobile"}).number == mobile
    assert accepts(team, mobile=mobile)


@pytest.mark.parametrize("typed", ["010 6552 9988", "+86 10 6552 9988", "+44 20 7946 0958", "400 810 8888"])
def test_a_number_that_is_no_mobile_is_refused_as_such(in_china: None, typed: str) -> None:
    with pytest.raises(ValueError, match="valid number, but not a mobile phone number"):
        clean_mobile(typed)


def test_a_country_shows_its_own_example(console_in: Any) -> None:
    with console_in(DEFAULT_REGION="GB").app_context(), pytest.raises(ValueError, match=r"looks like \+44 7"):
        clean_mobile("12")


@repeatable
@given(mobile=chinese_mobiles, data=st.data())
def test_every_spelling_of_a_valid_number_gives_the_same_e164(in_china: None, mobile: str, data: st.DataObject) -> None:
    prefix = data.draw(st.sampled_from(["", "+86", "0086", "(0086)", "(+86)", "+86-", "86 ", "+ 86 "]))
    gaps = data.draw(
        st.lists(st.sampled_from(["", "", "", " ", "-", ".", "\u00a0", "\u200b"]), min_size=11, max_size=11)
    )
    typed = prefix + "".join(digit + gap for digit, gap in zip(mobile[3:], gaps, strict=True))
    typed = typed.translate(data.draw(st.sampled_from([{}, FULL_WIDTH, ARABIC])))
    typed = data.draw(st.sampled_from(["{}", " {} ", "\u202a{}\u202c", "\ufeff{}\n"])).format(typed)
    assert clean_mobile(typed) == mobile


@pytest.mark.parametrize("mobile", EXAMPLES.values(), ids=EXAMPLES)
def test_a_number_of_any_country_survives_being_shown_and_typed_again(in_china: None, mobile: str) -> None:
    number = phonenumbers.parse(mobile)
    dialled = phonenumbers.format_out_of_country_calling_number(number, "CN")
    for typed in (mobile, shown_mobile(mobile), dialled, mobile.replace("+", "00")):
        assert clean_mobile(typed) == mobile


@repeatable
@given(typed=st.text(st.sampled_from("0123456789+-() .０９\u200bx#;,/a"), max_size=24) | st.text(max_size=40))
def test_a_number_is_a_valid_mobile_in_e164_or_refused(in_china: None, typed: str) -> None:
    def cleaned(typed: str) -> tuple[str, bool]:
        try:
            return clean_mobile(typed), False
        except Doubtful as doubt:
            return doubt.normal, True

    try:
        mobile, is_doubtful = cleaned(typed)
    except ValueError:
        return
    number = phonenumbers.parse(mobile)
    is_known = phonenumbers.is_valid_number(number) and phonenumbers.number_type(number) in CAN_BE_MOBILE
    assert is_known != is_doubtful
    assert is_doubtful_mobile(mobile) == is_doubtful
    assert re.fullmatch(r"\+[1-9][0-9]{5,14}", mobile)
    assert cleaned(mobile) == cleaned(shown_mobile(mobile)) == (mobile, is_doubtful)


@pytest.mark.parametrize(
    "typed",
    [
        "tel:+8613800138000",
        "tel:+86-138%200013%208000",
        "sms:+8613800138000?body=Disk%20full%201",
        "sms:+8613800138000&body=1",
        "callto:13800138000",
        "TEL;TYPE=CELL:+8613800138000",
        "Mobile: 138 0013 8000",
        "Tel. 138 0013 8000",
        "手机：13800138000",
        "手机号13800138000",
        "电话 138 0013 8000",
        "<tel:+8613800138000|138 0013 8000>",
        "[138 0013 8000](tel:+8613800138000)",
        "Ann <+86 138 0013 8000>",
        "“13800138000”",
        "(13800138000)",
        "13800138000.",
        "13800138000；",
        "138 0013 8000 (mobile)",
        "13800138000（手机）",
        "https://wa.me/8613800138000?text=1",
        "whatsapp://send?phone=8613800138000",
        "https://api.whatsapp.com/send?phone=8613800138000&text=1",
    ],
)
def test_what_address_books_and_chats_put_around_a_number_is_taken_off(in_china: None, typed: str) -> None:
    assert clean_mobile(typed) == "+8613800138000"


def test_a_number_is_shown_as_it_is_written_internationally() -> None:
    assert shown_mobile("+8613800138000") == "+86 138 0013 8000"
    assert shown_mobile("+12025550123") == "+1 202-555-0123"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (f"{ROBOT}abc", f"{ROBOT}abc"),
        (f"  {ROBOT}abc\n", f"{ROBOT}abc"),
        (f"{ROBOT}a-b_C9", f"{ROBOT}a-b_C9"),
        ("https://oapi.dingtalk.io/robot/send?access_token=abc", "https://oapi.dingtalk.io/robot/send?access_token=abc"),
        ("HTTPS://OAPI.DingTalk.com/robot/send?access_token=aBc", f"{ROBOT}aBc"),
        ("https://oapi.ding\u00adtalk.com/robot/\u200bsend?access_token=abc", f"{ROBOT}abc"),
        (f"{ROBOT}{'a' * 256}", f"{ROBOT}{'a' * 256}"),
        (f"<{ROBOT}abc>", f"{ROBOT}abc"),
        (f"<{ROBOT}abc|the robot>", f"{ROBOT}abc"),
        (f"[the robot]({ROBOT}abc)", f"{ROBOT}abc"),
        (f'"{ROBOT}abc"', f"{ROBOT}abc"),
        (f"“{ROBOT}abc”", f"{ROBOT}abc"),
        (f"【{ROBOT}abc】", f"{ROBOT}abc"),
        (f"Webhook: {ROBOT}abc", f"{ROBOT}abc"),
        (f"地址：{ROBOT}abc。", f"{ROBOT}abc"),
        (f"{ROBOT}abc.", f"{ROBOT}abc"),
        (f"{ROBOT}abc/", f"{ROBOT}abc"),
        (f"{ROBOT}a%2Dbc", f"{ROBOT}a-bc"),
        ("https://oapi.dingtalk.com/robot/send/?access_token=abc", f"{ROBOT}abc"),
        ("https%3A%2F%2Foapi.dingtalk.com%2Frobot%2Fsend%3Faccess_token%3Dabc", f"{ROBOT}abc"),
    ],
)  # fmt: skip
def test_the_address_of_a_robot_is_kept_in_its_normal_form(in_china: None, typed: str, kept: str) -> None:
    assert clean_dingtalk_url(typed) == kept


@pytest.mark.parametrize(
    "typed",
    [
        "http://oapi.dingtalk.com/robot/send?access_token=abc",
        "ftp://oapi.dingtalk.com/robot/send?access_token=abc",
        "javascript://oapi.dingtalk.com/robot/send?access_token=abc",
        "//oapi.dingtalk.com/robot/send?access_token=abc",
        "oapi.dingtalk.com/robot/send?access_token=abc",
        "https://example.com/robot/send?access_token=abc",
        "https://dingtalk.com/robot/send?access_token=abc",
        "https://oapi.dingtalk.com.example.com/robot/send?access_token=abc",
        "https://evil-oapi.dingtalk.com/robot/send?access_token=abc",
        "https://oapi.dingtalk.com./robot/send?access_token=abc",
        "https://oapi.dingtalk.com\\@example.com/robot/send?access_token=abc",
        "https://ｏapi.dingtalk.com/robot/send?access_token=abc",
        "https://oapi。dingtalk。com/robot/send?access_token=abc",
        "https://oapi.dingtаlk.com/robot/send?access_token=abc",
        "https://127.0.0.1/robot/send?access_token=abc",
        "https://[::1]/robot/send?access_token=abc",
        "https://[oapi.dingtalk.com/robot/send?access_token=abc",
        "https:///robot/send?access_token=abc",
        "https://oapi.dingtalk.com:443/robot/send?access_token=abc",
        "https://oapi.dingtalk.com:8443/robot/send?access_token=abc",
        "https://oapi.dingtalk.com:/robot/send?access_token=abc",
        "https://oapi.dingtalk.com:x/robot/send?access_token=abc",
        "https://ann@oapi.dingtalk.com/robot/send?access_token=abc",
        "https://ann:secret@oapi.dingtalk.com/robot/send?access_token=abc",
        "https://@oapi.dingtalk.com/robot/send?access_token=abc",
        "https://oapi.dingtalk.com@example.com/robot/send?access_token=abc",
        "https://oapi.dingtalk.com/?access_token=abc",
        f"https://example.com/?to={ROBOT}abc",
        f"{ROBOT}abc {ROBOT}def",
        f'{ROBOT}abc"def',
        "https://oapi.dingtalk.com/robot/sendings?access_token=abc",
        "https://oapi.dingtalk.com/robot/../robot/send?access_token=abc",
        "https://oapi.dingtalk.com//robot/send?access_token=abc",
        "https://oapi.dingtalk.com/robot%2Fsend?access_token=abc",
        "https://oapi.dingtalk.com/ROBOT/send?access_token=abc",
        "https://oapi.dingtalk.com/robot/send;x?access_token=abc",
        "https://oapi.dingtalk.com/robot/send",
        "https://oapi.dingtalk.com/robot/send?",
        "https://oapi.dingtalk.com/robot/send?access_token",
        "https://oapi.dingtalk.com/robot/send?access_token=",
        "https://oapi.dingtalk.com/robot/send?token=abc",
        "https://oapi.dingtalk.com/robot/send?access_token=abc&access_token=def",
        "https://oapi.dingtalk.com/robot/send?access_token=abc&timestamp=1",
        "https://oapi.dingtalk.com/robot/send?access_token=abc#part",
        "https://oapi.dingtalk.com/robot/send?access_token=a b",
        "https://oapi.dingtalk.com/robot/send?access_token=a%00b",
        "https://oapi.dingtalk.com/robot/send?access_token=a%26b",
        "https://oapi.dingtalk.com/robot/send?access_token=<b>",
        "https://oapi.dingtalk.com/robot/send?access_token=…",
        f"{ROBOT}{'a' * 257}",
        "https://oapi.ding\ntalk.com/robot/send?access_token=abc",
        "https://oapi.dingtalk.com/robot/send?access_token=a\x00bc",
        "https://oapi.dingtalk.com/robot/send?access_token=a\ud800bc",
        "abc",
        "ann@example.com",
        "13800138000",
    ],
    ids=lambda typed: ascii(typed)[:60],
)
def test_any_other_address_of_a_robot_is_refused(in_china: None, typed: str) -> None:
    form = r"looks like https://oapi\.dingtalk\.com/robot/send\?access_token=…"
    with pytest.raises(ValueError, match=rf"{form}|cannot be shown"):
        clean_dingtalk_url(typed)


def test_further_hosts_of_robots_are_a_setting(console_in: Any) -> None:
    url = "https://{}/robot/send?access_token=abc"
    with console_in(DINGTALK_HOSTS="Robot.example.com, ding.example.org").app_context():
        for host in (*DINGTALK_HOSTS, "robot.example.com", "ding.example.org"):
            assert clean_dingtalk_url(url.format(host)) == url.format(host)
        for host in ("example.com", "a.robot.example.com", "robot.example.com:443"):
            with pytest.raises(ValueError, match="not the address of a DingTalk robot"):
                clean_dingtalk_url(url.format(host))


@repeatable
@given(
    typed=st.from_regex(r"https://[a-z.@:]{0,9}(oapi\.dingtalk\.com)?[:/@?#]?.{0,9}(robot/send\?access_token=)?.{0,9}")
)
def test_an_address_that_is_accepted_leads_to_dingtalk(in_china: None, typed: str) -> None:
    try:
        url = clean_dingtalk_url(typed)
    except ValueError:
        return
    assert url.startswith(ROBOT)
    assert clean_dingtalk_url(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"{ROBOT}0123456789abcdef", "oapi.dingtalk.com …cdef"),
        ("https://oapi.dingtalk.io/robot/send?access_token=0123456789", "oapi.dingtalk.io …6789"),
        (f"{ROBOT}abc", "oapi.dingtalk.com …"),
    ],
)
def test_a_robot_is_shown_by_its_host_and_the_end_of_its_token(url: str, shown: str) -> None:
    assert shown_robot(url) == shown


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("A", "A"),
        ("  Ann  Lee ", "Ann  Lee"),
        ("x" * 64, "x" * 64),
        (f"  {'字' * 64}\u3000", "字" * 64),
        ("e\u0301" * 64, "\u00e9" * 64),
        ("مريم حسن", "مريم حسن"),
        ("अनीता", "अनीता"),
        ("🧑\u200d🚒", "🧑\u200d🚒"),
        ("' OR 1=1 --", "' OR 1=1 --"),
        ("<b>Ann</b>", "<b>Ann</b>"),
        ("42", "42"),
        ("-", "-"),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_a_name_in_any_script_is_kept_trimmed(plain: Flask, typed: str, kept: str) -> None:
    form = filled(plain, name=typed, mobile="13800138000")
    assert form.errors == {}
    assert form.values()["name"] == kept


@pytest.mark.parametrize(
    "typed", ["", " ", "\u3000", "\t\r\n", "\u200b", "\u2060\ufeff", "\u0301", "\u200d\u0301"], ids=ascii
)
def test_a_name_that_nobody_could_see_is_none(plain: Flask, typed: str) -> None:
    assert errors(plain, name=typed, mobile="13800138000") == {"name": ["Enter a name."]}


@pytest.mark.parametrize("typed", ["x" * 65, "字" * 65, "é" * 2000])
def test_the_message_about_a_name_that_is_too_long_has_its_length(plain: Flask, typed: str) -> None:
    expected = f"This has {len(typed):,} characters; at most 64 are possible."
    assert errors(plain, name=typed, mobile="13800138000") == {"name": [expected]}


@pytest.mark.parametrize("field", ["name", "mobile", "email", "dingtalk_url"])
@pytest.mark.parametrize("bad", ["\x00", "\x07", "\n", "\x9f", "\u202e", "\u2066", "\ufffd"], ids=ascii)
def test_a_character_that_cannot_be_shown_is_refused_beside_its_field(plain: Flask, field: str, bad: str) -> None:
    good = {"name": "Ann", "mobile": "13800138000", "email": "ann@example.com", "dingtalk_url": f"{ROBOT}abcdef"}
    value = good[field]
    typed = good | {field: f"{value[:2]}{bad}{value[2:]}"}
    if field != "name" and bad in "\u202e\u2066":
        # It comes along when a number or an address is pasted, and means nothing there.
        assert errors(plain, **typed) == {}
    else:
        assert list(errors(plain, **typed)) == [field]


@pytest.mark.parametrize("typed", [{}, {"mobile": "", "email": " ", "dingtalk_url": "\u200b"}])
def test_without_a_channel_the_message_names_all_three(plain: Flask, typed: dict[str, str]) -> None:
    assert errors(plain, **typed) == {"mobile": [NO_CHANNEL]}


def test_a_name_and_a_channel_that_are_missing_are_both_reported(plain: Flask) -> None:
    assert errors(plain, name="") == {"name": ["Enter a name."], "mobile": [NO_CHANNEL]}


def test_a_bad_channel_is_reported_as_such_and_not_as_missing(plain: Flask) -> None:
    found = errors(plain, email="ann@")
    assert list(found) == ["email"]
    assert NO_CHANNEL not in found["email"]


def test_every_bad_field_has_its_message(plain: Flask) -> None:
    found = errors(plain, name="", mobile="12", email="ann@", dingtalk_url="https://example.com")
    assert list(found) == ["name", "mobile", "email", "dingtalk_url"]


CHANNEL_FIELDS = ("mobile", "email", "dingtalk_url", "dingtalk_secret", "dingtalk_keyword")


@pytest.mark.parametrize(
    ("field", "typed", "kept"),
    [
        ("mobile", "138 0013 8000", "+8613800138000"),
        ("email", "Ann@EXAMPLE.com", "Ann@example.com"),
        ("dingtalk_url", f"{ROBOT}abc", f"{ROBOT}abc"),
    ],
)
def test_one_channel_is_enough(plain: Flask, field: str, typed: str, kept: str) -> None:
    form = filled(plain, **{field: typed})
    assert form.errors == {}
    values = form.values()
    assert values.pop("name") == "Ann"
    assert values.pop("receives_system_notifications") is False
    assert values == dict.fromkeys(CHANNEL_FIELDS) | {field: kept}


def test_the_fields_of_the_form_are_the_attributes_that_are_read_and_saved(plain: Flask) -> None:
    form = filled(plain, mobile="13800138000")
    hidden = ("version", "opened", "csrf_token")
    assert list(form.values()) == [field.name for field in form if field.name not in hidden]
    contact = Contact(account_id=1, id=1, version=1, **form.values())
    assert form.saved_values(contact) == form.values()


def test_system_notifications_are_a_choice(plain: Flask) -> None:
    form = filled(plain, mobile="13800138000", receives_system_notifications="y")
    assert form.values()["receives_system_notifications"] is True


def test_the_fields_have_the_names_of_the_manual(plain: Flask) -> None:
    labels = [field.label.text for field in filled(plain) if field.name not in ("version", "opened", "csrf_token")]
    assert labels == [
        *("Name", "Mobile phone number", "Mailbox", "DingTalk robot"),
        *("Signature secret", "Keyword"),  # which the manual has the robot made with
        "Receive system notifications",
    ]


@pytest.mark.parametrize(
    ("field", "typed", "kept"),
    [
        ("dingtalk_secret", " SEC0123456789abcdef\u200b", "SEC0123456789abcdef"),
        ("dingtalk_keyword", " alert ", "alert"),
        ("dingtalk_keyword", "报" * 64, "报" * 64),
    ],
)
def test_a_robot_may_have_a_secret_and_a_keyword(plain: Flask, field: str, typed: str, kept: str) -> None:
    form = filled(plain, dingtalk_url=f"{ROBOT}abc", **{field: typed})
    assert form.errors == {}
    assert form.values()[field] == kept


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        *(
            ("dingtalk_secret", typed, "which starts with SEC")
            for typed in ("abc", "SEC", "sec0123456789abcdef", "SEC 0123456789", f"{ROBOT}abc", "SEC" + "x" * 129)
        ),
        ("dingtalk_keyword", "x" * 65, "at most 64 are possible"),
    ],
)
def test_a_secret_or_keyword_that_no_robot_has_is_refused(plain: Flask, field: str, typed: str, message: str) -> None:
    found = errors(plain, dingtalk_url=f"{ROBOT}abc", **{field: typed})
    assert list(found) == [field]
    assert message in found[field][0]


@pytest.mark.parametrize("given", [{"dingtalk_secret": "SEC0123456789abcdef"}, {"dingtalk_keyword": "alert"}])
def test_a_secret_or_keyword_needs_its_robot(plain: Flask, given: dict[str, str]) -> None:
    found = errors(plain, mobile="13800138000", **given)
    assert found == {"dingtalk_url": ["Enter the robot's address, or clear its secret and its keyword."]}


def accepts(team: Team, **columns: Any) -> bool:
    """Write a contact past the form, then take it back; an error of the database stands."""
    with team.sql.transaction(force_rollback=True):
        team.add(**columns)
    return True


@repeatable
@given(typed=names)
def test_a_name_accepted_by_the_form_is_accepted_by_the_schema(plain: Flask, team: Team, typed: str) -> None:
    form = filled(plain, name=typed, mobile="13800138000")
    assume(form.is_good)
    name = form.values()["name"]
    assert unicodedata.is_normalized("NFC", name)
    assert 1 <= len(name) <= 64
    assert accepts(team, name=name, mobile="+8613800138000")
    assert filled(plain, name=name, mobile="13800138000").values()["name"] == name


@pytest.mark.parametrize(
    ("field", "typed", "normal", "question"),
    [
        ("mobile", "149 1234 5678", "+8614912345678", "+86 149 1234 5678 is not known as a mobile number."),
        ("email", "Ann@intranet", "Ann@intranet", "intranet has no dot: only a mail server of your own can know it."),
    ],
)
def test_what_is_doubtful_is_saved_when_just_that_was_confirmed(
    plain: Flask, field: str, typed: str, normal: str, question: str
) -> None:
    for confirmed in (None, "", "y", normal + "9"):
        form = filled(plain, **{field: typed}, **({f"{field}_anyway": confirmed} if confirmed is not None else {}))
        assert form.errors == {field: [f"{question} Save it all the same?"]}
        assert (form[field].doubted, form.values()[field]) == (normal, None)
    form = filled(plain, **{field: typed, f"{field}_anyway": normal})
    assert form.errors == {}
    assert form.values()[field] == normal
    assert filled(plain, mobile="13800138000").mobile.doubted is None


@repeatable
@given(typed=st.emails() | st.builds("{}@例子.测试".format, names))
def test_a_mailbox_accepted_by_the_form_is_accepted_by_the_schema(team: Team, typed: str) -> None:
    try:
        email = clean_email(typed)
    except ValueError:
        return
    assert accepts(team, email=email)


def test_a_mobile_number_of_any_country_is_accepted_by_the_schema(team: Team) -> None:
    for mobile in EXAMPLES.values():
        assert accepts(team, mobile=mobile)


@pytest.mark.parametrize("host", [*DINGTALK_HOSTS, "robot.example.com"])
def test_a_robot_accepted_by_the_form_is_accepted_by_the_schema(console_in: Any, team: Team, host: str) -> None:
    with console_in(DINGTALK_HOSTS="robot.example.com").app_context():
        url = clean_dingtalk_url(f"https://{host}/robot/send?access_token={'aZ09-_' * 40}")
    assert accepts(team, dingtalk_url=url)


@pytest.mark.parametrize(
    ("address", "query"),
    [
        ({}, Query()),
        ({"q": "  Ann ", "field": "name", "sort": "-name", "page": "2"}, Query("Ann", "name", "-name", 2)),
        ({"q": "138", "field": "mobile"}, Query("138", "mobile")),
        (
            {"q": "(0086) 138 0013 8000", "field": "mobile"},
            Query("(0086) 138 0013 8000", "mobile", number="+8613800138000"),
        ),
        ({"q": "%_\\", "field": "email", "sort": "created"}, Query("%_\\", "email", "created")),
        ({"unknown": "x"}, Query()),
    ],
)
def test_the_address_says_which_contacts_to_list(in_china: None, address: dict[str, str], query: Query) -> None:
    assert read_query(address) == query


@pytest.mark.parametrize(
    "address",
    [{"field": field} for field in ("", "password_hash", "Name", "dingtalk_url")]
    + [{"sort": sort} for sort in ("", "id", "name; DROP TABLE contacts", "--name", "NAME")]
    + [{"page": page} for page in ("", "0", "-1", "1.5", "abc", "１", "01", "1e3", "9999999", "1\n")]
    + [{"q": text} for text in ("a\x00b", "a\ud800b", "a\ufffdb", "a\u202eb", "x" * 255)],
    ids=lambda address: ascii(address)[:40],
)
def test_an_address_that_no_link_has_is_refused_in_words(in_china: None, address: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as caught:
        read_query(address)
    assert caught.value.description.endswith(".")


def test_ids_are_read_once_each_in_their_order() -> None:
    assert read_ids(["3", "1", "3", "2"]) == [3, 1, 2]


@pytest.mark.parametrize(
    "values",
    [
        *([], [""], ["0"], ["-1"], ["1.5"], ["abc"], ["1", "x"], ["１"], ["1\n"], [" 1"], ["1" * 19], ["\x00"]),
        ["1 OR 1=1"],
        [str(number) for number in range(1, 102)],
        [str(number) for number in range(1, 10_001)],
    ],
    ids=lambda values: ascii(values)[:30],
)
def test_ids_that_cannot_be_are_refused_in_words(values: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        read_ids(values)
    assert caught.value.description.endswith(".")
