"""Record the values a form was opened with, so that concurrent edits of different fields can be merged.

A hidden field of the form holds a mark of each value: a keyed digest (HMAC). A merge only has to know whether a value
is still the one that the form was opened with. A mark reveals nothing about its value and has a fixed length. Forged
marks only change how the edit of the person who sends them is merged.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from ..config import current_settings

MARK_BYTES = 9


def marks(values: Mapping[str, Any], *place: str | int) -> str:
    """Return the marks of the values that a form shows; `place` is the table and the key of the row."""
    return ".".join(_mark(name, value, place) for name, value in values.items())


def unchanged(opened: str | None, values: Mapping[str, Any], *place: str | int) -> set[str]:
    """Return the names of the values that still match the marks in `opened`; none if it is damaged or missing."""
    current = marks(values, *place)
    if opened is None or len(opened) != len(current):
        return set()
    pairs = zip(values, opened.split("."), current.split("."), strict=False)
    return {name for name, then, now in pairs if then == now}


def _mark(name: str, value: Any, place: tuple[str | int, ...]) -> str:
    key = current_settings().secret_key.encode()
    digest = hmac.digest(key, repr((*place, name, value)).encode(), "sha256")
    return urlsafe_b64encode(digest[:MARK_BYTES]).decode()


def steps(ids: Iterable[int]) -> str:
    """Encode ids as differences (delta encoding), short enough for a form with tens of thousands of them."""
    last, found = 0, []
    for identity in sorted(ids):
        found.append(str(identity - last))
        last = identity
    return " ".join(found)


def read_steps(text: str | None) -> set[int] | None:
    """Decode the ids that `steps` has encoded; return None if the text is damaged or missing."""
    if text is None or not re.fullmatch("(?:[1-9][0-9]{0,17}(?: [1-9][0-9]{0,17})*)?", text):
        return None
    return set(accumulate(int(step) for step in text.split()))
