"""Exceptions for changes that cannot be saved: an edit conflict, or a violated constraint.

The rooms raise them without knowing of requests. The caller rolls back and answers as a page or as JSON.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm.exc import StaleDataError

from .db import violated_constraint


class Refusal(NamedTuple):
    """The message for a violated constraint, and the field to show it at; None if no field is the cause."""

    field: str | None
    message: str


class Conflict(Exception):
    """The row was changed or deleted by somebody else since it was read."""


class Refused(Exception):
    """A row violates the constraint named `code`."""

    def __init__(self, field: str | None, code: str, message: str) -> None:
        super().__init__(code)
        self.field, self.code, self.message = field, code, message


@contextmanager
def translate(refusals: Mapping[str, Refusal]) -> Iterator[None]:
    """Turn errors of the database into Conflict and Refused; a constraint that is not in `refusals` is re-raised.

    The keys of `refusals` are names of constraints.
    """
    try:
        yield
    except StaleDataError as error:
        raise Conflict from error
    except sa.exc.IntegrityError as error:
        code = violated_constraint(error)
        if code is None or code not in refusals:
            raise
        raise Refused(refusals[code].field, code, refusals[code].message) from error
