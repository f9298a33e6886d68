"""Show that every place asks the registry for the kind of a channel: a fourth works, and an unknown one is an error."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask

from contacts_app import config
from contacts_app.cli.processes import CHORES
from contacts_app.config import Settings
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts
from contacts_app.delivery import messages
from contacts_app.delivery.attempts import GONE
from contacts_app.delivery.channels.kinds import Kind, Senders
from contacts_app.delivery.channels.registry import KINDS, UnknownKind, kind_by_contact, kind_of
from contacts_app.delivery.models import Notification
from contacts_app.delivery.queueing import send_again
from contacts_app.delivery.senders import attempt
from contacts_app.delivery.worker import Worker
from tests.conftest import Team

PROJECT = Path(__file__).parents[2]
NAMES = [
    ("sms", "Mobile phone number", "text message"),
    ("email", "Mailbox", "e-mail"),
    ("dingtalk", "DingTalk robot", "DingTalk message"),
]


SENTENCES_OF_PAGERS = """
    "pager.no_address": "The contact has no pager any more.",
    "pager.off": "The pager is switched off.",
    "pager.sent": "The pager beeped.",
"""


class Odd(Kind):
    """A kind that nothing delivers."""

    name, label, heading, message = "odd", "Odd", "Odd", "odd"
    no_address = GONE
    column = used = "name"
    messages = "count(name)"

    def clean(self, typed: str) -> str:
        return typed

    def shown(self, stored: Any, account_id: int, contact_id: int) -> str:
        return str(stored)


def test_the_registry_knows_each_kind_by_its_name_in_the_order_of_the_list() -> None:
    assert [(kind.name, kind.label, kind.message) for kind in KINDS.values()] == NAMES
    assert all(kind_of(name) is kind and name == kind.name for name, kind in KINDS.items())


def test_each_kind_has_a_column_of_contacts_and_says_what_may_be_seen_of_it(app: Flask) -> None:
    assert {kind.column for kind in KINDS.values()} <= {column.name for column in Contact.__table__.columns}
    with app.app_context():
        shown = {"sms": "+8613800000001", "email": "ann@example.com", "dingtalk": b"cannot be read"}
        assert {name: kind_of(name).shown(stored, 1, 1) for name, stored in shown.items()} == {
            "sms": "+86 138 0000 0001",
            "email": "ann@example.com",
            "dingtalk": "cannot be read: enter it again",
        }


@pytest.mark.parametrize("name", ["pigeon", "", "SMS", "test"])
def test_an_unknown_kind_is_an_error_and_never_another_one(
    app: Flask, settings: dict[str, str], name: str, team: Team
) -> None:
    known: Settings = config.load(settings)
    alert = Notification(account_id=team.account_id, id=1)
    asked: list[Callable[[], object]] = [
        lambda: kind_of(name),
        lambda: kind_by_contact(name),
        lambda: messages.claim(name, 0, known),
        lambda: attempt(name, None, Senders(known)),  # the claim is not looked at
        lambda: send_again(alert, 1, name),
        lambda: send_again(alert, 1, None),
    ]
    with app.app_context(), all_accounts():
        for ask in asked:
            with pytest.raises(UnknownKind, match="no channel of the kind"):
                ask()


def test_a_robot_is_not_delivered_contact_by_contact(app: Flask, settings: dict[str, str]) -> None:
    with app.app_context(), all_accounts(), pytest.raises(UnknownKind, match="'dingtalk' are not delivered contact"):
        messages.claim("dingtalk", 0, config.load(settings))


def test_a_worker_does_not_start_with_a_kind_that_nothing_delivers(
    app: Flask, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "odd", Odd())
    with pytest.raises(TypeError, match="Nothing delivers channels of the kind 'odd'"):
        Worker(app, config.load(settings), CHORES)


def test_nobody_has_an_unknown_channel_sent_again(team: Team, sql: psycopg.Connection) -> None:
    (alert,) = sql.execute(
        """INSERT INTO alerts (account_id, kind, source, addressee, title, text, severity, status)
        VALUES (%s, 'alert', 'script', 'On call', 'Disk full', '', '', 'firing') RETURNING id""",
        [team.account_id],
    ).fetchone()
    ann = team.add("Ann")
    answer = team.post(f"/notifications/{alert}/again", {"contact": ann, "channel": "pigeon"})
    assert answer.status_code == 400
    assert "There is no such channel." in answer.text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the project with a fourth kind: its module, place in the registry, sentences and column."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("contacts_app", "templates", "static", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    channels = copy / "contacts_app/delivery/channels"
    shutil.move(copy / "tests/delivery/pager.py", channels / "pager.py")
    insert(channels / "registry.py", "from .mail import EMAIL\n", "from .pager import PAGER\n")
    insert(channels / "registry.py", "(SMS, EMAIL, DINGTALK", ", PAGER")
    insert(copy / "contacts_app/delivery/answers.py", "SENTENCES = {\n", SENTENCES_OF_PAGERS)
    insert(
        copy / "contacts_app/contacts/models.py",
        "dingtalk_keyword: Mapped[str | None]\n",
        "    pager: Mapped[str | None]\n",
    )
    return copy


def insert(path: Path, after: str, text: str) -> None:
    before = path.read_text()
    assert before.count(after) == 1
    path.write_text(before.replace(after, after + text))


@pytest.mark.long
def test_a_fourth_kind_needs_no_change_where_kinds_are_only_asked(
    new_database: Callable[[], str], data_dir: Path, copy: Path
) -> None:
    environ = {"DATABASE_URL": new_database(), "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40}
    done = subprocess.run(
        [sys.executable, "-m", "tests.delivery.fourth_kind"],
        cwd=copy,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "A fourth kind of channel works.\n"), done.stderr
