"""Send system notifications: a channel fails or works again, the quota is nearly used, a group is unreachable.

A fact is reported once for as long as it holds, and each kind of fact in at most one notification a day.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY

from ..accounts.models import Account
from ..contacts.models import Contact
from ..core.db import db
from ..delivery.attempts import limit_lock_waits
from ..delivery.models import ChannelState, Notification
from ..delivery.queueing import notify
from ..groups.models import Group, Membership, by_name, is_member, is_of_group
from .models import ReportedFact, SystemNotice
from .reachability import is_reachable
from .sentences import Line, words

MAX_LISTED = 50  # facts that one notification lists; the others are counted
GRACE_PERIOD = "10 minutes"  # after a group is created: members are about to be added
NEARLY = 0.9
LOCKED_RETRY, FAILED_RETRY = timedelta(seconds=30), timedelta(minutes=5)  # until an account is checked again


class Fact(NamedTuple):
    """Something that holds at the moment; `subject` identifies it among the reported facts of its kind."""

    subject: str
    line: Line


class Kind(NamedTuple):
    """A kind of system notification; the code of its title has the ending `_several` for several facts."""

    name: str
    title: str
    status: str
    key: str  # of the notification: a newer one replaces an older one in the queue, as each lists all that holds


FAILING = Kind("failing", "notice.failing", "firing", "channels")
WORKING = Kind("working", "notice.working", "resolved", "channels")
QUOTA = Kind("quota", "notice.quota", "firing", "quota")
UNREACHABLE_GROUP = Kind("group", "notice.group", "firing", "groups")

_has_receivers = sa.select(
    sa.exists().where(Contact.account_id == sa.bindparam("account_id"), Contact.receives_system_notifications)
)
_claim_check = sa.text("""
    DELETE FROM system_checks WHERE account_id = (
        SELECT account_id FROM system_checks WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING account_id
""")
_postpone_check = sa.text("""
    UPDATE system_checks SET due_at = now() + CAST(:pause AS interval) WHERE account_id = (
        SELECT account_id FROM system_checks WHERE account_id = :account_id FOR UPDATE SKIP LOCKED)
""")
_claim_day = sa.text(f"""
    INSERT INTO {SystemNotice.__tablename__} AS last (account_id, kind) VALUES (:account_id, :kind)
    ON CONFLICT (account_id, kind) DO UPDATE SET sent_at = now() WHERE last.sent_at <= now() - interval '1 day'
    RETURNING kind
""")  # nosec B608
_check_after_day = sa.text("""
    INSERT INTO system_checks AS planned (account_id, due_at)
    SELECT account_id, sent_at + interval '1 day' FROM system_notices WHERE account_id = :account_id AND kind = :kind
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at)
""")
_check_after_grace_period = sa.text(f"""
    INSERT INTO system_checks AS planned (account_id, due_at)
    SELECT account_id, min(created_at) + interval '{GRACE_PERIOD}' FROM groups
    WHERE account_id = :account_id AND created_at >= now() - interval '{GRACE_PERIOD}' GROUP BY account_id
    ON CONFLICT (account_id) DO UPDATE SET due_at = least(planned.due_at, excluded.due_at)
""")  # nosec B608


def check_next() -> bool:
    """Check one account that is due, report new facts, and commit; return whether an account was due.

    An account with a row that somebody else keeps locked is checked again a little later.
    """
    limit_lock_waits()
    account_id = db.session.execute(_claim_check).scalar_one_or_none()
    if account_id is None:
        db.session.commit()  # after a rollback, psycopg discards the prepared statements of the connection
        return False
    try:
        _check(account_id)
    except Exception as error:
        # An error in one account must not stop the checks of the others.
        db.session.rollback()
        is_locked = isinstance(getattr(error, "orig", None), psycopg.errors.LockNotAvailable)
        pause = LOCKED_RETRY if is_locked else FAILED_RETRY
        db.session.execute(_postpone_check, {"account_id": account_id, "pause": pause})
        db.session.commit()
        if not is_locked:
            raise
        return True
    db.session.commit()
    return True


def _check(account_id: int) -> None:
    if db.session.scalar(_has_receivers, {"account_id": account_id}):
        failing = _failing(account_id)
        _report_recovered(account_id, failing)
        for kind, facts in (
            (FAILING, failing),
            (QUOTA, _quota(account_id)),
            (UNREACHABLE_GROUP, _unreachable_groups(account_id)),
        ):
            _report_new(account_id, kind, facts)
        db.session.execute(_check_after_grace_period, {"account_id": account_id})


def _report_new(account_id: int, kind: Kind, facts: Sequence[Fact]) -> None:
    """Report the facts of a kind if one of them is new, and clear those that have ended."""
    reported = _reported(account_id, kind)
    subjects = {fact.subject for fact in facts}
    if kind is not FAILING:  # those are cleared when their recovery is reported
        _clear(account_id, kind, reported - subjects)
    if subjects - reported and _claim_days_notification(account_id, kind):
        _send(account_id, kind, facts)
        rows = [{"account_id": account_id, "kind": kind.name, "subject": subject} for subject in sorted(subjects)]
        db.session.execute(postgresql.insert(ReportedFact).on_conflict_do_nothing(), rows)


def _report_recovered(account_id: int, failing: Sequence[Fact]) -> None:
    """Report which failing channels work again; clear those that were deleted or have a new address."""
    ended = _reported(account_id, FAILING) - {fact.subject for fact in failing}
    if not ended:
        return
    working = [fact for fact in _states(account_id, ChannelState.failing_since.is_(None)) if fact.subject in ended]
    _clear(account_id, FAILING, ended - {fact.subject for fact in working})
    if working and _claim_days_notification(account_id, WORKING):
        rest = [{"code": "notice.still_failing"}, *_lines(failing)] if failing else [{"code": "notice.no_other_fails"}]
        _send(account_id, WORKING, working, rest)
        _clear(account_id, FAILING, {fact.subject for fact in working})


def _claim_days_notification(account_id: int, kind: Kind) -> bool:
    """Claim the day's notification of a kind; if it was sent already, schedule a check for the end of the day."""
    values = {"account_id": account_id, "kind": kind.name}
    if db.session.execute(_claim_day, values).one_or_none():
        return True
    db.session.execute(_check_after_day, values)
    return False


def _lines(facts: Sequence[Fact]) -> list[Line]:
    lines, more = [fact.line for fact in facts[:MAX_LISTED]], len(facts) - MAX_LISTED
    return [*lines, {"code": "notice.more", "count": more}] if more > 0 else lines


def _send(account_id: int, kind: Kind, facts: Sequence[Fact], rest: Sequence[Line] = ()) -> None:
    title: Line = {"code": kind.title} if len(facts) == 1 else {"code": f"{kind.title}_several", "count": len(facts)}
    lines = [*_lines(facts), *rest]
    notification = Notification(
        account_id=account_id,
        kind="system",
        source="console",
        addressee="System notifications",
        title=words(title),
        text="\n".join(map(words, lines)),
        codes=[title, *lines],
        severity="warning" if kind.status == "firing" else "info",
        status=kind.status,
        key=kind.key,
    )
    notify(notification, Contact.system_receivers(account_id))


def _failing(account_id: int) -> Sequence[Fact]:
    return _states(account_id, ChannelState.failing_since.is_not(None))


def _states(account_id: int, condition: sa.ColumnElement[bool]) -> Sequence[Fact]:
    """Return the channels of the account's contacts whose state meets the condition."""
    found = (
        sa.select(Contact.id, Contact.name, ChannelState.channel, ChannelState.failing_since, ChannelState.answer)
        .join(
            ChannelState, sa.and_(ChannelState.account_id == Contact.account_id, ChannelState.contact_id == Contact.id)
        )
        .where(Contact.account_id == account_id, condition)
        .order_by(Contact.name_key, Contact.id, ChannelState.channel)
    )
    facts = []
    for identity, name, channel, since, answer in db.session.execute(found):
        line: dict[str, object] = {"code": "notice.channel_works", "name": name, "channel": channel}
        if since:
            line |= {"code": "notice.channel_fails", "since": since.isoformat(), "why": answer}
        facts.append(Fact(f"{identity}:{channel}", line))
    return facts


def _quota(account_id: int) -> Sequence[Fact]:
    count, quota = Account.usage(account_id)
    line = {"code": "notice.contacts", "count": count, "quota": quota}
    return [Fact("", line)] if count >= quota * NEARLY else []


def _unreachable_groups(account_id: int) -> Sequence[Fact]:
    """Return the groups without a reachable member; a group without members only after its grace period."""
    members = sa.func.count(Contact.id)
    is_established = Group.created_at < sa.func.now() - sa.text(f"interval '{GRACE_PERIOD}'")
    statement = (
        sa.select(Group.id, Group.name, members)
        .outerjoin(Membership, is_of_group())
        .outerjoin(Contact, is_member(Contact))
        .where(Group.account_id == account_id)
        .group_by(Group.account_id, Group.id)
        .having(~sa.func.coalesce(sa.func.bool_or(is_reachable()), False), sa.or_(members > 0, is_established))
        .order_by(by_name)
    )
    found = db.session.execute(statement, {"account_id": account_id})
    return [
        Fact(str(identity), {"code": "notice.nobody_reachable" if members else "notice.nobody", "name": name})
        for identity, name, members in found
    ]


def _reported(account_id: int, kind: Kind) -> set[str]:
    found = sa.select(ReportedFact.subject).where(ReportedFact.account_id == account_id, ReportedFact.kind == kind.name)
    return set(db.session.scalars(found))


def _clear(account_id: int, kind: Kind, subjects: set[str]) -> None:
    of_kind = (ReportedFact.account_id == account_id, ReportedFact.kind == kind.name)
    if subjects:
        db.session.execute(
            sa.delete(ReportedFact).where(
                *of_kind, ReportedFact.subject == sa.any_(sa.cast(sorted(subjects), ARRAY(sa.Text)))
            )
        )
