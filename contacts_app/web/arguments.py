"""Read what an address or a form names: a search, a page of a list, selected rows. What no link has is a 400."""

import re
from collections.abc import Iterable

from werkzeug.exceptions import BadRequest

from .fields import clean_text

PAGE_SIZE = 100  # rows of a list

LONGEST_SEARCH = 254  # as an address may be


def read_text(value: str) -> str:
    """Return what to search for; what cannot stand in a name is a 400."""
    try:
        return clean_text(value, LONGEST_SEARCH, "A search")
    except ValueError as error:
        raise BadRequest(f"This cannot be searched for. {error}") from None


def read_page(value: str) -> int:
    """Return the number of a page; what is none is a 400."""
    if not re.fullmatch("[1-9][0-9]{0,5}", value):
        raise BadRequest("The number of a page is 1 or more.")
    return int(value)


def read_ids(values: Iterable[str]) -> list[int]:
    """Return the ids of the selected rows; too many, none or one that is no number is a 400."""
    ids = list(dict.fromkeys(values))
    if not ids:
        raise BadRequest("Nothing is selected. Select rows of the list first.")
    if len(ids) > PAGE_SIZE:
        raise BadRequest(f"At most {PAGE_SIZE} rows can be selected at a time.")
    if not all(re.fullmatch("[1-9][0-9]{0,17}", value) for value in ids):
        raise BadRequest("A selected row cannot be recognised. Reload the page and select again.")
    return [int(value) for value in ids]
