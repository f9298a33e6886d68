"""Parse the arguments of pages: search text, page number, selected rows; abort with 400 for anything else."""

import re
from collections.abc import Iterable

from werkzeug.exceptions import BadRequest

from .fields import clean_text

PAGE_SIZE = 100  # rows of a list

LONGEST_SEARCH = 254  # the maximum length of an e-mail address


def read_text(value: str) -> str:
    """Return the normal form of a search text; raise BadRequest if it cannot be part of a name."""
    try:
        return clean_text(value, LONGEST_SEARCH)
    except ValueError as error:
        raise BadRequest(f"This cannot be searched for. {error}") from None


def read_page(value: str) -> int:
    """Return a page number, 1 or more; raise BadRequest for anything else."""
    if not re.fullmatch("[1-9][0-9]{0,5}", value):
        raise BadRequest("A page number must be 1 or more.")
    return int(value)


def read_ids(values: Iterable[str]) -> list[int]:
    """Return the distinct ids of the selected rows; raise BadRequest for none, too many, or a value that is no id."""
    ids = list(dict.fromkeys(values))
    if not ids:
        raise BadRequest("Nothing is selected. Select rows of the list first.")
    if len(ids) > PAGE_SIZE:
        raise BadRequest(f"At most {PAGE_SIZE} rows can be selected at a time.")
    if not all(re.fullmatch("[1-9][0-9]{0,17}", value) for value in ids):
        raise BadRequest("A selected row cannot be recognised. Reload the page and select again.")
    return [int(value) for value in ids]
