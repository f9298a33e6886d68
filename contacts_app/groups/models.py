"""Store contact groups and their members: the contacts that an alert notifies together."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from ..accounts.models import Account
from ..contacts.models import CLEAN_NAME, Contact
from ..contacts.models import by_name as by_contact_name
from ..core.db import Base, db, read_rows


class Membership(Base):
    """A contact is a member of a group of the same account."""

    __tablename__ = "memberships"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    group_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)

    __table_args__ = (
        sa.ForeignKeyConstraint(["account_id", "group_id"], ["groups.account_id", "groups.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["account_id", "contact_id"], ["contacts.account_id", "contacts.id"], ondelete="CASCADE"
        ),
        sa.Index("memberships_account_id_contact_id", "account_id", "contact_id"),
    )


class Group(Base):
    """A contact group: its members are notified together."""

    __tablename__ = "groups"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str]
    # Names that differ only in case or in full and half width are equal.
    name_key: Mapped[str] = mapped_column(sa.Computed("lower(normalize(name, NFKC))", persisted=True))
    version: Mapped[int] = mapped_column(server_default=sa.text("1"))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), onupdate=sa.func.now()
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012
    __table_args__ = (
        sa.UniqueConstraint("account_id", "name_key", name="group_name_is_unique"),
        sa.CheckConstraint(CLEAN_NAME, name="group_name_is_clean"),
    )

    @classmethod
    def of(cls, account_id: int, identity: int) -> "Group | None":
        """Return this account's group with the id."""
        return db.session.get(cls, (account_id, identity))

    @classmethod
    def locked(cls, account_id: int, identity: int) -> "Group | None":
        """Return this account's group with the id, and lock its row (FOR NO KEY UPDATE) until the transaction ends."""
        return db.session.get(cls, (account_id, identity), with_for_update={"key_share": True})

    @classmethod
    def names(cls, account_id: int, ids: Iterable[int] | None = None) -> Sequence[tuple[int, str]]:
        """Return id and name of all groups, or of those of `ids` that exist, in the order of the list."""
        found = sa.select(cls.id, cls.name).where(cls.account_id == account_id).order_by(by_name)
        if ids is not None:
            found = found.where(cls.id.in_(ids))
        return [(row.id, row.name) for row in db.session.execute(found)]

    @classmethod
    def delete(cls, account_id: int, ids: Iterable[int]) -> Sequence[str]:
        """Delete the groups that exist in one statement, and return their names."""
        # Locked in a fixed order, so that two overlapping deletions cannot deadlock.
        chosen = sa.select(cls.id).where(cls.account_id == account_id, cls.id.in_(ids)).order_by(cls.id)
        locked = db.session.scalars(chosen.with_for_update()).all()
        deletion = sa.delete(cls).where(cls.account_id == account_id, cls.id.in_(locked)).returning(cls.name)
        return db.session.scalars(deletion).all()

    def members(self) -> Sequence[tuple[int, str]]:
        """Return id and name of each member, in the order of the list of contacts."""
        found = (
            sa.select(Contact.id, Contact.name)
            .join(Membership, is_member(Contact))
            .where(Membership.account_id == self.account_id, Membership.group_id == self.id)
            .order_by(by_contact_name, Contact.id)
        )
        return [(row.id, row.name) for row in db.session.execute(found)]

    @classmethod
    def member_ids(cls, account_id: int, identity: int) -> Sequence[int]:
        """Return the ids of the members of this account's group with the id."""
        of_group = (Membership.account_id == account_id, Membership.group_id == identity)
        return db.session.scalars(sa.select(Membership.contact_id).where(*of_group)).all()

    def set_members(self, ids: Iterable[int]) -> None:
        """Replace the members by these contacts; skip any that was deleted in the meantime."""
        self._mark_changed()
        wanted = set(ids)
        of_group = (Membership.account_id == self.account_id, Membership.group_id == self.id)
        # Contacts are locked before memberships, as in a deletion of contacts, so that the two cannot deadlock.
        db.session.execute(self._addition(wanted))
        db.session.execute(sa.delete(Membership).where(*of_group, Membership.contact_id != sa.all_(_array(wanted))))

    def add_members(self, ids: Iterable[int]) -> int:
        """Add the contacts that exist; return how many were not members. The caller has locked the group."""
        return self._count_changed(self._addition(ids))

    def remove_members(self, ids: Iterable[int]) -> int:
        """Remove the contacts; return how many were members. The caller has locked the group."""
        of_group = (Membership.account_id == self.account_id, Membership.group_id == self.id)
        removal = (
            sa.delete(Membership).where(*of_group, Membership.contact_id.in_(ids)).returning(Membership.contact_id)
        )
        return self._count_changed(removal)

    def _addition(self, ids: Iterable[int]) -> sa.UpdateBase:
        """Return the statement that inserts the contacts that exist as members."""
        # A contact that is being deleted is locked by that transaction, and no longer exists when the lock is released.
        existing = (
            sa.select(Contact.account_id, sa.literal(self.id), Contact.id)
            .where(Contact.account_id == self.account_id, Contact.id == sa.any_(_array(ids)))
            .order_by(Contact.id)
            .with_for_update(read=True, key_share=True)
        )
        columns = [Membership.account_id, Membership.group_id, Membership.contact_id]
        added = postgresql.insert(Membership).from_select(columns, existing).on_conflict_do_nothing()
        return added.returning(Membership.contact_id)

    def _count_changed(self, statement: sa.UpdateBase) -> int:
        """Run a statement that changes members, and return how many it changed."""
        count = len(db.session.execute(statement).all())
        if count:
            self._mark_changed()
        return count

    def _mark_changed(self) -> None:
        """Increment the version of the group when its members change, so that concurrent edits are detected."""
        self.updated_at = sa.func.now()
        db.session.flush()


def _array(ids: Iterable[int]) -> sa.Cast[Any]:
    """Return the ids as a single array parameter: a statement takes at most 65,535 parameters."""
    return sa.cast(sorted(ids), postgresql.ARRAY(sa.BigInteger))


def is_member(contact: type[Contact]) -> sa.ColumnElement[bool]:
    """Return the join condition of a membership and its contact."""
    return sa.and_(Membership.account_id == contact.account_id, Membership.contact_id == contact.id)


def is_of_group() -> sa.ColumnElement[bool]:
    """Return the join condition of a membership and its group."""
    return sa.and_(Membership.account_id == Group.account_id, Membership.group_id == Group.id)


by_name = sa.collate(Group.name_key, "C")
groups_of_contact = (
    sa.select(Group.id, Group.name)
    .join(Membership, is_of_group())
    .where(Membership.account_id == sa.bindparam("account_id"), Membership.contact_id == sa.bindparam("contact_id"))
    .order_by(by_name)
)


def groups_of(account_id: int, contact_id: int) -> Sequence[Any]:
    """Return id and name of the groups that the contact is a member of."""
    return read_rows(groups_of_contact, {"account_id": account_id, "contact_id": contact_id})


def left_by(account_id: int, ids: Iterable[int]) -> Sequence[tuple[str, bool]]:
    """Return the groups that lose members if the contacts are deleted: name, and whether the group becomes empty."""
    ids = list(ids)
    is_leaving = Membership.contact_id.in_(ids)
    found = (
        sa.select(Group.name, sa.func.bool_and(is_leaving))
        .join(Membership, is_of_group())
        .where(Group.account_id == account_id)
        .group_by(Group.name, Group.name_key)
        .having(sa.func.bool_or(is_leaving))
        .order_by(by_name)
    )
    return [(name, is_empty) for name, is_empty in db.session.execute(found)]


def is_in_no_group() -> sa.ColumnElement[bool]:
    """Return the condition that a contact is a member of no group."""
    return ~sa.exists(sa.select(1).select_from(Membership).where(is_member(Contact)).correlate(Contact))


def groups_of_contacts(ids: sa.ColumnElement[Any]) -> sa.Select[int, str]:
    """Select contact_id and the groups of each contact as JSON; bind the parameter account_id.

    The JSON is a list of [id, name] for each group, in the order of the list of groups.
    """
    named = postgresql.aggregate_order_by(sa.func.json_build_array(Group.id, Group.name), by_name)
    return (
        sa.select(Membership.contact_id, sa.cast(sa.func.json_agg(named), sa.Text).label("groups"))
        .join(Group, is_of_group())
        .where(Membership.account_id == sa.bindparam("account_id"), Membership.contact_id == sa.any_(ids))
        .group_by(Membership.contact_id)
    )
