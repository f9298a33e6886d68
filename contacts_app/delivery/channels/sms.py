"""Send an alert by text message, through the configured provider."""

from collections.abc import Callable
from functools import lru_cache, partial

from ...config import Aliyun, Settings, Twilio
from ...contacts.addresses import clean_mobile, shown_mobile
from ..answers import Answers, answer
from . import Content, Outcome, aliyun, bare, headline, or_headline, outgoing, twilio, without_links
from .kinds import ByContact, Message, Senders

NOT_SET_UP = answer("sms.not_set_up")

PARTS = 2  # the most parts of a message, each of which is charged
# The GSM 7-bit alphabet (3GPP TS 23.038); a character of the extension takes two septets.
GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("^{}\\[~]|€\f")
# Replacements in that alphabet for characters outside it; invisible characters are removed.
SAME_IN_GSM = str.maketrans(
    {
        character: plain
        for characters, plain in (
            ("‐‑‒–—―−⁃•‣◦∙●▪■", "-"),
            ("‘’‚‛′`´ʹʼ‹›", "'"),
            ("“”„‟″«»", '"'),
            ("\N{SOFT HYPHEN}\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0e\ufe0f", ""),
        )
        for character in characters
    }
    | {"…": "...", "·": ".", "‴": "\"'", "⁄": "/", "×": "x", "→": "->", "←": "<-", "⇒": "=>", "≤": "<=", "≥": ">="}
    | {"≠": "!=", "±": "+/-", "№": "No", "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl"}
    | {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}  # the full-width forms of ASCII
)
SEPTETS, UCS2_UNITS = 153, 67  # the size of a part without the concatenation header
MAX_CHARACTERS = SEPTETS * PARTS
SHORTEST = 20  # characters that every variable of a template accepts


class Sms(ByContact):
    """Text messages to mobile phones."""

    name = "sms"
    label = "Mobile phone number"
    heading = "Cell phone number"
    message = "text message"
    no_address = answer("sms.no_address")
    column = used = "mobile"
    messages = "count(mobile)"
    batch = 10
    limited = "number"
    has_room_for_links = False

    def clean(self, typed: str) -> str:
        """Return the number in E.164."""
        return clean_mobile(typed)

    def shown(self, stored: str, account_id: int, contact_id: int) -> str:
        """Return the number in international format."""
        return shown_mobile(stored)

    def not_set_up(self, settings: Settings) -> Answers | None:
        """Return an error if no provider is configured."""
        return NOT_SET_UP if settings.sms is None else None

    def limit(self, settings: Settings) -> int:
        """Return the rate limit of text messages."""
        return settings.texts_per_number

    def send(self, senders: Senders, address: str, message: Message) -> Outcome:
        """Send one text message."""
        return send(senders.get(outgoing.Session), senders.settings, address, message.content)


SMS = Sms()


def send(session: outgoing.Session, settings: Settings, mobile: str, content: Content) -> Outcome:
    """Send one text message to a number in E.164, or only the headline if the text is refused."""
    send: Callable[[str], Outcome]
    match settings.sms:
        case Aliyun() as access:
            send, most, least = partial(aliyun.send, session, access, mobile), access.content_length, SHORTEST
        case Twilio() as access:
            send, most, least = partial(twilio.send, session, access, mobile), MAX_CHARACTERS, MAX_CHARACTERS
        case None:
            return Outcome("failed", NOT_SET_UP)
    text, shorter = text_of(content, most, settings.sms_links), text_of(bare(content), least)
    return or_headline(send(text), lambda: send(shorter)) if shorter != text else send(text)


@lru_cache(32)  # it takes a twentieth of the time of a text, and is the same for all contacts of an alert
def text_of(content: Content, most: int = MAX_CHARACTERS, has_links: bool = False) -> str:
    """Return headline and text, cut to two parts and to `most` characters.

    If all characters can be replaced by GSM ones, they are, because a GSM part holds more than twice as much as a UCS-2
    part. Otherwise the text is sent as UCS-2 without replacements.
    """
    lines = [headline(content), *(" ".join(line.split()) for line in content.text.splitlines())]
    text = "\n".join(line for line in lines if line)
    text = text if has_links else without_links(text)
    plain = _cut(_in_parts(text.translate(SAME_IN_GSM), _septets, SEPTETS, "..."), _ucs2_units, most, "...")
    if set(plain) <= GSM_BASIC | GSM_EXTENSION:
        return plain
    return _cut(_in_parts(text, _ucs2_units, UCS2_UNITS, "…"), _ucs2_units, most, "…")


def _in_parts(text: str, cost_of: Callable[[str], int], size: int, ellipsis: str) -> str:
    """Return the text, cut to PARTS parts of `size` units."""
    # A character of two units is not split between parts, so one unit of each part but the last may stay empty.
    room = size * PARTS - (PARTS - 1 if any(cost_of(character) > 1 for character in text) else 0)
    return _cut(text, cost_of, room, ellipsis)


def _cut(text: str, cost_of: Callable[[str], int], room: int, ellipsis: str) -> str:
    costs = [cost_of(character) for character in text]
    if sum(costs) <= room:
        return text
    room -= len(ellipsis)
    count = 0
    while room >= costs[count]:
        room -= costs[count]
        count += 1
    return text[:count].rstrip() + ellipsis


def _septets(character: str) -> int:
    return 2 if character in GSM_EXTENSION else 1


def _ucs2_units(character: str) -> int:
    return 2 if ord(character) > 0xFFFF else 1
