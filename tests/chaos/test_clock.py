"""Let the clock of the database, which all that ends by time ends by, jump while the console runs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.site import Site
from tests.chaos.test_database import Server
from tests.conftest import Measured, wait_for
from tests.ops.test_embedded import let_go, new_folder

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
folder = pytest.fixture(new_folder, scope="module")
LEASE = 5


class Clock:
    """The clock of one database server; the monotonic one goes on as it does on a real machine."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.jump("+0")
        self.settings = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, offset: str) -> None:
        """Set how far the clock is off: +13h, -1h."""
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{offset}\n")
        draft.chmod(0o644)  # the server's user reads it
        draft.replace(self.file)


@pytest.fixture(scope="module")
def clock(folder: Path) -> Clock:
    if LIBRARY is None:
        pytest.skip("libfaketime is not installed (Debian: apt-get install faketime)")
    return Clock(folder)


@pytest.fixture(scope="module")
def site(folder: Path, clock: Clock) -> Iterator[Site]:
    server = Server(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clock.settings.items():
            patch.setenv(name, value)
        server.control("restart", "-m", "fast")
    site = Site(folder, folder / "data", DELIVERY_LEASE=str(LEASE), **server.settings)
    yield site
    clock.jump("+0")
    site.stop()
    let_go(server.user)


@pytest.fixture(autouse=True)
def right_again(clock: Clock) -> Iterator[None]:
    yield
    clock.jump("+0")


def now(site: Site) -> float:
    return float(site.sql("SELECT extract(epoch FROM now())")[0][0])


def test_sessions_follow_the_clock_and_break_nothing(site: Site, clock: Clock, measured: Measured) -> None:
    account, real = site.add_account(contacts=3), time.time()
    person = site.person(account)
    found = []
    for offset, seconds, status in (
        *(("+11h", 11 * 3600, 200), ("-1h", -3600, 200), ("-400d", -400 * 86400, 200), ("+0", 0, 200)),
        *(("+24h", 24 * 3600, 303), ("+0", 0, 200)),  # idle for too long, as far as anybody can know
    ):
        clock.jump(offset)
        assert abs(now(site) - time.time() - seconds) < 5, "the database's clock has jumped"
        # Used at +11h means seen at +11h: back at +0 the session is as good as before.
        answer = person.get("/contacts")
        found.append((offset, answer.status))
        assert answer.status == status, found
    clock.jump("-1h")
    other = site.person(account)
    assert other.get("/contacts").status == 200
    clock.jump("+31d")
    assert other.get("/contacts").status == 303
    assert other.log_on().status == 303
    clock.jump("+0")
    assert other.get("/contacts").status == 200
    assert time.time() - real < 60
    jumps = "the database's clock jumps by +11 h, -1 h, -400 days, +24 h and +31 days"
    measured("faults", jumps, "the limits of sessions hold, and no user is stuck")


def test_log_on_limits_end_at_the_latest_when_they_should(site: Site, clock: Clock, measured: Measured) -> None:
    account = site.add_account()
    person = site.person(account)
    stranger = person.again()
    stranger.cookie = ""
    stranger.get("/logon")

    def guess() -> int:
        return stranger.post("/logon", email=person.email, password="wrong and wrong").status

    statuses = [guess() for _ in range(11)]
    assert statuses == [422] * 10 + [429]
    clock.jump("-1h")
    assert guess() in (422, 429)
    behind = guess()
    clock.jump("+11m")
    assert guess() == 422
    seen = f"a further log-on after the jump back is answered with {behind}; the limit ends ten minutes ahead"
    measured("faults", "the database's clock jumps by -1 h and +11 min while log-ons are limited", seen)


def test_what_a_dead_worker_had_is_sent_whatever_the_clock_does(site: Site, clock: Clock, measured: Measured) -> None:
    account = site.add_account()
    waits = {}
    for offset in ("+30m", "-50m", "+0"):
        clock.jump("+0")
        ((alert,),) = site.sql(
            "INSERT INTO alerts (account_id, kind, source, addressee, title, text, severity, status)"
            " VALUES (%s, 'alert', 'plain', 'Ops', 'Jump', '', '', 'firing') RETURNING id",
            account,
        )
        site.sql(
            "INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, state, next_attempt_at,"
            " attempts) VALUES (%s, %s, 1, 'sms', 'Ann', 'sending', now() + %s * interval '1 s', 1)",
            *(account, alert, LEASE),
        )
        clock.jump(offset)
        began = time.monotonic()
        ended = "SELECT 1 FROM deliveries WHERE account_id = %s AND alert_id = %s AND ended_at IS NOT NULL"
        wait_for(lambda: site.sql(ended, account, alert), 90, f"the end of a delivery after {offset}")  # noqa: B023
        waits[offset] = time.monotonic() - began
    wait_for(lambda: site.sql("SELECT 1 FROM workers WHERE seen_at > now() - interval '20 s'"), 30, "the worker")
    shown = ", ".join(f"{offset}: {seconds:.0f} s" for offset, seconds in waits.items())
    done = f"the database's clock jumps while a dead worker holds a message, with a lease of {LEASE} s"
    measured("faults", done, f"the message is sent after {shown}")
