"""Tell an alert by text message, through the provider that is set up."""

import requests

from ...config import Aliyun, Settings, Twilio
from . import Outcome, Told, aliyun, configured, headline, twilio

PARTS = 2  # a message may be charged as
# The alphabet of 3GPP TS 23.038; what stands in the extension takes two septets.
GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = frozenset("^{}\\[~]|€\f")
SEPTETS, UCS2_UNITS = 153, 67  # of a part, beside the header that joins the parts


def send(session: requests.Session, settings: Settings, mobile: str, told: Told) -> Outcome:
    """Send one text message to a number in E.164."""
    match settings.sms:
        case Aliyun() as access:
            return aliyun.send(session, access, mobile, text_of(told))
        case Twilio() as access:
            return twilio.send(session, access, mobile, text_of(told))
        case None:
            return Outcome("failed", str(configured(settings, "sms")))


def text_of(told: Told) -> str:
    """Return headline and text, cut so that they fit into two parts."""
    lines = [headline(told), *(" ".join(line.split()) for line in told.text.splitlines())]
    text = "\n".join(line for line in lines if line)
    is_gsm = all(character in GSM_BASIC or character in GSM_EXTENSION for character in text)
    size, ellipsis = (SEPTETS, "...") if is_gsm else (UCS2_UNITS, "…")
    costs = [_cost(character, is_gsm) for character in text]
    # A character that takes two units stands in one part as a whole, and may leave a unit of the first part empty.
    room = size * PARTS - (PARTS - 1 if max(costs) > 1 else 0)
    if sum(costs) <= room:
        return text
    room -= len(ellipsis)
    count = 0
    while room >= costs[count]:
        room -= costs[count]
        count += 1
    return text[:count].rstrip() + ellipsis


def _cost(character: str, is_gsm: bool) -> int:
    if is_gsm:
        return 2 if character in GSM_EXTENSION else 1
    return 2 if ord(character) > 0xFFFF else 1
