"""Say what a group may be, and which contacts were picked."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from flask_wtf import FlaskForm
from werkzeug.exceptions import BadRequest
from wtforms import HiddenField, IntegerField
from wtforms.validators import Optional
from wtforms.widgets import HiddenInput

from ...core.db import violated_constraint
from ...groups.models import Group
from ...web.fields import NameField
from ...web.opened import marks, read_steps, steps, unchanged


class GroupForm(FlaskForm):
    """The dialogs Create contact group and Edit contact group."""

    name = NameField("Group name")
    form_errors: Sequence[str] = ()
    version = IntegerField(widget=HiddenInput(), validators=[Optional()])
    opened = HiddenField()
    opened_members = HiddenField()

    def show(self, group: Group, members: Iterable[int]) -> None:
        """Fill in what is saved of `group`, and note that the form is opened with it."""
        self.name.data = group.name
        self._open(group, members)

    def _open(self, group: Group, members: Iterable[int]) -> None:
        self.version.data, self.version.raw_data = group.version, None
        self.opened.data = marks({"name": group.name}, *_place(group))
        self.opened_members.data = steps(members)

    def merge(self, group: Group, picked: Sequence[int]) -> tuple[Sequence[int], dict[str, Any]]:
        """Take over what somebody else has saved and the person has not touched.

        Return the members that both want, and what both have changed, as they saved it. A member that one has added or
        taken out is no matter of dispute, unless it is not known whom the form was opened with.
        """
        conflicts: dict[str, Any] = {}
        opened, place = self.opened.data, _place(group)
        if self.name.normal != group.name and not unchanged(opened, {"name": group.name}, *place):
            if unchanged(opened, {"name": self.name.normal}, *place):
                self.name.data = self.name.normal = group.name
            else:
                conflicts["name"] = group.name
        names = dict(group.members())
        saved, known = set(names), read_steps(self.opened_members.data)
        if known is not None:
            picked = sorted((saved | (set(picked) - known)) - (known - set(picked)))
        elif saved != set(picked):
            conflicts["members"] = ", ".join(names.values()) or "nobody"
        self._open(group, saved)
        return picked, conflicts

    def explain(self, error: sa.exc.IntegrityError) -> None:
        """Put what the database refused beside its field; raise `error` again if it is not known."""
        message = REFUSALS.get(violated_constraint(error))
        if not message:
            raise error
        self.name.errors = [message]


def _place(group: Group) -> tuple[str, int, int]:
    return (Group.__tablename__, group.account_id, group.id)


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
