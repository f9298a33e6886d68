"""Offer form fields that keep what was typed for the person and its normal form for the row."""

import re
import unicodedata
from collections.abc import Callable
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


def clean_text(value: str) -> str:
    """Return `value` trimmed and in Unicode's NFC; raise ValueError for characters that cannot be text."""
    value = value.strip(TRIMMED)
    if UNREADABLE.search(value):
        raise ValueError("There are characters in this that cannot be shown. Type it instead of pasting it.")
    return unicodedata.normalize("NFC", value)


def clean_email(value: str) -> str:
    """Return the normal form of an e-mail address; raise ValueError saying what is wrong with it."""
    value = clean_text(INVISIBLE.sub("", value))
    if "=?" in value:  # which mail programs take for the beginning of an encoded word
        raise ValueError("This is not an e-mail address that can be written to: it has =? in it.")
    try:
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(f"This is not a complete e-mail address. {error}") from None


class NormalField(StringField):
    """A text field: `data` is what was typed, `normal` its normal form, None when empty or bad."""

    def __init__(self, label: str, normalise: Callable[[str], str] = clean_text, **kwargs: Any) -> None:
        super().__init__(label, **kwargs)
        self.normalise = normalise
        self.normal: str | None = None

    def pre_validate(self, form: object) -> None:
        """Work out the normal form before the other validators run."""
        typed = self.data or ""
        try:
            self.normal = self.normalise(typed) if typed.strip(TRIMMED) else None
        except ValueError as error:
            raise StopValidation(str(error)) from None
        self.normal = self.normal or None


class NameField(NormalField):
    """A NormalField for a name: 1 to 64 characters, one of which can be seen."""

    def post_validate(self, form: object, validation_stopped: bool) -> None:
        """Require the characters of a name."""
        if validation_stopped:
            return
        name = self.normal or ""
        if not any(unicodedata.category(character)[0] in "LNPS" for character in name):
            raise ValidationError("Enter a name.")
        if len(name) > 64:
            raise ValidationError(f"A name has at most 64 characters; this one has {len(name)}.")


class TelField(NormalField):
    """A NormalField for a telephone number."""

    widget = TelInput()


class EmailField(NormalField):
    """A NormalField for an e-mail address."""

    widget = EmailInput()

    def __init__(self, label: str, **kwargs: Any) -> None:
        super().__init__(label, clean_email, **kwargs)
