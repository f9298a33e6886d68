"""Keep the contacts of an account: who can be told, and over which channels."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..accounts.models import Account
from ..config import StartError, current_settings
from ..core import encryption
from ..core.db import Base, db, run

PAGE_SIZE = 100
CLEAN_NAME = (
    "char_length(name) BETWEEN 1 AND 64 AND name = btrim(name) AND name IS NFC NORMALIZED"
    r" AND name !~ '[\u0001-\u001F\u007F-\u009F\u2028\u2029]'"
)


class Contact(Base):
    """A person or a robot that is told when something breaks."""

    __tablename__ = "contacts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str]
    # Names are found and sorted by this form: full-width as half-width, capital as small.
    name_key: Mapped[str] = mapped_column(sa.Computed("lower(normalize(name, NFKC))", persisted=True))
    mobile: Mapped[str | None]
    email: Mapped[str | None] = mapped_column()
    # The address of a robot and its signature secret open a group chat to whoever reads them. The hash tells which
    # contacts share a robot; a token is long enough for it to tell nothing else.
    dingtalk_url_encrypted: Mapped[bytes | None]
    dingtalk_url_hash: Mapped[bytes | None]
    dingtalk_secret_encrypted: Mapped[bytes | None]
    dingtalk_keyword: Mapped[str | None]
    receives_system_notifications: Mapped[bool] = mapped_column(server_default=sa.false())
    version: Mapped[int] = mapped_column(server_default=sa.text("1"))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), onupdate=sa.func.now()
    )

    # An update of a row that somebody else has changed meanwhile touches nothing and raises StaleDataError.
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012
    __table_args__ = (
        # These two also serve the list: their first column is where every query starts.
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
            # What smtplib writes as it stands, within the limits of RFC 5321.
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
        """Return the address of the robot; None without one, or where its key is not there."""
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
        """Return the secret that signs what is sent to the robot; None without one, or where its key is not there."""
        return self._decrypted("dingtalk_secret")

    @dingtalk_secret.setter
    def dingtalk_secret(self, value: str | None) -> None:
        self._encrypt("dingtalk_secret", value)

    def _decrypted(self, name: str) -> str | None:
        return decrypted(getattr(self, f"{name}_encrypted"), self.account_id, self.id, name)

    def _encrypt(self, name: str, value: str | None) -> None:
        """Keep `value` encrypted for this row, whose key must be known; what is the same stays as it is."""
        if value != self._decrypted(name):
            encrypted = encryption.encrypt(value, self.__tablename__, self.account_id, self.id, name) if value else None
            setattr(self, f"{name}_encrypted", encrypted)

    @classmethod
    def next_id(cls) -> int:
        """Return the id for a new contact, which its secrets are encrypted for."""
        return int(db.session.execute(_next_id).scalar_one())

    @classmethod
    def encrypt_again(cls) -> int:
        """Encrypt with the first key what another one has encrypted, a part at a time; return how many contacts."""
        first = encryption.key_id(current_settings().encryption_keys[0])
        names = ("dingtalk_url", "dingtalk_secret")
        columns = [cls.__table__.c[f"{name}_encrypted"] for name in names]
        is_old = sa.or_(*(sa.func.substr(column, 1, len(first)) != first for column in columns))
        key = sa.tuple_(cls.account_id, cls.id)
        found = sa.select(cls.account_id, cls.id, *columns).where(is_old).order_by(cls.account_id, cls.id)
        count, last = 0, (0, 0)
        while True:
            # From where the last part ended: else each part would begin with a look at all that is done.
            rows = db.session.execute(found.where(key > last).limit(PAGE_SIZE).with_for_update()).all()
            if not rows and last == (0, 0):
                break
            last = (rows[-1].account_id, rows[-1].id) if rows else (0, 0)  # again: what was written meanwhile
            for account_id, identity, *encrypted in rows:
                texts = [
                    decrypted(value, account_id, identity, name) for name, value in zip(names, encrypted, strict=True)
                ]
                if [text is None for text in texts] != [value is None for value in encrypted]:
                    raise StartError(encryption.MISSING_KEY)
                values = {
                    column: text and encryption.encrypt(text, cls.__tablename__, account_id, identity, name)
                    for column, text, name in zip(columns, texts, names, strict=True)
                }
                # Nobody has changed the contact: it stays where it was in the order of changes.
                again = sa.update(cls).where(cls.account_id == account_id, cls.id == identity)
                db.session.execute(again.values({**values, cls.updated_at: cls.updated_at}))
            db.session.commit()
            count += len(rows)
        return count

    @classmethod
    def of(cls, account_id: int, identity: int) -> "Contact | None":
        """Return this account's contact with the id."""
        return db.session.get(cls, (account_id, identity))

    @classmethod
    def shown(cls, account_id: int, identity: int) -> "Contact | None":
        """Return a copy of this account's contact: what is not changed need not be watched, which costs more."""
        rows = run(_shown, {"account_id": account_id, "contact_id": identity})
        return cls(**dict(zip(_shown.selected_columns.keys(), rows[0], strict=True))) if rows else None

    @classmethod
    def search(cls, account_id: int, query: "Query") -> "Page":
        """Return one page of this account's contacts, as columns: an object for each row costs more than the page."""
        statement = _statement(query.sort, query.show, query.field if query.text else None)
        parameters = {"account_id": account_id, "offset": (query.page - 1) * PAGE_SIZE} | _parameters(query)
        found = run(statement, parameters)
        total = found[0][-1] if found else 0
        return Page([ListedContact(*row[:-1]) for row in found], total)

    @classmethod
    def names(cls, account_id: int, ids: Iterable[int]) -> Sequence[tuple[int, str]]:
        """Return id and name of those of the contacts that exist, in the order of the list."""
        found = sa.select(cls.id, cls.name).where(cls.account_id == account_id, cls.id.in_(ids))
        return [(row.id, row.name) for row in db.session.execute(found.order_by(_by_name, cls.id))]

    @classmethod
    def holders(cls, account_id: int, mobile: str | None, email: str | None) -> Sequence["Contact"]:
        """Return the contacts that have this number or this address already."""
        # As a literal, because "== None" would become IS NULL and find everybody who has no number.
        same_mobile = cls.mobile == sa.literal(mobile, sa.Text())
        same = sa.or_(same_mobile, sa.func.lower(cls.email) == sa.func.lower(email))
        return db.session.scalars(sa.select(cls).where(cls.account_id == account_id, same)).all()

    @classmethod
    def delete(cls, account_id: int, ids: Iterable[int]) -> Sequence[str]:
        """Delete those of the contacts that exist, all of them or none, and return their names."""
        # The trigger would lock the account at the end; locked first, two overlapping deletes cannot deadlock.
        db.session.execute(sa.select(Account.id).where(Account.id == account_id).with_for_update(key_share=True))
        gone = sa.delete(cls).where(cls.account_id == account_id, cls.id.in_(ids)).returning(cls.name)
        return db.session.scalars(gone).all()


class Query(NamedTuple):
    """Say which contacts to list: `text` within `field`, those of `show`, in the order of `sort`, page 1 and on."""

    text: str = ""
    field: str = "name"
    sort: str = "name"
    page: int = 1
    show: str = "all"
    number: str | None = None  # E.164, where the text is a whole mobile number in any spelling


class ListedContact(NamedTuple):
    """Hold what the list shows of a contact; the last two are what the rooms below this one put into LISTED, as JSON.

    A value that can be hashed, and that the row of the list follows from.
    """

    id: int
    name: str
    mobile: str | None
    email: str | None
    dingtalk_url_encrypted: bytes | None
    receives_system_notifications: bool
    groups: str | None
    states: str | None


class Page(NamedTuple):
    """Hold a page of the list and how many contacts the whole list has."""

    rows: list[ListedContact]
    total: int


class Surroundings:
    """Answer what rooms below this one know of contacts; they put their functions in the place of these."""

    groups_of: Callable[[int, int], list[tuple[Any, ...]]]
    left_by: Callable[[int, Iterable[int]], Sequence[tuple[str, bool]]]
    health_of: Callable[[str | None], list[Any]]
    reach_of: Callable[[int], Any]
    send_test: Callable[[int, int, str], Any]
    told_of: Callable[[Any], dict[str, Any]]


surroundings = Surroundings()


_next_id = sa.text("SELECT nextval(pg_get_serial_sequence('contacts', 'id'))")


def decrypted(encrypted: bytes | None, account_id: int, identity: int, name: str) -> str | None:
    """Return the text of a contact's column; None where there is none, or where its key is not there."""
    if encrypted is None:
        return None
    try:
        return encryption.decrypt(encrypted, Contact.__tablename__, account_id, identity, name)
    except encryption.Unreadable:
        return None


_shown: sa.Select[*tuple[Any, ...]] = sa.select(
    *(column for column in Contact.__table__.c if column.key not in ("name_key", "created_at", "updated_at"))
).where(Contact.account_id == sa.bindparam("account_id"), Contact.id == sa.bindparam("contact_id"))
# Bytes, not a language's order: the same on every server, and no index breaks when a C library is upgraded.
_by_name = sa.collate(Contact.name_key, "C")
_orders: dict[str, sa.ColumnElement[Any]] = {
    "name": _by_name,
    "created": Contact.created_at.expression,
    "changed": Contact.updated_at.expression,
}
# What the list can be narrowed to: a name for the address, words for the person, a condition. Rooms below add theirs.
FILTERS: dict[str, tuple[str, sa.ColumnElement[bool]]] = {"all": ("All contacts", sa.true())}
SORTS = tuple(sign + name for name in _orders for sign in ("", "-"))
FIELDS = ("name", "mobile", "email")

# What the list shows of each contact that rooms below this one know: they put a statement here that gives, for the
# contacts of the parameter account_id, a contact's id and the JSON of ListedContact.
LISTED: dict[str, sa.Select[int, str]] = {}


@lru_cache
def _statement(sort: str, show: str, field: str | None) -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of a page of the list, narrowed by a search in `field` if there is one.

    It is built once: to build it takes as long as to run it. strpos and not LIKE, so that no character is special.
    """
    key, is_descending = _orders[sort.removeprefix("-")].label("key"), sort.startswith("-")
    columns = (Contact.id, Contact.name, Contact.mobile, Contact.email, Contact.dingtalk_url_encrypted)
    statement: sa.Select[*tuple[Any, ...]] = (
        sa.select(*columns, Contact.receives_system_notifications, key, sa.func.count().over().label("total"))
        .where(Contact.account_id == sa.bindparam("account_id"))
        .order_by(key.desc() if is_descending else key, Contact.id)
        .limit(PAGE_SIZE)
        .offset(sa.bindparam("offset"))
    )
    if show != "all":
        statement = statement.where(FILTERS[show][1])
    if field == "name":
        needle = sa.func.lower(sa.func.normalize(sa.bindparam("text"), sa.text("NFKC")))
        statement = statement.where(sa.func.strpos(Contact.name_key, needle) > 0)
    elif field == "email":
        needle = sa.func.lower(sa.bindparam("text"))
        statement = statement.where(sa.func.strpos(sa.func.lower(Contact.email), needle) > 0)
    elif field == "mobile":
        within = sa.func.strpos(Contact.mobile, sa.bindparam("digits")) > 0
        begins = sa.func.starts_with(Contact.mobile, sa.bindparam("start"))
        statement = statement.where(sa.bindparam("digits") != "", sa.or_(within, begins))
    page = statement.cte("page")
    shown = [page.c[name] for name in ListedContact._fields if name in page.c]
    # What is known of all contacts of the page is read at once: one after the other takes twice as long.
    ids = sa.func.array(sa.select(page.c.id).scalar_subquery())
    tables: sa.FromClause = page
    for name, found in LISTED.items():
        contact_id = found.selected_columns[0]
        # Materialized: a server that does not know yet how many there are may look at it again for each row.
        known = found.where(contact_id == sa.any_(ids)).cte(name).prefix_with("MATERIALIZED")
        tables = tables.outerjoin(known, known.c[0] == page.c.id)
        shown.append(known.c[1])
    order = page.c.key.desc() if is_descending else page.c.key
    return sa.select(*shown, page.c.total).select_from(tables).order_by(order, page.c.id)


def _parameters(query: Query) -> dict[str, Any]:
    """Return what the page's statement looks for."""
    if not query.text or query.field != "mobile":
        return {"text": query.text} if query.text else {}
    digits = "".join(str(unicodedata.digit(c)) for c in query.text if unicodedata.digit(c, None) is not None)
    # "0086 138" is a country code as people dial it, but "0013" may as well stand inside a number.
    start = query.number or ("+" + digits[2:] if re.match("00[1-9]", digits) else "+" + digits)
    return {"digits": digits, "start": start}
