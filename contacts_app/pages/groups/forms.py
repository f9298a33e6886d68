"""Parse the group form and the contacts picked in it."""

import re
from collections.abc import Iterable
from typing import Any

from flask import abort
from werkzeug.exceptions import BadRequest
from wtforms import Field, HiddenField

from ...groups.editing import create, update
from ...groups.models import Group
from ...web.fields import NameField
from ...web.opened import read_steps, steps
from ..forms import EditForm
from ..wording import GROUP_GONE


class MembersField(Field):
    """The ids of the picked contacts, one value each."""

    def process_formdata(self, valuelist: list[Any]) -> None:
        """Parse the ids; raise BadRequest if one is not a number."""
        self.data = read_members(valuelist)


class GroupForm(EditForm[Group]):
    """The dialogs Create contact group and Edit contact group."""

    name = NameField("Group name")
    member = MembersField(default=())
    opened_members = HiddenField()

    def find(self, account_id: int, identity: int) -> Group:
        """Return the account's group with the id; respond with 404 if it was deleted."""
        return Group.of(account_id, identity) or abort(404, GROUP_GONE)

    def write(self, account_id: int, row: Group | None) -> Group:
        """Create the group, or update it if its version is that of the form; raise Conflict or Refused."""
        name, members = str(self.name.normal), self.member.data
        return update(row, self.version.data, name, members) if row else create(account_id, name, members)

    def open(self, row: Group) -> None:
        """Fill the form from the group and its members."""
        super().open(row)
        self.member.data = [id for id, _ in row.members()]
        self.opened_members.data = steps(self.member.data)

    def merge(self, row: Group) -> None:
        """Merge the members as well as the name.

        Added and removed members never conflict, unless the members when the form was opened are unknown.
        """
        super().merge(row)
        names = dict(row.members())
        picked, saved, opened = set(self.member.data), set(names), read_steps(self.opened_members.data)
        if opened is not None:
            self.member.data = sorted((saved | (picked - opened)) - (opened - picked))
        elif saved != picked:
            self.theirs = {**self.theirs, "members": ", ".join(names.values()) or "nobody"}
        self.opened_members.data = steps(saved)


def read_members(values: Iterable[str]) -> list[int]:
    """Return the ids of the picked contacts; raise BadRequest if one is not a number."""
    ids = list(dict.fromkeys(values))
    if not all(re.fullmatch("[1-9][0-9]{0,17}", value) for value in ids):
        raise BadRequest("A picked contact cannot be recognised. Reload the page and pick again.")
    return [int(value) for value in ids]
