"""Run the console that is measured, as `make run` does, and count what it uses."""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import sqlalchemy as sa

from contacts_app import create_app
from contacts_app.accounts.models import Account
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.groups.models import Group
from contacts_app.intake.models import Integration
from contacts_app.ops import embedded
from tests.bench.burst import EMAIL, PASSWORD
from tests.bench.ways import ByConsole, Sender
from tests.ops.test_embedded import flask, processes
from tests.ops.test_serve import Console

# So that no limit is met: with these nothing is held back, put together or refused.
LIMITS = {
    "CONTACT_QUOTA": "20000",
    "ALERTS_PER_MINUTE": "1000000",
    "MAILS_PER_MAILBOX": "1000",
    "TEXTS_PER_NUMBER": "1000",
}
PARTS, TRANSACTIONS = ("web", "worker", "PostgreSQL"), "transactions"
ADDRESSES = {
    "email": "'contact' || n || '@team' || :account_id || '.example.com'",
    "mobile": "'+86139' || 10000000 + 100 * CAST(:account_id AS bigint) + n",
}


class Served:
    """A console with its database, whose files are written as durably as a user's."""

    def __init__(self, data_dir: Path, settings: dict[str, str]) -> None:
        self.data_dir, self.settings = data_dir, LIMITS | settings
        migrated = flask(data_dir, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        self.app = create_app({"DATA_DIR": str(data_dir)} | self.settings)
        embedded.ensure(data_dir)  # here as well, so that the database stays while no console runs
        self.sql = psycopg.connect(embedded.url(data_dir), autocommit=True)
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert self.sql.execute(f"SHOW {name}").fetchone() == ("on",), name
        self._console: Console | None = None

    def start(self, **settings: str) -> None:
        """Start web server and worker, and return when both are there; stop those that run before."""
        self.stop()
        self.sql.execute("DELETE FROM workers")
        self._console = Console(self.data_dir, **self.settings, **settings).wait()
        while not self.sql.execute("SELECT 1 FROM workers").fetchone():
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop web server and worker, if they run."""
        if self._console:
            self._console.stop()
        self._console = None

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return self._console.port

    def way(self, tokens: dict[int, str]) -> ByConsole:
        """Return the way to notify the contacts of these groups."""
        return ByConsole(self.sender(), tokens, self.settle, self.used)

    def sender(self) -> Sender:
        """Return a sender of alerts."""
        return Sender(f"127.0.0.1:{self.port}", "/healthz")

    def settle(self) -> None:
        """Wait until nothing is queued and the worker sleeps."""
        while self.sql.execute("SELECT 1 FROM deliveries WHERE ended_at IS NULL LIMIT 1").fetchone():
            time.sleep(0.02)
        time.sleep(random.uniform(0.2, 0.3))  # at no special moment of its rounds

    def add_teams(
        self, count: int, sizes: Sequence[int], channel: str = "email", robots: str = "", user: bool = False
    ) -> list[dict[int, str]]:
        """Write accounts with a group of each size; return, for each, the token of an integration for each size."""
        with self.app.app_context(), all_accounts():
            tokens = [self._add_team(sizes, channel, robots, user) for _ in range(count)]
            db.session.commit()
            db.session.remove()
        return tokens

    def _add_team(self, sizes: Sequence[int], channel: str, robots: str, user: bool) -> dict[int, str]:
        account = Account.create(f"Bench {uuid4()}", max(sizes))
        if user:
            account.add_user(EMAIL, PASSWORD)
        mine = {"account_id": account.id, "count": max(sizes)}
        if robots:  # whose addresses are encrypted
            for number in range(max(sizes)):
                contact = Contact(account_id=account.id, id=Contact.next_id(), name=f"Contact {number}")
                contact.dingtalk_url = f"{robots}/robot/send?access_token=team{account.id}robot{number}"
                db.session.add(contact)
        else:
            insert = f"INSERT INTO contacts (account_id, name, {channel})"
            values = f"SELECT :account_id, 'Contact ' || n, {ADDRESSES[channel]} FROM generate_series(0, :count - 1) n"
            db.session.execute(sa.text(f"{insert} {values}"), mine)
        db.session.flush()
        ids = db.session.scalars(
            sa.select(Contact.id).where(Contact.account_id == account.id).order_by(Contact.id)
        ).all()
        tokens = {}
        for size in sizes:
            group = Group(account_id=account.id, name=f"Group of {size}")
            db.session.add(group)
            db.session.flush()
            group.add_members(ids[:size])
            integration = Integration(account_id=account.id, group_id=group.id, name=f"Bench of {size}")
            tokens[size] = integration.renew_token()
            db.session.add(integration)
        return tokens

    def used(self) -> dict[str, float]:
        """Return the milliseconds of processor time of each part, with those of its children that ended, until now.

        The transactions of the database are among them; PostgreSQL counts those of a busy connection a second late.
        """
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'contacts'"
        used = dict.fromkeys(PARTS, 0.0) | {TRANSACTIONS: self.sql.execute(query).fetchone()[0]}
        for process in processes(self.data_dir):
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                name = "PostgreSQL" if process.name() == "postgres" else "worker" if "deliver" in words else "web"
                used[name] += 1000 * sum(process.cpu_times()[:4])
        return used
