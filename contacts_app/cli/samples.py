"""Fill an account with fictitious sample data, so that new users see the console in use.

Nothing is ever sent: the deliveries are inserted in their final states, and no contact receives system notifications,
which the workers would send about the failing channels.
"""

import random
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click
import phonenumbers
import sqlalchemy as sa

from ..accounts.models import Account
from ..config import DINGTALK_HOSTS, current_settings
from ..contacts.models import Contact
from ..core.db import db
from ..delivery.answers import Answers, answer, dump
from ..delivery.channels.registry import KINDS
from ..delivery.models import ChannelState, Delivery, Notification
from ..groups.models import Group
from ..intake.models import Integration
from ..ops import serve
from .errors import plainly

SAMPLE_NAMES = (
    *("Ada Okafor", "张伟", "Jürgen Müller", "Night shift", "Sofía Álvarez", "李娜", "Database on-call"),
    *("Olga Petrova", "佐藤 健", "Network operations", "Amélie Laurent", "王芳", "Priya Raman", "김민준"),
    *("Payments team", "Mohammed Al-Sayed", "مريم حسن", "Payments robot", "Nguyễn Thị Lan", "Tom O’Brien"),
    *("刘洋", "Storage duty", "Βασίλης Παππάς", "Emma de Vries", "陈静", "Web front end", "Kofi Mensah"),
)
SAMPLE_GROUPS = ("Night shift", "Databases", "Payments", "Network")
# By index of the contact: its failing channel and the error. The second has no other channel, so is unreachable.
FAILING = {
    1: ("email", answer("mail.refused_mailbox", said="550 5.1.1 No such user here.")),
    2: ("email", answer("mail.refused_message", said="552 5.2.2 The mailbox is full.")),
}
TOOK = {"sms": answer("twilio.sent"), "email": answer("mail.sent"), "dingtalk": answer("dingtalk.sent")}
SENDERS = {"alertmanager": "Alertmanager", "grafana": "Grafana", "plain": "Backup script"}


class News(NamedTuple):
    """A sample alert: its age in minutes, the index of its group, and its content."""

    ago: int
    group: int
    source: str
    title: str
    text: str
    severity: str
    status: str = "firing"
    key: str | None = None


NEWS = (
    News(
        *(190, 3, "alertmanager", "LinkDown: The uplink of switch-2 is down", "Port 48 has had no carrier for 2 min."),
        *("critical", "firing", "link-switch-2"),
    ),
    News(
        *(168, 3, "alertmanager", "LinkDown: The uplink of switch-2 is down", "Port 48 has a carrier again."),
        *("critical", "resolved", "link-switch-2"),
    ),
    News(
        *(95, 0, "plain", "The nightly backup has failed", "Host backup1: no space is left at /srv/backup."),
        *("error",),
    ),
    News(
        *(41, 1, "alertmanager", "DiskAlmostFull: The disk of db1 is 96 % full", "At this rate it is full in 3 hours."),
        *("critical", "firing", "disk-db1"),
    ),
    News(
        *(12, 2, "grafana", "Payments take longer than 2 s", "The 95th percentile is 3.4 s, on pay-1 and pay-3."),
        *("warning", "firing", "latency-payments"),
    ),
)


@click.command()
@click.option("--contacts", default=37, show_default=True, type=click.IntRange(1, 20_000), help="How many.")
@plainly
def demo(contacts: int) -> None:
    """Create an account full of samples, with a user to log on by, for trying the console out."""
    serve.prepare()
    number = (db.session.scalar(sa.select(sa.func.max(Account.id))) or 0) + 1
    email, password = f"demo{number}@example.com", "-".join(secrets.token_hex(3) for _ in range(3))
    account = Account.create(f"Demo {number}", max(contacts, current_settings().contact_quota))
    account.add_user(email, password)
    fill(account.id, contacts)
    db.session.commit()
    click.echo(f"Created the account {account.name} with {contacts} contacts.")
    click.echo(f"Log on as {email} with the password {password}")


def fill(account_id: int, count: int) -> None:
    """Add `count` contacts to an account, and groups, integrations and notifications around them."""
    contacts = list(_contacts(account_id, count))
    db.session.add_all(contacts)
    groups, members = [], []
    for index, name in enumerate(SAMPLE_GROUPS):
        group = Group(account_id=account_id, name=name)
        db.session.add(group)
        db.session.flush()
        members.append(contacts[index :: len(SAMPLE_GROUPS) + 1])
        group.add_members(contact.id for contact in members[-1])
        groups.append(group)
    now: datetime = db.session.scalars(sa.select(sa.func.now())).one()
    integrations: dict[tuple[int, str], Integration] = {}
    states: dict[tuple[int, str], dict[str, Any]] = {}
    failing = {contacts[place].id: failure for place, failure in FAILING.items() if place < count}
    for news in NEWS:
        at = now - timedelta(minutes=news.ago)
        integration = integrations.get((news.group, news.source))
        if integration is None:
            integration = Integration(account_id=account_id, group_id=groups[news.group].id, name=SENDERS[news.source])
            integration.renew_token()  # the token is not shown; a user renews it in order to send
            integrations[news.group, news.source] = integration
            db.session.add(integration)
        integration.used_at = at
        db.session.flush()
        alert = Notification(
            account_id=account_id,
            kind="alert",
            source=news.source,
            integration_id=integration.id,
            integration_name=integration.name,
            addressee=groups[news.group].name,
            title=news.title,
            text=news.text,
            severity=news.severity,
            status=news.status,
            key=news.key,
            received_at=at,
        )
        _add(alert, members[news.group], failing, states)
    test = Notification(account_id=account_id, kind="test", source="console", addressee=contacts[0].name, severity="")
    test.title, test.text, test.status = "This is a test", "Nothing is wrong: this was a sample of a test.", "firing"
    test.received_at = now - timedelta(minutes=5)
    _add(test, contacts[:1], failing, states)
    db.session.execute(sa.insert(ChannelState).execution_options(render_nulls=True), list(states.values()))


def _add(
    alert: Notification,
    contacts: Sequence[Contact],
    failing: dict[int, tuple[str, Answers]],
    states: dict[tuple[int, str], dict[str, Any]],
) -> None:
    """Insert a notification with its deliveries in final states, and update the channel states in `states`."""
    db.session.add(alert)
    db.session.flush()
    rows = []
    for contact in contacts:
        for channel, kind in KINDS.items():
            stored = getattr(contact, kind.column)
            if stored is None:
                continue
            address = kind.shown(stored, contact.account_id, contact.id)
            broken, reason = failing.get(contact.id, ("", TOOK[channel]))
            fails = channel == broken
            said = dump(reason if fails else TOOK[channel])
            at = alert.received_at + timedelta(seconds=2)
            key = {"account_id": alert.account_id, "contact_id": contact.id, "channel": channel}
            rows.append(
                key
                | {
                    "alert_id": alert.id,
                    "contact_name": contact.name,
                    "address": address,
                    "state": "failed" if fails else "sent",
                    "attempts": 1,
                    "next_attempt_at": None,
                    "give_up_at": alert.received_at + timedelta(hours=1),
                    "answer": said,
                    "ended_at": at,
                }
            )
            known = states.setdefault(
                (contact.id, channel), key | {"worked_at": None, "failing_since": None, "answer": None}
            )
            if not fails:
                known["worked_at"] = at
            elif known["failing_since"] is None:
                known |= {"failing_since": at, "answer": said}
    if rows:
        db.session.execute(sa.insert(Delivery).execution_options(render_nulls=True), rows)


def _contacts(account_id: int, count: int) -> Iterator[Contact]:
    """Yield fictitious contacts, so that a test of one reaches nobody.

    Numbers are reserved for fiction and domains for examples. DingTalk refuses the tokens of the robots, which are no
    tokens; another host than DingTalk's would not be accepted when a user edits the contact.
    """
    chance = random.Random(account_id)  # nosec B311
    # The North American Numbering Plan reserves 555-0100 to 555-0199 of each area code for fiction.
    fiction = (f"+1{area}55501{line:02}" for area in range(201, 990) for line in range(100))
    mobiles = filter(lambda number: phonenumbers.is_valid_number(phonenumbers.parse(number)), fiction)
    for index in range(count):
        name = SAMPLE_NAMES[index % len(SAMPLE_NAMES)]
        if index >= len(SAMPLE_NAMES):
            name = f"{name} {index // len(SAMPLE_NAMES) + 1}"
        mobile = next(mobiles) if chance.random() < 0.85 or index == 2 else None
        email = f"contact{index + 1}@example.com" if not mobile or chance.random() < 0.8 or index in FAILING else None
        token = f"placeholder-of-a-sample-{index + 1:05}" if chance.random() < 0.4 else None
        if index == 1:
            mobile = token = None
        yield Contact(
            account_id=account_id,
            id=Contact.next_id(),
            name=name,
            mobile=mobile,
            email=email,
            dingtalk_url=token and f"https://{DINGTALK_HOSTS[0]}/robot/send?access_token={token}",
        )
