"""Store accounts, users, sessions, and log-on attempts with their rate limit."""

import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVarTuple

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy.orm import Mapped, mapped_column

from ..core.db import Base, db, read_rows, set_account_to, set_lock_timeout, show_account
from ..core.encryption import digest
from ..core.networks import client_of

IDLE_LIMIT = timedelta(hours=12)
LIFE_LIMIT = timedelta(days=30)
SEEN_PRECISION = timedelta(minutes=5)
LOGON_WINDOW = timedelta(minutes=10)
LOGONS_PER_SUBJECT = 10  # an e-mail, a known browser or a session
LOGONS_PER_ADDRESS = 50
# Seconds that a log-on waits for a locked user: it occupies a thread before anybody is known.
LOGON_LOCK_SECONDS = 1
LONGEST_PASSWORD = 1024

Columns = TypeVarTuple("Columns")

# OWASP's minimum for Argon2id: m=19 MiB, t=2, p=1.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Checked for unknown users, so that the response time does not reveal whether a user exists.
_dummy_hash = _hasher.hash(secrets.token_urlsafe())


class Account(Base):
    """A team with its own users and contacts, isolated from all other accounts."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str]
    contact_quota: Mapped[int]
    contact_count: Mapped[int] = mapped_column(server_default=sa.text("0"))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (
        sa.UniqueConstraint("name", name="account_name_is_unique"),
        sa.CheckConstraint("char_length(btrim(name)) BETWEEN 1 AND 64", name="account_name_is_short"),
        sa.CheckConstraint("contact_count BETWEEN 0 AND contact_quota", name="account_is_within_quota"),
    )

    @classmethod
    def any_exists(cls) -> bool:
        """Return whether an account exists, so that the set-up is done."""
        return bool(db.session.scalar(sa.select(sa.exists(sa.select(cls.id)))))

    @classmethod
    def create(cls, name: str, quota: int) -> "Account":
        """Add an account with room for `quota` contacts."""
        account = cls(name=name, contact_quota=quota)
        db.session.add(account)
        db.session.flush()
        return account

    def add_user(self, email: str, password: str) -> "User":
        """Add a user who may log on to this account."""
        user = User(account_id=self.id, email=email)
        user.set_password(password)
        db.session.add(user)
        db.session.flush()
        return user

    @classmethod
    def usage(cls, identity: int) -> tuple[int, int]:
        """Return how many contacts the account has and how many it may have."""
        found = sa.select(cls.contact_count, cls.contact_quota).where(cls.id == identity)
        count, quota = db.session.execute(found).one()
        return count, quota

    @classmethod
    def lock_creation(cls) -> None:
        """Lock the table against new accounts until this transaction ends."""
        db.session.execute(sa.text("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE"))

    @classmethod
    def apply_quota(cls, quota: int) -> None:
        """Set the contact quota of every account; one with more contacts gets as many as it has."""
        wanted = sa.func.greatest(quota, cls.contact_count)
        db.session.execute(sa.update(cls).where(cls.contact_quota != wanted).values(contact_quota=wanted))


class User(Base):
    """Somebody who may log on to one account."""

    __tablename__ = "users"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    email: Mapped[str] = mapped_column()
    password_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (
        sa.Index("user_email_is_unique", sa.func.lower(email), unique=True),
        sa.CheckConstraint("email ~ '^[^@[:space:]]+@[^@[:space:]]+$'", name="user_email_is_an_address"),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name="user_password_is_argon2id"),
    )

    @classmethod
    def by_email(cls, email: str) -> "User | None":
        """Return the user with this e-mail address, ignoring case, and lock the row (FOR SHARE) until the commit.

        So a log-on with the old password either completes before a password change ends all sessions, or fails.
        """
        return db.session.scalar(_with_email(sa.select(cls), email))

    @classmethod
    def with_password(cls, email: str, password: str) -> "User | None":
        """Return the user with these credentials, else None; an unknown address takes as long as a wrong password."""
        set_lock_timeout(LOGON_LOCK_SECONDS)
        # Columns only: loading a User object would take measurably longer for known addresses.
        columns = sa.select(cls.account_id, cls.id, cls.password_hash)
        known = db.session.execute(_with_email(columns, email)).one_or_none()
        if not _is_right(password, known.password_hash if known else _dummy_hash):
            return None
        user = known and db.session.get(cls, (known.account_id, known.id))
        if user and _hasher.check_needs_rehash(user.password_hash):
            user.set_password(password)
        return user

    def has_password(self, password: str) -> bool:
        """Return whether `password` is this user's."""
        return _is_right(password, self.password_hash)

    def set_password(self, password: str) -> None:
        """Store the hash of a new password."""
        self.password_hash = _hasher.hash(_normalised(password))

    def end_sessions(self, but: str | None = None) -> None:
        """End all sessions of this user, except the one with the token `but`."""
        ended = sa.delete(Session).where(Session.account_id == self.account_id, Session.user_id == self.id)
        if but is not None:
            ended = ended.where(Session.token_hash != digest(but))
        db.session.execute(ended)


def _with_email(found: sa.Select[*Columns], email: str) -> sa.Select[*Columns]:
    """Restrict a query to the user with this e-mail address, ignoring case, and lock the row (FOR SHARE)."""
    return found.where(sa.func.lower(User.email) == sa.func.lower(email)).with_for_update(read=True)


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user and the account of the session that a request belongs to."""

    account_id: int
    user_id: int
    email: str
    account_name: str
    contact_count: int
    contact_quota: int


class Session(Base):
    """A session: it ends at log-off, after 12 idle hours, or after 30 days."""

    __tablename__ = "sessions"

    # Only the hash, so that a leaked table gives access to no session.
    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(sa.BigInteger)
    user_id: Mapped[int] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (
        sa.ForeignKeyConstraint(["account_id", "user_id"], ["users.account_id", "users.id"], ondelete="CASCADE"),
        sa.Index("sessions_account_id_user_id", "account_id", "user_id"),
        sa.Index("sessions_created_at", "created_at"),
        sa.CheckConstraint("octet_length(token_hash) = 32", name="session_token_is_hashed"),
    )

    @classmethod
    def begin(cls, user: User) -> str:
        """Start a session for `user` and return its token, of which only the hash is stored."""
        cls.delete_expired()
        token = secrets.token_urlsafe(32)
        db.session.add(cls(token_hash=digest(token), account_id=user.account_id, user_id=user.id))
        return token

    @classmethod
    def end(cls, token: str) -> None:
        """End the session on the server, so that copies of its cookie become useless."""
        db.session.execute(sa.delete(cls).where(cls.token_hash == digest(token)))

    @classmethod
    def delete_expired(cls) -> None:
        """Delete sessions past their maximum age; skip locked rows."""
        expired = sa.select(cls.token_hash).where(cls.created_at < sa.func.now() - LIFE_LIMIT)
        deletion = sa.delete(cls).where(cls.token_hash.in_(expired.with_for_update(skip_locked=True)))
        db.session.execute(deletion, execution_options={"synchronize_session": False})

    @classmethod
    def visitor(cls, token: str) -> Visitor | None:
        """Return the visitor of a live session, and record about every five minutes that it is in use.

        From here on, row-level security shows only the rows of the visitor's account.
        """
        token_hash = digest(token)
        try:
            found = next(iter(read_rows(visitor_of_session, {"digest": token_hash})), None)
        except sa.exc.SQLAlchemyError:
            db.session.rollback()  # the error page runs queries of its own
            raise
        if found is None:
            return None
        show_account(found.account_id)
        if found.is_due:
            try:
                free = sa.select(cls.token_hash).where(cls.token_hash == token_hash).with_for_update(skip_locked=True)
                seen = sa.update(cls).where(cls.token_hash.in_(free)).values(seen_at=sa.func.now())
                db.session.execute(seen, execution_options={"synchronize_session": False})
                db.session.commit()
            # The disk is full or the database is read-only: contacts can still be looked up.
            except (sa.exc.OperationalError, sa.exc.InternalError):
                db.session.rollback()
        return Visitor(
            account_id=found.account_id,
            user_id=found.user_id,
            email=found.email,
            account_name=found.account_name,
            contact_count=found.contact_count,
            contact_quota=found.contact_quota,
        )


visitor_of_session = (
    sa.select(
        set_account_to(Account.id),
        Account.id.label("account_id"),
        User.id.label("user_id"),
        User.email,
        Account.name.label("account_name"),
        Account.contact_count,
        Account.contact_quota,
        (Session.seen_at < sa.func.now() - SEEN_PRECISION).label("is_due"),
    )
    .select_from(Session)
    .join(User, sa.and_(User.account_id == Session.account_id, User.id == Session.user_id))
    .join(Account, Account.id == Session.account_id)
    .where(
        Session.token_hash == sa.bindparam("digest"),
        Session.seen_at > sa.func.now() - IDLE_LIMIT,
        Session.created_at > sa.func.now() - LIFE_LIMIT,
    )
)


class LogonAttempt(Base):
    """A log-on attempt that failed or is not finished, counted across all processes and machines."""

    __tablename__ = "logon_attempts"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    # A hash, because people type passwords into the e-mail field. It is of the e-mail, a known browser, or a session.
    subject_hash: Mapped[bytes] = mapped_column("email_hash")
    address: Mapped[str]
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (
        sa.Index("logon_attempts_email_hash_at", "email_hash", "at"),
        sa.Index("logon_attempts_address_at", "address", "at"),
        sa.Index("logon_attempts_at", "at"),
    )

    @classmethod
    def begin(cls, email: str, address: str) -> "int | None":
        """Count a log-on attempt before its password is checked; return its id, or None if it is rate limited.

        The limits are per e-mail and per IP address.
        """
        # Lower case as in by_email, so that another spelling of the same e-mail is no separate subject.
        folded = db.session.scalar(sa.select(sa.func.lower(email)))
        return cls._begin(digest(str(folded)), _client(address), counts_address=True)

    @classmethod
    def begin_known(cls, name: str, address: str) -> "int | None":
        """Count an attempt of a known browser or session, as `begin` does, but limited by its name only.

        So attackers who guess the user's password, or share the IP address, do not lock the user out. The attempt still
        counts for the IP address.
        """
        return cls._begin(digest(f"known {name}"), _client(address), counts_address=False)

    @classmethod
    def _begin(cls, subject_hash: bytes, address: str, counts_address: bool) -> "int | None":
        """Insert an attempt unless a limit is reached.

        Advisory locks serialise attempts of one subject or IP address: without them, a hundred at once would all be
        counted as "the tenth". They are taken in a fixed order, against deadlocks, and released by the commit.
        """
        recent = cls.at > sa.func.clock_timestamp() - LOGON_WINDOW
        limits = [(1, subject_hash, cls.subject_hash == subject_hash, LOGONS_PER_SUBJECT)]
        if counts_address:
            limits.append((2, digest(address), cls.address == address, LOGONS_PER_ADDRESS))
        for kind, key, *_ in limits:
            number = int.from_bytes(key[:4], signed=True)
            db.session.execute(sa.select(sa.func.pg_advisory_xact_lock(kind, number)))
        counts = [
            sa.select(sa.func.count()).where(condition, recent).scalar_subquery() for _, _, condition, _ in limits
        ]
        found = db.session.execute(sa.select(*counts)).one()
        if any(count >= limit for count, (*_, limit) in zip(found, limits, strict=True)):
            db.session.rollback()
            return None
        attempt = cls(subject_hash=subject_hash, address=address)
        db.session.add(attempt)
        outdated = sa.select(cls.id).where(cls.at < sa.func.now() - LOGON_WINDOW).with_for_update(skip_locked=True)
        db.session.execute(sa.delete(cls).where(cls.id.in_(outdated)))
        db.session.flush()
        identity = attempt.id
        db.session.commit()
        return identity

    @classmethod
    def succeeded(cls, identity: int) -> None:
        """Delete an attempt whose log-on succeeded."""
        db.session.execute(sa.delete(cls).where(cls.id == identity))


def _is_right(password: str, password_hash: str) -> bool:
    """Return whether the password matches the hash; one that is too long takes as long as any wrong one."""
    try:
        _hasher.verify(password_hash, _normalised(password[:LONGEST_PASSWORD]))
    except (VerifyMismatchError, InvalidHashError):
        return False
    return len(password) <= LONGEST_PASSWORD


def _normalised(password: str) -> str:
    """Return the normal form (NFKC) of a password, which does not depend on the keyboard or input method."""
    return unicodedata.normalize("NFKC", password)


def _client(address: str) -> str:
    """Return the key of a client; a proxy may forward a forged header, and an index entry has a maximum length."""
    return client_of(address)[:100]
