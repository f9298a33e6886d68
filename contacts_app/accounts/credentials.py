"""Validate account names, the e-mail addresses of users, and new passwords."""

from functools import partial

from ..web.fields import UNREADABLE, check_length, clean_email, clean_text
from .models import LONGEST_PASSWORD

SHORTEST_PASSWORD = 12
known_email = partial(clean_email, is_new=False)
clean_account = partial(clean_text, most=64, what="The name of an account")


def check_password(value: str) -> None:
    """Raise ValueError with a sentence for people if `value` is not acceptable as a new password."""
    check_length(value, LONGEST_PASSWORD, "A password")
    if UNREADABLE.search(value):
        raise ValueError("A password cannot contain control characters.")
    if len(value) < SHORTEST_PASSWORD:
        raise ValueError(f"A password must have at least {SHORTEST_PASSWORD} characters; a few words make a good one.")
