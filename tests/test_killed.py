"""Show that every command can be killed at any moment and repeated, and that no lock is waited for without end."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from contacts_app.config import PROJECT, StartError, load
from contacts_app.ops import embedded
from tests.conftest import PASSWORD, Share, wait_for
from tests.ops.test_embedded import (
    environment,
    flask,
    is_ready,
    kill,
    let_go,
    migrated,
    new_folder,
    postmasters,
    processes,
    use,
)
from tests.ops.test_serve import Console, refusal

folder = pytest.fixture(new_folder)
# `flask --app wsgi`, killed as soon as the server has answered a statement with these words so many times.
KILLED = """
import os, sys
import psycopg
words, left, *arguments = sys.argv[1:]
left = int(left)
execute = psycopg.Cursor.execute

def kill_after(self, query, *rest, **options):
    global left
    found = execute(self, query, *rest, **options)
    left -= words in str(query)
    if not left:
        os.kill(os.getpid(), 9)
    return found

psycopg.Cursor.execute = kill_after
sys.argv = ["flask", "--app", "wsgi", *arguments]
from flask.cli import main
main()
"""


def run_until(data_dir: Path, words: str, *arguments: str, times: int = 1, text: str = "") -> None:
    """Run a command that is killed after a statement with these words; it has to come to that."""
    program = [sys.executable, "-c", KILLED, words, str(times), *arguments]
    options: dict[str, Any] = {"cwd": PROJECT, "env": environment(data_dir), "input": text, "text": True, "timeout": 60}
    ended = subprocess.run(program, capture_output=True, check=False, **options)
    assert ended.returncode == -signal.SIGKILL, (words, ended.stderr)


def succeeds(data_dir: Path, *arguments: str, text: str = "") -> str:
    result = flask(data_dir, *arguments, text=text)
    assert (result.returncode, result.stderr) == (0, ""), arguments
    return result.stdout


def ask(data_dir: Path, query: str, database: str = "contacts") -> list[tuple[Any, ...]]:
    user = use(data_dir)
    assert is_ready(user)
    address = make_conninfo(embedded.url(data_dir), user="postgres", dbname=database)
    with psycopg.connect(address, autocommit=True) as connection:
        cursor = connection.execute(query)
        rows = cursor.fetchall() if cursor.description else []
    let_go(user)
    return rows


@pytest.fixture(scope="module")
def backup() -> Iterator[Path]:
    """Return a backup of one account, beside the key of what is encrypted in it."""
    keeper = new_folder()
    data_dir = migrated(next(keeper))
    succeeds(data_dir, "demo", "--contacts", "30")
    file = data_dir.parent / "contacts.dump"
    succeeds(data_dir, "backup", str(file))
    yield file
    next(keeper, None)


IN_RESTORE = (
    "CREATE DATABASE contacts_draft",
    "pg_terminate_backend",
    "RENAME TO contacts_old",
    "ALTER DATABASE contacts_draft RENAME",
)


def test_a_restore_that_is_killed_leaves_the_console_working_and_can_be_repeated(folder: Path, backup: Path) -> None:
    data_dir = migrated(folder)
    console = Console(data_dir).wait()
    for words in IN_RESTORE:
        run_until(data_dir, words, "restore", str(backup))
        wait_for(console.is_healthy, what=f"the console after a kill at {words}")
        assert ask(data_dir, "SELECT count(*) FROM accounts") == [(0,)]
    assert succeeds(data_dir, "restore", str(backup)) == "Restored 1 accounts with 30 contacts.\n"
    wait_for(console.is_healthy, what="the console after the restore")
    databases = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1"
    assert ask(data_dir, databases) == [("contacts",), ("postgres",)]
    assert console.stop() == 0


def test_a_restore_that_is_killed_at_its_end_has_happened(folder: Path, backup: Path) -> None:
    data_dir = migrated(folder)
    # The second time it is the one that was replaced.
    run_until(data_dir, "SELECT FROM accounts", "restore", str(backup), times=2)
    assert ask(data_dir, "SELECT contact_count FROM accounts") == [(30,)]
    line = f"DATA_DIR {data_dir} has accounts already; restore into an empty one."
    assert refusal_of(data_dir, "restore", str(backup)) == line
    assert ask(data_dir, "SELECT contact_count FROM accounts") == [(30,)]
    databases = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1"
    assert ask(data_dir, databases) == [("contacts",), ("postgres",)]


def refusal_of(data_dir: Path, *arguments: str) -> str:
    result = flask(data_dir, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("alert-contacts: ")


def test_an_account_made_while_the_database_is_replaced_is_not_lost(folder: Path, backup: Path) -> None:
    data_dir = migrated(folder)
    run_until(data_dir, "SELECT FROM accounts", "restore", str(backup), times=2)
    # As if somebody had made it at the last moment.
    ask(data_dir, "INSERT INTO accounts (name, contact_quota) VALUES ('Last moment', 1)", "contacts_old")
    assert "has accounts already" in refusal_of(data_dir, "restore", str(backup))
    assert ask(data_dir, "SELECT name FROM accounts") == [("Last moment",)]
    assert "Created the account Demo" in succeeds(data_dir, "demo")


def test_a_folder_that_a_killed_restore_of_an_earlier_version_has_closed_is_opened(folder: Path) -> None:
    data_dir = migrated(folder)
    ask(data_dir, "ALTER DATABASE contacts CONNECTION LIMIT 0", "postgres")
    succeeds(data_dir, "migrate")


ACCOUNT = ("create-account", "--account", "Team", "--email", "ann@example.com", "--password-stdin")
COMMANDS = (
    (("migrate",), "CREATE ROLE console"),
    (("migrate",), "CREATE DATABASE contacts"),
    (("migrate",), "CREATE TABLE alembic_version"),
    (("migrate",), "CREATE POLICY"),
    (ACCOUNT, "INSERT INTO users"),
    (("create-user", *ACCOUNT[1:3], "--email", "bob@example.com", "--password-stdin"), "INSERT INTO users"),
    (("set-password", *ACCOUNT[3:]), "DELETE FROM sessions"),
    (("demo",), "INSERT INTO memberships"),
    (("reencrypt",), "DELETE FROM encryption_keys"),
)


def test_every_command_that_is_killed_is_undone_and_can_be_repeated(folder: Path, share: Share[Any]) -> None:
    data_dir = folder / "data"
    for place, (arguments, words) in enumerate(share(COMMANDS, 0)):
        # Only the first migrate of a folder makes anything.
        of_its_own = folder / f"data {place}" if arguments == ("migrate",) else data_dir
        run_until(of_its_own, words, *arguments, text=PASSWORD)
        succeeds(of_its_own, *arguments, text=PASSWORD)
    assert ask(data_dir, "SELECT count(*) FROM accounts WHERE name = 'Team'") == [(1,)]


def test_a_server_that_is_about_to_stop_is_waited_for_and_started_again(folder: Path) -> None:
    data_dir = migrated(folder)
    user = use(data_dir)
    assert is_ready(user)
    (server,) = postmasters(data_dir)
    with psycopg.connect(embedded.url(data_dir)):
        server.send_signal(signal.SIGTERM)  # waits for the last connection, and lets in no other
        kill([psutil.Process(user.pid)])
        second = use(data_dir)
        log = data_dir / "postgres.log"
        wait_for(lambda: "the database system is shutting down" in log.read_text(), what="its refusal")
    assert is_ready(second)
    assert postmasters(data_dir) != [server]
    let_go(second)


def test_a_file_of_the_servers_process_that_was_cut_is_no_obstacle(folder: Path) -> None:
    data_dir = migrated(folder)
    user = use(data_dir)
    assert is_ready(user)
    kill(processes(data_dir))
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (data_dir / "postgres" / name).write_text("")
    user = use(data_dir)
    assert is_ready(user)
    let_go(user)


def test_a_backup_removes_what_killed_ones_have_left_and_no_other(folder: Path) -> None:
    data_dir = migrated(folder)
    killed, under_way, other = (folder / f".contacts.dump.{suffix}" for suffix in ("999999", "999998", "txt"))
    for path in (killed, under_way, other):
        path.write_text("half")
    with under_way.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        succeeds(data_dir, "backup", str(folder / "contacts.dump"))
    assert (killed.exists(), under_way.exists(), other.exists()) == (False, True, True)


def test_what_is_made_in_the_data_folder_is_for_its_owner_alone(folder: Path) -> None:
    data_dir = migrated(folder)
    for path in data_dir.glob("*.lock"):
        path.chmod(0o644)  # as earlier versions made them
    console = Console(data_dir).wait()
    assert console.stop() == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir()}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert {
        "serve.lock",
        "postgres.start.lock",
        "postgres.users.lock",
        "postgres.log",
        "encryption_key",
    } <= modes.keys()


def test_a_lock_that_is_held_too_long_is_reported_with_its_holder(folder: Path) -> None:
    data_dir = migrated(folder)
    for name in ("postgres.start.lock", "postgres.users.lock", "serve.lock"):
        with (data_dir / name).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if name == "serve.lock":
                refused = refusal(data_dir)
            else:
                user = use(data_dir, "from contacts_app.core import locks; locks.TIMEOUT = 0.3")
                refused = user.communicate(timeout=30)[0]
                assert user.returncode != 0
        assert f"{data_dir / name} is locked by the process {os.getpid()} (" in refused


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o711])
def test_a_data_folder_that_others_may_open_is_closed_in_one_line(
    folder: Path, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = folder / "data"
    data_dir.mkdir()
    data_dir.chmod(mode)
    load({"DATA_DIR": str(data_dir)})
    line = f"alert-contacts: DATA_DIR {data_dir} was open to other users of this machine; it is closed now.\n"
    assert capsys.readouterr().err == line
    assert stat.S_IMODE(data_dir.stat().st_mode) & 0o067 == 0
    load({"DATA_DIR": str(data_dir)})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["sticky", "things"])
def test_a_folder_that_is_for_other_things_as_well_is_left_open_and_refused(folder: Path, kind: str) -> None:
    data_dir = folder / "data"
    data_dir.mkdir()
    if kind == "things":
        (data_dir / "photos").mkdir()
    data_dir.chmod(0o1777 if kind == "sticky" else 0o755)
    before = data_dir.stat().st_mode
    with pytest.raises(StartError, match=rf"^DATA_DIR {data_dir} can be opened by other users of this machine"):
        load({"DATA_DIR": str(data_dir)})
    assert data_dir.stat().st_mode == before
    assert [path.name for path in data_dir.iterdir()] == (["photos"] if kind == "things" else [])
