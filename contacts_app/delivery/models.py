"""Define the tables of notifications, deliveries, rate limits, the state of channels, and workers."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from ..accounts.models import Account
from ..core.db import TIMESTAMP, Base, db
from .answers import sentence
from .channels.registry import KINDS, kinds_by_contact

MAX_TEXT = 4000  # characters of the text of a notification, without the title
STATES = ("queued", "sending", "sent", "failed", "cancelled", "overtaken")
_IS_WAITING = "state IN ('queued', 'sending')"
# The same condition, written as in the index that begins with the account, so that the planner chooses that one: the
# index of the workers' queue matches only the form above. No parameters, because a partial index cannot match them.
IS_WAITING = " AND ".join(f"deliveries.state <> '{state}'" for state in ("sent", "failed", "cancelled", "overtaken"))


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Notification(Base):
    """An alert that a sender posted, a test, or a system message; its deliveries are in Delivery."""

    # The table and `alert_id` are named for alerts, the first kind: during an upgrade an earlier version may still run
    # on the same schema.
    __tablename__ = "alerts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    kind: Mapped[str]
    source: Mapped[str]
    integration_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    integration_name: Mapped[str | None]
    addressee: Mapped[str]  # the name of the group, or of the contact for a test
    title: Mapped[str]
    text: Mapped[str]
    severity: Mapped[str]
    status: Mapped[str]
    key: Mapped[str | None]
    body_hash: Mapped[bytes | None]
    idempotency_key: Mapped[str | None]
    # Of title and text, with their parameters. A column named like one of deliveries would stop earlier workers, whose
    # statements would become ambiguous.
    codes: Mapped[list[dict[str, Any]] | None] = mapped_column(postgresql.JSONB(none_as_null=True))
    facts: Mapped[list[Any]] = mapped_column(postgresql.JSONB, server_default="[]")  # of each alert, as in facts.py
    received_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (
        sa.CheckConstraint(_one_of("kind", ("alert", "test", "system")), name="alert_kind_is_known"),
        sa.CheckConstraint(_one_of("status", ("firing", "resolved")), name="alert_status_is_known"),
        sa.CheckConstraint("char_length(title) BETWEEN 1 AND 200", name="alert_title_is_short"),
        sa.CheckConstraint(
            "codes IS NULL OR kind <> 'alert' AND jsonb_typeof(codes) = 'array' AND codes <> '[]'",
            name="alert_codes_are_of_the_console",
        ),
        sa.CheckConstraint(
            "jsonb_typeof(facts) = 'array' AND octet_length(facts::text) <= 40000", name="alert_facts_are_a_short_list"
        ),
        sa.Index(
            "alert_idempotency_key_is_unique",
            *("account_id", "integration_id", "idempotency_key"),
            unique=True,
            postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        ),
        sa.Index(
            "alerts_account_id_body_hash",
            *("account_id", "integration_id", "body_hash", "received_at"),
            postgresql_where=sa.text("body_hash IS NOT NULL"),
        ),
        sa.Index("alerts_received_at", "received_at"),
        sa.Index(
            "alerts_account_id_key",
            *("account_id", "integration_id", "key", "id"),
            postgresql_where=sa.text("key IS NOT NULL"),
        ),
    )

    @classmethod
    def of(cls, account_id: int, identity: int) -> "Notification | None":
        """Return this account's notification with the id."""
        return db.session.get(cls, (account_id, identity))

    def counts(self) -> dict[str, int]:
        """Return the number of deliveries in each state."""
        mine = (Delivery.account_id == self.account_id, Delivery.alert_id == self.id)
        found = sa.select(Delivery.state, sa.func.count()).where(*mine).group_by(Delivery.state)
        return dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in db.session.execute(found)}


class Delivery(Base):
    """A message over one channel to one contact; the table is the workers' queue and the log of results."""

    __tablename__ = "deliveries"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    alert_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    contact_name: Mapped[str]
    address: Mapped[str | None]  # the address of the last attempt, for display
    state: Mapped[str] = mapped_column(server_default="queued")
    attempts: Mapped[int] = mapped_column(server_default=sa.text("0"))
    # When it is due; while it is being sent, when the lease of its worker ends.
    next_attempt_at: Mapped[datetime | None] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    give_up_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.text("(now() + interval '1 hour')"))
    message: Mapped[UUID | None]  # the id of a combined message, which is repeated unchanged if it may have arrived
    answer: Mapped[str | None]
    ended_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    # The email of the user who cancelled it, or the code of the limit that did. A delivery that is being sent at that
    # moment is not retried.
    cancelled_by: Mapped[str | None]
    headline_only: Mapped[bool] = mapped_column(server_default=sa.false())  # because the text was refused
    text_refused: Mapped[bool] = mapped_column(server_default=sa.false())  # as well as its headline
    is_held: Mapped[bool] = mapped_column(server_default=sa.false())  # waits for the rate limit of its address
    overtaken_by: Mapped[int | None] = mapped_column(sa.BigInteger)  # the newer alert of its key that was sent instead
    asked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # when a user last sent it again
    contact_exists: Mapped[bool] = query_expression()  # loaded only by queries that request it

    __table_args__ = (
        sa.CheckConstraint("NOT headline_only OR state = 'sent'", name="delivery_of_a_headline_is_sent"),
        sa.CheckConstraint("NOT text_refused OR state = 'failed'", name="delivery_of_a_refused_text_has_failed"),
        sa.ForeignKeyConstraint(["account_id", "alert_id"], ["alerts.account_id", "alerts.id"], ondelete="CASCADE"),
        sa.CheckConstraint(_one_of("channel", KINDS), name="delivery_channel_is_known"),
        sa.CheckConstraint(_one_of("state", STATES), name="delivery_state_is_known"),
        sa.CheckConstraint(
            f"({_IS_WAITING}) = (next_attempt_at IS NOT NULL) AND ({_IS_WAITING}) = (ended_at IS NULL)",
            name="delivery_is_due_until_it_ends",
        ),
        sa.CheckConstraint("attempts >= 0 AND (state <> 'sent' OR attempts > 0)", name="delivery_attempts_are_counted"),
        sa.Index("deliveries_due", "channel", "account_id", "next_attempt_at", postgresql_where=sa.text(_IS_WAITING)),
        sa.Index(
            "deliveries_of_contacts",
            *("account_id", "contact_id", "channel", "next_attempt_at"),
            postgresql_where=sa.text("ended_at IS NULL"),  # other words than of deliveries_due: see attempts.py
        ),
        sa.CheckConstraint(
            "state <> 'overtaken' OR overtaken_by IS NOT NULL AND overtaken_by > alert_id",
            name="overtaken_delivery_says_by_what",
        ),
        sa.CheckConstraint("state <> 'cancelled' OR cancelled_by IS NOT NULL", name="cancelled_delivery_says_by_whom"),
        sa.CheckConstraint("state <> 'queued' OR cancelled_by IS NULL", name="stopped_delivery_does_not_wait"),
        sa.Index("deliveries_failed", "account_id", "alert_id", postgresql_where=sa.text("state = 'failed'")),
        sa.Index(
            "deliveries_not_sent",
            *("account_id", "alert_id"),
            postgresql_where=sa.text("state IN ('cancelled', 'overtaken')"),
        ),
        sa.Index(
            "deliveries_waiting",
            *("account_id", "alert_id"),
            postgresql_where=sa.text(IS_WAITING.replace("deliveries.", "")),
        ),
    )

    @property
    def sentence(self) -> str:
        """Return what is known of the last attempt."""
        return sentence(self.answer)

    @property
    def limit(self) -> str:
        """Return the sentence of the limit that cancelled it; an empty string if a user did."""
        said = sentence(self.cancelled_by)
        return said if said != self.cancelled_by else ""

    @classmethod
    def is_late(cls, account_id: int | sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """Return the condition that a message of the account has been due for more than two minutes.

        Messages to robots are left out, because their rate limit makes them wait.
        """
        # Read the first row of the index deliveries_due, with its exact condition; otherwise the whole queue is read.
        first = (
            sa.select(cls.next_attempt_at)
            .where(cls.account_id == account_id, cls.channel == kind.name, sa.text(_IS_WAITING))
            .order_by(cls.next_attempt_at)
            .limit(1)
            .scalar_subquery()
            for kind in kinds_by_contact()
        )
        late = sa.func.least(*first) < sa.func.now() - sa.text("interval '2 minutes'")
        return sa.func.coalesce(late, sa.false())


class Robot(Base):
    """The schedule and rate limit of a DingTalk robot: when it is due, and when it last sent."""

    __tablename__ = "robots"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    url_hash: Mapped[bytes] = mapped_column(primary_key=True)
    due_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    sent_at: Mapped[list[datetime]] = mapped_column(postgresql.ARRAY(TIMESTAMP), server_default="{}")
    blocked_until: Mapped[datetime | None] = mapped_column(TIMESTAMP)

    __table_args__ = (
        sa.CheckConstraint("octet_length(url_hash) = 32", name="robot_is_hashed"),
        sa.Index("robots_due", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),
    )


class SendWindow(Base):
    """The times of the last messages over a channel of a contact, or of its tests, for the rate limits in limits.py."""

    __tablename__ = "send_windows"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[list[datetime]] = mapped_column(postgresql.ARRAY(TIMESTAMP), server_default="{}")

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["account_id", "contact_id"], ["contacts.account_id", "contacts.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint(
            _one_of("kind", (*(kind.name for kind in kinds_by_contact()), "test")),
            name="send_window_is_of_a_known_kind",
        ),
    )


class ChannelState(Base):
    """The state of a channel of a contact: when it worked, or since when it fails and why. No row: never tried."""

    __tablename__ = "channel_states"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    worked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    failing_since: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    answer: Mapped[str | None]

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["account_id", "contact_id"], ["contacts.account_id", "contacts.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint(_one_of("channel", KINDS), name="channel_state_is_of_a_channel"),
        sa.CheckConstraint("num_nonnulls(worked_at, failing_since) > 0", name="channel_state_says_something"),
        sa.CheckConstraint("(failing_since IS NULL) = (answer IS NULL)", name="channel_failure_has_a_reason"),
    )


class SentDelivery(Base):
    """A delivery that was sent while its own row was locked; a worker updates that row when the lock is released.

    There is no foreign key, because its check would wait for the same lock; the same is true of ChannelNews.
    """

    __tablename__ = "sent_deliveries"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    alert_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str | None]
    answer: Mapped[str]
    headline_only: Mapped[bool] = mapped_column(server_default=sa.false())
    sent_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (sa.CheckConstraint(_one_of("channel", KINDS), name="sent_delivery_is_of_a_channel"),)


class ChannelNews(Base):
    """A result about the address `used` that is not yet in channel_states."""

    __tablename__ = "channel_news"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger)
    channel: Mapped[str]
    works: Mapped[bool]
    used: Mapped[str]
    answer: Mapped[str | None]
    noted_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (
        sa.CheckConstraint(_one_of("channel", KINDS), name="channel_news_is_of_a_channel"),
        sa.CheckConstraint("works = (answer IS NULL)", name="channel_news_has_a_reason"),
    )


class SystemCheck(Base):
    """An account to check, because a change may require a system message."""

    __tablename__ = "system_checks"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (sa.Index("system_checks_due_at", "due_at"),)


class WorkerHeartbeat(Base):
    """A worker process on any machine, which updates its heartbeat every few seconds."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    @classmethod
    def is_one_alive(cls) -> sa.ColumnElement[bool]:
        """Return the condition that a worker had a heartbeat within the last 30 seconds."""
        return sa.exists(sa.select(cls.id).where(cls.seen_at > sa.func.now() - sa.text("interval '30 seconds'")))


# Conditions written exactly as in the partial indexes.
is_waiting = sa.literal_column(f"({IS_WAITING})", sa.Boolean)
has_failed = sa.literal_column("deliveries.state = 'failed'", sa.Boolean)
is_cancelled = sa.literal_column("deliveries.state = 'cancelled'", sa.Boolean)
is_overtaken = sa.literal_column("deliveries.state = 'overtaken'", sa.Boolean)
