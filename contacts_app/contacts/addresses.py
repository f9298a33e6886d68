"""Normalise and format the addresses of channels: mobile numbers, mailboxes and webhook URLs of DingTalk robots."""

import re
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber, PhoneNumberFormat, PhoneNumberType, ValidationResult

from ..config import current_settings
from ..web.fields import ENDS, FULL_WIDTH, PAIRS, Doubtful, clean_email, clean_pasted, unwrapped

UNREADABLE_ROBOT = "cannot be read: enter it again"
TOO_SHORT = "This is too short for a mobile phone number."
TOO_LONG = "This is too long for one mobile phone number."
UNKNOWN_COUNTRY = "This begins with a country code that does not exist."
WRONG_LENGTH = "This does not have the number of digits that mobile phone numbers of its country have."
CAN_BE_MOBILE = (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE_OR_MOBILE)
# Text messages to these kinds of numbers do not arrive; to other kinds, such as VoIP numbers, they may.
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
    """Return a mobile number in E.164 from any common spelling; raise ValueError with the reason if it is none.

    The numbering plans of phonenumbers lag behind the networks: a number that they do not know, but that has as many
    digits as mobile numbers of that country, is Doubtful.
    """
    value = unwrapped(clean_pasted(value).translate(FULL_WIDTH))
    value = re.sub(r"[?&].*", "", WHATSAPP.sub("+", value))
    if EXTENSION.search(value):
        raise ValueError(
            "This number has an extension, to which no text can be sent. Enter the mobile phone's own number."
        )
    if re.search(r"[^\W\d_]", value):  # phonenumbers would convert letters to digits
        raise ValueError(_with_example("A mobile phone number has no letters."))
    if re.search(r"[;|]", value):  # phonenumbers would use the first of two numbers
        raise ValueError(_with_example("This is not one mobile phone number."))
    # Many people write 00 for + also where it is not the international prefix.
    spellings = dict.fromkeys((value, re.sub(r"^\D*00", "+", value)))
    numbers = [number for spelling in spellings if (number := _parsed(spelling)) is not None]
    valid = [number for number in numbers if phonenumbers.is_valid_number(number)]
    kinds = [phonenumbers.number_type(number) for number in valid]
    for number, kind in zip(valid, kinds, strict=True):
        if kind in CAN_BE_MOBILE:
            return phonenumbers.format_number(number, PhoneNumberFormat.E164)
    if any(kind in CANNOT_BE_MOBILE for kind in kinds):
        raise ValueError("This is a valid number, but not a mobile phone number, so it cannot receive text messages.")
    for number in valid + numbers:
        mobile = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if _misfit(number) is None and re.fullmatch(r"\+[1-9][0-9]{5,14}", mobile):
            raise Doubtful(mobile, f"{shown_mobile(mobile)} is not known as a mobile number. Save it all the same?")
    raise ValueError(_with_example(_explanation(value, numbers)))


def _parsed(value: str) -> PhoneNumber | None:
    try:
        return phonenumbers.parse(value, current_settings().default_region)
    except NumberParseException:
        return None


def _misfit(number: PhoneNumber) -> str | None:
    """Return a sentence why `number` has too few or too many digits for a mobile number of its country, or None."""
    match phonenumbers.is_possible_number_for_type_with_reason(number, PhoneNumberType.MOBILE):
        case ValidationResult.IS_POSSIBLE:
            return None
        case ValidationResult.TOO_LONG:
            return TOO_LONG
        case ValidationResult.INVALID_COUNTRY_CODE:
            return UNKNOWN_COUNTRY
        case ValidationResult.INVALID_LENGTH:
            return WRONG_LENGTH
        case _:
            return TOO_SHORT


def _explanation(value: str, numbers: list[PhoneNumber]) -> str:
    """Return a sentence why `value`, which was parsed as `numbers`, is not a mobile number."""
    reasons = [reason for number in numbers if (reason := _misfit(number))]
    if reasons:
        return reasons[0]
    count = sum(character.isdecimal() for character in value)
    if count > 17:  # including a leading 00
        return TOO_LONG
    if count > 5 and value.lstrip().startswith(("+", "00", "(+", "(00")):
        return UNKNOWN_COUNTRY
    return TOO_SHORT if count else "This is not a mobile phone number."


def _with_example(sentence: str) -> str:
    """Return the sentence, followed by one with an example of a number if there is one for the default region."""
    example = phonenumbers.example_number_for_type(current_settings().default_region, PhoneNumberType.MOBILE)
    if example is None:
        return sentence
    shown = phonenumbers.format_number(example, PhoneNumberFormat.INTERNATIONAL)
    return f"{sentence} A correct number looks like {shown}."


@lru_cache(maxsize=10_000)
def shown_mobile(mobile: str) -> str:
    """Format a number in E.164 in the international format."""
    try:
        return phonenumbers.format_number(phonenumbers.parse(mobile), PhoneNumberFormat.INTERNATIONAL)
    except NumberParseException:  # was not saved by the form; the list must still work
        return mobile


@lru_cache(maxsize=10_000)
def is_doubtful_mobile(mobile: str) -> bool:
    """Return whether a number in E.164 had to be confirmed."""
    try:
        return phonenumbers.number_type(phonenumbers.parse(mobile)) not in CAN_BE_MOBILE
    except NumberParseException:
        return True


def clean_mailbox(value: str) -> str:
    """Return the normal form of a mailbox; raise ValueError with the reason if it is none.

    A host name without a dot is Doubtful: either it is inside a company network, or its ending is missing.
    """
    email = clean_email(value)
    if is_doubtful_mailbox(email):
        name = email.rpartition("@")[2]
        raise Doubtful(email, f"{name} has no dot: only a mail server of your own can know it. Save it all the same?")
    return email


def is_doubtful_mailbox(email: str) -> bool:
    """Return whether a mailbox has to be confirmed."""
    return "." not in email.rpartition("@")[2]


def clean_dingtalk_url(value: str) -> str:
    """Return the normal form of the webhook URL of a robot; raise ValueError with the expected form if it is none."""
    value = _link_in(clean_pasted(value))
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
    """Return the first link in `value` without the quotes, brackets, label or full stop that chats put around it."""
    link = re.search(r"https(://|%3A%2F%2F)", value, re.IGNORECASE)
    if link is None:
        return value
    opening, value = value[: link.start()][-1:], value[link.start() :]
    closing = {pair[0]: pair[1] for pair in PAIRS}.get(opening)
    if closing:
        value = value.partition(closing)[0].partition("|")[0]  # <URL|label>
    if "%" in link[0]:
        value = unquote(value)
    return value.rstrip(ENDS + "/")


def clean_dingtalk_secret(value: str) -> str:
    """Return the signature secret of a robot; raise ValueError with the expected form if it is none."""
    value = unwrapped(clean_pasted(value))
    if not re.fullmatch("SEC[A-Za-z0-9]{8,128}", value):
        raise ValueError("This is not the secret of a signature, which starts with SEC (copy it from the robot).")
    return value


def shown_robot(url: str | None) -> str:
    """Return the part of a robot's webhook URL that is no secret: its host and the last 4 characters of the token."""
    if url is None:
        return UNREADABLE_ROBOT
    parts = urlsplit(url)
    token = parts.query.removeprefix("access_token=")
    return f"{parts.netloc} …{token[-4:] if len(token) > 8 else ''}"
