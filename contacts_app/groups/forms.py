"""Say what a group may be, and which contacts were picked."""

import re
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from flask_wtf import FlaskForm
from werkzeug.exceptions import BadRequest
from wtforms import IntegerField
from wtforms.validators import Optional
from wtforms.widgets import HiddenInput

from ..db import violated_constraint
from ..fields import NameField
from .models import Group


class GroupForm(FlaskForm):
    """The dialogs Create contact group and Edit contact group."""

    name = NameField("Group name")
    form_errors: Sequence[str] = ()
    version = IntegerField(widget=HiddenInput(), validators=[Optional()])

    def show(self, group: Group) -> None:
        """Fill in what is saved of `group`."""
        self.name.data = group.name
        self.version.data = group.version

    def explain(self, error: sa.exc.IntegrityError) -> None:
        """Put what the database refused beside its field; raise `error` again if it is not known."""
        message = REFUSALS.get(violated_constraint(error))
        if not message:
            raise error
        self.name.errors = [message]


REFUSALS: dict[str | None, str] = {
    "group_name_is_unique": "There is a group of this name already. Choose another name.",
    # Letters that are newer than Python's tables or the database's may have another normal form there.
    "group_name_is_clean": "This name has characters that cannot be kept. Write it in another way.",
}


def read_members(values: Iterable[str]) -> list[int]:
    """Return the ids of the picked contacts; one that is no number is a 400."""
    ids = list(dict.fromkeys(values))
    if not all(re.fullmatch("[1-9][0-9]{0,17}", value) for value in ids):
        raise BadRequest("A picked contact cannot be recognised. Reload the page and pick again.")
    return [int(value) for value in ids]
