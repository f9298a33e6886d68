"""Create and change groups."""

from collections.abc import Iterable, Mapping

from ..contacts.editing import NAME_IS_NOT_CLEAN
from ..core.changes import Conflict, Refusal, translate
from ..core.db import db
from .models import Group

REFUSALS: Mapping[str, Refusal] = {  # by the name of the constraint
    "group_name_is_unique": Refusal("name", "There is a group of this name already. Choose another name."),
    "group_name_is_clean": NAME_IS_NOT_CLEAN,
}


def create(account_id: int, name: str, members: Iterable[int]) -> Group:
    """Add a group with the contacts that exist as members. Raise Refused if a constraint is violated."""
    group = Group(account_id=account_id)
    _write(group, name, members)
    return group


def update(group: Group, version: int | None, name: str, members: Iterable[int]) -> Group:
    """Change name and members of a group that is still at `version`. Raise Conflict if it is not, or Refused."""
    if group.version != version:
        raise Conflict
    _write(group, name, members)
    return group


def _write(group: Group, name: str, members: Iterable[int]) -> None:
    group.name = name
    with translate(REFUSALS):
        db.session.add(group)
        db.session.flush()
        group.set_members(members)
