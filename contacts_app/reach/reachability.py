"""Say who can be reached, over which channels, and why not."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from ..config import current_settings
from ..contacts.models import Contact
from ..core.db import read_rows
from ..delivery.channels import configured
from ..delivery.models import CHANNELS, ChannelState, Delivery, WorkerHeartbeat
from ..groups.models import Membership
from ..intake.models import Integration
from ..intake.refusals import RefusedSender, read_senders, refused_senders

NAMED = 5  # contacts that the top of the page names
NO_WORKER = (
    "Nothing is delivered at the moment: no delivery worker is running. Start one with `flask --app wsgi deliver`."
)
_ADDRESSES = {"sms": Contact.mobile, "email": Contact.email, "dingtalk": Contact.dingtalk_url_hash}


# The account is named and not joined: where PostgreSQL reads what is known of all contacts at once instead of one after
# the other, which it decides by the size of the table, it then reads this account's.
_states = sa.select(1).where(
    ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == Contact.id
)


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


class KnownOfGroup(NamedTuple):
    """Hold how many integrations use a group, and how many of its members cannot be reached."""

    integrations: int
    unreached: int


class Reach(NamedTuple):
    """What the top of the page says: of the whole console, of channels, and of the contacts that cannot be reached.

    `tried` are the contacts of whom a channel is known to work or to fail, `grouped` those in a group.
    """

    no_worker: bool
    is_late: bool
    off: dict[str, str]
    total: int
    named: Sequence[Unreachable]
    refused: Sequence[RefusedSender]
    tried: int
    grouped: int


def channels_off() -> dict[str, str]:
    """Return the channels that are not set up, and why not."""
    settings = current_settings()
    return {channel: why for channel in CHANNELS if (why := configured(settings, channel))}


def is_reachable() -> sa.ColumnElement[bool]:
    """Return the condition that a contact of the parameter account_id has a channel that is set up and works."""
    return sa.or_(*(sa.and_(column.is_not(None), _works(channel)) for channel, column in _ADDRESSES.items()))


def is_failing() -> sa.ColumnElement[bool]:
    """Return the condition that one of the channels of a contact of the parameter account_id fails."""
    return sa.exists(_states.where(ChannelState.failing_since.is_not(None)).correlate(Contact))


def is_untried() -> sa.ColumnElement[bool]:
    """Return the condition that nothing is known of any channel of a contact of the parameter account_id."""
    return ~sa.exists(_states.correlate(Contact))


def states_of_contacts(ids: sa.ColumnElement[Any]) -> sa.Select[int, str]:
    """Return the statement of what is known of contacts of the parameter account_id: contact_id, and states as JSON.

    `health_of` reads the JSON.
    """
    fails = ChannelState.failing_since.is_not(None)
    at = sa.func.extract("epoch", sa.func.coalesce(ChannelState.failing_since, ChannelState.worked_at))
    state = sa.func.json_build_array(ChannelState.channel, fails, at, ChannelState.answer)
    return (
        sa.select(ChannelState.contact_id, sa.cast(sa.func.json_agg(state), sa.Text).label("states"))
        .where(ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == sa.any_(ids))
        .group_by(ChannelState.contact_id)
    )


def health_of(states: str | None) -> list[Health | None]:
    """Return what is known of each channel of a contact with these states: None for one that was never tried."""
    known: dict[str, Health] = {}
    for channel, fails, at, answer in json.loads(states or "[]"):
        known[channel] = Health("fails" if fails else "works", datetime.fromtimestamp(at, UTC), answer)
    known |= {channel: Health("off", answer=why) for channel, why in channels_off().items()}
    return [known.get(channel) for channel in CHANNELS]


@cache
def reach_statement() -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of reach_of, built once."""
    account_id: sa.BindParameter[int] = sa.bindparam("account_id")
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
    # Counted by what there is of them, in the order of an index: to ask for each contact takes twice as long.
    counts = {
        "tried": sa.select(sa.func.count(ChannelState.contact_id.distinct())).where(
            ChannelState.account_id == account_id
        ),
        "grouped": sa.select(sa.func.count(Membership.contact_id.distinct())).where(
            Membership.account_id == account_id
        ),
    }
    one = (
        sa.select(WorkerHeartbeat.is_one_alive().label("lives"), Delivery.is_late(account_id).label("late"))
        .add_columns(refused_senders(account_id).label("refused"))
        .add_columns(*(count.scalar_subquery().label(name) for name, count in counts.items()))
        .subquery()
    )
    found = unreachable.c
    return (
        sa.select(*one.c, found.total)
        .add_columns(*_reasons(found))
        .select_from(one)
        .outerjoin(unreachable, sa.true())
        .outerjoin(ChannelState, _fails(found))
        .order_by(found.place, ChannelState.channel.desc())  # which is the order of CHANNELS
    )


@cache
def _unreachable_members() -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of unreachable_members, built once."""
    mine = (Membership.account_id == sa.bindparam("account_id"), Membership.group_id == sa.bindparam("group_id"))
    contact = Contact.__table__.c
    return (
        sa.select(*_reasons(contact))
        .join(Membership, sa.and_(Membership.account_id == Contact.account_id, Membership.contact_id == Contact.id))
        .outerjoin(ChannelState, _fails(contact))
        .where(*mine, ~is_reachable())
        .order_by(sa.collate(Contact.name_key, "C"), Contact.id, ChannelState.channel.desc())
    )


def _reasons(contact: Any) -> tuple[Any, ...]:
    """Return the columns that _gather takes: of a contact, and of a channel of it that fails."""
    addresses = (contact.mobile, contact.email, contact.dingtalk_url_hash)
    known = (ChannelState.channel, ChannelState.failing_since, ChannelState.answer)
    return (contact.id, contact.name, *addresses, *known)


def _fails(contact: Any) -> sa.ColumnElement[bool]:
    """Return the condition that what is known of a channel is that one of the contact fails."""
    is_its = sa.and_(ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == contact.id)
    return sa.and_(is_its, ChannelState.failing_since.is_not(None))


def _gather(rows: Iterable[sa.Row[Any]]) -> dict[int, Unreachable]:
    """Return the contacts of the rows, which have the columns of _reasons, by their ids."""
    off = channels_off()
    found: dict[int, Unreachable] = {}
    for row in rows:
        if row.id is None:
            continue
        contact = found.setdefault(row.id, Unreachable(row.id, row.name, {}))
        addresses = (row.mobile, row.email, row.dingtalk_url_hash)
        for (channel, words), address in zip(CHANNELS.items(), addresses, strict=True):
            if address is not None and channel in off:
                contact.reasons[words] = Health("off", answer=off[channel])
            elif row.channel == channel:
                contact.reasons[words] = Health("fails", row.failing_since, row.answer)
    return found


def reach_of(account_id: int) -> Reach:
    """Return what has to be said before an alert does."""
    rows = read_rows(reach_statement(), {"account_id": account_id})
    first = rows[0]
    return Reach(
        no_worker=not first.lives,
        is_late=first.late,
        off=channels_off(),
        total=first.total or 0,
        named=list(_gather(rows).values()),
        refused=read_senders(first.refused),
        tried=first.tried,
        grouped=first.grouped,
    )


def unreachable_members(account_id: int, group_id: int) -> dict[int, Unreachable]:
    """Return those members of a group that cannot be reached, by their ids."""
    return _gather(read_rows(_unreachable_members(), {"account_id": account_id, "group_id": group_id}))


@cache
def _of_groups() -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of known_of_groups, built once."""
    ids = sa.cast(sa.bindparam("group_ids"), ARRAY(sa.BigInteger))
    is_member = sa.and_(Contact.account_id == Membership.account_id, Contact.id == Membership.contact_id)
    zero: sa.ColumnElement[int] = sa.literal_column("0", sa.BigInteger)
    count = sa.func.count
    unreached: sa.Select[*tuple[Any, ...]] = (
        sa.select(Membership.group_id, zero.label("integrations"), count().label("unreached"))
        .join(Contact, is_member)
        .where(Membership.account_id == sa.bindparam("account_id"), Membership.group_id == sa.any_(ids))
        .where(~is_reachable())
        .group_by(Membership.group_id)
    )
    used: sa.Select[*tuple[Any, ...]] = (
        sa.select(Integration.group_id, count().label("integrations"), zero.label("unreached"))
        .where(Integration.account_id == sa.bindparam("account_id"), Integration.group_id == sa.any_(ids))
        .group_by(Integration.group_id)
    )
    return sa.select(sa.union_all(unreached, used).subquery())


def known_of_groups(account_id: int, ids: Iterable[int]) -> dict[int, KnownOfGroup]:
    """Return how many integrations use each of the groups, and how many members of it cannot be reached."""
    found = dict.fromkeys(ids, KnownOfGroup(0, 0))
    for row in read_rows(_of_groups(), {"account_id": account_id, "group_ids": list(found)}):
        before = found[row.group_id]
        found[row.group_id] = KnownOfGroup(
            integrations=before.integrations + row.integrations, unreached=before.unreached + row.unreached
        )
    return found


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
