"""Find out which contacts can be reached, over which channels, and why others cannot."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from ..config import current_settings
from ..contacts.models import Contact, by_name
from ..core.db import read_rows
from ..delivery.answers import sentence, words
from ..delivery.channels.kinds import Kind
from ..delivery.channels.registry import KINDS, label_of
from ..delivery.models import ChannelState, Delivery, WorkerHeartbeat
from ..groups.models import Membership, is_member
from ..intake.models import Integration
from ..intake.refusals import RefusedSender, read_senders, refused_senders

MAX_NAMED = 5  # contacts that the top of the page names
NO_WORKER = (
    "Nothing is delivered at the moment: no delivery worker is running. Start one with `flask --app wsgi deliver`."
)
# What the rows of `_gather` say of a failing channel.
_KNOWN = (ChannelState.channel, ChannelState.failing_since, ChannelState.answer)
# Filtered by a parameter instead of a join on the account: if the planner reads the states of all contacts at once,
# which depends on the size of the table, it then reads those of this account only.
_states = sa.select(1).where(
    ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == Contact.id
)


class Health(NamedTuple):
    """The state of a contact's channel: works, fails or off; `at` is when it last worked or since when it fails."""

    state: str
    at: datetime | None = None
    answer: str = ""


class Unreachable(NamedTuple):
    """A contact that cannot be reached, with the state of each of its channels by the channel's label."""

    id: int
    name: str
    reasons: dict[str, Health]

    @property
    def fails(self) -> bool:
        """Return whether a channel of the contact fails, rather than only channels that are not set up."""
        return any(health.state == "fails" for health in self.reasons.values())


class GroupSummary(NamedTuple):
    """How many integrations use a group, and how many of its members cannot be reached."""

    integrations: int
    unreachable: int


class Reach(NamedTuple):
    """The warnings at the top of the page: about workers, channels, refused senders and unreachable contacts.

    `off` says why a kind of channel is not set up that a contact of the account has, by its name. `tried` counts the
    contacts with a channel that is known to work or to fail, `grouped` those in a group.
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
    return {name: words(why) for name, kind in KINDS.items() if (why := kind.not_set_up(settings))}


def is_reachable() -> sa.ColumnElement[bool]:
    """Return the condition that a contact of the parameter account_id has a channel that is set up and works."""
    return sa.or_(*(sa.and_(getattr(Contact, kind.column).is_not(None), _works(kind)) for kind in KINDS.values()))


def is_failing() -> sa.ColumnElement[bool]:
    """Return the condition that a channel of a contact fails; bind the parameter account_id."""
    return sa.exists(_states.where(ChannelState.failing_since.is_not(None)).correlate(Contact))


def is_untried() -> sa.ColumnElement[bool]:
    """Return the condition that no channel of a contact has a known state; bind the parameter account_id."""
    return ~sa.exists(_states.correlate(Contact))


def states_of_contacts(ids: sa.ColumnElement[Any]) -> sa.Select[int, str]:
    """Select contact_id and the states of its channels as JSON for `health_of`; bind the parameter account_id."""
    fails = ChannelState.failing_since.is_not(None)
    at = sa.func.extract("epoch", sa.func.coalesce(ChannelState.failing_since, ChannelState.worked_at))
    state = sa.func.json_build_array(ChannelState.channel, fails, at, ChannelState.answer)
    return (
        sa.select(ChannelState.contact_id, sa.cast(sa.func.json_agg(state), sa.Text).label("states"))
        .where(ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == sa.any_(ids))
        .group_by(ChannelState.contact_id)
    )


def health_of(states: str | None) -> list[Health | None]:
    """Return the state of each known channel, in the order of KINDS; None for one that was never tried."""
    known: dict[str, Health] = {}
    for channel, fails, at, answer in json.loads(states or "[]"):
        known[channel] = Health("fails" if fails else "works", datetime.fromtimestamp(at, UTC), sentence(answer))
    known |= {channel: Health("off", answer=why) for channel, why in channels_off().items()}
    return [known.get(channel) for channel in KINDS]


@cache
def reach_statement(off: tuple[str, ...] = ()) -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of `reach_of`, built once for the kinds of channels that are not set up.

    It has a column for each of those only: with one that depends on a parameter, the server plans it again each time.
    """
    account_id: sa.BindParameter[int] = sa.bindparam("account_id")
    unreachable = (
        sa.select(Contact.id, Contact.name, *_has())
        .add_columns(
            sa.func.count().over().label("total"),
            sa.func.row_number().over(order_by=(by_name, Contact.id)).label("place"),
        )
        .where(Contact.account_id == account_id, ~is_reachable())
        .order_by(by_name, Contact.id)
        .limit(MAX_NAMED)
        .subquery()
    )
    # Counted over an index of the states and of the memberships: to check each contact takes twice as long.
    counts = {
        "tried": sa.select(sa.func.count(ChannelState.contact_id.distinct())).where(
            ChannelState.account_id == account_id
        ),
        "grouped": sa.select(sa.func.count(Membership.contact_id.distinct())).where(
            Membership.account_id == account_id
        ),
    }
    # A subquery of exactly one row, so that the statement returns the workers' state even if nobody is unreachable.
    one = (
        sa.select(WorkerHeartbeat.is_one_alive().label("is_alive"), Delivery.is_late(account_id).label("late"))
        .add_columns(refused_senders(account_id).label("refused"))
        .add_columns(*(count.scalar_subquery().label(name) for name, count in counts.items()))
        .add_columns(*(_is_needed(KINDS[name], account_id).label(f"needs_{name}") for name in off))
        .subquery()
    )
    found = unreachable.c
    return (
        sa.select(*one.c, found.total)
        .add_columns(found.id, found.name, *(found[f"has_{name}"] for name in KINDS), *_KNOWN)
        .select_from(one)
        .outerjoin(unreachable, sa.true())
        .outerjoin(ChannelState, _fails(found))
        .order_by(found.place)
    )


@cache
def _unreachable_members() -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of `unreachable_members`, built once."""
    of_group = (Membership.account_id == sa.bindparam("account_id"), Membership.group_id == sa.bindparam("group_id"))
    return (
        sa.select(Contact.id, Contact.name, *_has(), *_KNOWN)
        .join(Membership, is_member(Contact))
        .outerjoin(ChannelState, _fails(Contact))
        .where(*of_group, ~is_reachable())
        .order_by(by_name, Contact.id)
    )


def _has() -> list[sa.Label[bool]]:
    """Return a boolean column for each kind, whether the contact has such a channel: has_sms and so on."""
    return [getattr(Contact, kind.column).is_not(None).label(f"has_{name}") for name, kind in KINDS.items()]


def _fails(contact: Any) -> sa.ColumnElement[bool]:
    """Return the condition that joins a contact with its failing channels."""
    of_contact = sa.and_(ChannelState.account_id == sa.bindparam("account_id"), ChannelState.contact_id == contact.id)
    return sa.and_(of_contact, ChannelState.failing_since.is_not(None))


def _place(channel: str) -> int:
    """Return the place of a channel in the order of KINDS; the last for an unknown one."""
    return [*KINDS, channel].index(channel)


def _gather(rows: Iterable[Any]) -> dict[int, Unreachable]:
    """Return the contacts in rows with id, name, and the columns of `_has` and `_KNOWN`, by id."""
    off = channels_off()
    names: dict[int, str] = {}
    reasons: dict[int, dict[str, Health]] = defaultdict(dict)
    for row in rows:
        if row.id is None:
            continue
        names[row.id] = row.name
        reasons[row.id] |= {name: Health("off", answer=off[name]) for name in off if getattr(row, f"has_{name}")}
        if row.channel is not None and row.channel not in off:
            reasons[row.id][row.channel] = Health("fails", row.failing_since, sentence(row.answer))
    return {
        id: Unreachable(id, name, {label_of(key): reasons[id][key] for key in sorted(reasons[id], key=_place)})
        for id, name in names.items()
    }


def reach_of(account_id: int) -> Reach:
    """Return the warnings for the top of the page, so that problems are seen before an alert is lost."""
    off = channels_off()
    rows = read_rows(reach_statement(tuple(off)), {"account_id": account_id})
    first = rows[0]
    return Reach(
        no_worker=not first.is_alive,
        is_late=first.late,
        off={name: why for name, why in off.items() if getattr(first, f"needs_{name}")},
        total=first.total or 0,
        named=list(_gather(rows).values()),
        refused=read_senders(first.refused),
        tried=first.tried,
        grouped=first.grouped,
    )


def unreachable_members(account_id: int, group_id: int) -> dict[int, Unreachable]:
    """Return the members of a group that cannot be reached, by id."""
    return _gather(read_rows(_unreachable_members(), {"account_id": account_id, "group_id": group_id}))


@cache
def _group_summaries() -> sa.Select[*tuple[Any, ...]]:
    """Return the statement of `group_summaries`, built once."""
    ids = sa.cast(sa.bindparam("group_ids"), ARRAY(sa.BigInteger))
    zero: sa.ColumnElement[int] = sa.literal_column("0", sa.BigInteger)
    count = sa.func.count
    unreachable: sa.Select[*tuple[Any, ...]] = (
        sa.select(Membership.group_id, zero.label("integrations"), count().label("unreachable"))
        .join(Contact, is_member(Contact))
        .where(Membership.account_id == sa.bindparam("account_id"), Membership.group_id == sa.any_(ids))
        .where(~is_reachable())
        .group_by(Membership.group_id)
    )
    used: sa.Select[*tuple[Any, ...]] = (
        sa.select(Integration.group_id, count().label("integrations"), zero.label("unreachable"))
        .where(Integration.account_id == sa.bindparam("account_id"), Integration.group_id == sa.any_(ids))
        .group_by(Integration.group_id)
    )
    return sa.select(sa.union_all(unreachable, used).subquery())


def group_summaries(account_id: int, ids: Iterable[int]) -> dict[int, GroupSummary]:
    """Return how many integrations use each group and how many of its members cannot be reached, by group id."""
    found = dict.fromkeys(ids, GroupSummary(0, 0))
    for row in read_rows(_group_summaries(), {"account_id": account_id, "group_ids": list(found)}):
        before = found[row.group_id]
        found[row.group_id] = GroupSummary(
            integrations=before.integrations + row.integrations, unreachable=before.unreachable + row.unreachable
        )
    return found


def _works(kind: Kind) -> sa.ColumnElement[bool]:
    """Return the condition that the channel is set up, which the settings say when it runs, and does not fail."""
    is_on = sa.bindparam(
        f"{kind.name}_is_on",
        type_=sa.Boolean(),
        unique=True,
        callable_=lambda: kind.not_set_up(current_settings()) is None,
    )
    fails = _states.where(ChannelState.channel == kind.name, ChannelState.failing_since.is_not(None))
    return sa.and_(is_on, ~sa.exists(fails.correlate(Contact)))


def _is_needed(kind: Kind, account_id: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Return the condition that a contact of the account has such a channel."""
    return sa.exists().where(Contact.account_id == account_id, getattr(Contact, kind.column).is_not(None))
