"""Know what a form was opened with, so that two people who edit the same thing each keep what only they changed.

A form carries a mark of each value hidden in it. To merge, all that has to be known is whether a value is still the
one that the form was opened with, so a mark tells nothing of the value, and has the same length however long that is.
Who sends other marks than they were given only changes how their own edit is merged.
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
    """Return the marks of what a form shows of `place`, the table and the row's key."""
    return ".".join(_mark(name, value, place) for name, value in values.items())


def unchanged(opened: str | None, values: Mapping[str, Any], *place: str | int) -> set[str]:
    """Return the names of the values that have the marks of `opened`; none where those are damaged or missing."""
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
    """Return ids as the steps from one to the next: a form of tens of thousands has room for that."""
    last, found = 0, []
    for identity in sorted(ids):
        found.append(str(identity - last))
        last = identity
    return " ".join(found)


def read_steps(text: str | None) -> set[int] | None:
    """Return the ids that `steps` wrote; None where that is damaged or missing."""
    if text is None or not re.fullmatch("(?:[1-9][0-9]{0,17}(?: [1-9][0-9]{0,17})*)?", text):
        return None
    return set(accumulate(int(step) for step in text.split()))
