"""Encrypt secrets in the database with AES-256-GCM; the associated data binds each to its table, row and column."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from ..config import StartError, current_settings
from .db import Base, db

ID_BYTES, NONCE_BYTES = 4, 12
# What marks a mapped column as encrypted: mapped_column(info=ENCRYPTED). Its name ends in SUFFIX, and the key of its
# table is of integers. `encrypt` writes no other column, so that `encrypt_again` finds all that was ever written.
ENCRYPTED = {"encrypted": True}
SUFFIX = "_encrypted"
ENCRYPTED_AT_ONCE = 100  # rows, which stay locked meanwhile
MISSING_KEY = (
    "ENCRYPTION_KEYS lacks a key that secrets in the database are encrypted with;"
    " list it again, or restore the file encryption_key of DATA_DIR from a backup."
)


class Unreadable(Exception):
    """A text cannot be decrypted: its key is missing, or it was encrypted for another row or column."""


class EncryptionKey(Base):
    """The ids of the keys in use, so that the console refuses to start without one; the keys are stored elsewhere."""

    __tablename__ = "encryption_keys"

    id: Mapped[bytes] = mapped_column(primary_key=True)
    used_since: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (sa.CheckConstraint(f"octet_length(id) = {ID_BYTES}", name="encryption_key_is_named"),)


def encrypt(text: str, *place: str | int) -> bytes:
    """Return `text` encrypted for `place`, the table, the row's key and the column: key's id, nonce, ciphertext.

    The column is named without SUFFIX; one that is not marked as ENCRYPTED in the mapping is a LookupError.
    """
    table, name = str(place[0]), f"{place[-1]}{SUFFIX}"
    if table not in Base.metadata.tables or name not in {column.name for column in _encrypted(table)}:
        raise LookupError(f"{table}.{name} is not mapped as ENCRYPTED")
    key = current_settings().encryption_keys[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    return key_id(key) + nonce + _cipher(key).encrypt(nonce, text.encode(), _associated(place))


def decrypt(encrypted: bytes, *place: str | int) -> str:
    """Return the text that was encrypted for `place`; raise Unreadable if that is impossible."""
    identity, rest = encrypted[:ID_BYTES], encrypted[ID_BYTES:]
    for key in current_settings().encryption_keys:
        if key_id(key) == identity:
            try:
                return _cipher(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _associated(place)).decode()
            except InvalidTag:
                break
    raise Unreadable


@lru_cache
def key_id(key: bytes) -> bytes:
    """Return the id of `key`, the prefix of everything it has encrypted, which reveals nothing about the key."""
    return sha256(b"id of " + key).digest()[:ID_BYTES]


def check_keys(used: Iterable[bytes]) -> None:
    """Raise StartError if a key with one of these ids is missing from the settings."""
    if set(used) - {key_id(key) for key in current_settings().encryption_keys}:
        raise StartError(MISSING_KEY)


def digest(secret: str) -> bytes:
    """Return the SHA-256 of a random token, which is stored instead of it; tokens are too long to be guessed."""
    return sha256(secret.encode()).digest()


def note_key() -> None:
    """Record the id of the first key as in use; raise StartError if a key that the database needs is missing."""
    used = set(db.session.scalars(sa.select(EncryptionKey.id)))
    check_keys(used)
    first = key_id(current_settings().encryption_keys[0])
    if first not in used:
        db.session.execute(postgresql.insert(EncryptionKey).values(id=first).on_conflict_do_nothing())


def encrypt_again() -> int:
    """Encrypt with the first key what another one has encrypted, in every table; return how many rows.

    Raise StartError for what cannot be read. Commits a part at a time.
    """
    return sum(_encrypt_again(table) for table in sorted(Base.metadata.tables) if _encrypted(table))


def _encrypted(table: str) -> Sequence[sa.Column[Any]]:
    """Return the columns of a mapped table that are marked as encrypted."""
    return [column for column in Base.metadata.tables[table].columns if column.info.get("encrypted")]


def _encrypt_again(name: str) -> int:
    """Encrypt the rows of one table again; return how many."""
    table, columns = Base.metadata.tables[name], _encrypted(name)
    first = key_id(current_settings().encryption_keys[0])
    is_old = sa.or_(*(sa.func.substr(column, 1, len(first)) != first for column in columns))
    key = list(table.primary_key)
    found = sa.select(*key, *columns).where(is_old).order_by(*key).limit(ENCRYPTED_AT_ONCE).with_for_update()
    # Nobody has changed the rows: they stay where they were in the order of changes.
    unchanged = {column: column for column in table.columns if column.onupdate is not None}
    count, start = 0, (0,) * len(key)
    last = start
    while True:
        # From where the last part ended: else each part would begin with a look at all that is done.
        rows = db.session.execute(found.where(sa.tuple_(*key) > last)).all()
        if not rows and last == start:
            return count
        last = tuple(rows[-1][: len(key)]) if rows else start  # again: what was written meanwhile
        for row in rows:
            its, values = row[: len(key)], zip(columns, row[len(key) :], strict=True)
            fresh = {column: _anew(value, name, *its, column.name.removesuffix(SUFFIX)) for column, value in values}
            is_it = [column == value for column, value in zip(key, its, strict=True)]
            db.session.execute(sa.update(table).where(*is_it).values(fresh | unchanged))
        db.session.commit()
        count += len(rows)


def _anew(encrypted: bytes | None, *place: str | int) -> bytes | None:
    """Return what was encrypted for `place`, encrypted with the first key; raise StartError if it cannot be read."""
    if encrypted is None:
        return None
    try:
        return encrypt(decrypt(encrypted, *place), *place)
    except Unreadable:
        raise StartError(MISSING_KEY) from None


def forget_other_keys() -> None:
    """Record that everything is encrypted with the first key, so that the others can be removed."""
    first = key_id(current_settings().encryption_keys[0])
    db.session.execute(sa.delete(EncryptionKey).where(EncryptionKey.id != first))


@lru_cache
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


def _associated(place: tuple[str | int, ...]) -> bytes:
    return "\n".join(map(str, place)).encode()
