"""Validate account names, the e-mail addresses of users, and new passwords."""

from functools import partial

from ..web.fields import UNREADABLE, check_length, clean_email, clean_text
from .models import LONGEST_PASSWORD

SHORTEST_PASSWORD = 12
NO_ACCOUNT_NAME = "The name of an account has 1 to 64 characters."
known_email = partial(clean_email, is_new=False)


def clean_account(value: str) -> str:
    """Return the normal form of the name of an account; raise ValueError with the reason if it is none."""
    name = clean_text(value, most=64)
    if not name:
        raise ValueError(NO_ACCOUNT_NAME)
    return name


def check_password(value: str) -> None:
    """Raise ValueError with a sentence for people if `value` is not acceptable as a new password."""
    check_length(value, LONGEST_PASSWORD)
    if UNREADABLE.search(value):
        raise ValueError("A password cannot contain control characters.")
    if len(value) < SHORTEST_PASSWORD:
        raise ValueError(f"A password must have at least {SHORTEST_PASSWORD} characters; a few words make a good one.")
