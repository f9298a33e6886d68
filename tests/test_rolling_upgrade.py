"""Show that the console works beside a later version, which knows a kind of channel more and writes its rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask

from contacts_app import config, create_app, migrations
from contacts_app.cli.processes import CHORES
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery import housekeeping
from contacts_app.delivery.channels.kinds import Senders
from contacts_app.delivery.channels.registry import KINDS
from contacts_app.delivery.worker import Worker
from tests.conftest import Team

LATER_SCHEMA = """
    ALTER TABLE contacts ADD pager text, DROP CONSTRAINT contact_has_a_channel;
    ALTER TABLE deliveries DROP CONSTRAINT delivery_channel_is_known;
    ALTER TABLE channel_states DROP CONSTRAINT channel_state_is_of_a_channel
"""


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[], str]) -> str:
    """Return the address of a database of its own, whose schema is that of a later version."""
    return new_database()


@pytest.fixture(scope="module")
def settings(database_url: str, data_dir: Path) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40}


@pytest.fixture(scope="module")
def app(settings: dict[str, str], database_url: str) -> Flask:
    app = create_app(settings)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(LATER_SCHEMA)
    return app


@pytest.fixture
def pagers(team: Team) -> dict[str, int]:
    """Return the ids of what has a pager, and of the notification to them: one message waits, the other has failed."""
    ann, zoe = team.add("Ann", email="ann@example.com"), team.add("Zoe")
    team.sql.execute("UPDATE contacts SET pager = '12345' WHERE account_id = %s", [team.account_id])
    team.sql.execute("UPDATE contacts SET email = NULL WHERE id = %s", [zoe])
    (group,) = team.sql.execute(
        "INSERT INTO groups (account_id, name) VALUES (%s, 'Night') RETURNING id", [team.account_id]
    ).fetchone()
    (alert,) = team.sql.execute(
        """INSERT INTO alerts (account_id, kind, source, addressee, title, text, severity, status)
        VALUES (%s, 'alert', 'plain', 'Night', 'Disk full', '', '', 'firing') RETURNING id""",
        [team.account_id],
    ).fetchone()
    for statement in (
        "INSERT INTO memberships (account_id, group_id, contact_id) SELECT account_id, %(group)s, id FROM contacts",
        """INSERT INTO channel_states (account_id, contact_id, channel, failing_since, answer)
        SELECT account_id, id, 'pager', now(), 'Nobody there' FROM contacts""",
        """INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, is_held)
        SELECT account_id, %(alert)s, id, 'pager', name, true FROM contacts""",
        """UPDATE deliveries
        SET state = 'failed', attempts = 1, ended_at = now(), next_attempt_at = NULL, is_held = false
        WHERE contact_id = %(zoe)s""",
    ):
        mine = statement.replace("FROM contacts", "FROM contacts WHERE account_id = %(account)s")
        team.sql.execute(mine, {"account": team.account_id, "group": group, "alert": alert, "zoe": zoe})
    return {"ann": ann, "zoe": zoe, "group": group, "alert": int(alert)}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        *((f"/contacts?show={show}", []) for show in ("all", "ungrouped", "untried")),
        *((f"/contacts?show={show}", ["Zoe"]) for show in ("unreachable", "failing")),
        ("/contacts/{zoe}/edit", ["Zoe"]),
        ("/contacts/{ann}/edit", ["Ann", "ann@example.com"]),
        ("/contacts/delete?id={ann}&id={zoe}", ["Zoe"]),
        ("/groups", ["Night"]),
        ("/groups/{group}", ["Ann", "Zoe"]),
        ("/groups/{group}/edit", ["Ann", "Zoe"]),
        ("/groups/assign?id={zoe}", []),
        *((f"/notifications?show={show}", ["Disk full"]) for show in ("all", "failed", "waiting")),
        ("/notifications/{alert}", ["<span>pager", "this channel has reached its limit", "Failed"]),
        ("/notifications/{alert}?state=failed", ["<span>pager"]),
        ("/notifications/{alert}/result", ["<span>pager"]),
        ("/notifications/test?contact={zoe}", []),
    ],
)
def test_pages_show_a_channel_of_a_later_version_by_its_name(
    team: Team, pagers: dict[str, int], path: str, shown: list[str]
) -> None:
    for htmx in (False, True):
        answer = team.get(path.format(**pagers), htmx)
        assert answer.status_code == 200
        assert [words for words in shown if words not in answer.text] == []


def test_a_message_of_a_later_version_cannot_be_sent_again_alone(team: Team, pagers: dict[str, int]) -> None:
    assert 'value="pager"' not in team.get(f"/notifications/{pagers['alert']}").text
    again = f"/notifications/{pagers['alert']}/again"
    assert team.post(again, {"contact": pagers["zoe"], "channel": "pager"}).status_code == 400
    assert team.post(again, {}).status_code == 303


def test_a_worker_leaves_messages_of_a_later_version_alone(
    team: Team, app: Flask, settings: dict[str, str], pagers: dict[str, int]
) -> None:
    def deliveries() -> list[tuple[Any, ...]]:
        query = "SELECT * FROM deliveries WHERE account_id = %s AND channel = 'pager' ORDER BY contact_id"
        return team.sql.execute(query, [team.account_id]).fetchall()

    before, known = deliveries(), config.load(settings)
    worker, senders = Worker(app, known, CHORES), Senders(known)
    with app.app_context(), all_accounts():
        assert [worker.step(channel, senders) for channel in KINDS] == [False] * len(KINDS)
        housekeeping.tidy(known.retention_days, CHORES)
        assert housekeeping.check_all([team.account_id]) == []
        db.session.commit()
        assert CHORES.check_next()
        db.session.rollback()
    senders.close()
    assert deliveries() == before
