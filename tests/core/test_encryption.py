"""Show that what the database may not show is readable with its key and for its row only, and that keys can change."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from flask import Flask

from contacts_app import create_app, migrations
from contacts_app.config import StartError
from contacts_app.contacts.models import Contact
from contacts_app.core import encryption
from contacts_app.core.db import all_accounts, db
from contacts_app.core.encryption import EncryptionKey, Unreadable, decrypt, encrypt, key_id
from tests.conftest import ROBOT, Team

PLACE = ("contacts", 1, 2, "dingtalk_url")
OLD, NEW = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))


@pytest.fixture
def keyed(new_database: Callable[[], str], settings: dict[str, str]) -> Iterator[Callable[[str], Flask]]:
    """Return a function that makes a console on one database of its own, with the keys it is given."""
    url, apps = new_database(), []

    def make(keys: str) -> Flask:
        app = create_app(settings | {"DATABASE_URL": url, "ENCRYPTION_KEYS": keys})
        with app.app_context(), all_accounts():
            migrations.upgrade()
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context(), all_accounts():
            db.engine.dispose()


def add_contact() -> tuple[int, int]:
    """Write a contact with a robot and a secret, and return its key."""
    encryption.note_key()
    account_id = db.session.execute(
        db.text("INSERT INTO accounts (name, contact_quota) VALUES ('Ops', 100) RETURNING id")
    ).scalar_one()
    contact = Contact(account_id=account_id, id=Contact.next_id(), name="Ann")
    contact.dingtalk_url, contact.dingtalk_secret = f"{ROBOT}abc", "SEC0123456789"
    db.session.add(contact)
    db.session.commit()
    return account_id, contact.id


def reencrypt(app: Flask) -> Result:
    with app.app_context(), all_accounts():
        return app.test_cli_runner().invoke(args=["reencrypt"])


def test_a_text_is_readable_where_it_belongs_only(app: Flask) -> None:
    with app.app_context(), all_accounts():
        encrypted = encrypt("a secret é", *PLACE)
        assert decrypt(encrypted, *PLACE) == "a secret é"
        assert b"secret" not in encrypted
        assert encrypt("a secret é", *PLACE) != encrypted
        for place in (("contacts", 1, 3, "dingtalk_url"), ("contacts", 9, 2, "dingtalk_url"), (*PLACE[:3], "other")):
            with pytest.raises(Unreadable):
                decrypt(encrypted, *place)


@pytest.mark.parametrize("position", [0, 4, 16, -1])
def test_a_text_that_was_tampered_with_is_not_read(app: Flask, position: int) -> None:
    with app.app_context(), all_accounts():
        encrypted = bytearray(encrypt("a secret", *PLACE))
        encrypted[position] ^= 1
        with pytest.raises(Unreadable):
            decrypt(bytes(encrypted), *PLACE)


def test_each_listed_key_reads_and_the_first_writes(keyed: Callable[[str], Flask]) -> None:
    with keyed(OLD).app_context(), all_accounts():
        encrypted = encrypt("a secret", *PLACE)
    with keyed(f"{NEW}, {OLD}").app_context(), all_accounts():
        assert decrypt(encrypted, *PLACE) == "a secret"
        assert encrypt("a secret", *PLACE).startswith(key_id(b"n" * 32))
    with keyed(NEW).app_context(), all_accounts(), pytest.raises(Unreadable):
        decrypt(encrypted, *PLACE)


def test_a_start_without_a_key_that_is_in_use_is_refused(keyed: Callable[[str], Flask]) -> None:
    with keyed(OLD).app_context(), all_accounts():
        add_contact()
    with keyed(NEW).app_context(), all_accounts(), pytest.raises(StartError, match="ENCRYPTION_KEYS lacks a key"):
        encryption.note_key()
    with keyed(f"{NEW},{OLD}").app_context(), all_accounts():
        encryption.note_key()


def test_reencrypt_lets_the_old_key_go(keyed: Callable[[str], Flask]) -> None:
    with keyed(OLD).app_context(), all_accounts():
        key = add_contact()
        before = db.session.get(Contact, key).updated_at
    result = reencrypt(keyed(f"{NEW},{OLD}"))
    assert (result.exit_code, result.output.split(".")[0]) == (0, "Encrypted 1 contacts anew")
    with keyed(NEW).app_context(), all_accounts():
        encryption.note_key()
        contact = db.session.get(Contact, key)
        assert (contact.dingtalk_url, contact.dingtalk_secret) == (f"{ROBOT}abc", "SEC0123456789")
        assert (contact.updated_at, contact.version) == (before, 1)
        assert list(db.session.scalars(db.select(EncryptionKey.id))) == [key_id(b"n" * 32)]


def test_reencrypt_without_the_old_key_changes_nothing(keyed: Callable[[str], Flask]) -> None:
    with keyed(OLD).app_context(), all_accounts():
        key = add_contact()
    assert reencrypt(keyed(NEW)).output == f"alert-contacts: {encryption.MISSING_KEY}\n"
    with keyed(OLD).app_context(), all_accounts():
        assert db.session.get(Contact, key).dingtalk_url == f"{ROBOT}abc"


def test_no_robot_stands_readable_in_the_table(team: Team, sql: psycopg.Connection) -> None:
    team.post(
        "/contacts/new",
        {"name": "Ann", "dingtalk_url": f"{ROBOT}{'z9' * 32}", "dingtalk_secret": "SEC0123456789abcdef"},
    )
    (row,) = sql.execute("SELECT contacts::text FROM contacts WHERE account_id = %s", [team.account_id]).fetchone()
    for part in ("oapi", "z9z9", "SEC0"):
        assert part not in row
        assert part.encode().hex() not in row
    assert team.contacts()[0]["dingtalk_secret"] == "SEC0123456789abcdef"


def test_a_robot_whose_key_is_gone_is_said_and_loses_nothing(
    team: Team, settings: dict[str, str], tmp_path: Path
) -> None:
    contact = team.add("Ann", dingtalk_url=f"{ROBOT}{'z9' * 32}")
    other = create_app(settings | {"ENCRYPTION_KEYS": NEW})
    client = other.test_client()
    client.set_cookie("console", team.cookie)
    assert "cannot be read: enter it again" in client.get("/contacts").text
    assert client.get(f"/contacts/{contact}/edit").status_code == 200
    assert team.contact(contact)["dingtalk_url"] == f"{ROBOT}{'z9' * 32}"
