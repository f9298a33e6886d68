"""Say why a change was not written: somebody else was first, or a constraint refuses the row.

The rooms raise these and know no request. Who calls them rolls back, and answers in the form that was asked for.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm.exc import StaleDataError

from .db import violated_constraint


class Refusal(NamedTuple):
    """What to say where a constraint refuses a row, and beside which field; None where no field is to blame."""

    field: str | None
    message: str


class Conflict(Exception):
    """Somebody else has changed or deleted the row since it was read."""


class Refused(Exception):
    """A constraint refuses the row: its name is `code`."""

    def __init__(self, field: str | None, code: str, message: str) -> None:
        super().__init__(code)
        self.field, self.code, self.message = field, code, message


@contextmanager
def translate(refusals: Mapping[str, Refusal]) -> Iterator[None]:
    """Raise Conflict and Refused for what the database refuses; a constraint that is not in `refusals` stays as it is.

    `refusals` are by the name of the constraint.
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
