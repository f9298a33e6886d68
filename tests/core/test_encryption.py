"""Show that what the database may not show is readable with its key and for its row only, and that keys can change."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from contacts_app import create_app, migrations
from contacts_app.config import StartError
from contacts_app.contacts.models import Contact
from contacts_app.core import encryption
from contacts_app.core.db import Base, all_accounts, db
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


@pytest.fixture
def vault() -> Iterator[sa.Table]:
    """Map one more table with encrypted columns, as somebody may add one tomorrow."""
    table = sa.Table(
        "vault",
        Base.metadata,
        sa.Column("account_id", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("token_encrypted", sa.LargeBinary, info=encryption.ENCRYPTED),
        sa.Column("pin_encrypted", sa.LargeBinary, info=encryption.ENCRYPTED),
        sa.Column("note_encrypted", sa.LargeBinary),  # not marked
        sa.Column("changes", sa.Integer, server_default="0", onupdate=sa.text("vault.changes + 1")),
    )
    yield table
    Base.metadata.remove(table)


def fill(vault: sa.Table, count: int) -> None:
    """Create the table, and write rows of two accounts that have a token, and every other one a PIN."""
    vault.create(db.session.connection())
    for number in range(1, count + 1):
        key = (number % 2 + 1, number)
        pin = encrypt(f"pin {number}", "vault", *key, "pin") if number % 3 else None
        token = encrypt(f"token {number}", "vault", *key, "token")
        row = {"account_id": key[0], "id": key[1], "token_encrypted": token, "pin_encrypted": pin}
        db.session.execute(sa.insert(vault).values(row))
    db.session.commit()


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
    assert (result.exit_code, result.output.split(".")[0]) == (0, "Encrypted 1 rows anew")
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


def test_reencrypt_finds_what_is_encrypted_in_every_mapped_table(
    keyed: Callable[[str], Flask], vault: sa.Table
) -> None:
    with keyed(OLD).app_context(), all_accounts():
        add_contact()
        fill(vault, 2 * encryption.ENCRYPTED_AT_ONCE + 3)
    result = reencrypt(keyed(f"{NEW},{OLD}"))
    assert result.output.split(".")[0] == f"Encrypted {2 * encryption.ENCRYPTED_AT_ONCE + 4} rows anew"
    with keyed(NEW).app_context(), all_accounts():
        rows = db.session.execute(sa.select(vault)).all()
        assert len(rows) == 2 * encryption.ENCRYPTED_AT_ONCE + 3
        for row in rows:
            place = ("vault", row.account_id, row.id)
            assert decrypt(row.token_encrypted, *place, "token") == f"token {row.id}"
            assert row.pin_encrypted is None or decrypt(row.pin_encrypted, *place, "pin") == f"pin {row.id}"
            assert (row.pin_encrypted is None, row.changes) == (row.id % 3 == 0, 0)
    assert reencrypt(keyed(f"{NEW},{OLD}")).output.startswith("Encrypted 0 rows anew.")


def test_the_old_key_is_kept_when_one_value_cannot_be_read(keyed: Callable[[str], Flask], vault: sa.Table) -> None:
    with keyed(OLD).app_context(), all_accounts():
        add_contact()
        fill(vault, 3)
        stray = encrypt("of another row", "vault", 9, 9, "token")
        db.session.execute(sa.update(vault).where(vault.c.id == 2).values(token_encrypted=stray))
        db.session.commit()
    result = reencrypt(keyed(f"{NEW},{OLD}"))
    assert (result.exit_code, result.output) == (1, f"alert-contacts: {encryption.MISSING_KEY}\n")
    with keyed(f"{NEW},{OLD}").app_context(), all_accounts():
        assert set(db.session.scalars(sa.select(EncryptionKey.id))) >= {key_id(b"o" * 32)}
        kept = db.session.scalars(sa.select(vault.c.token_encrypted).where(vault.c.id == 2)).one()
        assert kept == stray
    with keyed(NEW).app_context(), all_accounts(), pytest.raises(StartError):
        encryption.note_key()


def test_nothing_is_encrypted_for_a_column_that_reencrypt_would_not_find(app: Flask, vault: sa.Table) -> None:
    with app.app_context():
        for place in (("vault", 1, 1, "note"), ("vault", 1, 1, "other"), ("nowhere", 1, 1, "token")):
            with pytest.raises(LookupError, match="is not mapped as ENCRYPTED"):
                encrypt("a secret", *place)
        assert encrypt("a secret", "vault", 1, 1, "token")


def test_every_column_that_is_named_as_encrypted_is_marked() -> None:
    columns = [column for table in Base.metadata.tables.values() for column in table.columns]
    named = {str(column) for column in columns if column.name.endswith(encryption.SUFFIX)}
    marked = [column for column in columns if column.info.get("encrypted")]
    assert named == {str(column) for column in marked} >= {"contacts.dingtalk_url_encrypted"}
    keys = [key for column in marked for key in column.table.primary_key]
    assert all(isinstance(key.type, sa.Integer) for key in keys)


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
