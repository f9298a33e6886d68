"""Say who can be reached, over which channels, and why not."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from ..config import current_settings
from ..contacts.models import FILTERS, Contact, surroundings
from ..db import db
from ..groups.models import Membership, group_surroundings
from .channels import configured
from .models import CHANNELS, Alert, ChannelState, Delivery, Integration, Worker

NAMED = 5  # contacts that the top of the page names
NO_WORKER = (
    "Nothing is delivered at the moment: no delivery worker is running. Start one with `flask --app wsgi deliver`."
)
_ADDRESSES = {"sms": Contact.mobile, "email": Contact.email, "dingtalk": Contact.dingtalk_url_hash}


class Health(NamedTuple):
    """What is known of a contact's channel: `state` is untried, works, fails or off; `at` when, or since when."""

    state: str
    at: datetime | None = None
    answer: str = ""


class Unreachable(NamedTuple):
    """A contact that would not be reached, and why: for each of its channels, what it is and what is wrong."""

    id: int
    name: str
    reasons: dict[str, Health]

    @property
    def fails(self) -> bool:
        """Tell whether a channel of the contact itself is at fault."""
        return any(health.state == "fails" for health in self.reasons.values())


class Reach(NamedTuple):
    """What the top of the page says: of the whole console, of channels, and of the contacts that cannot be reached."""

    no_worker: bool
    is_late: bool
    off: dict[str, str]
    total: int
    named: Sequence[Unreachable]


def channels_off() -> dict[str, str]:
    """Return the channels that are not set up, and why not."""
    settings = current_settings()
    return {channel: why for channel in CHANNELS if (why := configured(settings, channel))}


def is_reachable() -> sa.ColumnElement[bool]:
    """Return the condition that a contact has a channel that is set up and does not fail."""
    return sa.or_(*(sa.and_(column.is_not(None), _works(channel)) for channel, column in _ADDRESSES.items()))


def is_failing() -> sa.ColumnElement[bool]:
    """Return the condition that one of a contact's channels fails."""
    return sa.exists(_states.where(ChannelState.failing_since.is_not(None)).correlate(Contact))


def health_of(account_id: int, ids: Iterable[int]) -> dict[int, dict[str, Health]]:
    """Return what is known of the channels of the contacts; of a channel that is not there, nothing is said."""
    found = sa.select(
        ChannelState.contact_id,
        ChannelState.channel,
        ChannelState.worked_at,
        ChannelState.failing_since,
        ChannelState.answer,
    ).where(ChannelState.account_id == account_id, ChannelState.contact_id.in_(ids))
    off = {channel: Health("off", answer=why) for channel, why in channels_off().items()}
    health = {identity: dict(off) for identity in ids}
    for identity, channel, worked_at, failing_since, answer in db.session.execute(found):
        known = Health("fails", failing_since, answer or "") if failing_since else Health("works", worked_at)
        health[identity].setdefault(channel, known)
    return health


def reach_of(account_id: int) -> Reach:
    """Return what has to be said before an alert does."""
    by_name = sa.collate(Contact.name_key, "C")
    unreachable = (
        sa.select(*(Contact.id, Contact.name, Contact.mobile, Contact.email, Contact.dingtalk_url_hash))
        .add_columns(
            sa.func.count().over().label("total"),
            sa.func.row_number().over(order_by=(by_name, Contact.id)).label("place"),
        )
        .where(Contact.account_id == account_id, ~is_reachable())
        .order_by(by_name, Contact.id)
        .limit(NAMED)
        .subquery()
    )
    # One row that is always there, so that one statement tells of the workers and of the contacts.
    one = sa.select(Worker.is_one_alive().label("lives"), Delivery.is_late(account_id).label("late")).subquery()
    is_of_contact = sa.and_(ChannelState.account_id == account_id, ChannelState.contact_id == unreachable.c.id)
    found = (
        sa.select(
            one.c.lives, one.c.late, unreachable, ChannelState.channel, ChannelState.failing_since, ChannelState.answer
        )
        .select_from(one)
        .outerjoin(unreachable, sa.true())
        .outerjoin(ChannelState, sa.and_(is_of_contact, ChannelState.failing_since.is_not(None)))
        .order_by(unreachable.c.place, ChannelState.channel.desc())  # which is the order of CHANNELS
    )
    rows = db.session.execute(found).all()
    off = channels_off()
    named: dict[int, Unreachable] = {}
    for row in (row for row in rows if row.id is not None):
        addresses = {"sms": row.mobile, "email": row.email, "dingtalk": row.dingtalk_url_hash}
        contact = named.setdefault(row.id, Unreachable(row.id, row.name, {}))
        for channel, words in CHANNELS.items():
            if addresses[channel] is not None and channel in off:
                contact.reasons[words] = Health("off", answer=off[channel])
            elif row.channel == channel:
                contact.reasons[words] = Health("fails", row.failing_since, row.answer)
    return Reach(not rows[0].lives, rows[0].late, off, rows[0].total or 0, list(named.values()))


def mute_of(account_id: int, ids: Iterable[int]) -> set[int]:
    """Return those of the groups that have members, none of whom can be reached."""
    found = (
        sa.select(Membership.group_id)
        .join(Contact, sa.and_(Contact.account_id == Membership.account_id, Contact.id == Membership.contact_id))
        .where(Membership.account_id == account_id, Membership.group_id.in_(ids))
        .group_by(Membership.group_id)
        .having(~sa.func.bool_or(is_reachable()))
    )
    return set(db.session.scalars(found))


def send_test(account_id: int, contact_id: int, name: str) -> Alert:
    """Send a test to a contact, in the transaction that is open."""
    return Alert.test(account_id, name, Contact.id == contact_id)


def add_to_groups() -> None:
    """Let the pages of groups tell who uses them and whom they reach."""
    group_surroundings.integrations_of = Integration.names_of_groups
    group_surroundings.mute_of = mute_of


def add_to_contacts() -> None:
    """Let the list of contacts be narrowed by who can be reached, and its pages tell of it."""
    FILTERS["unreachable"] = ("Cannot be reached", ~is_reachable())
    FILTERS["failing"] = ("With a channel that fails", is_failing())
    surroundings.health_of = health_of
    surroundings.reach_of = reach_of
    surroundings.send_test = send_test


_states = sa.select(1).where(ChannelState.account_id == Contact.account_id, ChannelState.contact_id == Contact.id)


def _works(channel: str) -> sa.ColumnElement[bool]:
    """Return the condition that the channel is set up, which the settings say when it runs, and does not fail."""
    is_on = sa.bindparam(
        f"{channel}_is_on",
        type_=sa.Boolean(),
        unique=True,
        callable_=lambda: configured(current_settings(), channel) is None,
    )
    fails = _states.where(ChannelState.channel == channel, ChannelState.failing_since.is_not(None))
    return sa.and_(is_on, ~sa.exists(fails.correlate(Contact)))
