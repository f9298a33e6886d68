"""Know the addresses of the channels: their normal form, whatever their spelling, and the form that is shown."""

import re
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, PhoneNumberType, ValidationResult

from ..config import current_settings
from ..web.fields import ENDS, FULL_WIDTH, PAIRS, Doubtful, clean_email, clean_pasted, unwrapped

UNREADABLE_ROBOT = "cannot be read: enter it again"
CAN_BE_MOBILE = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
# A text message to one of these arrives nowhere; of other kinds, such as numbers of the Internet, it may.
CANNOT_BE_MOBILE = (
    PhoneNumberType.FIXED_LINE,
    PhoneNumberType.TOLL_FREE,
    PhoneNumberType.PREMIUM_RATE,
    PhoneNumberType.SHARED_COST,
    PhoneNumberType.VOICEMAIL,
)
WHATSAPP = re.compile(r"(?:wa\.me/|(?:api\.whatsapp\.com/)?send/?\?phone=)\+?")
EXTENSION = re.compile(r"(?:\b(?:ext|extn|extension|x|分机)\b\W*|#)\d+$", re.IGNORECASE)


def clean_mobile(value: str) -> str:
    """Return a mobile number in E.164, whatever its spelling; raise ValueError saying what is wrong with it.

    The tables of numbers are older than the networks: a number that they do not know, but that has as many digits as
    a mobile number has there, is Doubtful.
    """
    value = unwrapped(clean_pasted(value, "A mobile phone number").translate(FULL_WIDTH))
    value = re.sub(r"[?&].*", "", WHATSAPP.sub("+", value))
    if EXTENSION.search(value):
        raise ValueError(
            "This number has an extension, to which no text can be sent. Enter the mobile phone's own number."
        )
    if re.search(r"[^\W\d_]", value):  # phonenumbers would dial them
        raise ValueError(f"A mobile phone number has no letters. {_example()}".rstrip())
    if re.search(r"[;|]", value):  # of two numbers phonenumbers would take the first
        raise ValueError(f"This is not one mobile phone number. {_example()}".rstrip())
    # Where 00 is not how one dials abroad, it is still how many people write it.
    spellings = dict.fromkeys((value, re.sub(r"^\D*00", "+", value)))
    numbers = [number for spelling in spellings if (number := _parsed(spelling)) is not None]
    valid = [number for number in numbers if phonenumbers.is_valid_number(number)]
    kinds = [phonenumbers.number_type(number) for number in valid]
    for number, kind in zip(valid, kinds, strict=True):
        if kind in CAN_BE_MOBILE:
            return phonenumbers.format_number(number, PhoneNumberFormat.E164)
    if any(kind in CANNOT_BE_MOBILE for kind in kinds):
        raise ValueError("This is a valid number, but not one of a mobile phone: no text arrives there.")
    for number in valid + numbers:
        mobile = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if _misfit(number) is None and re.fullmatch(r"\+[1-9][0-9]{5,14}", mobile):
            raise Doubtful(mobile, f"{shown_mobile(mobile)} is not known as a mobile number. Save it all the same?")
    raise ValueError(f"This {_why_none(value, numbers)}. {_example()}".rstrip())


def _parsed(value: str) -> PhoneNumber | None:
    try:
        return phonenumbers.parse(value, current_settings().default_region)
    except NumberParseException:
        return None


def _misfit(number: PhoneNumber) -> str | None:
    """Say why a mobile number there cannot have as many digits as `number` has; None if it can."""
    match phonenumbers.is_possible_number_for_type_with_reason(number, PhoneNumberType.MOBILE):
        case ValidationResult.IS_POSSIBLE:
            return None
        case ValidationResult.TOO_LONG:
            return "is too long for one mobile phone number"
        case ValidationResult.INVALID_COUNTRY_CODE:
            return "begins with a country code that does not exist"
        case ValidationResult.INVALID_LENGTH:
            return "has not as many digits as a mobile phone number has there"
        case _:
            return "is too short for a mobile phone number"


def _why_none(value: str, numbers: list[PhoneNumber]) -> str:
    """Say what keeps `value` from being a number, as which `numbers` were read in it."""
    reasons = [reason for number in numbers if (reason := _misfit(number))]
    if reasons:
        return reasons[0]
    count = sum(character.isdecimal() for character in value)
    if count > 17:  # with 00 before it
        return "is too long for one mobile phone number"
    if count > 5 and value.lstrip().startswith(("+", "00", "(+", "(00")):
        return "begins with a country code that does not exist"
    return "is too short for a mobile phone number" if count else "is not a mobile phone number"


def _example() -> str:
    example = phonenumbers.example_number_for_type(current_settings().default_region, PhoneNumberType.MOBILE)
    if example is None:
        return ""
    return f"One looks like {phonenumbers.format_number(example, PhoneNumberFormat.INTERNATIONAL)}."


@lru_cache(maxsize=10_000)
def shown_mobile(mobile: str) -> str:
    """Return a mobile number in E.164 as it is written internationally."""
    try:
        return phonenumbers.format_number(phonenumbers.parse(mobile), PhoneNumberFormat.INTERNATIONAL)
    except NumberParseException:  # written past the form: no reason to hide the whole list
        return mobile


@lru_cache(maxsize=10_000)
def is_doubtful_mobile(mobile: str) -> bool:
    """Tell whether a number in E.164 is one that had to be confirmed."""
    try:
        return phonenumbers.number_type(phonenumbers.parse(mobile)) not in CAN_BE_MOBILE
    except NumberParseException:
        return True


def clean_mailbox(value: str) -> str:
    """Return the normal form of a mailbox; raise ValueError saying what is wrong with it.

    One at a name without a dot is Doubtful: it exists inside a company, or its ending has been forgotten.
    """
    email = clean_email(value)
    if is_doubtful_mailbox(email):
        name = email.rpartition("@")[2]
        raise Doubtful(email, f"{name} has no dot: only a mail server of your own can know it. Save it all the same?")
    return email


def is_doubtful_mailbox(email: str) -> bool:
    """Tell whether a mailbox is one that has to be confirmed."""
    return "." not in email.rpartition("@")[2]


def clean_dingtalk_url(value: str) -> str:
    """Return the normal form of a robot's webhook address; raise ValueError showing the right form."""
    value = _link_in(clean_pasted(value, "A robot's address"))
    hosts = current_settings().dingtalk_hosts
    try:
        parts = urlsplit(value)
        host = parts.netloc.lower()
        fits = parts.scheme == "https" and host in hosts
    except ValueError:
        fits = False
    if fits and parts.path in ("/robot/send", "/robot/send/") and not parts.fragment:
        match parse_qsl(parts.query, keep_blank_values=True):
            case [("access_token", token)] if re.fullmatch("[A-Za-z0-9_-]{1,256}", token):
                return f"https://{host}/robot/send?access_token={token}"
    raise ValueError(
        "This is not the address of a DingTalk robot, which looks like "
        f"https://{hosts[0]}/robot/send?access_token=… (copy it from the robot's settings)."
    )


def _link_in(value: str) -> str:
    """Return the first link in `value` without what chats put around one: quotes, brackets, a label, a full stop."""
    link = re.search(r"https(://|%3A%2F%2F)", value, re.IGNORECASE)
    if link is None:
        return value
    opening, value = value[: link.start()][-1:], value[link.start() :]
    closing = {pair[0]: pair[1] for pair in PAIRS}.get(opening)
    if closing:
        value = value.partition(closing)[0].partition("|")[0]  # <address|what is shown>
    if "%" in link[0]:
        value = unquote(value)
    return value.rstrip(ENDS + "/")


def clean_dingtalk_secret(value: str) -> str:
    """Return the secret of a robot's signature; raise ValueError showing the right form."""
    value = unwrapped(clean_pasted(value, "A robot's secret"))
    if not re.fullmatch("SEC[A-Za-z0-9]{8,128}", value):
        raise ValueError("This is not the secret of a signature, which starts with SEC (copy it from the robot).")
    return value


def shown_robot(url: str | None) -> str:
    """Return what may be seen of a robot's address: its host and the last 4 characters of its token."""
    if url is None:
        return UNREADABLE_ROBOT
    parts = urlsplit(url)
    token = parts.query.removeprefix("access_token=")
    return f"{parts.netloc} …{token[-4:] if len(token) > 8 else ''}"
