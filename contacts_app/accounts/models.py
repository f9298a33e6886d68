"""Keep accounts, the users who may come in, and the sessions they are in by."""

import ipaddress
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVarTuple

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy.orm import Mapped, mapped_column

from ..core.db import Base, db, set_account_to, set_lock_timeout, show_account
from ..core.encryption import digest

IDLE_LIMIT = timedelta(hours=12)
LIFE_LIMIT = timedelta(days=30)
SEEN_PRECISION = timedelta(minutes=5)
LOGON_WINDOW = timedelta(minutes=10)
LOGONS_PER_SUBJECT = 10  # an e-mail, a known browser or a session
LOGONS_PER_ADDRESS = 50
LOGON_PATIENCE = (
    1  # seconds for a user's row that is locked: a log-on waits at others' cost, nobody knows yet whose it is
)
LONGEST_PASSWORD = 1024

Columns = TypeVarTuple("Columns")

# OWASP's floor for argon2id is m=19 MiB, t=2, p=1.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# A password nobody has: checking it takes the time that checking a real one takes.
_nobodys_hash = _hasher.hash(secrets.token_urlsafe())


class Account(Base):
    """A team: it has users and contacts of its own and never sees another's."""

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
        """Tell whether somebody has set up this installation."""
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
    def hold_creation(cls) -> None:
        """Keep others from creating an account until this transaction ends."""
        db.session.execute(sa.text("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE"))

    @classmethod
    def apply_quota(cls, quota: int) -> None:
        """Give every account the quota of the setting; one that holds more keeps what it has."""
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
        """Find the user with this address, whatever its case, and keep the row as it is until the commit.

        A log-on with the old password thus ends before a change of the password ends all sessions, or fails.
        """
        return db.session.scalar(_with_email(sa.select(cls), email))

    @classmethod
    def with_password(cls, email: str, password: str) -> "User | None":
        """Return the user whom the pair admits; a wrong address takes as long as a wrong password."""
        set_lock_timeout(LOGON_PATIENCE)
        # Columns: to make a User of the row would take a while that shows which addresses are known.
        columns = sa.select(cls.account_id, cls.id, cls.password_hash)
        known = db.session.execute(_with_email(columns, email)).one_or_none()
        if not _is_right(password, known.password_hash if known else _nobodys_hash):
            return None
        user = known and db.session.get(cls, (known.account_id, known.id))
        if user and _hasher.check_needs_rehash(user.password_hash):
            user.set_password(password)
        return user

    def has_password(self, password: str) -> bool:
        """Tell whether `password` is this user's."""
        return _is_right(password, self.password_hash)

    def set_password(self, password: str) -> None:
        """Replace the password."""
        self.password_hash = _hasher.hash(_prepared(password))

    def end_sessions(self, but: str | None = None) -> None:
        """Log this user off everywhere, except where the session's token is `but`."""
        ended = sa.delete(Session).where(Session.account_id == self.account_id, Session.user_id == self.id)
        if but is not None:
            ended = ended.where(Session.token_hash != digest(but))
        db.session.execute(ended)


def _with_email(found: sa.Select[*Columns], email: str) -> sa.Select[*Columns]:
    """Return `found` of the user with this address, whose row stays as it is until the commit."""
    return found.where(sa.func.lower(User.email) == sa.func.lower(email)).with_for_update(read=True)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who sends a request: a user in a live session, and the account that everything shown belongs to."""

    account_id: int
    user_id: int
    email: str
    account_name: str
    contact_count: int
    contact_quota: int


class Session(Base):
    """A log-on that lasts until log-off, 12 idle hours or 30 days."""

    __tablename__ = "sessions"

    # Only the hash: who reads the table cannot use a session.
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
        """Open a session for `user` and return its token, which is kept nowhere."""
        cls.forget_ended()
        token = secrets.token_urlsafe(32)
        db.session.add(cls(token_hash=digest(token), account_id=user.account_id, user_id=user.id))
        return token

    @classmethod
    def end(cls, token: str) -> None:
        """Close the session, wherever its cookie was copied to."""
        db.session.execute(sa.delete(cls).where(cls.token_hash == digest(token)))

    @classmethod
    def forget_ended(cls) -> None:
        """Remove the rows of sessions that are too old to open anything."""
        ended = sa.select(cls.token_hash).where(cls.created_at < sa.func.now() - LIFE_LIMIT)
        forgotten = sa.delete(cls).where(cls.token_hash.in_(ended.with_for_update(skip_locked=True)))
        db.session.execute(forgotten, execution_options={"synchronize_session": False})

    @classmethod
    def visitor(cls, token: str) -> Visitor | None:
        """Return who the live session with this token belongs to, and note now and then that it is in use.

        From here on the rows of this account are shown, and of no other.
        """
        token_hash = digest(token)
        try:
            found = db.session.connection().execute(visitor_of_session, {"digest": token_hash}).one_or_none()
        except sa.exc.SQLAlchemyError:
            db.session.rollback()  # the page that says so asks again for what it shows
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
            # A full disk, or a database that takes no writes: who has to be called can still be looked up.
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
    """A log-on that failed, or has not succeeded yet; counted across all workers and machines."""

    __tablename__ = "logon_attempts"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    # Of the e-mail, because people type passwords into the wrong box; or of what names a known browser or a session.
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
        """Count a stranger's attempt before its password is looked at; return its id, None when there were too many.

        Neither their e-mail nor their address may have had too many.
        """
        # Folded as by_email folds it: no other spelling of the same user has tries of its own.
        folded = db.session.scalar(sa.select(sa.func.lower(email)))
        return cls._begin(digest(str(folded)), _network(address), counts_address=True)

    @classmethod
    def begin_known(cls, name: str, address: str) -> "int | None":
        """Count an attempt of the known browser or the session of this name, whatever strangers do; else as `begin`.

        What it fails counts for its address as well, but is not refused because of that: strangers may share it.
        """
        return cls._begin(digest(f"known {name}"), _network(address), counts_address=False)

    @classmethod
    def _begin(cls, subject_hash: bytes, address: str, counts_address: bool) -> "int | None":
        """Count an attempt.

        The locks make attempts on one address or subject count one after the other, so that a hundred at once
        are not all "the tenth". They are taken in one order and end with the commit.
        """
        recent = cls.at > sa.func.clock_timestamp() - LOGON_WINDOW
        limits = [(1, subject_hash, cls.subject_hash == subject_hash, LOGONS_PER_SUBJECT)]
        if counts_address:
            limits.append((2, digest(address), cls.address == address, LOGONS_PER_ADDRESS))
        for kind, key, *_ in limits:
            number = int.from_bytes(key[:4], signed=True)
            db.session.execute(sa.select(sa.func.pg_advisory_xact_lock(kind, number)))
        counts = [sa.select(sa.func.count()).where(is_its, recent).scalar_subquery() for _, _, is_its, _ in limits]
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
        """Forget an attempt that turned out to be a user's own."""
        db.session.execute(sa.delete(cls).where(cls.id == identity))


def _is_right(password: str, password_hash: str) -> bool:
    """Tell whether it is the password of the hash; one that is too long takes as long as any other wrong one."""
    try:
        _hasher.verify(password_hash, _prepared(password[:LONGEST_PASSWORD]))
    except (VerifyMismatchError, InvalidHashError):
        return False
    return len(password) <= LONGEST_PASSWORD


def _prepared(password: str) -> str:
    """Return the form of a password that is hashed: the same whichever keyboard typed it."""
    return unicodedata.normalize("NFKC", password)


def _network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that one IPv6 customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]  # a proxy may hand on what a visitor wrote, and no index takes it at any length
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed  # as a socket for both protocols reports it
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
