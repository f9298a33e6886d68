"""Migrate, back up, restore and re-encrypt the database."""

import fcntl
import glob
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

import click
import psycopg
import sqlalchemy as sa

from .. import migrations
from ..accounts.models import Account
from ..config import StartError, current_settings
from ..core import encryption
from ..core.db import db
from ..ops import dumps, embedded, serve
from .errors import plainly

SEAL_BYTES = len("\nsha256 \n") + 64


@click.command()
@plainly
def migrate() -> None:
    """Bring the database's schema and the accounts' quota up to date, before a new version serves it."""
    serve.prepare()
    serve.apply_settings()
    serve.warn_about_role()


def _embedded_folder() -> Path:
    settings = current_settings()
    if settings.database_url is not None:
        raise StartError("this is for the embedded PostgreSQL; with DATABASE_URL use pg_dump and pg_restore.")
    embedded.ensure(settings.data_dir)
    return settings.data_dir


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@plainly
def backup(path: Path) -> None:
    """Save the embedded database to FILE, while the console runs or not."""
    data_dir = _embedded_folder()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _remove_left_drafts(path)
        # Rename the file when complete, so that a failure leaves the previous backup intact.
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so that no other backup removes it
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
        f" {data_dir / 'encryption_key'}. What is encrypted in the backup, such as robots' addresses, cannot be read"
        " without it."
    )


def _remove_left_drafts(path: Path) -> None:
    """Remove the drafts beside `path` that killed backups have left."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if draft.suffix[1:].isdecimal():
            with draft.open("rb") as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink(missing_ok=True)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stop-waiting", is_flag=True, help="Cancel the messages that wait to be sent in it.")
@plainly
def restore(path: Path, stop_waiting: bool) -> None:
    """Fill an embedded database that has no accounts yet from FILE, which `backup` made."""
    waiting = 0

    def prepare(draft: psycopg.Connection) -> None:
        # Before the swap, because a worker may start sending right after it.
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
    """Return the checksum line that ends a backup: pg_restore does not detect a truncated file."""
    digest = sha256()
    file.seek(0)
    while size and (part := file.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)
    return f"\nsha256 {digest.hexdigest()}\n".encode()


def _waiting(connection: psycopg.Connection, is_stopped: bool) -> int:
    """Return the number of pending deliveries in a backup, also of an earlier version; cancel them if `is_stopped`."""
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
    """Return the names of the tables of a backup; raise StartError if it is incompatible with this console."""
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
@plainly
def reencrypt() -> None:
    """Encrypt everything with the first of ENCRYPTION_KEYS, so that the others can be taken from the list."""
    serve.prepare()
    encryption.note_key()
    count = encryption.encrypt_again()
    encryption.forget_other_keys()
    db.session.commit()
    click.echo(f"Encrypted {count} rows anew. Only the first of ENCRYPTION_KEYS is needed from now on.")
