"""Tell what the console itself has to tell: a channel fails or works again, the quota is nearly used, a group is mute.

What is told are facts that hold: each is told once until it has ended, and of each kind at most one message a day.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY

from ..accounts.models import Account
from ..config import current_settings
from ..contacts.models import Contact
from ..core.db import db
from ..core.times import shown
from ..delivery.attempts import limit_lock_waits
from ..delivery.models import CHANNELS, Alert, ChannelState
from ..delivery.queueing import notify
from ..groups.models import Group, Membership
from .models import SystemNotice, ToldFact
from .reachability import is_reachable

NAMED = 50  # facts that one message names
FIRST_MINUTES = "10 minutes"  # in which whoever creates a group puts members into it
NEARLY = 0.9
LOCKED_PAUSE, FAILED_PAUSE = timedelta(seconds=30), timedelta(minutes=5)  # until an account is looked at again


class Fact(NamedTuple):
    """Something that holds: what it is about, as told_facts knows it, and in words."""

    subject: str
    words: str


class Kind(NamedTuple):
    """One kind of message."""

    name: str
    one: str
    many: str
    status: str
    key: str  # of which the newer message overtakes the older, as each says all that holds


FAILING = Kind(
    "failing", "A channel of the team has begun to fail", "{} channels of the team fail", "firing", "channels"
)
WORKING = Kind(
    "working", "A channel of the team works again", "{} channels of the team work again", "resolved", "channels"
)
QUOTA = Kind("quota", "The quota of contacts is nearly used", "", "firing", "quota")
MUTE = Kind(
    "group",
    "A contact group has nobody who can be reached",
    "{} contact groups have nobody to reach",
    "firing",
    "groups",
)


def check_next() -> bool:
    """Look at one account that is due, tell what is news, and commit; return whether there was one.

    An account in which somebody holds a lock that this needs is passed over, and looked at a little later.
    """
    limit_lock_waits()
    account_id = db.session.execute(_take_check).scalar_one_or_none()
    if account_id is None:
        db.session.rollback()
        return False
    try:
        _check(account_id)
    except Exception as error:
        # Whatever is wrong with this account, the others have their turn.
        db.session.rollback()
        is_locked = isinstance(getattr(error, "orig", None), psycopg.errors.LockNotAvailable)
        pause = LOCKED_PAUSE if is_locked else FAILED_PAUSE
        db.session.execute(_check_later, {"account_id": account_id, "pause": pause})
        db.session.commit()
        if not is_locked:
            raise
        return True
    db.session.commit()
    return True


def _check(account_id: int) -> None:
    if db.session.scalar(_has_receivers, {"account_id": account_id}):
        failing = _failing(account_id)
        _tell_what_works(account_id, failing)
        for kind, facts in ((FAILING, failing), (QUOTA, _quota(account_id)), (MUTE, _mute_groups(account_id))):
            _tell_news(account_id, kind, facts)
        db.session.execute(_check_when_groups_are_not_new, {"account_id": account_id})


def _tell_news(account_id: int, kind: Kind, facts: Sequence[Fact]) -> None:
    """Tell the facts of a kind if one of them is news, and forget those that have ended."""
    told = _told(account_id, kind)
    subjects = {fact.subject for fact in facts}
    if kind is not FAILING:  # of those, _tell_what_works speaks first
        _forget(account_id, kind, told - subjects)
    if subjects - told and _may_tell(account_id, kind):
        _send(account_id, kind, facts)
        rows = [{"account_id": account_id, "kind": kind.name, "subject": subject} for subject in sorted(subjects)]
        db.session.execute(postgresql.insert(ToldFact).on_conflict_do_nothing(), rows)


def _tell_what_works(account_id: int, failing: Sequence[Fact]) -> None:
    """Tell which channels that were told to fail work again; forget those that are gone or have a new address."""
    ended = _told(account_id, FAILING) - {fact.subject for fact in failing}
    if not ended:
        return
    working = [fact for fact in _states(account_id, ChannelState.failing_since.is_(None)) if fact.subject in ended]
    _forget(account_id, FAILING, ended - {fact.subject for fact in working})
    if working and _may_tell(account_id, WORKING):
        rest = ["Still failing:", *_lines(failing)] if failing else ["No other channel fails."]
        _send(account_id, WORKING, working, rest)
        _forget(account_id, FAILING, {fact.subject for fact in working})


def _may_tell(account_id: int, kind: Kind) -> bool:
    """Take this day's message of the kind; where it is used up, have the account looked at when the day is over."""
    values = {"account_id": account_id, "kind": kind.name}
    if db.session.execute(_take_day, values).one_or_none():
        return True
    db.session.execute(_check_after_day, values)
    return False


def _lines(facts: Sequence[Fact]) -> list[str]:
    lines = [fact.words for fact in facts[:NAMED]]
    return [*lines, f"and {len(facts) - NAMED} more"] if len(facts) > NAMED else lines


def _send(account_id: int, kind: Kind, facts: Sequence[Fact], rest: Sequence[str] = ()) -> None:
    alert = Alert(
        account_id=account_id,
        kind="system",
        source="console",
        addressee="System notifications",
        title=kind.one if len(facts) == 1 else kind.many.format(len(facts)),
        text="\n".join([*_lines(facts), *rest]),
        severity="warning" if kind.status == "firing" else "info",
        status=kind.status,
        key=kind.key,
    )
    notify(alert, Contact.system_receivers(account_id))


def _failing(account_id: int) -> Sequence[Fact]:
    return _states(account_id, ChannelState.failing_since.is_not(None))


def _states(account_id: int, condition: sa.ColumnElement[bool]) -> Sequence[Fact]:
    """Return the channels of the account's contacts that are in a state, in words."""
    found = (
        sa.select(Contact.id, Contact.name, ChannelState.channel, ChannelState.failing_since, ChannelState.answer)
        .join(
            ChannelState, sa.and_(ChannelState.account_id == Contact.account_id, ChannelState.contact_id == Contact.id)
        )
        .where(Contact.account_id == account_id, condition)
        .order_by(Contact.name_key, Contact.id, ChannelState.channel)
    )
    facts, zone = [], current_settings().timezone
    for identity, name, channel, since, answer in db.session.execute(found):
        words = f"{name}: {CHANNELS[channel]}"
        if since:
            words += f", since {shown(since.astimezone(zone), '%Y-%m-%d %H:%M')}: {answer}"
        facts.append(Fact(f"{identity}:{channel}", words))
    return facts


def _quota(account_id: int) -> Sequence[Fact]:
    count, quota = Account.usage(account_id)
    return [Fact("", f"The account has {count} of {quota} contacts.")] if count >= quota * NEARLY else []


def _mute_groups(account_id: int) -> Sequence[Fact]:
    """Return the groups none of whose members can be reached; an empty one only when it is not quite new."""
    members = sa.func.count(Contact.id)
    has_been_there = Group.created_at < sa.func.now() - sa.text(f"interval '{FIRST_MINUTES}'")
    of_group = sa.and_(Membership.account_id == Group.account_id, Membership.group_id == Group.id)
    of_contact = sa.and_(Contact.account_id == Membership.account_id, Contact.id == Membership.contact_id)
    statement = (
        sa.select(Group.id, Group.name, members)
        .outerjoin(Membership, of_group)
        .outerjoin(Contact, of_contact)
        .where(Group.account_id == account_id)
        .group_by(Group.account_id, Group.id)
        .having(~sa.func.coalesce(sa.func.bool_or(is_reachable()), False), sa.or_(members > 0, has_been_there))
        .order_by(sa.collate(Group.name_key, "C"))
    )
    found = db.session.execute(statement, {"account_id": account_id})
    return [
        Fact(str(identity), f"{name}: {'none of its members can be reached' if members else 'it has no members'}")
        for identity, name, members in found
    ]


def _told(account_id: int, kind: Kind) -> set[str]:
    found = sa.select(ToldFact.subject).where(ToldFact.account_id == account_id, ToldFact.kind == kind.name)
    return set(db.session.scalars(found))


def _forget(account_id: int, kind: Kind, subjects: set[str]) -> None:
    mine = (ToldFact.account_id == account_id, ToldFact.kind == kind.name)
    if subjects:
        db.session.execute(
            sa.delete(ToldFact).where(*mine, ToldFact.subject == sa.any_(sa.cast(sorted(subjects), ARRAY(sa.Text))))
        )


_has_receivers = sa.select(
    sa.exists().where(Contact.account_id == sa.bindparam("account_id"), Contact.receives_system_notifications)
)
_take_check = sa.text("""
    DELETE FROM system_checks WHERE account_id = (
        SELECT account_id FROM system_checks WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING account_id
""")
_check_later = sa.text("""
    UPDATE system_checks SET due_at = now() + CAST(:pause AS interval) WHERE account_id = (
        SELECT account_id FROM system_checks WHERE account_id = :account_id FOR UPDATE SKIP LOCKED)
""")
_take_day = sa.text(f"""
    INSERT INTO {SystemNotice.__tablename__} AS last (account_id, kind) VALUES (:account_id, :kind)
    ON CONFLICT (account_id, kind) DO UPDATE SET sent_at = now() WHERE last.sent_at <= now() - interval '1 day'
    RETURNING kind
""")  # nosec B608
_check_after_day = sa.text("""
    INSERT INTO system_checks AS planned (account_id, due_at)
    SELECT account_id, sent_at + interval '1 day' FROM system_notices WHERE account_id = :account_id AND kind = :kind
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at)
""")
_check_when_groups_are_not_new = sa.text(f"""
    INSERT INTO system_checks AS planned (account_id, due_at)
    SELECT account_id, min(created_at) + interval '{FIRST_MINUTES}' FROM groups
    WHERE account_id = :account_id AND created_at >= now() - interval '{FIRST_MINUTES}' GROUP BY account_id
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at)
""")  # nosec B608
