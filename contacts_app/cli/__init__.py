"""Offer the commands under `flask --app wsgi`."""

import fcntl
import glob
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import click
import psycopg
import sqlalchemy as sa
from flask import Flask, current_app

from .. import migrations
from ..accounts.credentials import check_password, clean_account, known_email
from ..accounts.models import Account, User
from ..config import StartError, current_settings
from ..core import encryption
from ..core.db import all_accounts, db, violated_constraint
from ..delivery import worker
from ..delivery.housekeeping import Chores
from ..intake import refusals
from ..ops import dumps, embedded, serve
from ..reach import notices
from ..web.fields import clean_email
from .demo import fill

P = ParamSpec("P")
R = TypeVar("R")
TAKEN = {
    "account_name_is_unique": "--account: there is an account of this name already.",
    "user_email_is_unique": "--email: there is a user with this address already.",
    "contact_email_is_an_address": "a mailbox is longer than mail servers take. Shorten it in the console first.",
}

# What the rooms above delivery have its worker do.
CHORES = Chores(check_next=notices.check_next, forget_old=refusals.delete_old)
SEAL_BYTES = len("\nsha256 \n") + 64


def init_app(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in (serve_command, migrate, create_account, create_user, set_password, deliver, reencrypt, demo):
        app.cli.add_command(command)
    app.cli.add_command(backup)
    app.cli.add_command(restore)
    app.cli.add_command(version)


def _plainly(command: Callable[P, R]) -> Callable[P, R]:
    """End with one line instead of a traceback when a command cannot do its work."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with all_accounts():
                return command(*args, **kwargs)
        except StartError as error:
            sys.exit(f"alert-contacts: {error}")
        except sa.exc.IntegrityError as error:
            told = TAKEN.get(violated_constraint(error) or "")
            if told is None:
                raise
            sys.exit(f"alert-contacts: {told}")
        except sa.exc.OperationalError as error:
            sys.exit(f"alert-contacts: the database cannot be used: {str(error.orig).splitlines()[0]}")

    return run


def _cleaned(clean: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, str], str]:
    def callback(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            cleaned = clean(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        return cleaned

    return callback


def _clean_account(value: str) -> str:
    value = clean_account(value)
    if not value:
        raise ValueError("The name of an account has 1 to 64 characters.")
    return value


account_option = click.option(
    "--account", "account_name", required=True, callback=_cleaned(_clean_account), help="The account's name."
)
email_option = click.option("--email", required=True, callback=_cleaned(clean_email), help="The user's e-mail address.")
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)


def _password(from_stdin: bool) -> str:
    value = (
        sys.stdin.readline().rstrip("\r\n")
        if from_stdin
        else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    )
    try:
        check_password(value)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return str(value)


def _account(name: str) -> Account:
    account: Account | None = db.session.scalar(sa.select(Account).where(Account.name == name))
    if account is None:
        raise click.UsageError(f"There is no account named {name!r}.")
    return account


@click.command("serve")
@_plainly
def serve_command() -> None:
    """Run the console in the foreground; `make run` calls this."""
    serve.run()


@click.command()
@_plainly
def migrate() -> None:
    """Bring the database's schema and the accounts' quota up to date, before a new version serves it."""
    serve.prepare()
    serve.apply_settings()
    serve.tell_of_role()


@click.command("create-account")
@account_option
@email_option
@password_option
@_plainly
def create_account(account_name: str, email: str, password_stdin: bool) -> None:
    """Create an account and its first user."""
    password = _password(password_stdin)
    serve.prepare()
    Account.create(account_name, current_settings().contact_quota).add_user(email, password)
    db.session.commit()
    click.echo(f"Created the account {account_name} with the user {email}.")


@click.command("create-user")
@account_option
@email_option
@password_option
@_plainly
def create_user(account_name: str, email: str, password_stdin: bool) -> None:
    """Create a user in an account that exists."""
    password = _password(password_stdin)
    serve.prepare()
    _account(account_name).add_user(email, password)
    db.session.commit()
    click.echo(f"Created the user {email} in the account {account_name}.")


@click.command("set-password")
@click.option("--email", required=True, callback=_cleaned(known_email), help="The user's e-mail address.")
@password_option
@_plainly
def set_password(email: str, password_stdin: bool) -> None:
    """Set a user's password, which ends all their sessions."""
    password = _password(password_stdin)
    serve.prepare()
    user = User.by_email(email)
    if user is None:
        raise click.UsageError(f"There is no user with the address {email}.")
    user.set_password(password)
    user.end_sessions()
    db.session.commit()
    click.echo(f"Set the password of {email}.")


@click.command()
@_plainly
def deliver() -> None:
    """Deliver alerts in the foreground; beside gunicorn, any number of these run, on any number of machines."""
    serve.prepare()
    serve.tell_of_role()
    encryption.note_key()
    db.session.commit()
    worker.run(CHORES)


@click.command()
@_plainly
def reencrypt() -> None:
    """Encrypt everything with the first of ENCRYPTION_KEYS, so that the others can be taken from the list."""
    serve.prepare()
    encryption.note_key()
    count = encryption.encrypt_again()
    encryption.forget_other_keys()
    db.session.commit()
    click.echo(f"Encrypted {count} rows anew. Only the first of ENCRYPTION_KEYS is needed from now on.")


def _embedded_folder() -> Path:
    settings = current_settings()
    if settings.database_url is not None:
        raise StartError("this is for the embedded PostgreSQL; with DATABASE_URL use pg_dump and pg_restore.")
    embedded.ensure(settings.data_dir)
    return settings.data_dir


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@_plainly
def backup(path: Path) -> None:
    """Save the embedded database to FILE, while the console runs or not."""
    data_dir = _embedded_folder()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _remove_left_drafts(path)
        # In place when complete: the backup that was there before is better than half a new one.
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # while it lasts, nobody removes it
            dumps.dump(data_dir, file)
            file.write(_seal(file, file.seek(0, os.SEEK_END)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
    click.echo(f"Saved the database to {path}.")
    click.echo(
        "Keep the encryption key as well, in another place: ENCRYPTION_KEYS, or without it the file"
        f" {data_dir / 'encryption_key'}. The robots' addresses in the backup cannot be read without it."
    )


def _remove_left_drafts(path: Path) -> None:
    """Remove what backups that were killed have left beside `path`."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if draft.suffix[1:].isdecimal():
            with draft.open("rb") as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink(missing_ok=True)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stop-waiting", is_flag=True, help="Cancel the messages that wait to be sent in it.")
@_plainly
def restore(path: Path, stop_waiting: bool) -> None:
    """Fill an embedded database that has no accounts yet from FILE, which `backup` made."""
    waiting = 0

    def prepare(draft: psycopg.Connection) -> None:
        # Before the database is in its place, where a worker may wait for it.
        nonlocal waiting
        tables = _check_backup(draft)
        waiting = _waiting(draft, stop_waiting) if "deliveries" in tables else 0

    data_dir = _embedded_folder()
    serve.prepare()
    db.session.remove()
    db.engine.dispose()
    try:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END) - SEAL_BYTES
            if size < 0 or _seal(file, size) != file.read():
                raise StartError(f"{path} is damaged, or no backup that this console has made.")
            file.seek(0)
            dumps.restore(data_dir, file, prepare)
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}.") from None
    serve.prepare()
    accounts, contacts = db.session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(Account.contact_count), 0))
    ).one()
    click.echo(f"Restored {accounts} accounts with {contacts} contacts.")
    if waiting and stop_waiting:
        click.echo(f"Messages that waited in it and have been cancelled: {waiting}.")
    elif waiting:
        click.echo(
            f"Messages that wait in it, and are sent as soon as a worker runs: {waiting}. If they are not to be sent,"
            " restore it into another empty folder with --stop-waiting."
        )


def _seal(file: IO[bytes], size: int) -> bytes:
    """Return the last line of a backup, by which one that was cut is known: pg_restore takes that for a whole one."""
    digest = sha256()
    file.seek(0)
    while size and (part := file.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)
    return f"\nsha256 {digest.hexdigest()}\n".encode()


def _waiting(connection: psycopg.Connection, is_stopped: bool) -> int:
    """Return how many messages wait in a backup, which may be of an earlier version, and cancel them if asked to."""
    if not is_stopped:
        (count,) = connection.execute(
            "SELECT count(*) FROM deliveries WHERE next_attempt_at IS NOT NULL"
        ).fetchone() or [0]
        return int(count)
    knows_cancelled = connection.execute("""
        SELECT FROM pg_attribute WHERE attrelid = 'deliveries'::regclass AND attname = 'cancelled_by'
    """).rowcount
    ends = (
        "state = 'cancelled', cancelled_by = 'restore'" if knows_cancelled else "state = 'failed', answer = 'Restored'"
    )
    return connection.execute(f"""
        UPDATE deliveries SET {ends}, next_attempt_at = NULL, ended_at = now() WHERE next_attempt_at IS NOT NULL
    """).rowcount  # nosec B608


def _check_backup(connection: psycopg.Connection) -> set[str]:
    """Refuse a backup that this console could not work with; return the names of its tables."""
    tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    if not {"alembic_version", "accounts"} <= tables:
        raise StartError("this is no backup of the console.")
    for (revision,) in connection.execute("SELECT version_num FROM alembic_version").fetchall():
        if not migrations.knows(revision):
            raise StartError("the backup is of a later version of the console; restore it with that one.")
    if "encryption_keys" in tables:
        encryption.check_keys(identity for (identity,) in connection.execute("SELECT id FROM encryption_keys"))
    return tables


@click.command()
@click.option("--contacts", default=37, show_default=True, type=click.IntRange(1, 20_000), help="How many.")
@_plainly
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


@click.command()
def version() -> None:
    """Print the version of the console."""
    click.echo(current_app.config["VERSION"])
