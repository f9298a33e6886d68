"""Encrypt what the database may not show: AES-256-GCM, each text bound to the row and the column it stands in."""

import secrets
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column

from ..config import StartError, current_settings
from .db import Base, db

ID_BYTES, NONCE_BYTES = 4, 12
MISSING_KEY = (
    "ENCRYPTION_KEYS lacks a key that robots' addresses in the database are encrypted with;"
    " list it again, or restore the file encryption_key of DATA_DIR from a backup."
)


class Unreadable(Exception):
    """Say that a text was encrypted with a key that is not there, or for another row."""


class EncryptionKey(Base):
    """Remember which keys are in use, so that a start without one of them is refused; the keys stand elsewhere."""

    __tablename__ = "encryption_keys"

    id: Mapped[bytes] = mapped_column(primary_key=True)
    used_since: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (sa.CheckConstraint(f"octet_length(id) = {ID_BYTES}", name="encryption_key_is_named"),)


def encrypt(text: str, *place: str | int) -> bytes:
    """Return `text` encrypted for `place`, the table, the row's key and the column: key's id, nonce, ciphertext."""
    key = current_settings().encryption_keys[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    return key_id(key) + nonce + _cipher(key).encrypt(nonce, text.encode(), _associated(place))


def decrypt(encrypted: bytes, *place: str | int) -> str:
    """Return the text that was encrypted for `place`; raise Unreadable if it cannot be had."""
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
    """Return what names `key` beside all that it has encrypted, and tells nothing of it."""
    return sha256(b"id of " + key).digest()[:ID_BYTES]


def check_keys(used: Iterable[bytes]) -> None:
    """Raise StartError where a key with one of these ids is not there."""
    if set(used) - {key_id(key) for key in current_settings().encryption_keys}:
        raise StartError(MISSING_KEY)


def digest(secret: str) -> bytes:
    """Return the hash that is kept instead of a token, which is long enough not to be guessed."""
    return sha256(secret.encode()).digest()


def note_key() -> None:
    """Note which key is in use; raise StartError where one that the database needs is not there."""
    used = set(db.session.scalars(sa.select(EncryptionKey.id)))
    check_keys(used)
    first = key_id(current_settings().encryption_keys[0])
    if first not in used:
        db.session.execute(postgresql.insert(EncryptionKey).values(id=first).on_conflict_do_nothing())


def forget_other_keys() -> None:
    """Note that everything is encrypted with the first key, so that the others may go."""
    first = key_id(current_settings().encryption_keys[0])
    db.session.execute(sa.delete(EncryptionKey).where(EncryptionKey.id != first))


@lru_cache
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


def _associated(place: tuple[str | int, ...]) -> bytes:
    return "\n".join(map(str, place)).encode()
