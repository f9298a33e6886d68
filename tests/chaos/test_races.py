"""Have 64 clients race for the last place, one number, one edit, one group and one session, and check what holds."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.chaos.site import Answer, Person, Site
from tests.conftest import Measured
from tests.ops.test_embedded import new_folder

CLIENTS, SECONDS = 64, 12
folder = pytest.fixture(new_folder, scope="module")
_numbers = count(1)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    yield site
    site.stop()


@pytest.fixture
def account(site: Site) -> int:
    return site.add_account(quota=100)


def race(site: Site, account: int, act: Callable[[Person, int], Answer | None]) -> Counter[int]:
    """Let all clients act at once, again and again; return how many answers had which status."""
    first = site.person(account)
    ends, statuses, lock, failures = time.monotonic() + SECONDS, Counter[int](), threading.Lock(), []

    def run(number: int) -> None:
        person = first.again()
        try:
            while time.monotonic() < ends:
                answer = act(person, number)
                if answer is not None:
                    with lock:
                        statuses[answer.status] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 60)
    assert not failures, failures[0]
    assert not {status for status in statuses if status >= 500 or status == 0}, statuses
    return statuses


def shown(statuses: Counter[int]) -> str:
    answers = ", ".join(f"{number:,} × {status}" for status, number in sorted(statuses.items()))
    return f"one winner each time; answers: {answers}"


def test_the_last_place(site: Site, account: int, measured: Measured) -> None:
    site.fill(account, 99)
    most: list[int] = []

    def act(person: Person, number: int) -> Answer:
        if number == 0:  # makes the place free again
            most.append(site.sql("SELECT count(*) FROM contacts WHERE account_id = %s", account)[0][0])
            free = "SELECT id FROM contacts WHERE account_id = %s AND name = 'Last' LIMIT 1"
            ids = [row[0] for row in site.sql(free, account)]
            return person.post("/contacts/delete", id=ids) if ids else person.get("/contacts")
        return person.post("/contacts/new", name="Last", email=f"last{next(_numbers)}@example.com")

    statuses = race(site, account, act)
    assert max(most) <= 100
    assert len(site.ids(account)) in (99, 100)
    assert statuses[422]
    assert statuses[303]
    measured("faults", f"{CLIENTS} clients race for the last place for {SECONDS} s", shown(statuses))


def test_the_same_number(site: Site, account: int, measured: Measured) -> None:
    def act(person: Person, number: int) -> Answer:
        if number % 16 == 0:
            found = "SELECT id FROM contacts WHERE account_id = %s LIMIT 1"
            ids = [row[0] for row in site.sql(found, account)]
            return person.post("/contacts/delete", id=ids) if ids else person.get("/contacts")
        return person.post("/contacts/new", name="Same", mobile="13800138000", email="same@example.com")

    statuses = race(site, account, act)
    assert len(site.ids(account)) in (0, 1)
    assert statuses[422]
    assert statuses[303]
    measured("faults", f"{CLIENTS} clients race for the same number for {SECONDS} s", shown(statuses))


def test_the_same_edit(site: Site, account: int, measured: Measured) -> None:
    site.fill(account, 1)
    (contact,) = site.ids(account)
    path, saved, lock = f"/contacts/{contact}/edit", Counter[int](), threading.Lock()

    def act(person: Person, number: int) -> Answer:
        version = site.sql("SELECT version FROM contacts WHERE account_id = %s", account)[0][0]
        name = f"Edit {next(_numbers)}"
        answer = person.post(path, name=name, email="edit@example.com", version=version)
        if answer.status == 303:
            with lock:
                saved[version] += 1
        return answer

    statuses = race(site, account, act)
    ((version,),) = site.sql("SELECT version FROM contacts WHERE account_id = %s", account)
    assert max(saved.values()) == 1, "two saved the same version"
    assert saved.total() == version - 1, "an edit was lost"
    assert statuses[409]
    measured("faults", f"{CLIENTS} clients race for the same edit for {SECONDS} s", shown(statuses))


def test_the_same_group(site: Site, account: int, measured: Measured) -> None:
    site.fill(account, 20)
    contacts = site.ids(account)
    site.sql("INSERT INTO groups (account_id, name) VALUES (%s, 'Race')", account)

    def act(person: Person, number: int) -> Answer:
        found = site.sql("SELECT id, version FROM groups WHERE account_id = %s AND name_key = 'race'", account)
        if not found:
            return person.post("/groups/new", name="Race", member=contacts[:5])
        (group, version) = found[0]
        some = contacts[number % 15 : number % 15 + 5]
        match (number + next(_numbers)) % 5:
            case 0:
                return person.post("/groups/new", name="RACE")
            case 1:
                return person.post(f"/groups/{group}/edit", name="Race", version=version, member=some)
            case 2:
                return person.post("/groups/assign", group=group, id=some)
            case 3:
                return person.post("/groups/assign", group=group, id=some, action="remove")
        return person.post("/groups/delete", id=group) if number % 16 == 0 else person.get("/groups")

    statuses = race(site, account, act)
    assert site.sql("SELECT count(*) FROM groups WHERE account_id = %s", account)[0][0] <= 1
    strays = """
        SELECT count(*) FROM memberships m LEFT JOIN groups g ON (g.account_id, g.id) = (m.account_id, m.group_id)
        LEFT JOIN contacts c ON (c.account_id, c.id) = (m.account_id, m.contact_id)
        WHERE m.account_id = %s AND (g.id IS NULL OR c.id IS NULL)"""
    assert site.sql(strays, account) == [(0,)]
    assert site.ids(account) == contacts
    measured("faults", f"{CLIENTS} clients race for the same group for {SECONDS} s", shown(statuses))


def test_the_same_session(site: Site, account: int, measured: Measured) -> None:
    """All use one session while it ends by log-off, by a log-on anew and by age."""
    person = site.person(account)
    current, lock = [person.cookie, person.token], threading.Lock()
    ended: set[str] = set()

    def act(mine: Person, number: int) -> Answer | None:
        if number == 0:
            time.sleep(0.3)
            mine.cookie, mine.token = current
            old = mine.cookie
            answer = mine.post("/logoff")
            ended.add(old)
            fresh = Person(site.port, f"ann{account}@example.com")
            current[:] = [fresh.cookie, fresh.token]
            return answer
        with lock:
            mine.cookie, mine.token = current
        was_ended, cookie = mine.cookie in ended, mine.cookie
        answer = mine.get("/contacts")
        assert not (was_ended and answer.status == 200), f"{cookie[:9]} opened the door after it had ended"
        return answer

    statuses = race(site, account, act)
    assert statuses[200]
    assert set(statuses) <= {200, 303}
    assert site.sql("SELECT count(*) FROM sessions WHERE account_id = %s", account)[0][0] <= 3
    measured("faults", f"{CLIENTS} clients race with the end of their session for {SECONDS} s", shown(statuses))
