"""Show that the embedded PostgreSQL starts, stops and recovers by itself, and that nobody else gets at it."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from contacts_app.config import PROJECT
from contacts_app.ops import embedded, system_user
from tests.conftest import check_logs, wait_for

FLASK = [sys.executable, "-m", "flask", "--app", "wsgi"]
SETTINGS = ("DATABASE_URL", "HOST", "PORT", "SECRET_KEY", "HTTPS", "WORKERS", "THREADS", "CONTACT_QUOTA", "PROXY_COUNT")
# The module without the rest of the console, which takes three times as long to load.
EMBEDDED = """
import os, sys, time, types
from pathlib import Path
sys.modules["contacts_app"] = types.ModuleType("contacts_app")
sys.modules["contacts_app"].__path__ = ["contacts_app"]
from contacts_app.ops import embedded, system_user
"""
# A process that uses the server until its input ends.
USER = """
embedded.ensure(Path(os.environ["DATA_DIR"]))
is_parent = "FORK" in os.environ and os.fork() != 0
if not is_parent:
    print("ready", flush=True)
    time.sleep(600 if "FORK" in os.environ else 0)
sys.stdin.read()
"""


def environment(data_dir: Path | str, **settings: str) -> dict[str, str]:
    """Return the environment of a console of its own, with no setting that this run was started with."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS and name[:2] != "PG"}
    return inherited | {"DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"} | settings


def flask(
    data_dir: Path | str, *arguments: str, text: str = "", before: Sequence[str] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command under `flask --app wsgi` to its end."""
    return subprocess.run(
        [*before, *FLASK, *arguments],
        cwd=PROJECT,
        env=environment(data_dir, **settings),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def processes(data_dir: Path) -> list[psutil.Process]:
    """Return every process that serves `data_dir`: console, gunicorn and workers, the database's server and helpers."""

    def serves(process: psutil.Process) -> bool:
        try:
            return process.cwd() == str(data_dir / "postgres") or process.environ().get("DATA_DIR") == str(data_dir)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if serves(process)]


def postmasters(data_dir: Path) -> list[psutil.Process]:
    """Return the servers that run in `data_dir`, without their children: one or none, if all is well."""
    own = processes(data_dir)
    with contextlib.suppress(psutil.NoSuchProcess):
        servers = {process.pid: process for process in own if process.name() == "postgres"}
        return [process for process in servers.values() if process.ppid() not in servers]
    return postmasters(data_dir)


def kill(victims: list[psutil.Process]) -> None:
    """Kill as `kill -9` does, and return when they are gone."""
    for process in victims:
        with contextlib.suppress(psutil.NoSuchProcess):  # the end of another one has ended it
            process.kill()
    psutil.wait_procs(victims, timeout=20)


def new_folder() -> Iterator[Path]:
    """Give a folder of a short name; leave nothing behind, neither a process nor a file."""
    folder = Path(tempfile.mkdtemp(prefix="contacts-test-")).resolve()
    yield folder
    for path in folder.iterdir():
        kill(processes(path))
        shutil.rmtree(embedded.socket_dir(path), ignore_errors=True)
    logs = [path.read_text(errors="replace") for path in (*folder.glob("output*"), *folder.glob("*/*.log"))]
    shutil.rmtree(folder)
    check_logs(logs)


folder = pytest.fixture(new_folder)


@cache
def _migrated() -> Path:
    keeper = new_folder()
    atexit.register(next, keeper, None)
    data_dir = next(keeper) / "data"
    result = flask(data_dir, "migrate")
    assert result.returncode == 0, result.stderr
    # What is written survives any kill without it, and what survives a crash of the machine no test can show.
    with (data_dir / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")
    return data_dir


def migrated(folder: Path) -> Path:
    """Return a data folder in `folder` whose database is migrated, empty and stopped; faster than a new one."""
    data_dir = folder / "data"
    subprocess.run(["cp", "-a", _migrated(), data_dir], check=True)
    return data_dir


def use(data_dir: Path, before: str = "", **settings: str) -> subprocess.Popen[str]:
    """Start a process that uses the server in `data_dir` until it is let go."""
    return subprocess.Popen(
        [sys.executable, "-c", EMBEDDED + before + USER],
        cwd=PROJECT,
        env=environment(data_dir, **settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_ready(user: subprocess.Popen[str]) -> bool:
    """Wait until the server runs or cannot, and return which; print why it cannot."""
    first = user.stdout.readline()
    if first != "ready\n":
        print(first, user.stdout.read())
    return first == "ready\n"


# Has an /etc of its own, in which the system user does not exist yet; prints what became of it.
NEW_MACHINE = """
import multiprocessing, pwd, re, subprocess
from contacts_app.config import StartError

def forget():
    for path in map(Path, ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")):
        path.write_text(re.sub(f"(?m)^{system_user.SYSTEM_USER}:.*\\n", "", path.read_text()))

subprocess.run(["mount", "--bind", sys.argv[1], "/etc"], check=True)
forget()
"""


def on_a_new_machine(folder: Path, then: str) -> list[str]:
    """Return the lines that `then` prints where the system user does not exist; that of this machine stays."""
    apart = ["unshare", "--mount", "--"]
    if os.geteuid() != 0 or subprocess.run([*apart, "mount", "--bind", "/etc", "/etc"], capture_output=True).returncode:
        pytest.skip("only root needs the system user, and this test an /etc of its own, for which root must mount it")
    subprocess.run(["cp", "-a", "/etc", folder], check=True)
    program = [*apart, sys.executable, "-c", EMBEDDED + NEW_MACHINE + then, str(folder / "etc")]
    result = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def let_go(user: subprocess.Popen[str]) -> None:
    """Let a process that uses the server come to its end."""
    user.stdin.close()
    assert user.wait(30) == 0


def new_server() -> Iterator[Path]:
    """Give a data folder whose server runs, with a migrated and empty database."""
    keeper = new_folder()
    data_dir = migrated(next(keeper))
    user = use(data_dir)
    assert is_ready(user)
    yield data_dir
    let_go(user)
    next(keeper, None)


in_use = pytest.fixture(new_server, scope="module")


def test_the_server_listens_at_a_socket_in_the_data_folder_and_nowhere_else(in_use: Path) -> None:
    (server,) = postmasters(in_use)
    family = [server, *server.children(recursive=True)]
    assert [connection for process in family for connection in process.net_connections("inet")] == []
    sockets = {str(connection.laddr) for connection in server.net_connections("unix") if connection.laddr}
    assert sockets == {str(in_use / "postgres" / ".s.PGSQL.5432")}
    assert (in_use / "postgres").stat().st_mode & 0o077 == 0


def test_the_server_never_runs_as_root(in_use: Path) -> None:
    (server,) = postmasters(in_use)
    assert server.username() == (system_user.SYSTEM_USER if os.geteuid() == 0 else psutil.Process().username())


def test_all_that_start_at_once_on_a_new_machine_get_the_same_system_user(folder: Path) -> None:
    printed = on_a_new_machine(
        folder,
        """
def start(barrier, found):
    barrier.wait()
    try:
        found.put(system_user.server_user().pw_uid)
    except StartError as error:
        found.put(str(error))

fork = multiprocessing.get_context("fork")
for _ in range(5):
    forget()
    barrier, found = fork.Barrier(4), fork.SimpleQueue()
    for _ in range(4):
        fork.Process(target=start, args=(barrier, found)).start()
    print(*[found.get() for _ in range(4)], pwd.getpwnam(system_user.SYSTEM_USER).pw_uid, sep=",")
""",
    )
    assert [len(set(line.split(","))) for line in printed] == [1] * 5, printed


def test_the_system_user_is_made_once_another_program_lets_go_of_the_password_file(folder: Path) -> None:
    printed = on_a_new_machine(
        folder,
        """
lock, run = Path("/etc/passwd.lock"), subprocess.run
lock.write_text(str(os.getpid()))

def run_and_let_go(*arguments, **options):
    ended = run(*arguments, **options)
    print(ended.returncode)
    lock.unlink(missing_ok=True)
    return ended

subprocess.run = run_and_let_go
assert system_user.server_user() == pwd.getpwnam(system_user.SYSTEM_USER)
""",
    )
    assert printed == ["1", "0"]


def test_the_system_user_is_made_whatever_of_etc_others_have_locked(folder: Path) -> None:
    """Whatever any user may open, any user may lock, and keep."""
    printed = on_a_new_machine(
        folder,
        """
import fcntl, signal
held = []
for path in (Path("/etc"), *Path("/etc").iterdir()):
    if path.stat().st_mode & (0o005 if path.is_dir() else 0o004) and not path.is_symlink():
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
print(len(held) > 10)

def stop(*_):
    raise TimeoutError

signal.signal(signal.SIGALRM, stop)
signal.alarm(20)
print(system_user.server_user() == pwd.getpwnam(system_user.SYSTEM_USER))
""",
    )
    assert printed == ["True", "True"]


def test_a_system_user_that_cannot_be_made_is_reported(folder: Path) -> None:
    printed = on_a_new_machine(
        folder,
        """
def attempt():
    try:
        print(system_user.server_user())
    except StartError as error:
        print(error)

lock, system_user.USER_PATIENCE = Path("/etc/passwd.lock"), 0.2
lock.write_text(str(os.getpid()))
attempt()
lock.unlink()
with open("/etc/group", "a") as groups:
    print(f"{system_user.SYSTEM_USER}:x:12345:", file=groups)
attempt()
""",
    )
    line = "PostgreSQL does not run as root, and the system user alert-contacts cannot be made;"
    assert printed == [f"{line} run as an ordinary user or set DATABASE_URL."] * 2


def test_the_folders_above_the_data_stay_closed_to_everybody_else(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    data_dir = migrated(home)
    before = {path: path.stat().st_mode & 0o007 for path in (folder, home, data_dir)}
    user = use(data_dir)
    assert is_ready(user)
    let_go(user)
    assert set(before.values()) == {0}
    assert {path: path.stat().st_mode & 0o007 for path in before} == before
    if os.geteuid() == 0:
        looking = subprocess.run(["ls", home], user=65534, group=65534, extra_groups=[], capture_output=True)
        assert looking.returncode != 0


@pytest.mark.parametrize("name", ['it\'s "our" $HOME, `id` %s \\ & 数据;', "very " + "long " * 30 + "name"])
def test_a_data_folder_may_have_any_name(folder: Path, name: str) -> None:
    user = use(folder / name)
    assert is_ready(user)
    with psycopg.connect(embedded.url(folder / name)) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("console", "contacts")
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
    let_go(user)
    wait_for(lambda: processes(folder / name) == [], what="the end of every process")


def test_settings_for_another_postgresql_in_the_environment_change_nothing(folder: Path) -> None:
    data_dir = migrated(folder)
    foreign = {"PGPORT": "5999", "PGHOSTADDR": "127.0.0.9", "PGSERVICE": "none", "PGDATA": "/nowhere", "PGUSER": "eve"}
    result = flask(data_dir, "demo", **foreign)
    assert (result.returncode, result.stderr) == (0, "")
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")


def test_the_socket_folder_of_a_long_path_is_not_taken_from_a_stranger(folder: Path) -> None:
    data_dir, elsewhere = migrated(folder).rename(folder / ("long" * 30)), folder / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    owner = elsewhere.stat().st_uid
    embedded.socket_dir(data_dir).symlink_to(elsewhere)
    try:
        user = use(data_dir)
        assert not is_ready(user)
        assert user.wait(30) != 0
        assert elsewhere.stat().st_uid == owner
        assert list(elsewhere.iterdir()) == []
    finally:
        embedded.socket_dir(data_dir).unlink()


@pytest.fixture(params=["program", "server"])
def bystander(request: pytest.FixtureRequest, in_use: Path) -> Iterator[psutil.Process]:
    """Return a process of the server's user that has nothing to do with the data folder of the test."""
    if request.param == "server":
        yield postmasters(in_use)[0]
        return
    user = system_user.server_user()
    identity: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    program = subprocess.Popen(["sleep", "600"], cwd="/", **identity)
    yield psutil.Process(program.pid)
    program.kill()
    program.wait()


def test_the_pid_of_a_killed_server_may_belong_to_something_else_by_now(
    folder: Path, bystander: psutil.Process
) -> None:
    data_dir = migrated(folder)
    user = use(data_dir)
    assert is_ready(user)
    kill([psutil.Process(user.pid), *processes(data_dir)])
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        path = data_dir / "postgres" / name
        path.write_text(f"{bystander.pid}\n" + path.read_text().split("\n", 1)[1])
    user = use(data_dir)
    assert is_ready(user)
    assert bystander.is_running()
    let_go(user)


def test_a_cluster_whose_making_was_killed_is_made_anew(folder: Path) -> None:
    data_dir = folder / "data"
    user = use(data_dir)
    wait_for(lambda: any(data_dir.glob("*/PG_VERSION")), what="initdb")
    kill([psutil.Process(user.pid)])
    assert not (data_dir / "postgres").exists()
    # While the killed one's initdb may still be writing.
    user = use(data_dir)
    assert is_ready(user)
    with psycopg.connect(embedded.url(data_dir)) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("console", "contacts")
    let_go(user)


def test_a_start_that_was_killed_before_the_database_was_made_is_completed(folder: Path) -> None:
    data_dir = folder / "data"
    # Stops where the server runs and the database does not exist yet.
    user = use(data_dir, "import psycopg\npsycopg.connect = lambda *_, **__: os.kill(os.getpid(), 9)")
    assert user.wait(30) == -signal.SIGKILL
    user = use(data_dir)
    assert is_ready(user)
    with psycopg.connect(embedded.url(data_dir)) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("console", "contacts")
    let_go(user)
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")


def test_two_that_start_at_once_share_one_server_and_the_last_stops_it(folder: Path) -> None:
    data_dir = folder / "data"
    users = [use(data_dir), use(data_dir)]
    assert [is_ready(user) for user in users] == [True, True]
    (server,) = postmasters(data_dir)
    let_go(users[0])
    assert postmasters(data_dir) == [server]
    with psycopg.connect(embedded.url(data_dir)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    let_go(users[1])
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")


def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_server(folder: Path) -> None:
    data_dir = migrated(folder)
    # As a worker of gunicorn does when its parent is killed.
    user = use(data_dir, "", FORK="1")
    assert is_ready(user)
    let_go(user)
    wait_for(lambda: postmasters(data_dir) == [], what="the end of the server")


def test_a_server_that_its_killed_user_left_behind_is_taken_over(folder: Path) -> None:
    data_dir = migrated(folder)
    first = use(data_dir)
    assert is_ready(first)
    (server,) = postmasters(data_dir)
    kill([psutil.Process(first.pid)])
    second = use(data_dir)
    assert is_ready(second)
    assert postmasters(data_dir) == [server]
    let_go(second)
    wait_for(lambda: processes(data_dir) == [], what="the end of every process")


def test_the_servers_log_contains_errors_without_what_people_typed(in_use: Path) -> None:
    with psycopg.connect(embedded.url(in_use), autocommit=True) as connection:
        insert = "INSERT INTO accounts (name, contact_quota) VALUES (%s, 1)"
        connection.execute(insert, ["Confidential team"])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(insert, ["Confidential team"])
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(insert, ["Confidential name" * 9])
        connection.execute("SET statement_timeout = 1")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60), 'Confidential words'")
    log = (in_use / "postgres.log").read_text()
    assert "account_name_is_unique" in log
    assert "Confidential" not in log
    assert (in_use / "postgres.log").stat().st_mode & 0o077 == 0
