"""Offer form fields that keep what was typed for the person and its normal form for the row."""

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from email_validator import EmailNotValidError, validate_email
from wtforms import StringField
from wtforms.validators import StopValidation, ValidationError
from wtforms.widgets import EmailInput, TelInput

# Control characters, half of a surrogate pair, what stands for bytes that were no text, and marks that
# turn the direction of all that follows them.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd\u202a-\u202e\u2066-\u2069]")
# Format characters come along unseen when a number or an address is pasted.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
# All of these lie in the basic plane. str.strip takes linear time, a pattern that ends in $ quadratic time.
TRIMMED = "".join(filter(lambda character: character.isspace() or INVISIBLE.match(character), map(chr, range(0x10000))))
LONGEST_NAME, LONGEST_EMAIL = 64, 254
LONGEST_PASTED = 1000  # of an address, with what stands around it where it comes from
KEPT = 2000  # characters of what is too long that stay in their field


def check_length(value: str, most: int, what: str) -> None:
    """Raise ValueError, which names the limit, if `value` has more than `most` characters.

    This comes before all else that is done with a text: what a normal form of Unicode takes grows with the square of
    the length, and a text may be as long as a request.
    """
    if len(value) > most:
        raise ValueError(f"{what} has at most {most:,} characters; this one has {len(value):,}.")


def clean_text(value: str, most: int, what: str = "This") -> str:
    """Return `value` trimmed and in Unicode's NFC, at most `most` characters.

    Raise ValueError, with `what` as the subject of its sentence, for what is longer or cannot be text.
    """
    # Spaces around it are left out, and several characters may be typed for one: which has at most 4 in NFD.
    if len(value) > 4 * most + 256:
        check_length(value, most, what)
    value = value.strip(TRIMMED)
    if UNREADABLE.search(value):
        raise ValueError("There are characters in this that cannot be shown. Type it instead of pasting it.")
    normal = unicodedata.normalize("NFC", value)
    check_length(normal, most, what)
    return normal


def clean_pasted(value: str, what: str) -> str:
    """Return `value` without what comes along unseen when an address is pasted; raise ValueError as clean_text does."""
    check_length(value, LONGEST_PASTED, what)
    return clean_text(INVISIBLE.sub("", value), LONGEST_PASTED, what)


def clean_email(value: str) -> str:
    """Return the normal form of an e-mail address; raise ValueError saying what is wrong with it."""
    value = clean_pasted(value, "A mailbox")
    if "=?" in value:  # which mail programs take for the beginning of an encoded word
        raise ValueError("This is not an e-mail address that can be written to: it has =? in it.")
    try:
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(f"This is not a complete e-mail address. {error}") from None


class NormalField(StringField):
    """A text field: `data` is what was typed, `normal` its normal form, None when empty or bad.

    `normalise` looks at the length of what was typed before anything else.
    """

    def __init__(self, label: str, normalise: Callable[[str], str], **kwargs: Any) -> None:
        super().__init__(label, **kwargs)
        self.normalise = normalise
        self.normal: str | None = None

    def pre_validate(self, form: object) -> None:
        """Work out the normal form before the other validators run."""
        typed = self.data or ""
        try:
            self.normal = self.normalise(typed) if len(typed) > KEPT or typed.strip(TRIMMED) else None
        except ValueError as error:
            if len(typed) <= KEPT:
                raise StopValidation(str(error)) from None
            self.data = typed[:KEPT]
            raise StopValidation(f"{error} Only the first {KEPT:,} are kept here.") from None
        self.normal = self.normal or None


class NameField(NormalField):
    """A NormalField for a name: 1 to 64 characters, one of which can be seen."""

    def __init__(self, label: str, **kwargs: Any) -> None:
        super().__init__(label, partial(clean_text, most=LONGEST_NAME, what="A name"), **kwargs)

    def post_validate(self, form: object, validation_stopped: bool) -> None:
        """Require the characters of a name."""
        if validation_stopped:
            return
        name = self.normal or ""
        if not any(unicodedata.category(character)[0] in "LNPS" for character in name):
            raise ValidationError("Enter a name.")


class TelField(NormalField):
    """A NormalField for a telephone number."""

    widget = TelInput()


class EmailField(NormalField):
    """A NormalField for an e-mail address."""

    widget = EmailInput()

    def __init__(self, label: str, **kwargs: Any) -> None:
        super().__init__(label, clean_email, **kwargs)
