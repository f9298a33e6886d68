"""Send alerts to a DingTalk robot, and explain its errors.

A robot responds with HTTP 200 in any case; `errcode` says whether it accepted the message.
"""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import phonenumbers

from ...config import Settings
from ...contacts.addresses import clean_dingtalk_url, shown_robot
from ...contacts.models import decrypted
from ...core.times import shown
from ..answers import Answers, answer
from . import Content, Outcome, bare, headline, or_headline, outgoing, particulars, quoted
from .kinds import Kind

MAX_BYTES = 17_000  # of the text encoded as JSON; DingTalk accepts 20,000 for the whole message
MAX_MENTIONS = 100
MAX_ALERTS = 50  # in one message: so many short titles fit in any script
SHORT_TITLE = 80
FIRST_LINES, FIRST_CHARACTERS = 3, 300  # of each of several alerts
BLOCKED_SECONDS = 600
DETAILS, FEW_DETAILS = 4000, 600  # bytes of values and links of one alert, alone and among several
NEWLINE = "  \n"  # Markdown joins lines that do not end with two spaces
MARKUP = "\\`*_[]<~|"
PLAIN_URL = r"https?://[A-Za-z0-9./_?=&%#:+-]+"
BUSY, TOO_FAST, REFUSED = -1, (130101, 410100), 310000
FAILED = {
    300001: "dingtalk.unknown_robot",
    300005: "dingtalk.unknown_robot",
    400101: "dingtalk.unknown_robot",
    400013: "dingtalk.chat_dissolved",
    400102: "dingtalk.switched_off",
    400106: "dingtalk.not_in_chat",
    430101: "dingtalk.link",
    430102: "dingtalk.word",
    430103: "dingtalk.picture",
    430104: "dingtalk.something",
    460101: "dingtalk.too_long",
}
CONTENT = (430101, 430102, 430103, 430104, 460101)


class DingTalk(Kind):
    """DingTalk robots of group chats, which several contacts may share; robots.py delivers the messages."""

    name = "dingtalk"
    label = "DingTalk robot"
    heading = "DingTalk robot"
    message = "DingTalk message"
    no_address = answer("dingtalk.no_address")
    column = "dingtalk_url_encrypted"
    used = "encode(dingtalk_url_hash, 'hex')"
    messages = "count(DISTINCT dingtalk_url_hash)"

    def clean(self, typed: str) -> str:
        """Return the webhook address of the robot."""
        return clean_dingtalk_url(typed)

    def shown(self, stored: bytes, account_id: int, contact_id: int) -> str:
        """Return the host and the end of the token of the robot's URL."""
        return shown_robot(decrypted(stored, account_id, contact_id, "dingtalk_url"))


DINGTALK = DingTalk()


def send(
    session: outgoing.Session,
    settings: Settings,
    url: str,
    secret: str | None,
    keyword: str | None,
    alerts: Sequence[Content],
    mobiles: Sequence[str],
    uuid: str,
    may_repeat: bool = True,
) -> Outcome:
    """Send one message about all `alerts` that mentions `mobiles` (E.164); `uuid` makes a retry idempotent.

    If the text is refused, only the headlines are sent: at once if the rate limit of the robot leaves room for another
    message (`may_repeat`), otherwise by a later attempt.
    """
    parts = urlsplit(url)
    if parts.netloc.lower() not in settings.dingtalk_hosts:
        return Outcome("failed", answer("dingtalk.bad_host"))
    numbers = [_mention(mobile) for mobile in mobiles[:MAX_MENTIONS]]

    def post(alerts: Sequence[Content], uuid: str) -> Outcome:
        body = {
            "msgtype": "markdown",
            "markdown": {"title": _title(alerts), "text": text_of(alerts, keyword, numbers, len(mobiles))},
            "at": {"atMobiles": numbers, "isAtAll": False},
            "msgUuid": uuid,
        }
        return _post(session, settings, url, secret, keyword, body)

    outcome = post(alerts, uuid)
    if outcome.text_state == "refused" and not may_repeat:
        return outcome._replace(state="later")
    return or_headline(outcome, lambda: post([bare(content) for content in alerts], f"{uuid}-headline"))


def _post(
    session: outgoing.Session, settings: Settings, url: str, secret: str | None, keyword: str | None, body: Any
) -> Outcome:
    signed = url + (_signature(secret, time.time()) if secret else "")
    # UTF-8, because Chinese escaped to ASCII takes twice the bytes.
    data = json.dumps(body, ensure_ascii=False).encode()
    try:
        response = outgoing.post(session, signed, data, content_type="application/json; charset=utf-8")
    except outgoing.CannotReach as error:
        return Outcome("later", error.answer, is_uncertain=error.is_uncertain)
    token = parse_qs(urlsplit(url).query).get("access_token", [""])[0]
    return _outcome(response, settings, secret, keyword, (token, secret or ""))


def text_of(alerts: Sequence[Content], keyword: str | None, numbers: Sequence[str], count: int) -> str:
    """Return the Markdown text with the keyword and the mentions of `numbers`, out of `count` people in all."""
    mentions = " ".join(f"@{number}" for number in numbers)
    if count > len(numbers):
        mentions += f" and {count - len(numbers)} more"
    # Reserve room for the keyword and the mentions, because the robot requires the keyword.
    mark = _keyword(keyword) if keyword else ""
    room = MAX_BYTES - _size(mentions) - _size(mark) - 100
    text = _alert(alerts[0], alerts[0].text, room) if len(alerts) == 1 else _alerts(alerts, room)
    if keyword and keyword not in text:
        text += f"\n\n{mark}"
    return f"{text}\n\n{mentions}" if mentions else text


def _keyword(keyword: str) -> str:
    """Return the keyword escaped as far as it remains literally in the text, because the robot compares it."""
    plain = escaped(keyword)
    if keyword in plain:
        return plain
    # A backslash may precede the keyword and escape its first character, but may not be inside it.
    return f"\\{keyword}" if keyword[0] in MARKUP else keyword


def escaped(words: str) -> str:
    """Return `words` escaped, so that they cannot be a link, picture, mention or heading in Markdown."""
    # A plain URL is not escaped: DingTalk makes it a link that shows its target.
    words = re.sub(
        rf"({PLAIN_URL})|[{re.escape(MARKUP)}]|^\s*[-+=#>]", lambda found: found[1] or f"\\{found[0].strip()}", words
    )
    return words.replace("@", "@\u200b")


def _title(alerts: Sequence[Content]) -> str:
    return headline(alerts[0]) if len(alerts) == 1 else f"{len(alerts)} alerts"


def _alerts(alerts: Sequence[Content], room: int) -> str:
    """Return the Markdown of several alerts: all titles, and the texts of the first ones as far as they fit."""
    title = f"### {len(alerts)} alerts"
    blocks = [_short(content) for content in alerts]
    room -= _size("\n\n".join([title, *blocks]))
    for index, content in enumerate(alerts):
        lines = content.text.strip().splitlines()
        first = "\n".join(lines[:FIRST_LINES])
        is_cut = len(lines) > FIRST_LINES or len(first) > FIRST_CHARACTERS
        block = _alert(content, first[:FIRST_CHARACTERS] + (" …" if is_cut else ""), MAX_BYTES, FEW_DETAILS)
        room -= _size(block) - _size(blocks[index])
        if room < 0:
            break
        blocks[index] = block
    return "\n\n".join([title, *blocks])


def _short(content: Content) -> str:
    title = headline(content)
    return f"- {escaped(title if len(title) <= SHORT_TITLE else title[: SHORT_TITLE - 1] + '…')}"


def _alert(content: Content, text: str, room: int, details: int = DETAILS) -> str:
    """Return the Markdown of one alert, with its text cut to fit into `room` bytes."""
    head = f"#### {escaped(headline(content))}\n\n"
    facts = " · ".join(f"{name}: {escaped(value)}" for name, value in particulars(content))
    tail = f"{_details(content, details)}\n\n{facts}" + (
        f"\n\n[Open in the console]({content.url})" if content.url else ""
    )
    room -= _size(head) + _size(tail)
    lines = [escaped(line.strip()) for line in text.strip().splitlines()]
    body = _cut(NEWLINE.join(lines), room)
    return f"{head}{body}{tail}" if body else f"{head.rstrip()}{tail}"


def _details(content: Content, room: int) -> str:
    """Return the values and links of the alerts, as many as fit into `room` bytes."""
    found = ""
    for fact in content.facts:
        lines = [escaped(f"{name}: {value}") for name, value in fact.texts_beside(content.text)]
        if links := " · ".join(f"[{link.name}]({_link(link.url)})" for link in fact.main_links):
            lines.append(links)
        if lines and fact.alert:
            lines.insert(0, f"**{escaped(fact.alert)}**")
        block = f"\n\n{NEWLINE.join(lines)}" if lines else ""
        if _size(found + block) > room:
            break
        found += block
    return found


def _link(url: str) -> str:
    """Return the URL with every character encoded that could end the link or is Markdown."""
    return re.sub(r"[^A-Za-z0-9./_?=&%#:+-]", lambda found: f"%{ord(found[0]):02X}", url)


def _cut(text: str, room: int) -> str:
    if _size(text) <= room:
        return text
    ellipsis = " …"
    room -= _size(ellipsis)
    while (size := _size(text)) > room:
        text = text[: len(text) * room // size]
    # Remove a backslash at the end whose escaped character was cut off.
    is_alone = (len(text) - len(text.rstrip("\\"))) % 2
    return (text[:-1] if is_alone else text) + ellipsis


def _size(text: str) -> int:
    """Return the size of the text in JSON in bytes; newlines and backslashes are escaped there."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _mention(mobile: str) -> str:
    """Return the number in DingTalk's format: 13800000000 in China, +1-2025550123 elsewhere."""
    try:
        code = str(phonenumbers.parse(mobile).country_code)
    except phonenumbers.NumberParseException:  # an unknown country code
        return mobile
    national = mobile.removeprefix(f"+{code}")
    return national if code == "86" else f"+{code}-{national}"


def _signature(secret: str, now: float) -> str:
    timestamp = str(int(now * 1000))
    digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    return f"&timestamp={timestamp}&sign={quote(base64.b64encode(digest), safe='')}"


def _outcome(
    response: outgoing.Response, settings: Settings, secret: str | None, keyword: str | None, secrets: tuple[str, ...]
) -> Outcome:
    """Return the outcome that the robot's response means."""
    if response.status == 429:
        return Outcome("later", answer("dingtalk.rate_limited"))
    if response.status >= 500:
        return Outcome("later", answer("dingtalk.out_of_order", status=response.status), is_uncertain=True)
    try:
        said = json.loads(response.body)
        code, message = int(said["errcode"]), str(said.get("errmsg", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if response.status >= 400:
            return Outcome("failed", answer("dingtalk.refused_status", status=response.status))
        return Outcome("later", answer("dingtalk.unexpected"), is_uncertain=True)
    if code == 0:
        return Outcome("sent", answer("dingtalk.sent"))
    if code in TOO_FAST:
        until = shown(datetime.now(settings.timezone) + timedelta(seconds=BLOCKED_SECONDS), "%H:%M")
        return Outcome("later", answer("dingtalk.blocked", until=until, error=code), wait=BLOCKED_SECONDS)
    if code == BUSY:
        return Outcome("later", answer("dingtalk.busy", error=code))
    if code in FAILED:
        text_state = "refused" if code in CONTENT else "whole"
        return Outcome("failed", answer(FAILED[code], error=code), text_state=text_state)
    if code == REFUSED and (reason := _reason(message, response, secret, keyword)):
        return Outcome("failed", reason)
    return Outcome("failed", answer("dingtalk.refused", said=f"{code} {quoted(message, *secrets)}".rstrip()))


def _reason(message: str, response: outgoing.Response, secret: str | None, keyword: str | None) -> Answers | None:
    """Return which of the robot's security settings refused the message; None if the response does not say."""
    # The proposed solution at the end is cut off, because it always names keyword, signature and timestamp.
    message = re.split(r"[;；]\s*solution|[;；]\s*解决", message.lower())[0]
    if "keyword" in message or "关键" in message:
        if keyword:
            return answer("dingtalk.wrong_keyword", keyword=keyword[:100], error=REFUSED)
        return answer("dingtalk.no_keyword", error=REFUSED)
    if "timestamp" in message or "过期" in message or "时间戳" in message:
        return _clock(response)
    if "sign" in message or "签名" in message:
        if secret:
            return answer("dingtalk.wrong_signature", error=REFUSED)
        return answer("dingtalk.not_signed", error=REFUSED)
    if "whitelist" in message or "白名单" in message or re.search(r"\bip\b", message):
        return answer("dingtalk.bad_origin", error=REFUSED)
    return None


def _clock(response: outgoing.Response) -> Answers:
    try:
        seconds = time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        seconds = 0.0
    if abs(seconds) < 60:
        return answer("dingtalk.wrong_time", error=REFUSED)
    minutes = round(abs(seconds) / 60)
    if seconds > 0:
        return answer("dingtalk.clock_fast", minutes=minutes, error=REFUSED)
    return answer("dingtalk.clock_slow", minutes=minutes, error=REFUSED)
