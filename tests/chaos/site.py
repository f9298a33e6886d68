"""Have a whole console to do harm to, people who use it meanwhile, and a clock for how long they notice."""

import http.client
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from contacts_app.ops import embedded
from tests.conftest import PASSWORD, PASSWORD_HASH, wait_for
from tests.ops.test_embedded import migrated
from tests.ops.test_serve import Console

NO_ANSWER = 0  # in place of a status
_numbers = count(1)


@dataclass
class Answer:
    """What came back: a status, or NO_ANSWER where the connection broke, and when."""

    status: int
    text: str
    headers: http.client.HTTPMessage | None
    began: float
    ended: float


class Person:
    """Somebody who is logged on, with a connection that is kept."""

    def __init__(self, port: int, email: str = "", cookie: str = "") -> None:
        self.port, self.email, self.cookie, self.token = port, email, cookie, ""
        self.connection: http.client.HTTPConnection | None = None
        if email and not cookie:
            self.log_on()

    def log_on(self) -> Answer:
        self.get("/logon")
        answer = self.post("/logon", email=self.email, password=PASSWORD)
        if answer.status == 303:
            self.get("/contacts/new")
        return answer

    def again(self) -> "Person":
        """Return the same person, in the same session, with a connection of their own."""
        other = Person(self.port, self.email, self.cookie)
        other.token = self.token
        return other

    def get(self, path: str) -> Answer:
        return self._ask("GET", path)

    def post(self, path: str, **fields: Any) -> Answer:
        body = urllib.parse.urlencode({"csrf_token": self.token} | fields, doseq=True)
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: str | None = None) -> Answer:
        began = time.monotonic()
        headers = {"Cookie": self.cookie} | ({"Content-Type": "application/x-www-form-urlencoded"} if body else {})
        for is_last in (False, True):
            is_new = self.connection is None
            self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                text = answer.read().decode()
                break
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                # As browsers do, where a connection that was kept turns out to be closed.
                if is_new or is_last:
                    return Answer(NO_ANSWER, "", None, began, time.monotonic())
        for sent in answer.headers.get_all("Set-Cookie") or []:
            if sent.startswith("console="):
                self.cookie = sent.split(";")[0]
        if found := re.search(r'name="csrf_token" value="([^"]+)"', text):
            self.token = found[1]
        if answer.getheader("Connection") == "close":
            self.connection.close()
            self.connection = None
        return Answer(answer.status, text, answer.headers, began, time.monotonic())


class Site:
    """A console, as `make run` starts it."""

    def __init__(self, folder: Path, data_dir: Path | None = None, **settings: str) -> None:
        self.settings = settings
        self.console = Console(data_dir or migrated(folder), **settings).wait()
        self.port = self.console.port
        # Past what an account sees of another.
        url = settings.get("DATABASE_URL") or embedded.url(self.console.data_dir)
        self.url = make_conninfo(url, user="postgres")

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database, as soon as it answers."""

        def ask() -> list[list[tuple[Any, ...]]] | None:
            with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
                cursor = connection.execute(query, values)
                return [cursor.fetchall() if cursor.description else []]
            return None

        return list(wait_for(ask, 60, "the database")[0])

    def add_account(self, contacts: int = 0, quota: int = 100) -> int:
        """Add an account with contacts and with the user ann<account>@example.com; return its id."""
        add = "INSERT INTO accounts (name, contact_quota) VALUES (%s, %s) RETURNING id"
        (account,) = self.sql(add, f"Team {next(_numbers)}", quota)[0]
        add = "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, %s)"
        self.sql(add, account, f"ann{account}@example.com", PASSWORD_HASH)
        self.fill(account, contacts)
        return int(account)

    def fill(self, account: int, contacts: int) -> None:
        """Write contacts past the console."""
        add = """
            INSERT INTO contacts (account_id, name, email)
            SELECT %s, 'Contact ' || n, 'contact' || n || '@example.com' FROM generate_series(1, %s) AS n"""
        self.sql(add, account, contacts)

    def person(self, account: int) -> Person:
        """Return the user of the account, logged on."""
        return Person(self.port, f"ann{account}@example.com")

    def ids(self, account: int) -> list[int]:
        """Return the ids of the account's contacts; that they are as many as are counted is checked."""
        ids = [row[0] for row in self.sql("SELECT id FROM contacts WHERE account_id = %s ORDER BY id", account)]
        assert self.sql("SELECT contact_count FROM accounts WHERE id = %s", account) == [(len(ids),)]
        return ids

    def wait_for_good_answer(self, person: Person, since: float, path: str = "/contacts", limit: float = 60) -> float:
        """Return how long after `since` the page was shown again."""
        return wait_for(lambda: (it := person.get(path)).status == 200 and it, limit, "a good answer").ended - since

    def stop(self) -> None:
        """Stop the console; it has to end by itself."""
        assert self.console.stop() == 0
        assert "Traceback" not in self.console.output.read_text()


class Load:
    """People who look at the list, and write, all the time."""

    def __init__(self, site: Site, account: int, people: int = 6) -> None:
        self.site, self.answers, self.saved = site, list[Answer](), set[str]()
        first = site.person(account)
        self.people = [first.again() for _ in range(people)]
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._go, args=(person,), daemon=True) for person in self.people]

    def _go(self, person: Person) -> None:
        while not self.stopping.is_set():
            self.answers.append(person.get("/contacts"))
            email = f"load{next(_numbers)}@example.com"
            self.answers.append(answer := person.post("/contacts/new", name="Load", email=email))
            if answer.status == 303:
                self.saved.add(email)

    @contextmanager
    def going(self) -> Iterator["Load"]:
        """Have it go on meanwhile."""
        for thread in self.threads:
            thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            for thread in self.threads:
                thread.join(60)

    def bad(self) -> list[Answer]:
        """Return what went wrong, in the order of its end."""
        return sorted((it for it in self.answers if it.status not in (200, 303)), key=lambda it: it.ended)

    def statuses(self, since: float = 0, until: float = float("inf")) -> Counter[int]:
        """Return how many answers came, by their status, to what was asked in that time."""
        return Counter(it.status for it in self.answers if since <= it.began <= until)
