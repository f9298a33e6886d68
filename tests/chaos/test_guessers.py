"""Show that many who guess at once get no try too many, and that no watch shows whom the console knows."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from itertools import count
from math import erfc, sqrt
from statistics import median
from urllib.parse import urlencode

import pytest
from flask import Flask

from contacts_app.accounts.models import LOGONS_PER_ADDRESS, LOGONS_PER_SUBJECT, User
from contacts_app.core.db import all_accounts, db
from contacts_app.pages.accounts.views import WRONG
from tests.conftest import PASSWORD, Measured, Team, answers, free_port, wait_for

ROUNDS = 5
TRIES = 200  # of each kind
_addresses = count(1)


def new_address() -> str:
    """Return an address that nobody has tried to log on from."""
    number = next(_addresses)
    return f"198.18.{number >> 8}.{number & 255}"


@pytest.fixture
def port(app: Flask, settings: dict[str, str]) -> Iterator[int]:
    """Serve the console by gunicorn, with two workers behind a proxy that says where a visitor comes from."""
    port = free_port()
    environ = os.environ | settings | {"PORT": str(port), "HOST": "127.0.0.1", "WORKERS": "2", "PROXY_COUNT": "1"}
    command = [sys.executable, "-m", "gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, what="gunicorn")
        yield port
    finally:
        process.terminate()
        process.wait()


class Guesser:
    """A visitor with the log-on page open."""

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request("GET", "/logon")
        page = self.connection.getresponse()
        self.cookie = (page.headers["Set-Cookie"] or "").partition(";")[0]
        self.token = re.search(r'csrf_token" value="([^"]+)', page.read().decode())[1]

    def guess(self, email: str, password: str, address: str) -> tuple[int, float, str]:
        """Return status, seconds and text of the answer to one try."""
        body = urlencode({"csrf_token": self.token, "email": email, "password": password})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": self.cookie}
        started = time.perf_counter()
        self.connection.request("POST", "/logon", body, headers | {"X-Forwarded-For": address})
        answer = self.connection.getresponse()
        text = answer.read().decode()
        self.noted = [cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie") or []]
        return answer.status, time.perf_counter() - started, text

    def log_on(self, email: str) -> None:
        """Log on and off, after which this is a browser that the console knows."""
        assert self.guess(email, PASSWORD, new_address())[0] == 303
        self.cookie += "; " + next(cookie for cookie in self.noted if cookie.startswith("known_browser="))


def looked_at(port: int, emails: list[str], addresses: list[str]) -> int:
    """Have a guesser for each e-mail and address try at the same moment; return how many passwords were looked at."""
    barrier, found = threading.Barrier(len(emails)), []

    def run(number: int) -> None:
        guesser = Guesser(port)
        barrier.wait()
        found.append(guesser.guess(emails[number], f"guess {number}", addresses[number]))

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(emails))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [status for status, *_ in found]
    assert sorted(set(statuses)) == [422, 429]
    assert len(statuses) == len(emails)
    assert all((WRONG in text) is (status == 422) for status, _, text in found)
    return statuses.count(422)


def test_fifty_guessers_of_one_password_get_ten_tries_between_them(
    port: int, new_team: Callable[..., Team], measured: Measured
) -> None:
    tries = [looked_at(port, [new_team().email] * 50, [new_address() for _ in range(50)]) for _ in range(ROUNDS)]
    done = f"50 guessers of one user's password at once, {ROUNDS} times"
    measured("enemies", done, f"passwords looked at: {', '.join(map(str, tries))}")
    assert tries == [LOGONS_PER_SUBJECT] * ROUNDS


def test_eighty_guessers_from_one_address_get_fifty_tries_between_them(port: int, measured: Measured) -> None:
    tries = []
    for number in range(ROUNDS):
        emails = [f"nobody{number}-{guesser}@example.com" for guesser in range(80)]
        tries.append(looked_at(port, emails, [new_address()] * 80))
    done = f"80 guessers from one address at once, {ROUNDS} times"
    measured("enemies", done, f"passwords looked at: {', '.join(map(str, tries))}")
    assert tries == [LOGONS_PER_ADDRESS] * ROUNDS


def probability_of_chance(first: list[float], second: list[float]) -> float:
    """Return how likely two samples of one distribution differ by as much: Mann and Whitney's U, two-sided."""
    ranks = {value: rank for rank, value in enumerate(sorted(first + second), 1)}
    n, m = len(first), len(second)
    u = sum(ranks[value] for value in first) - n * (n + 1) / 2
    z = (u - n * m / 2) / sqrt(n * m * (n + m + 1) / 12)
    return erfc(abs(z) / sqrt(2))


def compare(attempt: Callable[[str], float], known: list[str], unknown: list[str]) -> str:
    """Try known and unknown e-mails in turn, require that their times do not differ, and return them."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(TRIES + 20):
        kinds = [True, False]
        random.shuffle(kinds)
        for is_known in kinds:
            emails = known if is_known else unknown
            seconds = attempt(emails[number % len(emails)])
            if number >= 20:  # the first ones warm up
                times[is_known].append(seconds)
    middle, other = median(times[True]), median(times[False])
    chance = probability_of_chance(times[True], times[False])
    seen = (
        f"{TRIES} of each: {middle * 1000:.2f} and {other * 1000:.2f} ms ({middle / other - 1:+.1%}), p = {chance:.3f}"
    )
    assert chance >= 0.001 or abs(middle / other - 1) <= 0.02, seen
    return seen


@pytest.fixture
def known(new_team: Callable[..., Team]) -> list[str]:
    """Return the e-mails of so many users that none is tried too often."""
    return [new_team().email for _ in range(40)]


@pytest.fixture
def unknown() -> list[str]:
    """Return as many e-mails of nobody, as long as those."""
    return [f"nobo{next(_addresses):02}@example.com" for _ in range(40)]


@pytest.mark.parametrize("is_a_users", [False, True], ids=["stranger", "known-browser-of-another"])
def test_a_log_on_takes_as_long_for_a_known_as_for_an_unknown_email(
    port: int, team: Team, known: list[str], unknown: list[str], is_a_users: bool, measured: Measured
) -> None:
    guesser = Guesser(port)
    if is_a_users:
        guesser.log_on(team.email)

    def attempt(email: str) -> float:
        status, seconds, _ = guesser.guess(email, "a wrong password", new_address())
        assert status == 422
        return seconds

    done = f"log-ons with known and unknown e-mails{' in a known browser of another user' * is_a_users}"
    measured("enemies", done, compare(attempt, known, unknown))


def test_a_password_is_looked_at_for_as_long_as_one_of_nobody(
    app: Flask, known: list[str], unknown: list[str], measured: Measured
) -> None:
    def attempt(email: str) -> float:
        started = time.perf_counter()
        assert User.with_password(email, "a wrong password") is None
        db.session.rollback()
        return time.perf_counter() - started

    with app.app_context(), all_accounts():
        measured("enemies", "`User.with_password` with known and unknown e-mails", compare(attempt, known, unknown))
