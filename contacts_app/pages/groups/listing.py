"""List the contact groups of an account by page, with their number of members."""

from typing import NamedTuple

import sqlalchemy as sa

from ...contacts.models import Contact
from ...core.db import read_rows
from ...groups.models import Group, Membership, by_name, is_member, is_of_group
from ...web.arguments import PAGE_SIZE


class ListedGroup(NamedTuple):
    """One row of the list of groups."""

    id: int
    name: str
    members: int


class Page(NamedTuple):
    """A page of the list, and the number of groups on all pages."""

    rows: list[ListedGroup]
    total: int


_page_statement = (
    sa.select(
        Group.id,
        Group.name,
        sa.select(sa.func.count()).where(is_of_group()).correlate(Group).scalar_subquery().label("members"),
        sa.func.count().over().label("total"),
    )
    .where(Group.account_id == sa.bindparam("account_id"))
    .order_by(by_name)
    .limit(PAGE_SIZE)
    .offset(sa.bindparam("offset"))
)
_needle = sa.func.lower(sa.func.normalize(sa.bindparam("text"), sa.text("NFKC")))
_found_statement = _page_statement.where(
    sa.or_(
        sa.func.strpos(Group.name_key, _needle) > 0,
        sa.exists(
            sa.select(1)
            .select_from(Membership)
            .join(Contact, is_member(Contact))
            .where(is_of_group(), sa.func.strpos(Contact.name_key, _needle) > 0)
            .correlate(Group)
        ),
    )
)


def search(account_id: int, text: str, page: int) -> Page:
    """Return one page of the account's groups: those whose name, or a member's, contains `text`."""
    parameters = {"account_id": account_id, "text": text, "offset": (page - 1) * PAGE_SIZE}
    found = read_rows(_found_statement if text else _page_statement, parameters)
    rows = [ListedGroup(id=row.id, name=row.name, members=row.members) for row in found]
    return Page(rows=rows, total=found[0].total if found else 0)
