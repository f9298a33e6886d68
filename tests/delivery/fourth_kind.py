"""Try a console that has a fourth kind of channel, pagers: `python -m tests.delivery.fourth_kind` in a copy with it.

The environment sets the console up, with a database that is empty.
"""

import sqlalchemy as sa
from flask import Flask

from contacts_app import create_app, migrations
from contacts_app.cli.processes import CHORES
from contacts_app.core.db import Base, all_accounts, db
from contacts_app.core.encryption import digest
from contacts_app.delivery.channels.kinds import Senders
from contacts_app.delivery.channels.registry import kind_of
from contacts_app.delivery.models import Delivery, Notification
from contacts_app.delivery.queueing import notify
from contacts_app.delivery.worker import Worker
from tests.conftest import PASSWORD_HASH
from tests.growth import Team

# The constraints that name the kinds.
NAMING = (
    *("delivery_channel_is_known", "send_window_is_of_a_known_kind", "channel_state_is_of_a_channel"),
    *("sent_delivery_is_of_a_channel", "channel_news_is_of_a_channel"),
)


def migrate() -> None:
    """Make the database as the console without the kind has it, then the column and the constraints."""
    migrations.upgrade()
    db.session.execute(sa.text("ALTER TABLE contacts ADD pager text, DROP CONSTRAINT contact_has_a_channel"))
    for table in Base.metadata.tables.values():
        for constraint in table.constraints:
            if isinstance(constraint, sa.CheckConstraint) and constraint.name in NAMING:
                change = f"DROP CONSTRAINT {constraint.name}, ADD CONSTRAINT {constraint.name} CHECK"
                db.session.execute(sa.text(f"ALTER TABLE {table.name} {change} ({constraint.sqltext})"))
    db.session.commit()


def add_team(app: Flask) -> Team:
    """Make an account and somebody who is logged on."""
    one = db.session.execute(
        sa.text("INSERT INTO accounts (name, contact_quota) VALUES ('Ops', 100) RETURNING id")
    ).scalar_one()
    values = {"account": one, "hash": PASSWORD_HASH, "token": digest("token-of-ops")}
    db.session.execute(
        sa.text("""
            WITH new AS (
                INSERT INTO users (account_id, email, password_hash) VALUES (:account, 'a@example.com', :hash)
                RETURNING id
            )
            INSERT INTO sessions (token_hash, account_id, user_id) SELECT :token, :account, id FROM new
        """),
        values,
    )
    db.session.commit()
    return Team(app, one, "token-of-ops")


def add(team: Team, name: str, **columns: str) -> int:
    columns = {"name": name, "account_id": str(team.account_id)} | columns
    names, marks = ", ".join(columns), ", ".join(f":{column}" for column in columns)
    query = f"INSERT INTO contacts ({names}) VALUES ({marks}) RETURNING id"
    identity: int = db.session.execute(sa.text(query), columns).scalar_one()
    db.session.commit()
    return identity


def deliver(app: Flask) -> None:
    """Deliver over pagers until nothing is due, and give back the connections."""
    senders = Senders(app.extensions["settings"])
    worker = Worker(app, app.extensions["settings"], CHORES)
    while worker.step("pager", senders):
        pass
    senders.close()


def queue_alert(team: Team, *contacts: int) -> int:
    """Queue an alert for the contacts, deliver it by pager, and return its id."""
    alert = Notification(
        account_id=team.account_id, kind="alert", source="script", addressee="On call", title="Disk full"
    )
    alert.text, alert.severity, alert.status = "On db1.", "critical", "firing"
    notify(alert, contacts)
    db.session.commit()
    deliver(team.app)
    return alert.id


def has_all(page: str, *words: str) -> None:
    for word in words:
        assert word in page, (word, page)


def main() -> None:
    app = create_app()
    received = kind_of("pager").received  # type: ignore[attr-defined]
    with app.app_context(), all_accounts():
        migrate()
        team = add_team(app)
        ann = add(team, "Ann", pager="4711")
        bob = add(team, "Bob", pager="4720")
        cid = add(team, "Cid", mobile="+8613800000001", pager="4713")
        alert = queue_alert(team, ann, bob, cid)
        arrived = sorted((address, message.content.title) for address, message in received)
        assert arrived == [("4711", "Disk full"), ("4713", "Disk full")], arrived
        rows = db.session.scalars(sa.select(Delivery).order_by(Delivery.contact_id, Delivery.channel)).all()
        assert [(row.contact_id, row.channel, row.state, row.address) for row in rows] == [
            (ann, "pager", "sent", "Pager 4711"),
            (bob, "pager", "failed", "Pager 4720"),
            (cid, "pager", "sent", "Pager 4713"),
            (cid, "sms", "queued", None),
        ]
        db.session.remove()
        for _ in range(3):
            queue_alert(team, ann)
        assert [address for address, _ in received].count("4711") == 3, "the limit of the kind holds"
        held = team.get(f"/notifications/{alert + 3}").text
        has_all(held, "this pager has reached its limit")
    has_all(team.get(f"/notifications/{alert}").text, "Pager <bdi>Pager 4711", "The pager is switched off.")
    listed = team.get("/contacts").text
    has_all(
        listed,
        '<th scope="col" class="pager">Pager number</th>',
        'data-label="Pager number"',
        "Pager 4713",
        "The pager is switched off.",
    )
    has_all(listed, "cannot be reached right now", "Pager fails: <bdi>The pager is switched off.")
    assert "Cid" not in team.get("/contacts?show=unreachable").text.split("<tbody")[1]
    has_all(team.get("/groups/new").text, "Pager 4711", "+86 138 0000 0001")
    has_all(team.get(f"/notifications/test?id={ann}&id={cid}").text, "2 pages", "1 text message (not set up: it fails)")
    print("A fourth kind of channel works.")


if __name__ == "__main__":
    main()
