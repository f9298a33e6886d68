"""Kill every command at many moments of its run: it has happened or it has not, and can be repeated."""

import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from contacts_app.cli.database import SEAL_BYTES
from contacts_app.config import PROJECT
from tests.conftest import PASSWORD, Measured
from tests.ops.test_embedded import FLASK, environment, flask, migrated, new_folder
from tests.test_killed import ACCOUNT, ask, succeeds

folder = pytest.fixture(new_folder)
MOMENTS = 12  # spread over the time that the command takes
ACCOUNTS, CONTACTS = "SELECT count(*) FROM accounts", "SELECT coalesce(sum(contact_count), 0) FROM accounts"


def seconds(run: Callable[[], object]) -> float:
    began = time.monotonic()
    run()
    return time.monotonic() - began


def kill_at(data_dir: Path, moment: float, *arguments: str) -> bool:
    """Start a command and kill it after so many seconds; return whether it had ended by then."""
    process = subprocess.Popen(
        [*FLASK, *arguments],
        cwd=PROJECT,
        env=environment(data_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdin.write(PASSWORD)
    process.stdin.close()
    time.sleep(moment)  # the moment is what this is about
    has_ended = process.poll() is not None
    process.kill()
    process.wait()
    return has_ended


@pytest.fixture(scope="module")
def backup() -> Iterator[Path]:
    keeper = new_folder()
    data_dir = migrated(next(keeper))
    succeeds(data_dir, "demo", "--contacts", "1000")
    file = data_dir.parent / "contacts.dump"
    succeeds(data_dir, "backup", str(file))
    yield file
    next(keeper, None)


def test_a_first_start_is_killed(folder: Path, measured: Measured) -> None:
    length = seconds(lambda: succeeds(folder / "first", "migrate"))
    data_dir = folder / "data"
    for step in range(MOMENTS):
        kill_at(data_dir, length * step / MOMENTS, "migrate")
    succeeds(data_dir, "migrate")
    succeeds(data_dir, *ACCOUNT, text=PASSWORD)
    done = f"a first start is killed (`kill -9`) at {MOMENTS} moments over {length:.1f} s"
    measured("faults", done, "nothing lost, the repeat succeeds")


def test_a_restore_is_killed(folder: Path, backup: Path, measured: Measured) -> None:
    data_dir = migrated(folder)
    whole = seconds(lambda: flask(data_dir, "backup", str(folder / "empty.dump")))
    kills = 0
    for step in range(2 * MOMENTS):
        if kill_at(data_dir, whole * (0.3 + step / MOMENTS), "restore", str(backup)):
            break
        kills += 1
        assert ask(data_dir, CONTACTS) in ([(0,)], [(1000,)])
    if ask(data_dir, CONTACTS) == [(0,)]:
        assert "Restored 1 accounts with 1000 contacts." in succeeds(data_dir, "restore", str(backup))
    assert ask(data_dir, CONTACTS) == [(1000,)]
    measured("faults", f"`restore` is killed (`kill -9`), {kills} times", "all or nothing, the repeat succeeds")


@pytest.mark.parametrize("command", ["demo", "create-account", "backup", "reencrypt"])
def test_a_command_is_killed(folder: Path, command: str, measured: Measured) -> None:
    data_dir = migrated(folder)
    file = folder / "kept.dump"
    succeeds(data_dir, "demo", "--contacts", "10")
    succeeds(data_dir, "backup", str(file))
    arguments: dict[str, tuple[str, ...]] = {"backup": ("backup", str(file)), "create-account": ACCOUNT}
    length = seconds(lambda: flask(data_dir, "reencrypt"))
    for step in range(MOMENTS):
        kill_at(data_dir, length * (step + 1) / MOMENTS, *arguments.get(command, (command,)))
        accounts, contacts = ask(data_dir, ACCOUNTS)[0][0], ask(data_dir, CONTACTS)[0][0]
        # Whole accounts: sample ones have 37 contacts, but the first.
        assert contacts == 10 + 37 * (accounts - 1 if command == "demo" else 0)
        assert accounts == 1 or command in ("create-account", "demo")
        content, seal = file.read_bytes()[:-SEAL_BYTES], file.read_bytes()[-SEAL_BYTES:]
        assert seal == f"\nsha256 {sha256(content).hexdigest()}\n".encode(), "the backup from before, or a new one"
    if command != "create-account":
        succeeds(data_dir, *arguments.get(command, (command,)))
    if command == "backup":
        assert not list(folder.glob(".kept.dump.*"))
    done = f"`{command}` is killed (`kill -9`) at {MOMENTS} moments over {length:.1f} s"
    measured("faults", done, "nothing lost, the repeat succeeds")
