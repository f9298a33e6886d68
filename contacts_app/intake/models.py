"""Store integrations, check their tokens and their rate limit, and find repeated alerts."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..contacts.models import CLEAN_NAME
from ..core.db import TIMESTAMP, Base, all_accounts, db, show_account
from ..core.encryption import digest

LOCK_TIMEOUT = "1s"  # a statement may wait for two locks; after that the sender has to retry
SAME_BODY_SECONDS = 60
_WINDOW_ENDS = "window_began_at + interval '1 minute'"
_SECONDS_LEFT = f"greatest(1, ceil(extract(epoch FROM {_WINDOW_ENDS} - now())))::integer"
_seconds_to_wait = sa.text(f"""
    SELECT CASE WHEN window_count > :limit AND {_WINDOW_ENDS} > now() THEN {_SECONDS_LEFT} ELSE 0 END
    FROM integrations WHERE token_hash = :token_hash
""")  # nosec B608
_admit = sa.text(f"""
    UPDATE integrations SET
        used_at = CASE WHEN :is_refused THEN used_at ELSE now() END,
        window_began_at = CASE WHEN is_over THEN now() ELSE window_began_at END,
        window_count = CASE WHEN is_over THEN 1 ELSE least(window_count, :limit) + 1 END,
        limited_at = CASE WHEN is_full THEN now() ELSE limited_at END,
        refused_count = CASE WHEN :is_refused OR is_full THEN least(refused_count, 999999999) + 1
            ELSE refused_count END,
        refused_since = CASE WHEN :is_refused OR is_full THEN coalesce(refused_since, now()) ELSE refused_since END,
        refused_at = CASE WHEN :is_refused OR is_full THEN now() ELSE refused_at END
    FROM (
        SELECT integrations.account_id, integrations.id, groups.name AS group_name,
               {_WINDOW_ENDS} <= now() AS is_over, {_WINDOW_ENDS} > now() AND window_count >= :limit AS is_full
        FROM integrations JOIN groups ON (groups.account_id, groups.id) = (integrations.account_id, group_id)
        WHERE token_hash = :token_hash
        FOR NO KEY UPDATE OF integrations
    ) AS found
    WHERE integrations.account_id = found.account_id AND integrations.id = found.id
    RETURNING set_config('console.account_id', CAST(integrations.account_id AS text), true),
        integrations.account_id, integrations.id AS integration_id, integrations.name AS integration_name, group_id,
        found.group_name, CASE WHEN window_count <= :limit THEN 0 ELSE {_SECONDS_LEFT} END AS wait
""")  # nosec B608
_find_by_idempotency_key = sa.text("""
    SELECT id FROM alerts
    WHERE account_id = :account_id AND integration_id = :integration_id AND idempotency_key = :idempotency_key
""")
# After firing and resolved, a second firing with the same body is a new alert, not a repetition of the first.
_find_by_body = sa.text(f"""
    SELECT id FROM alerts AS earlier
    WHERE account_id = :account_id AND integration_id = :integration_id AND body_hash = :body_hash
        AND received_at > now() - interval '{SAME_BODY_SECONDS} seconds'
        AND NOT EXISTS (
            SELECT FROM alerts AS newer
            WHERE newer.account_id = earlier.account_id AND newer.integration_id = earlier.integration_id
                AND newer.id > earlier.id AND newer.title = earlier.title AND newer.key IS NOT DISTINCT FROM earlier.key
                AND newer.received_at > now() - interval '{SAME_BODY_SECONDS} seconds')
    LIMIT 1
""")  # nosec B608


class Admission(NamedTuple):
    """The integration that a token belongs to; `wait` is the rate limit's Retry-After in seconds, 0 if admitted."""

    account_id: int
    integration_id: int
    integration_name: str
    group_id: int
    group_name: str
    wait: int


class Integration(Base):
    """A webhook for alerts: whatever is posted with its token notifies the members of its group."""

    __tablename__ = "integrations"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    group_id: Mapped[int] = mapped_column(sa.BigInteger)
    name: Mapped[str]
    token_hash: Mapped[bytes]
    token_made_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    window_began_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    window_count: Mapped[int] = mapped_column(server_default=sa.text("0"))
    limited_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # when the rate limit last refused an alert
    refused_count: Mapped[int] = mapped_column(server_default=sa.text("0"))
    refused_since: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    refused_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # most recently
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (
        sa.ForeignKeyConstraint(["account_id", "group_id"], ["groups.account_id", "groups.id"], ondelete="CASCADE"),
        sa.Index("integrations_account_id_group_id", "account_id", "group_id"),
        sa.Index("integrations_refused_at", "refused_at", postgresql_where=sa.text("refused_at IS NOT NULL")),
        sa.UniqueConstraint("token_hash", name="integration_token_is_unique"),
        sa.CheckConstraint(
            "(refused_count > 0) = (refused_since IS NOT NULL) AND (refused_count > 0) = (refused_at IS NOT NULL)",
            name="integration_refusals_have_a_time",
        ),
        sa.CheckConstraint("octet_length(token_hash) = 32", name="integration_token_is_hashed"),
        sa.CheckConstraint(CLEAN_NAME, name="integration_name_is_clean"),
    )

    @classmethod
    def of(cls, account_id: int, identity: int) -> "Integration | None":
        """Return this account's integration with the id."""
        return db.session.get(cls, (account_id, identity))

    @classmethod
    def of_group(cls, account_id: int, group_id: int) -> "Sequence[Integration]":
        """Return the integrations of a group, by name."""
        found = sa.select(cls).where(cls.account_id == account_id, cls.group_id == group_id)
        return db.session.scalars(found.order_by(cls.name, cls.id)).all()

    @classmethod
    def names_of_groups(cls, account_id: int, group_ids: Iterable[int]) -> dict[int, list[str]]:
        """Return the names of the integrations that use each of the groups, by the group's id."""
        found = sa.select(cls.group_id, cls.name).where(cls.account_id == account_id, cls.group_id.in_(group_ids))
        names: dict[int, list[str]] = {}
        for group_id, name in db.session.execute(found.order_by(cls.name)):
            names.setdefault(group_id, []).append(name)
        return names

    @classmethod
    def ids_of_groups(cls, account_id: int, group_ids: Iterable[int]) -> Sequence[int]:
        """Return the ids of the integrations of the groups."""
        found = sa.select(cls.id).where(cls.account_id == account_id, cls.group_id.in_(list(group_ids)))
        return db.session.scalars(found).all()

    def renew_token(self) -> str:
        """Replace the token and return the new one; only its hash is stored."""
        token = secrets.token_urlsafe(32)
        self.token_hash = digest(token)
        self.token_made_at = sa.func.now()
        return token

    @classmethod
    def seconds_to_wait(cls, token: str, limit: int) -> int | None:
        """Return how many seconds the rate limit blocks this token, 0 if it does not; None if the token is unknown.

        This neither writes nor locks, so a flood of alerts beyond the limit costs one read each.
        """
        with all_accounts(lock_timeout=LOCK_TIMEOUT):
            wait: int | None = db.session.execute(
                _seconds_to_wait, {"token_hash": digest(token), "limit": limit}
            ).scalar()
        return wait

    @classmethod
    def admit(cls, token: str, limit: int, is_refused: bool = False) -> "Admission | None":
        """Count a request against the rate limit of `limit` a minute; return None if the token is unknown.

        A request that is refused for another reason (`is_refused`) counts as well. The row stays locked until the
        commit, so that two copies of an alert at once are handled one after the other. From here on row-level
        security shows only the rows of the integration's account.
        """
        values = {"token_hash": digest(token), "limit": limit, "is_refused": is_refused}
        with all_accounts(lock_timeout=LOCK_TIMEOUT):
            found = db.session.execute(_admit, values).one_or_none()
        if found is None:
            return None
        show_account(found.account_id)
        return Admission(
            account_id=found.account_id,
            integration_id=found.integration_id,
            integration_name=found.integration_name,
            group_id=found.group_id,
            group_name=found.group_name,
            wait=found.wait,
        )


def find_duplicate(admission: Admission, body_hash: bytes, idempotency_key: str | None) -> int | None:
    """Return the id of an earlier alert with the same idempotency key or, without a key, with a recent equal body."""
    integration = {"account_id": admission.account_id, "integration_id": admission.integration_id}
    if idempotency_key is not None:
        found = db.session.execute(_find_by_idempotency_key, integration | {"idempotency_key": idempotency_key})
    else:
        found = db.session.execute(_find_by_body, integration | {"body_hash": body_hash})
    identity: int | None = found.scalar()
    return identity
