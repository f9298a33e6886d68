"""Keep what came in, what became of each message, and what is known of every channel."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, mapped_column, query_expression, with_expression

from ..accounts.models import Account
from ..config import current_settings
from ..contacts.models import CLEAN_NAME, Contact
from ..core.db import Base, db, show_all, show_only, wait_at_most
from . import sample
from .limits import LIMIT_OF_TESTS, admit_tests

CHANNELS = {"sms": "Mobile phone number", "email": "Mailbox", "dingtalk": "DingTalk robot"}
STATES = ("queued", "sending", "sent", "failed", "cancelled", "overtaken")
SAME_BODY_SECONDS = 60
LOCK_SECONDS = 1  # for a lock that somebody else holds; a row has two. Then the sender is to come again
PAGE_SIZE, DELIVERIES_SHOWN = 50, 300
TIMESTAMP = sa.DateTime(timezone=True)
_IS_WAITING = "state IN ('queued', 'sending')"
# The same in the words of the index that leads with the account. The workers' queue, which does not, fits only those
# above; and a partial index does not fit a parameter.
IS_WAITING = " AND ".join(f"deliveries.state <> '{state}'" for state in ("sent", "failed", "cancelled", "overtaken"))


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Integration(Base):
    """A way in: who posts with its token has the members of its group told."""

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
    limited_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # when something was last sent away for a while
    refused_count: Mapped[int] = mapped_column(server_default=sa.text("0"))
    refused_since: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    refused_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # the last time
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
        """Give the integration a token, which ends the one before; it is returned and kept nowhere."""
        token = secrets.token_urlsafe(32)
        self.token_hash = _digest(token)
        self.token_made_at = sa.func.now()
        return token

    @classmethod
    def seconds_to_wait(cls, token: str, limit: int) -> int | None:
        """Return how long the sender with this token has to stay away, 0 for come in; None if it is not known.

        Nothing is written or locked: whoever floods an integration costs no more than this.
        """
        show_all()
        wait: int | None = db.session.execute(_wait, {"token_hash": _digest(token), "limit": limit}).scalar()
        return wait

    @classmethod
    def admit(cls, token: str, limit: int, is_refused: bool = False) -> "Admission | None":
        """Count a use of the integration with this token, at most `limit` a minute; None if there is none.

        What is refused anyway counts as well. The row stays locked until the commit: what arrives twice at once is seen
        one after the other. From here on only the rows of the integration's account are shown.
        """
        show_all()
        wait_at_most(LOCK_SECONDS)
        values = {"token_hash": _digest(token), "limit": limit, "is_refused": is_refused}
        found = db.session.execute(_admit, values).one_or_none()
        if found is None:
            return None
        admission = Admission(*found[1:])
        show_only(admission.account_id)
        return admission


class Admission(NamedTuple):
    """Say through which integration something came in; `wait` is how many seconds to stay away, 0 for come in."""

    account_id: int
    integration_id: int
    integration_name: str
    group_id: int
    group_name: str
    wait: int


_WINDOW_ENDS = "window_began_at + interval '1 minute'"
_SECONDS_LEFT = f"greatest(1, ceil(extract(epoch FROM {_WINDOW_ENDS} - now())))::integer"
_wait = sa.text(f"""
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
        integrations.account_id, integrations.id, integrations.name, group_id, found.group_name,
        CASE WHEN window_count <= :limit THEN 0 ELSE {_SECONDS_LEFT} END
""")  # nosec B608


class Alert(Base):
    """Something that contacts are told: what a sender posted, a test, or the console's own message."""

    __tablename__ = "alerts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    kind: Mapped[str]
    source: Mapped[str]
    integration_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    integration_name: Mapped[str | None]
    addressee: Mapped[str]  # the group's name, or the contact's that is tested
    title: Mapped[str]
    text: Mapped[str]
    severity: Mapped[str]
    status: Mapped[str]
    key: Mapped[str | None]
    body_hash: Mapped[bytes | None]
    idempotency_key: Mapped[str | None]
    facts: Mapped[list[Any]] = mapped_column(postgresql.JSONB, server_default="[]")  # of each alert, as in facts.py
    received_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (
        sa.CheckConstraint(_one_of("kind", ("alert", "test", "system")), name="alert_kind_is_known"),
        sa.CheckConstraint(_one_of("status", ("firing", "resolved")), name="alert_status_is_known"),
        sa.CheckConstraint("char_length(title) BETWEEN 1 AND 200", name="alert_title_is_short"),
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
    def of(cls, account_id: int, identity: int) -> "Alert | None":
        """Return this account's alert with the id."""
        return db.session.get(cls, (account_id, identity))

    @classmethod
    def same_as(cls, admission: Admission, body_hash: bytes, idempotency_key: str | None) -> int | None:
        """Return the id of the alert that came in by the same key, or by the same body within the last minute."""
        values = {"account_id": admission.account_id, "integration_id": admission.integration_id}
        if idempotency_key is not None:
            known = db.session.execute(_same_key, values | {"idempotency_key": idempotency_key})
        else:
            known = db.session.execute(_same_body, values | {"body_hash": body_hash})
        identity: int | None = known.scalar()
        return identity

    def tell(self, who: str, **values: Any) -> int:
        """Write the alert and a delivery for each channel of those of the account's contacts; return how many.

        `who` is one of the conditions below, in SQL, and `values` is what it asks for.
        """
        db.session.add(self)
        db.session.flush()
        mine = {"account_id": self.account_id, "alert_id": self.id}
        count: int = db.session.execute(_queueing(who), mine | values).scalar_one()
        Robot.schedule(self.account_id, who, **values)
        wake_workers()
        return count

    @classmethod
    def test(cls, account_id: int, name: str, who: str, **values: Any) -> "Alert":
        """Send a test to those of the account's contacts, by the way of every alert and as hard as one can be.

        Who has had too many within a minute is left out, which the test says; if that is everybody, TooManyRequests is
        raised.
        """
        found = db.session.execute(_choosing(who), {"account_id": account_id} | values)
        ids = list(found.scalars())
        left_out = set(ids) - admit_tests(account_id, ids)
        alert = cls(
            account_id=account_id,
            kind="test",
            source="console",
            addressee=name,
            title=sample.TITLE,
            text=sample.text(current_settings().public_url),
            severity="",
            status="firing",
        )
        alert.tell(OF_CONTACTS, contact_ids=ids)
        if left_out:
            mine = (Delivery.account_id == account_id, Delivery.alert_id == alert.id)
            ended = {"state": "cancelled", "cancelled_by": LIMIT_OF_TESTS, "next_attempt_at": None}
            is_left_out = Delivery.contact_id.in_(left_out)
            db.session.execute(sa.update(Delivery).where(*mine, is_left_out).values(**ended, ended_at=sa.func.now()))
        return alert

    @classmethod
    def search(cls, account_id: int, text: str, show: str, before: int | None) -> "tuple[Sequence[ListedAlert], bool]":
        """Return a page of the account's alerts, newest first, from before an id; and whether there are more."""
        parameters = {"account_id": account_id, "text": text, "before": before or 2**63 - 1}
        statement = _page_statement.where(SHOWS[show][1])
        if text:
            statement = statement.where(_is_found)
        rows = [ListedAlert(*row) for row in db.session.execute(statement, parameters)]
        return rows[:PAGE_SIZE], len(rows) > PAGE_SIZE

    def deliveries(self, state: str, page: int) -> "Sequence[Delivery]":
        """Return a page of the alert's deliveries that are in a state: what failed first, then by contact."""
        mine = (Delivery.account_id == self.account_id, Delivery.alert_id == self.id, DELIVERY_STATES[state][1])
        # What needs somebody, what may yet change, and what is as it should be.
        urgency = sa.case({"failed": 0, "sent": 3, "cancelled": 2, "overtaken": 2}, value=Delivery.state, else_=1)
        order = (urgency, Delivery.contact_name, Delivery.contact_id, Delivery.channel)
        is_its = sa.and_(Contact.account_id == Delivery.account_id, Contact.id == Delivery.contact_id)
        exists = with_expression(Delivery.contact_exists, sa.exists().where(is_its))
        found = sa.select(Delivery).where(*mine).order_by(*order).options(exists)
        return db.session.scalars(found.limit(DELIVERIES_SHOWN).offset((page - 1) * DELIVERIES_SHOWN)).all()

    def counts(self) -> dict[str, int]:
        """Return how many of the alert's deliveries are in each state."""
        mine = (Delivery.account_id == self.account_id, Delivery.alert_id == self.id)
        found = sa.select(Delivery.state, sa.func.count()).where(*mine).group_by(Delivery.state)
        return dict.fromkeys(STATES, 0) | {row[0]: row[1] for row in db.session.execute(found)}

    @staticmethod
    def pages(counts: dict[str, int], state: str) -> int:
        """Return how many pages the deliveries of a state fill."""
        wanted = {"all": STATES, "waiting": ("queued", "sending")}.get(state, (state,))
        return -(-sum(counts[name] for name in wanted) // DELIVERIES_SHOWN)

    def send_again(
        self, contact_id: int | None = None, channel: str | None = None, state: str = "failed"
    ) -> list[tuple[str, str]]:
        """Queue the deliveries that failed, or were cancelled, as if they were new; return name and channel of each.

        `contact_id` and `channel` name one of them, whichever of both it is.
        """
        mine = [Delivery.account_id == self.account_id, Delivery.alert_id == self.id, SENT_AGAIN[state]]
        if contact_id is not None:
            mine[-1] = sa.or_(*SENT_AGAIN.values())
            mine += [Delivery.contact_id == contact_id, Delivery.channel == channel]
        again = sa.update(Delivery).where(*mine)
        fresh = {
            "state": "queued",
            "attempts": 0,
            "next_attempt_at": sa.func.now(),
            "give_up_at": sa.func.now() + sa.text("interval '1 hour'"),
            "message": None,
            "ended_at": None,
            "cancelled_by": None,
            "text_refused": False,
            "is_held": False,
            "asked_at": sa.func.now(),
        }
        queued = again.values(fresh).returning(Delivery.contact_id, Delivery.contact_name, Delivery.channel)
        rows = db.session.execute(queued).all()
        Robot.schedule(self.account_id, OF_CONTACTS, contact_ids=[row.contact_id for row in rows])
        wake_workers()
        return [(row.contact_name, row.channel) for row in rows]


class Delivery(Base):
    """One message to one channel of one contact: the workers' queue and, for good, the log of what became of it."""

    __tablename__ = "deliveries"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    alert_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    contact_name: Mapped[str]
    address: Mapped[str | None]  # where the last attempt went, as it may be shown
    state: Mapped[str] = mapped_column(server_default="queued")
    attempts: Mapped[int] = mapped_column(server_default=sa.text("0"))
    # When it is due; of one that is being sent, when its worker is taken for dead.
    next_attempt_at: Mapped[datetime | None] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    give_up_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.text("(now() + interval '1 hour')"))
    message: Mapped[UUID | None]  # what went to a robot together, and goes again together should that be uncertain
    answer: Mapped[str | None]
    ended_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    # The e-mail of the user who stopped it. One that is being sent then is sent to its end, and not tried again.
    cancelled_by: Mapped[str | None]
    headline_only: Mapped[bool] = mapped_column(server_default=sa.false())  # because the text was refused
    text_refused: Mapped[bool] = mapped_column(server_default=sa.false())  # as well as its headline
    is_held: Mapped[bool] = mapped_column(server_default=sa.false())  # waits for the limit of its number or mailbox
    overtaken_by: Mapped[int | None] = mapped_column(sa.BigInteger)  # the newer alert of its key that was sent instead
    asked_at: Mapped[datetime | None] = mapped_column(TIMESTAMP)  # when a person last had it sent again
    contact_exists: Mapped[bool] = query_expression()  # where it is asked for

    __table_args__ = (
        sa.CheckConstraint("NOT headline_only OR state = 'sent'", name="delivery_of_a_headline_is_sent"),
        sa.CheckConstraint("NOT text_refused OR state = 'failed'", name="delivery_of_a_refused_text_has_failed"),
        sa.ForeignKeyConstraint(["account_id", "alert_id"], ["alerts.account_id", "alerts.id"], ondelete="CASCADE"),
        sa.CheckConstraint(_one_of("channel", CHANNELS), name="delivery_channel_is_known"),
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
            postgresql_where=sa.text(_IS_WAITING),
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

    @classmethod
    def is_late(cls, account_id: int | sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
        """Return the condition that a message of the account has been due for more than two minutes.

        Those to robots are left out, which have to wait when there are many.
        """
        # The first in the order of deliveries_due, in the words of its condition: else all that waits would be read.
        first = (
            sa.select(cls.next_attempt_at)
            .where(cls.account_id == account_id, cls.channel == channel, sa.text(_IS_WAITING))
            .order_by(cls.next_attempt_at)
            .limit(1)
            .scalar_subquery()
            for channel in CHANNELS
            if channel != "dingtalk"
        )
        late = sa.func.least(*first) < sa.func.now() - sa.text("interval '2 minutes'")
        return sa.func.coalesce(late, sa.false())


class Robot(Base):
    """A DingTalk robot with something to send: when it may, and when it last did."""

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

    @classmethod
    def schedule(cls, account_id: int, who: str, **values: Any) -> None:
        """Have the robots of those of the account's contacts looked at by a worker.

        One that is scheduled already is only locked: whoever works on it looks for more when it has the lock again.
        """
        db.session.execute(_scheduling(who), {"account_id": account_id} | values)


class SendWindow(Base):
    """When a contact was last sent something over a channel, or a test; limits.py says what that is for."""

    __tablename__ = "send_windows"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[list[datetime]] = mapped_column(postgresql.ARRAY(TIMESTAMP), server_default="{}")

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["account_id", "contact_id"], ["contacts.account_id", "contacts.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint(_one_of("kind", ("sms", "email", "test")), name="send_window_is_of_a_known_kind"),
    )


class ChannelState(Base):
    """What is known of a channel of a contact: when it worked, or since when it fails and why. No row: never tried."""

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
        sa.CheckConstraint(_one_of("channel", CHANNELS), name="channel_state_is_of_a_channel"),
        sa.CheckConstraint("num_nonnulls(worked_at, failing_since) > 0", name="channel_state_says_something"),
        sa.CheckConstraint("(failing_since IS NULL) = (answer IS NULL)", name="channel_failure_has_a_reason"),
    )


class SentDelivery(Base):
    """A delivery that was sent while its own row was locked; a worker ends that row when the lock is gone.

    Without a foreign key, whose check would wait for the same lock; so is ChannelNews.
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


class ChannelNews(Base):
    """What an attempt showed of the address `used`, and channel_states does not say yet."""

    __tablename__ = "channel_news"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    contact_id: Mapped[int] = mapped_column(sa.BigInteger)
    channel: Mapped[str]
    works: Mapped[bool]
    used: Mapped[str]
    answer: Mapped[str | None]
    noted_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (sa.CheckConstraint("works = (answer IS NULL)", name="channel_news_has_a_reason"),)


class SystemCheck(Base):
    """An account that is to be looked at, because something changed that the console itself may have to tell."""

    __tablename__ = "system_checks"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    __table_args__ = (sa.Index("system_checks_due_at", "due_at"),)


class SystemNotice(Base):
    """When an account was last told something of a kind: at most once a day."""

    __tablename__ = "system_notices"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())


class ToldFact(Base):
    """Something that an account was told and that has not ended since: not news any more."""

    __tablename__ = "told_facts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)


class Worker(Base):
    """A process that delivers, on whatever machine; seen every few seconds while it lives."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())

    @classmethod
    def is_one_alive(cls) -> sa.ColumnElement[bool]:
        """Return the condition that some worker was seen within the last half minute."""
        return sa.exists(sa.select(cls.id).where(cls.seen_at > sa.func.now() - sa.text("interval '30 seconds'")))


class ListedAlert(NamedTuple):
    """Hold what the list shows of an alert."""

    id: int
    kind: str
    title: str
    severity: str
    status: str
    addressee: str
    source: str
    received_at: datetime
    group_id: int | None  # of what came in through an integration that is still there
    sent: int
    failed: int
    waiting: int
    cancelled: int
    overtaken: int


_mine = (Delivery.account_id == Alert.account_id, Delivery.alert_id == Alert.id)
_in_account = Delivery.account_id == sa.bindparam("account_id")
_is_waiting = sa.literal_column(f"({IS_WAITING})", sa.Boolean)
_has_failed = sa.literal_column("deliveries.state = 'failed'", sa.Boolean)
_is_cancelled = sa.literal_column("deliveries.state = 'cancelled'", sa.Boolean)
_is_overtaken = sa.literal_column("deliveries.state = 'overtaken'", sa.Boolean)
# By way of the indexes of what failed and of what waits: there is little of either, whatever is kept.
SHOWS: dict[str, tuple[str, sa.ColumnElement[bool]]] = {
    "all": ("All notifications", sa.true()),
    "failed": (
        "With a failed message",
        Alert.id.in_(sa.select(Delivery.alert_id).where(_in_account, _has_failed)),
    ),
    "waiting": (
        "With a waiting message",
        Alert.id.in_(sa.select(Delivery.alert_id).where(_in_account, _is_waiting)),
    ),
    "cancelled": (
        "With a cancelled message",
        Alert.id.in_(sa.select(Delivery.alert_id).where(_in_account, _is_cancelled)),
    ),
    "alerts": ("Alerts", Alert.kind == "alert"),
    "tests": ("Tests", Alert.kind == "test"),
    "system": ("System notifications", Alert.kind == "system"),
}
DELIVERY_STATES: dict[str, tuple[str, sa.ColumnElement[bool]]] = {
    "all": ("All messages", sa.true()),
    "failed": ("Failed", _has_failed),
    "waiting": ("Waiting", _is_waiting),
    "sent": ("Sent", Delivery.state == "sent"),
    "cancelled": ("Cancelled", _is_cancelled),
    "overtaken": ("Overtaken", _is_overtaken),
}
SENT_AGAIN = {"failed": _has_failed, "cancelled": _is_cancelled}

_counts = (
    sa.select(
        sa.func.count().filter(Delivery.state == "sent").label("sent"),
        sa.func.count().filter(_has_failed).label("failed"),
        sa.func.count().filter(_is_waiting).label("waiting"),
        sa.func.count().filter(_is_cancelled).label("cancelled"),
        sa.func.count().filter(_is_overtaken).label("overtaken"),
    )
    .where(*_mine)
    .correlate(Alert)
    .lateral("counts")
)
_group_id = (
    sa.select(Integration.group_id)
    .where(Integration.account_id == Alert.account_id, Integration.id == Alert.integration_id)
    .correlate(Alert)
    .scalar_subquery()
)
_page_statement = (
    sa.select(
        *(Alert.id, Alert.kind, Alert.title, Alert.severity, Alert.status, Alert.addressee, Alert.source),
        *(Alert.received_at, _group_id, _counts.c.sent, _counts.c.failed, _counts.c.waiting),
        *(_counts.c.cancelled, _counts.c.overtaken),
    )
    .join(_counts, sa.true())
    .where(Alert.account_id == sa.bindparam("account_id"), Alert.id < sa.bindparam("before"))
    .order_by(Alert.id.desc())
    .limit(PAGE_SIZE + 1)
)
_words = sa.func.concat_ws("\n", Alert.title, Alert.text, Alert.addressee, Alert.source)
_is_found = sa.func.strpos(sa.func.lower(_words), sa.func.lower(sa.bindparam("text"))) > 0


def wake_workers() -> None:
    """Tell the workers, once this transaction is committed, that there is something to send."""
    db.session.execute(sa.text("SELECT pg_notify('deliveries', '')"))


# Whom an alert is for. Statements are kept by these words, because making one anew takes longer than running it.
OF_CONTACT = "contacts.id = :contact_id"
OF_CONTACTS = "contacts.id = ANY(CAST(:contact_ids AS bigint[]))"
OF_GROUP = """EXISTS (SELECT FROM memberships WHERE (memberships.account_id, group_id, contact_id)
    = (contacts.account_id, :group_id, contacts.id))"""
OF_SYSTEM = "receives_system_notifications"


@cache
def _queueing(who: str) -> sa.TextClause:
    return sa.text(f"""
        WITH queued AS (
            INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name)
            SELECT contacts.account_id, :alert_id, contacts.id, channel, contacts.name
            FROM contacts CROSS JOIN unnest(ARRAY[
                CASE WHEN mobile IS NOT NULL THEN 'sms' END,
                CASE WHEN email IS NOT NULL THEN 'email' END,
                CASE WHEN dingtalk_url_encrypted IS NOT NULL THEN 'dingtalk' END]) AS channel
            WHERE contacts.account_id = :account_id AND channel IS NOT NULL AND {who}
            RETURNING 1
        )
        SELECT count(*) FROM queued
    """)  # nosec B608


@cache
def _choosing(who: str) -> sa.TextClause:
    return sa.text(f"SELECT contacts.id FROM contacts WHERE account_id = :account_id AND {who}")  # nosec B608


@cache
def _scheduling(who: str) -> sa.TextClause:
    return sa.text(f"""
        INSERT INTO robots AS planned (account_id, url_hash, due_at)
        SELECT DISTINCT contacts.account_id, dingtalk_url_hash, now() FROM contacts
        WHERE contacts.account_id = :account_id AND dingtalk_url_hash IS NOT NULL AND {who}
        ORDER BY 1, 2
        ON CONFLICT (account_id, url_hash) DO UPDATE SET due_at = excluded.due_at WHERE planned.due_at IS NULL
    """)  # nosec B608


_same_key = sa.text("""
    SELECT id FROM alerts
    WHERE account_id = :account_id AND integration_id = :integration_id AND idempotency_key = :idempotency_key
""")
# Firing, resolved, firing again: the third is no repetition of the first.
_same_body = sa.text(f"""
    SELECT id FROM alerts AS known
    WHERE account_id = :account_id AND integration_id = :integration_id AND body_hash = :body_hash
        AND received_at > now() - interval '{SAME_BODY_SECONDS} seconds'
        AND NOT EXISTS (
            SELECT FROM alerts AS newer
            WHERE newer.account_id = known.account_id AND newer.integration_id = known.integration_id
                AND newer.id > known.id AND newer.title = known.title AND newer.key IS NOT DISTINCT FROM known.key
                AND newer.received_at > now() - interval '{SAME_BODY_SECONDS} seconds')
    LIMIT 1
""")  # nosec B608


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
