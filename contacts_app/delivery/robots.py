"""Claim and send the messages to a DingTalk robot, combined into one when its rate limit is near."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa

from ..config import Settings
from ..contacts.addresses import shown_robot
from ..contacts.models import decrypted
from ..core.db import db
from . import order
from .answers import answer
from .attempts import (
    CHOSEN,
    CLAIMED_COLUMNS,
    GIVE_UP_AT,
    NOT_SENT,
    Claimed,
    Result,
    claimed_from,
    columns,
    limit_lock_waits,
)
from .channels import Outcome, dingtalk, outgoing
from .channels.dingtalk import DINGTALK
from .channels.kinds import Senders
from .channels.sms import SMS
from .senders import guarded

ROBOT_LIMIT, ROBOT_WINDOW = 20, timedelta(minutes=1)
LOCKED_PAUSE = timedelta(seconds=0.5)
MAX_SECRETS = 5  # tried for one message in a row, because refused requests count against the robot's limit, too
NOT_TRIED_SECONDS = 15  # until the other secrets are tried, so that the robot's limit is not exceeded
# Accounts for which no message is being sent come first.
_claim_robot = sa.text("""
    WITH idle AS (
        SELECT account_id, url_hash FROM robots
        WHERE due_at <= now() AND account_id <> ALL (CAST(:busy AS bigint[])) ORDER BY due_at LIMIT 1
        FOR UPDATE SKIP LOCKED
    ), other AS (
        SELECT account_id, url_hash FROM robots
        WHERE due_at <= now() AND account_id <> ALL (CAST(:full AS bigint[])) AND NOT EXISTS (SELECT FROM idle)
        ORDER BY due_at LIMIT 1
        FOR UPDATE SKIP LOCKED
    )
    UPDATE robots SET due_at = now() + make_interval(secs => :lease)
    FROM (SELECT * FROM idle UNION ALL SELECT * FROM other) AS due
    WHERE (robots.account_id, robots.url_hash) = (due.account_id, due.url_hash)
    RETURNING robots.account_id, robots.url_hash, sent_at, blocked_until, now() AS now
""")
_lock_robot = sa.text("SELECT 1 FROM robots WHERE account_id = :account_id AND url_hash = :url_hash FOR UPDATE")
# LATERAL makes the planner read each contact's rows by the index; with statistics from an empty queue, it would read
# the whole queue for each contact. A combined message that is to be repeated comes first, with all its deliveries.
_waiting_for_robot = sa.text(f"""
    SELECT deliveries.account_id, alert_id, deliveries.contact_id, attempts, message, asked_at,
        extract(epoch FROM {GIVE_UP_AT} - now())::float AS seconds_left,
        dingtalk_url_encrypted, dingtalk_secret_encrypted, dingtalk_keyword, worked_at, failing_since, {CLAIMED_COLUMNS}
    FROM contacts
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries
        WHERE deliveries.account_id = contacts.account_id AND contact_id = contacts.id AND channel = 'dingtalk'
            AND ended_at IS NULL AND next_attempt_at <= now() AND cancelled_by IS NULL
            AND {NOT_SENT}
        ORDER BY message, next_attempt_at, alert_id LIMIT :most
        FOR UPDATE SKIP LOCKED
    ) AS deliveries
    CROSS JOIN LATERAL (
        SELECT * FROM alerts WHERE (account_id, id) = (deliveries.account_id, deliveries.alert_id) LIMIT 1
    ) AS alerts
    LEFT JOIN channel_states
        ON (channel_states.account_id, channel_states.contact_id, channel_states.channel)
        = (contacts.account_id, contacts.id, 'dingtalk')
    WHERE contacts.account_id = :account_id AND dingtalk_url_hash = :url_hash
    ORDER BY message, alert_id, deliveries.contact_id
""")  # nosec B608
_claim_for_robot = sa.text(f"""
    WITH chosen AS MATERIALIZED (
        {CHOSEN} unnest(CAST(:alert_ids AS bigint[]), CAST(:contact_ids AS bigint[])) AS chosen (alert_id, contact_id)
    )
    UPDATE deliveries SET state = 'sending', attempts = attempts + 1, message = :message, give_up_at = {GIVE_UP_AT},
        next_attempt_at = now() + make_interval(secs => :lease)
    FROM chosen
    WHERE (deliveries.account_id, deliveries.alert_id, deliveries.contact_id, deliveries.channel)
        = (chosen.account_id, chosen.alert_id, chosen.contact_id, chosen.channel)
""")  # nosec B608
_next_for_robot = sa.text("""
    SELECT min(next_attempt_at) FROM contacts
    CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM deliveries
        WHERE deliveries.account_id = contacts.account_id AND contact_id = contacts.id AND channel = 'dingtalk'
            AND ended_at IS NULL AND cancelled_by IS NULL
        ORDER BY next_attempt_at LIMIT 1
    ) AS next
    WHERE contacts.account_id = :account_id AND dingtalk_url_hash = :url_hash
""")
_plan_robot = sa.text("UPDATE robots SET due_at = :due_at WHERE account_id = :account_id AND url_hash = :url_hash")
_robot_has_sent = sa.text(f"""
    UPDATE robots SET
        sent_at = (sent_at || array_fill(clock_timestamp(), ARRAY[CAST(:posts AS integer)]))
            [greatest(1, cardinality(sent_at) + :posts + 1 - {ROBOT_LIMIT}):],
        blocked_until = now() + make_interval(secs => CAST(:blocked AS float))
    WHERE account_id = :account_id AND url_hash = :url_hash
""")  # nosec B608


class Bundle(NamedTuple):
    """The deliveries of one message to a robot, with its URL, secrets and keyword."""

    robot: dict[str, Any]  # its primary key
    message: UUID
    claimed: Sequence[Claimed]
    url: str | None
    secrets: Sequence[str | None]  # of the contact of each delivery
    tries: Sequence[str | None]  # the distinct secrets, the one that is most likely valid first
    keyword: str | None
    room: int  # messages that the rate limit leaves for the current window


def claim(settings: Settings, busy: Sequence[int] = (), full: Sequence[int] = ()) -> Bundle | bool:
    """Claim the next message of a robot that is due, and commit; otherwise return whether a robot was due.

    The accounts in `busy` come after all others, and those in `full` are skipped.
    """
    lease = settings.delivery_lease
    found = db.session.execute(_claim_robot, {"lease": lease, "busy": list(busy), "full": list(full)}).one_or_none()
    db.session.commit()  # release the robot's row, because an incoming alert waits for it
    if found is None:
        return False
    limit_lock_waits()
    robot = {"account_id": found.account_id, "url_hash": found.url_hash}
    recent = [at for at in found.sent_at if at > found.now - ROBOT_WINDOW]
    if found.blocked_until and found.blocked_until > found.now:
        plan(robot, found.blocked_until)
        return True
    if len(recent) >= ROBOT_LIMIT:
        plan(robot, recent[-ROBOT_LIMIT] + ROBOT_WINDOW)
        return True
    rows = db.session.execute(_waiting_for_robot, robot | {"most": 2 * dingtalk.MAX_ALERTS}).all()
    sendable, words = order.settle(found.account_id, DINGTALK.name, rows)
    keys = {(row.alert_id, row.contact_id) for row in sendable}
    chosen = _choose([row for row in rows if (row.alert_id, row.contact_id) in keys], ROBOT_LIMIT - len(recent))
    if not chosen:
        db.session.execute(_lock_robot, robot)
        # Due deliveries that could not be read are locked, so check again after a pause.
        plan(robot, None, not_before=found.now + LOCKED_PAUSE)
        return True
    message = chosen[0].message or uuid4()
    ids = columns(chosen, "alert_id", "contact_id")
    db.session.execute(_claim_for_robot, robot | ids | {"channel": DINGTALK.name, "message": message, "lease": lease})
    db.session.commit()
    claims = [claimed_from(row, settings, lease) for row in chosen]
    secrets = [_secret(row) for row in chosen]
    return Bundle(
        robot=robot,
        message=message,
        claimed=[
            one._replace(content=order.with_words(one.content, words.get((one.alert_id, one.contact_id))))
            for one in claims
        ],
        url=next(filter(None, map(_url, chosen)), None),
        secrets=secrets,
        tries=_most_likely_first(secrets, chosen),
        keyword=" ".join(dict.fromkeys(row.dingtalk_keyword for row in chosen if row.dingtalk_keyword)) or None,
        room=ROBOT_LIMIT - len(recent),
    )


def send(bundle: Bundle, settings: Settings, senders: Senders) -> list[Result]:
    """Send a bundle, and return the result of each delivery."""
    alerts = list({one.content.id: one.content for one in bundle.claimed}.values())
    mobiles = list(dict.fromkeys(mobile for one in bundle.claimed if (mobile := one.addresses[SMS.name])))
    # Contacts that share the robot may have different secrets; a wrong one must not block the messages to all.
    outcomes: dict[str | None, Outcome] = {}
    outcome = Outcome("later", answer("dingtalk.unreadable"))
    posts, untried = 0, None
    for secret in (bundle.tries or [None]) if bundle.url else ():
        if posts >= min(bundle.room, MAX_SECRETS):
            untried = Outcome("later", answer("dingtalk.secret_not_tried", refused=posts), wait=NOT_TRIED_SECONDS)
            break
        send = partial(dingtalk.send, senders.get(outgoing.Session), settings, str(bundle.url), secret, bundle.keyword)
        tried = guarded(partial(send, alerts, mobiles, str(bundle.message), bundle.room > posts + 1))
        posts += tried.posts
        outcome = outcomes[secret] = tried._replace(posts=posts)  # the last outcome is that of the message
        if outcome.state != "failed" or outcome.text_state == "refused":
            break
    halves: dict[int, UUID] = {}
    if outcome.state == "failed" and outcome.text_state == "refused" and len(alerts) > 1:
        outcome, halves = outcome._replace(state="later", wait=1), _halves([alert.id for alert in alerts])
    # A message that may have arrived is repeated with the same id; all others may be combined differently.
    repeated = bundle.message if outcome.is_uncertain else None
    results = []
    for one, its in zip(bundle.claimed, bundle.secrets, strict=True):
        own = outcomes.get(its, untried or outcome)
        said = own if outcome.state == "failed" and outcome.text_state != "refused" else outcome
        # A success shows nothing about a secret that was refused or not tried.
        is_known = bool(outcomes) and own is said and its in (None, *outcomes)
        results.append(
            Result(
                claimed=one,
                channel=DINGTALK.name,
                outcome=said,
                address=shown_robot(bundle.url) if bundle.url else None,
                used=bundle.robot["url_hash"].hex() if is_known else None,
                message=halves.get(one.alert_id, repeated),
            )
        )
    return results


def note_sent(robot: dict[str, Any], results: Sequence[Result]) -> None:
    """Count the messages that were sent against the robot's rate limit, reschedule it, and commit."""
    posts = max(result.outcome.posts for result in results)
    limit_lock_waits()
    blocked = next((result.outcome.wait for result in results if result.outcome.wait), None)
    db.session.execute(_robot_has_sent, robot | {"blocked": blocked, "posts": posts})
    plan(robot, None)


def plan(robot: dict[str, Any], due_at: datetime | None, not_before: datetime | None = None) -> None:
    """Schedule the robot for `due_at`, by default for its next due delivery, and commit."""
    if due_at is None:
        # A separate statement, because it sees what was committed while this transaction waited for the lock.
        due_at = db.session.execute(_next_for_robot, robot).scalar_one()
        if due_at and not_before:
            due_at = max(due_at, not_before)
    db.session.execute(_plan_robot, robot | {"due_at": due_at})
    db.session.commit()


def _choose(rows: Sequence[Any], budget: int) -> Sequence[Any]:
    """Return the deliveries of the next message: one to be repeated unchanged, or one alert, or several."""
    if rows and rows[0].message:
        return [row for row in rows if row.message == rows[0].message]
    alerts = list(dict.fromkeys(row.alert_id for row in rows))
    # Send each alert in a message of its own as long as the rate limit allows that for all.
    chosen = set(alerts[:1] if len(alerts) <= budget else alerts[: dingtalk.MAX_ALERTS])
    return [row for row in rows if row.alert_id in chosen]


def _halves(alert_ids: Sequence[int]) -> dict[int, UUID]:
    """Return the message id of each alert after a combined message was refused, split into two halves.

    Each refused half is split again, until only the alert whose content is refused fails.
    """
    (first, second), middle = sorted((uuid4(), uuid4())), len(alert_ids) // 2  # older alerts are sent first
    return {identity: first if place < middle else second for place, identity in enumerate(alert_ids)}


def _most_likely_first(secrets: Sequence[str | None], rows: Sequence[Any]) -> Sequence[str]:
    """Return the distinct secrets: last successful first, then by the number of contacts, known failures last."""
    worked: dict[str, list[float]] = defaultdict(list)
    for secret, row in zip(secrets, rows, strict=True):
        if secret:
            fails = row.failing_since is not None
            worked[secret].append(-1 if fails else row.worked_at.timestamp() if row.worked_at else 0)
    return sorted(worked, key=lambda secret: (-max(worked[secret]), -len(worked[secret])))


def _url(row: Any) -> str | None:
    return decrypted(row.dingtalk_url_encrypted, row.account_id, row.contact_id, "dingtalk_url")


def _secret(row: Any) -> str | None:
    return decrypted(row.dingtalk_secret_encrypted, row.account_id, row.contact_id, "dingtalk_secret")
