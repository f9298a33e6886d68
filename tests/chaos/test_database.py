"""Restart the database under load, take it away, and let its disk run full."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from contacts_app.ops import embedded, programs
from tests.chaos.site import Answer, Load, Person, Site
from tests.conftest import Measured, wait_for
from tests.ops.test_embedded import is_ready, kill, let_go, migrated, new_folder, postmasters, processes, use
from tests.ops.test_wsgi import address_of

AWAY_SECONDS = 30
folder = pytest.fixture(new_folder)


class Server:
    """A PostgreSQL that is not the console's own; DATABASE_URL names it."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = migrated(folder).rename(folder / "server")
        self.user = use(self.data_dir)
        assert is_ready(self.user)
        self.settings = {
            "DATABASE_URL": address_of(self.data_dir),
            "ENCRYPTION_KEYS": (self.data_dir / "encryption_key").read_text().strip(),
        }

    def control(self, *arguments: str) -> None:
        """Do what an administrator does with pg_ctl, from a shell in which nobody sees its output."""
        options = " ".join(f"-c {name}='{value}'" for name, value in embedded.SERVER_SETTINGS.items())
        options += f" -k {self.data_dir / 'postgres'}"
        programs.run("pg_ctl", "-D", self.data_dir / "postgres", *arguments, "-w", "-o", options, cwd=self.data_dir)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    yield server
    let_go(server.user)


@pytest.fixture
def site(folder: Path, server: Server) -> Iterator[Site]:
    site = Site(folder, folder / "data", **server.settings)
    yield site
    site.stop()


def health(site: Site) -> int:
    """Return the status of /healthz."""
    try:
        with urllib.request.urlopen(f"{site.console.address}/healthz", timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_database_fails_only_what_is_under_way(
    site: Site, server: Server, mode: str, measured: Measured
) -> None:
    account, spans = site.add_account(quota=100_000), []
    with Load(site, account).going() as load:
        for _ in range(3):
            time.sleep(2)
            began = time.monotonic()
            server.control("restart", "-m", mode)
            spans.append((began, time.monotonic()))
        time.sleep(2)
    bad = load.bad()
    # On its way when the server went, and nothing that was asked later.
    for it in bad:
        assert it.status == 503
        assert any(began - 10 < it.began < began + 0.3 for began, _ in spans), (it.began, spans)
    assert len(bad) <= len(spans) * len(load.people)
    emails = {row[0] for row in site.sql("SELECT email FROM contacts WHERE account_id = %s", account)}
    assert load.saved <= emails
    assert len(site.ids(account)) == len(emails)
    pauses = [
        min(it.ended for it in load.answers if it.status == 200 and it.began > began) - began for began, _ in spans
    ]
    seen = f"{len(bad)} of {len(load.answers):,} answers were 503, all under way; nothing lost"
    measured(
        "faults",
        f"PostgreSQL restarted under load, 3 times (`{mode}`)",
        f"{seen}; restarted within {max(ended - began for began, ended in spans):.2f} s, next good answer at most"
        f" {max(pauses):.2f} s after the beginning",
    )


def test_a_database_that_is_away_is_said_to_be_and_missed_no_longer_than_it_is(
    site: Site, server: Server, measured: Measured
) -> None:
    account = site.add_account(contacts=5)
    person = site.person(account)
    server.control("stop", "-m", "fast")
    ends, slowest = time.monotonic() + AWAY_SECONDS, 0.0
    while time.monotonic() < ends:
        for answer in (person.get("/contacts"), person.post("/contacts/new", name="Bob", email="bob@example.com")):
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
            assert "The database cannot be reached" in answer.text
            slowest = max(slowest, answer.ended - answer.began)
        assert health(site) == 503
        time.sleep(1)
    server.control("start")
    began = time.monotonic()
    ((back,),) = site.sql("SELECT now()")
    pause = site.wait_for_good_answer(person, began)
    assert health(site) == 200
    assert len(site.ids(account)) == 5
    wait_for(lambda: site.sql("SELECT 1 FROM workers WHERE seen_at > %s", back), 60, "the delivery worker")
    measured(
        "faults",
        f"the database is away for {AWAY_SECONDS} s",
        f"503 with `Retry-After` within {slowest:.2f} s, nothing lost; good answers {pause:.2f} s after its return,"
        f" the delivery worker after {time.monotonic() - began:.1f} s",
    )


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """Return a folder on a disk of its own that is soon full."""
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.decode().strip()}")
    yield disk
    kill(processes(disk / "data"))
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_said_to_be_and_takes_nothing_away(folder: Path, small_disk: Path, measured: Measured) -> None:
    data_dir = small_disk / "data"
    subprocess.run(["cp", "-a", migrated(folder), data_dir], check=True)
    site = Site(folder, data_dir)
    account = site.add_account(contacts=50)
    person, late = site.person(account), site.person(account)
    site.sql("UPDATE sessions SET seen_at = now() - interval '1 hour'")
    person.get("/contacts")
    site.sql("VACUUM sessions")
    ballast = small_disk / "ballast"
    fill(ballast)
    saved, refused = save_until_full(site, person, account)
    for answer in refused:
        assert answer.status == 507
        assert "The disk of the database is full" in answer.text
        assert "Nothing was saved. Tell your administrator to make room" in answer.text
    # Whoever has to be called now can be looked up, also by somebody who comes back from lunch.
    fill_sessions(site)
    assert late.get("/contacts").status == person.get("/contacts").status == 200
    assert site.sql("SELECT count(*) FROM sessions WHERE seen_at < now() - interval '59 minutes'") == [(1,)]
    ballast.unlink()
    pause = next_save(site, person, "after@example.com")
    seen = "5 of 5 saves are refused with a sentence (507), the list can be read, nothing lost"
    measured("faults", "the database's disk is full", f"{seen}; next save {pause:.2f} s after there is room")

    # The log of what is written is on the same disk: without it the server ends, and cannot start either.
    fill(ballast)
    with suppress(psycopg.OperationalError), psycopg.connect(site.url, autocommit=True) as connection:
        for _ in range(20):
            connection.execute("SELECT pg_switch_wal(), txid_current()")
    refused = [person.post("/contacts/new", name="Lost", email="lost@example.com") for _ in range(3)]
    assert {it.status for it in refused} <= {503, 507}, [it.status for it in refused]
    ballast.unlink()
    pause, statuses = next_save(site, person, "last@example.com"), sorted(it.status for it in refused)
    seen = f"saves are refused ({', '.join(map(str, statuses))}), nothing lost"
    done = "the disk is full for the write-ahead log, which ends the database server"
    measured("faults", done, f"{seen}; next save {pause:.2f} s after there is room, by itself")
    emails = {row[0] for row in site.sql("SELECT email FROM contacts WHERE account_id = %s", account)}
    assert {*saved, "after@example.com", "last@example.com"} == emails - {
        f"contact{n}@example.com" for n in range(1, 51)
    }
    assert len(site.ids(account)) == len(emails)
    assert len(postmasters(site.console.data_dir)) == 1
    site.stop()


def fill(ballast: Path) -> None:
    """Let a file take all that is left of its disk."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)


def fill_sessions(site: Site) -> None:
    """Open sessions until the table has no room for one more, nor for another version of one."""
    one = "INSERT INTO sessions (token_hash, account_id, user_id)"
    one += " SELECT sha256(random()::text::bytea), account_id, id FROM users LIMIT 1"
    with suppress(psycopg.errors.DiskFull), psycopg.connect(site.url, autocommit=True) as connection:
        for _ in range(1000):
            connection.execute(one)


def save_until_full(site: Site, person: Person, account: int) -> tuple[list[str], list[Answer]]:
    """Save contacts until five were refused, and return what was saved meanwhile and these answers."""
    saved: list[str] = []
    refused: list[Answer] = []
    site.sql("UPDATE accounts SET contact_quota = 100000 WHERE id = %s", account)
    while len(refused) < 5:
        assert len(saved) < 5000, "the disk has room for all of it"
        email = f"full{len(saved)}@example.com"
        answer = person.post("/contacts/new", name="x" * 64, email=email)
        if answer.status == 303:
            saved.append(email)
        else:
            refused.append(answer)
    return saved, refused


def next_save(site: Site, person: Person, email: str) -> float:
    """Return how long it takes until a contact can be saved."""
    began = time.monotonic()
    wait_for(
        lambda: person.post("/contacts/new", name="After", email=email).status == 303, 60, "a contact that is saved"
    )
    return time.monotonic() - began
