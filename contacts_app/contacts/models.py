"""Store the contacts of an account: who is notified, and over which channels."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..accounts.models import Account
from ..core import encryption
from ..core.db import Base, db, read_rows

CLEAN_NAME = (
    "char_length(name) BETWEEN 1 AND 64 AND name = btrim(name) AND name IS NFC NORMALIZED"
    r" AND name !~ '[\u0001-\u001F\u007F-\u009F\u2028\u2029]'"
)


class Contact(Base):
    """A person or a robot that is notified of alerts."""

    __tablename__ = "contacts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str]
    # The sort and search key: lower case, with full-width characters as half-width (NFKC).
    name_key: Mapped[str] = mapped_column(sa.Computed("lower(normalize(name, NFKC))", persisted=True))
    mobile: Mapped[str | None]
    email: Mapped[str | None] = mapped_column()
    # With the webhook URL and the signature secret of a robot anybody can post to a group chat. The hash shows which
    # contacts share a robot; the token in the URL is too long to be guessed from it.
    dingtalk_url_encrypted: Mapped[bytes | None] = mapped_column(info=encryption.ENCRYPTED)
    dingtalk_url_hash: Mapped[bytes | None]
    dingtalk_secret_encrypted: Mapped[bytes | None] = mapped_column(info=encryption.ENCRYPTED)
    dingtalk_keyword: Mapped[str | None]
    receives_system_notifications: Mapped[bool] = mapped_column(server_default=sa.false())
    version: Mapped[int] = mapped_column(server_default=sa.text("1"))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), onupdate=sa.func.now()
    )

    # Optimistic locking: updating a row that somebody else has changed in the meantime raises StaleDataError.
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012
    __table_args__ = (
        # These two indexes also serve the list, because every query filters by their first column.
        sa.UniqueConstraint("account_id", "mobile", name="contact_mobile_is_unique"),
        sa.Index("contact_email_is_unique", "account_id", sa.func.lower(email), unique=True),
        sa.Index(
            "contacts_account_id_dingtalk_url_hash",
            *("account_id", "dingtalk_url_hash"),
            postgresql_where=sa.text("dingtalk_url_hash IS NOT NULL"),
        ),
        sa.CheckConstraint("num_nonnulls(mobile, email, dingtalk_url_encrypted) > 0", name="contact_has_a_channel"),
        sa.CheckConstraint(CLEAN_NAME, name="contact_name_is_clean"),
        sa.CheckConstraint(r"mobile ~ '^\+[1-9][0-9]{5,14}$'", name="contact_mobile_is_e164"),
        sa.CheckConstraint(
            # Addresses that smtplib needs not quote, within the limits of RFC 5321.
            r"""email ~ '^[^][<>()\\,;:@"[:space:]]+@[^][<>()\\,;:@"[:space:]]+$' AND strpos(email, '=?') = 0"""
            " AND octet_length(email) <= 254 AND octet_length(split_part(email, '@', 1)) <= 64",
            name="contact_email_is_an_address",
        ),
        sa.CheckConstraint(
            "num_nulls(dingtalk_url_encrypted, dingtalk_url_hash) <> 1 AND (dingtalk_url_encrypted IS NOT NULL"
            " OR num_nonnulls(dingtalk_secret_encrypted, dingtalk_keyword) = 0)",
            name="contact_robot_is_whole",
        ),
        sa.CheckConstraint(
            "octet_length(dingtalk_url_encrypted) > 32 AND octet_length(dingtalk_url_hash) = 32"
            " AND (dingtalk_secret_encrypted IS NULL OR octet_length(dingtalk_secret_encrypted) > 32)",
            name="contact_robot_is_encrypted",
        ),
        sa.CheckConstraint("char_length(dingtalk_keyword) BETWEEN 1 AND 64", name="contact_keyword_is_short"),
    )

    @property
    def dingtalk_url(self) -> str | None:
        """Return the webhook URL of the robot; None without one, or if it cannot be decrypted."""
        return self._decrypted("dingtalk_url")

    @dingtalk_url.setter
    def dingtalk_url(self, value: str | None) -> None:
        self._encrypt("dingtalk_url", value)
        if value:
            self.dingtalk_url_hash = sha256(value.encode()).digest()
        elif self.dingtalk_url_encrypted is None:
            self.dingtalk_url_hash = None

    @property
    def dingtalk_secret(self) -> str | None:
        """Return the signature secret of the robot; None without one, or if it cannot be decrypted."""
        return self._decrypted("dingtalk_secret")

    @dingtalk_secret.setter
    def dingtalk_secret(self, value: str | None) -> None:
        self._encrypt("dingtalk_secret", value)

    def _decrypted(self, name: str) -> str | None:
        return decrypted(getattr(self, f"{name}_encrypted"), self.account_id, self.id, name)

    def _encrypt(self, name: str, value: str | None) -> None:
        """Store `value` encrypted for this row, whose primary key must be known; leave an equal value unchanged."""
        if value != self._decrypted(name):
            encrypted = encryption.encrypt(value, self.__tablename__, self.account_id, self.id, name) if value else None
            setattr(self, f"{name}_encrypted", encrypted)

    @classmethod
    def next_id(cls) -> int:
        """Return the id for a new contact, which must be known before its secrets are encrypted."""
        return int(db.session.execute(_next_id).scalar_one())

    @classmethod
    def of(cls, account_id: int, identity: int) -> "Contact | None":
        """Return this account's contact with the id."""
        return db.session.get(cls, (account_id, identity))

    @classmethod
    def shown(cls, account_id: int, identity: int) -> "Contact | None":
        """Return this account's contact for display only, outside the session: tracking changes would cost more."""
        rows = read_rows(contact_to_show, {"account_id": account_id, "contact_id": identity})
        return cls(**rows[0]._asdict()) if rows else None

    @classmethod
    def system_receivers(cls, account_id: int) -> Sequence[int]:
        """Return the ids of the account's contacts that receive system notifications."""
        found = sa.select(cls.id).where(cls.account_id == account_id, cls.receives_system_notifications)
        return db.session.scalars(found).all()

    @classmethod
    def names(cls, account_id: int, ids: Iterable[int]) -> Sequence[tuple[int, str]]:
        """Return id and name of those of the contacts that exist, in the order of the list."""
        found = sa.select(cls.id, cls.name).where(cls.account_id == account_id, cls.id.in_(ids))
        return [(row.id, row.name) for row in db.session.execute(found.order_by(by_name, cls.id))]

    @classmethod
    def holders(cls, account_id: int, mobile: str | None, email: str | None) -> Sequence["Contact"]:
        """Return the contacts that already have this mobile number or this e-mail address."""
        # A literal, because "== None" would become IS NULL and match every contact without a number.
        same_mobile = cls.mobile == sa.literal(mobile, sa.Text())
        same = sa.or_(same_mobile, sa.func.lower(cls.email) == sa.func.lower(email))
        return db.session.scalars(sa.select(cls).where(cls.account_id == account_id, same)).all()

    @classmethod
    def delete(cls, account_id: int, ids: Iterable[int]) -> Sequence[str]:
        """Delete the contacts that exist in one statement, and return their names."""
        # The trigger locks the account at the end of the statement; locked first, two deletions cannot deadlock.
        db.session.execute(sa.select(Account.id).where(Account.id == account_id).with_for_update(key_share=True))
        gone = sa.delete(cls).where(cls.account_id == account_id, cls.id.in_(ids)).returning(cls.name)
        return db.session.scalars(gone).all()


_next_id = sa.text("SELECT nextval(pg_get_serial_sequence('contacts', 'id'))")


def decrypted(encrypted: bytes | None, account_id: int, identity: int, name: str) -> str | None:
    """Return the decrypted text of a contact's column; None if it is empty or cannot be decrypted."""
    if encrypted is None:
        return None
    try:
        return encryption.decrypt(encrypted, Contact.__tablename__, account_id, identity, name)
    except encryption.Unreadable:
        return None


contact_to_show: sa.Select[*tuple[Any, ...]] = sa.select(
    *(column for column in Contact.__table__.c if column.key not in ("name_key", "created_at", "updated_at"))
).where(Contact.account_id == sa.bindparam("account_id"), Contact.id == sa.bindparam("contact_id"))
# The collation C compares bytes: the same order on every server, and an upgrade of the C library breaks no index.
by_name = sa.collate(Contact.name_key, "C")
