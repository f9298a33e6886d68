"""Form fields that show what was typed and store its normal form."""

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import email_validator
from wtforms import BooleanField, StringField
from wtforms.validators import StopValidation, ValidationError
from wtforms.widgets import EmailInput, TelInput

# Control characters, lone surrogates, the replacement character, and marks that change the text direction of what
# follows them.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd\u202a-\u202e\u2066-\u2069]")
# Invisible format characters, which are often pasted along with a number or an address.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
# All of them are in the basic multilingual plane. str.strip takes linear time; a regular expression that ends in $
# would take quadratic time.
TRIMMED = "".join(filter(lambda character: character.isspace() or INVISIBLE.match(character), map(chr, range(0x10000))))
LONGEST_NAME = 64
LONGEST_PASTED = 1000  # of a pasted address, with the text around it
MAX_SHOWN = 2000  # characters of an entry that is too long that the form shows again
# The full-width forms of ASCII characters, which Chinese input methods produce.
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
# Text around a copied address: "Mobile:", "tel:", "TEL;TYPE=CELL:", a name before it, a link
# as chats keep one, a remark behind it.
PAIRS = [
    *("<>", '""', "''", "``", "()", "[]", "“”", "‘’", "„“", "«»"),
    *("「」", "『』", "《》", "〈〉", "【】", "（）", "＜＞"),
]
LABEL = re.compile(
    r"[^\W\d_][^\d@:：+()<>]{0,30}[:：](?://)?|(?:tel|telephone|phone|mobile|mob|cell|e-?mail)\.?\s+"
    r"|(?:手机|电话)(?:号码?)?\s*(?=[\d\s+()-]+$)",
    re.IGNORECASE,
)
NAMED = re.compile(r"[^<>]*<([^<>|]+)(?:\|[^<>]*)?>[^<>]*")
MARKDOWN = re.compile(r"\[[^\[\]]*\]\(([^()]+)\)")
REMARK = re.compile(r"\s*[(（][^()（）@\d]*[)）]$")
ENDS = ".,;:!?…、，。；：！？"
# Company networks use host names that public DNS does not know; only .invalid is reserved never to exist.
email_validator.SPECIAL_USE_DOMAIN_NAMES[:] = ["invalid"]
# From RFC 5321, in bytes: a path has at most 256 including its brackets, a DNS name 253.
MAIL_LIMITS = {"before the @": 64, "after the @": 253, "in all": 254}


class Doubtful(ValueError):
    """The value is probably a mistake, but may be right: the person is asked. `normal` is its normal form."""

    def __init__(self, normal: str, question: str) -> None:
        super().__init__(question)
        self.normal = normal


def check_length(value: str, most: int) -> None:
    """Raise ValueError, which names the limit, if `value` has more than `most` characters.

    Check the length before anything else: Unicode normalisation takes quadratic time in the worst case, and a text may
    be as long as a request.
    """
    if len(value) > most:
        raise ValueError(f"This has {len(value):,} characters; at most {most:,} are possible.")


def clean_text(value: str, most: int) -> str:
    """Return `value` trimmed and in Unicode normal form C, with at most `most` characters.

    Raise ValueError if it is longer or has characters that are no text.
    """
    # Trimming and composing make a text shorter; a character has at most 4 code points in normal form D.
    if len(value) > 4 * most + 256:
        check_length(value, most)
    value = value.strip(TRIMMED)
    if UNREADABLE.search(value):
        raise ValueError("There are characters in this that cannot be shown. Type it instead of pasting it.")
    normal = unicodedata.normalize("NFC", value)
    check_length(normal, most)
    return normal


def clean_pasted(value: str) -> str:
    """Return `value` without invisible characters from pasting; raise ValueError as clean_text does."""
    check_length(value, LONGEST_PASTED)
    return clean_text(INVISIBLE.sub("", value), LONGEST_PASTED)


def unwrapped(value: str) -> str:
    """Return the address in `value` without the text that address books and chats put around it."""
    for _ in range(10):  # bounds the work; no real source nests deeper
        value = value.strip(TRIMMED).rstrip(ENDS)
        if found := NAMED.fullmatch(value) or MARKDOWN.fullmatch(value):
            value = found[1]
        elif len(value) > 1 and value[0] + value[-1] in PAIRS:
            value = value[1:-1]
        elif found := LABEL.match(value):
            value = value[found.end() :]
            if found[0].isascii() and "%" in value:
                value = unquote(value)
        else:
            value = REMARK.sub("", value)
    return value


def clean_email(value: str, is_new: bool = True) -> str:
    """Return the normal form of an e-mail address; raise ValueError saying what is wrong with it.

    An existing address may be longer before the @ than mail servers accept, because earlier versions allowed that.
    """
    value = unwrapped(clean_pasted(value).translate(FULL_WIDTH))
    if behind_name := re.fullmatch(r"[^()@]*\(([^()]+@[^()]+)\)", value):
        value = behind_name[1]
    value = re.sub(r"(@[^?]*)\?.*", r"\1", value)  # ?subject=…
    if "=?" in value:  # mail programs read it as the beginning of an encoded word (RFC 2047)
        raise ValueError("No mail can be sent to this address, because it contains =?.")
    local, _, domain = value.rpartition("@")
    for (where, most), part in zip(MAIL_LIMITS.items(), (local, domain, value), strict=True):
        size = len(part.encode(errors="replace"))
        if size > most and (is_new or part is not local):
            unit = "characters" if part.isascii() else "bytes"
            raise ValueError(f"Mail servers take at most {most} {unit} {where}; this mailbox has {size}.")
    try:
        found = email_validator.validate_email(value, check_deliverability=False, globally_deliverable=False)
    except email_validator.EmailNotValidError as error:
        raise ValueError(f"This is not a complete e-mail address. {error}") from None
    if re.search(r"(^|\.)\d+$", found.ascii_domain):
        raise ValueError("This is not a complete e-mail address. It ends in a number, but no host name does.")
    return str(found.normalized)


class NormalField(StringField):
    """A text field: `data` is what was typed, `normal` its normal form, None if empty or invalid.

    `normalise` must check the length first. A value for which it raises Doubtful is `doubted`, and accepted if the
    person has `confirmed` exactly this value with a check box. `is_doubtful` returns whether a saved value had to be
    confirmed, and `shown` formats one for people. Fields of one `unit` make sense only together.
    """

    def __init__(
        self,
        label: str,
        normalise: Callable[[str], str],
        shown: Callable[[str], str] = str,
        is_doubtful: Callable[[str], bool] | None = None,
        unit: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(label, **kwargs)
        self.normalise, self.shown, self.is_doubtful, self.unit = normalise, shown, is_doubtful, unit
        self.normal: str | None = None
        self.doubted: str | None = None
        self.confirmed: str | None = None

    def fill(self, value: str | None) -> None:
        """Fill the field with a saved value; a doubtful one counts as confirmed."""
        self.data, self.normal = self.as_shown(value), value
        is_doubtful = value is not None and self.is_doubtful is not None and self.is_doubtful(value)
        self.doubted = self.confirmed = value if is_doubtful else None

    def as_shown(self, value: str | None) -> str:
        """Return what the field shows of a saved value."""
        return self.shown(value) if value else ""

    def process(self, formdata: Any, *args: Any, **kwargs: Any) -> None:
        """Read what was typed and, from its check box, what was confirmed."""
        super().process(formdata, *args, **kwargs)
        self.confirmed = formdata.get(f"{self.name}_anyway") if formdata else None

    def pre_validate(self, form: object) -> None:
        """Compute the normal form before the other validators run."""
        typed = self.data or ""
        try:
            self.normal = self.normalise(typed) if len(typed) > MAX_SHOWN or typed.strip(TRIMMED) else None
        except Doubtful as doubt:
            self.doubted = doubt.normal
            if self.confirmed != doubt.normal:
                raise StopValidation(str(doubt)) from None
            self.normal = doubt.normal
        except ValueError as error:
            if len(typed) <= MAX_SHOWN:
                raise StopValidation(str(error)) from None
            self.data = typed[:MAX_SHOWN]
            raise StopValidation(f"{error} Only the first {MAX_SHOWN:,} are kept here.") from None
        self.normal = self.normal or None


class NameField(NormalField):
    """A NormalField for a name: 1 to 64 characters, at least one of them visible."""

    def __init__(self, label: str, **kwargs: Any) -> None:
        super().__init__(label, partial(clean_text, most=LONGEST_NAME), **kwargs)

    def post_validate(self, form: object, validation_stopped: bool) -> None:
        """Require a visible character."""
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

    def __init__(self, label: str, normalise: Callable[[str], str] = clean_email, **kwargs: Any) -> None:
        super().__init__(label, normalise, **kwargs)


class SwitchField(BooleanField):
    """A check box with the interface of a NormalField."""

    unit = ""

    @property
    def normal(self) -> bool:
        """Return whether it is on."""
        return bool(self.data)

    def fill(self, value: bool) -> None:
        """Show a saved value."""
        self.data = value

    def as_shown(self, value: bool) -> bool:
        """Return what the field shows of a saved value."""
        return value
