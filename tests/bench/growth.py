"""Measure the same work at 100,000 contacts and at 10 million: `make bench-growth`.

An embedded PostgreSQL in a folder of its own is filled with accounts of 100 contacts each; the console with the
settings that it has by default then does everything that people and workers do, for accounts here and there. Words
after the command: how many accounts at first and in the end. Also draws tests/bench/growth.svg.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from contacts_app import create_app, migrations
from contacts_app.config import PROJECT
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery.housekeeping import check_all
from contacts_app.ops import embedded, programs
from tests.bench import document
from tests.conftest import watched_statements
from tests.growth import CHANNELS_SET_UP, CONTACTS, PEOPLE, WORKERS, Act, Explainer, Team, administrator, faults, fill
from tests.ops.test_embedded import kill, processes

SMALL, BIG = 1_000, 100_000
TEAMS, ROUNDS, WARM_ROUNDS = 20, 3, 1
GOAL = 1.3  # the big one's time to the small one's
# While it is filled; measured is with what embedded.py sets.
LOADING = {
    **{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"},
    **{"shared_buffers": "2GB", "maintenance_work_mem": "512MB", "max_wal_size": "32GB", "checkpoint_timeout": "1h"},
}
PART = 500  # accounts that are written at once


class Measured(NamedTuple):
    """What one act took: medians in milliseconds, of the database alone and of the whole; and what it read."""

    database: float
    whole: float
    statements: int
    pages: int  # of 8 KiB, that the server looked at


@contextmanager
def server(data_dir: Path, **settings: str) -> Iterator[None]:
    """Have the embedded server run with further settings."""
    usual = dict(embedded.SERVER_SETTINGS)
    embedded.SERVER_SETTINGS.update(settings)
    embedded.ensure(data_dir)
    try:
        yield
    finally:
        embedded.SERVER_SETTINGS.clear()
        embedded.SERVER_SETTINGS.update(usual)
        programs.run("pg_ctl", "-D", data_dir / "postgres", "-m", "fast", "-w", "-t", "300", "stop")


def grow(url: str, first: int, last: int) -> None:
    """Write the accounts from `first` to `last` over two connections, and update the statistics of the server."""
    begin = time.monotonic()

    def write(start: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            fill(connection, start, min(start + PART - 1, last))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(first, last + 1, PART)))
    written = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        size = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    took = f"{written - begin:.0f} s, vacuum and analyze {time.monotonic() - written:.0f} s"
    print(f"{last * CONTACTS:,} contacts in {last:,} accounts, {size and size[0]}: written in {took}.", flush=True)


class Side:
    """A console on a database of so many accounts, and what its acts took."""

    def __init__(self, data_dir: Path, url: str, accounts: int) -> None:
        self.url = url
        self.accounts = accounts
        self.app = create_app({"DATA_DIR": str(data_dir), "DATABASE_URL": url} | CHANNELS_SET_UP)
        self.teams = [Team(self.app, 1 + index * (accounts - 1) // (TEAMS - 1)) for index in range(TEAMS)]
        self.took: dict[str, list[tuple[float, float, int]]] = defaultdict(list)

    def do(self, act: Act, team: Team) -> tuple[float, float, int]:
        """Return the milliseconds in the database and in all, and how many statements there were."""
        begin = time.perf_counter()
        with watched_statements() as sent:
            act.do(team)
        return 1000 * sum(one.seconds for one in sent), 1000 * (time.perf_counter() - begin), len(sent)

    def start_of_a_worker(self) -> float:
        """Return the milliseconds that it takes to have every account looked at."""
        with self.app.app_context(), all_accounts():
            begin = time.perf_counter()
            check_all()
            took = time.perf_counter() - begin
            db.session.rollback()
        return 1000 * took

    def measured(self) -> dict[str, Measured]:
        """Return the medians of what the acts took, after a look at every plan."""
        pages = self._look_at_plans()
        return {
            name: Measured._make([*map(statistics.median, zip(*times, strict=True)), pages[name]])
            for name, times in self.took.items()
        }

    def _look_at_plans(self) -> dict[str, int]:
        """Print the plans that read beyond an account, and return how many pages of 8 KiB each act looked at."""
        pages: dict[str, int] = {}
        with psycopg.connect(administrator(self.url), autocommit=True) as admin:
            for mode in ("force_custom_plan", "force_generic_plan"):
                with Explainer(self.app, admin, mode) as explainer:
                    for act in PEOPLE + WORKERS:
                        explainer.run(act, self.teams[1:6:4])
                wrong = faults(explainer.plans, admin)
                summary = f"{len(explainer.plans)} plans with {self.accounts:,} accounts and {mode}"
                print(f"{summary}: {len(wrong)} read beyond an account.", *wrong, sep="\n- ", flush=True)
                for act in PEOPLE + WORKERS:
                    mine = [plan.pages for plan in explainer.plans if plan.act == act.name]
                    pages[act.name] = sum(mine) // 2
        return pages


def measure(sides: list[Side]) -> None:
    """Do each act for accounts here and there, at both sizes in turn: what else the machine does meets both alike."""
    for act in PEOPLE + WORKERS:
        for number in range(WARM_ROUNDS + ROUNDS):
            for teams in zip(*(side.teams for side in sides), strict=True):
                for side, team in zip(sides, teams, strict=True):
                    took = side.do(act, team)
                    if number >= WARM_ROUNDS:
                        side.took[act.name].append(took)


def table(small: dict[str, Measured], big: dict[str, Measured]) -> str:
    """Return the table for docs/measurements.md."""
    lines = [
        "| | statements | pages read | | database, ms | | ratio | whole, ms | | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in small.items():
        other = big[name]
        lines.append(
            f"| {name} | {other.statements} | {one.pages:,} | {other.pages:,} | {one.database:.1f} |"
            f" {other.database:.1f} | {other.database / one.database:.2f} | {one.whole:.1f} | {other.whole:.1f} |"
            f" {other.whole / one.whole:.2f} |"
        )
    return "\n".join(lines)


def plot(small: dict[str, Measured], big: dict[str, Measured], sizes: tuple[int, int], path: Path) -> None:
    """Draw how long each act takes at both sizes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "growth"
    from matplotlib import pyplot

    names = list(small)[::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.32 * len(names) + 1.2), layout="constrained")
    places = range(len(names))
    for shift, measured, accounts in ((0.2, small, sizes[0]), (-0.2, big, sizes[1])):
        label = f"{accounts * CONTACTS:,} contacts"
        axes.barh([at + shift for at in places], [measured[name].whole for name in names], 0.38, label=label)
    axes.set_yticks(places, names)
    axes.set_xlabel("milliseconds, median, the whole page or act")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def run(folder: Path, sizes: tuple[int, int]) -> None:
    """Measure at both sizes, print what was found, draw it and write it into docs/measurements.md."""
    begin = time.monotonic()
    data_dir = folder / "data"
    app = create_app({"DATA_DIR": str(data_dir)} | CHANNELS_SET_UP)
    with server(data_dir), app.app_context(), all_accounts():
        migrations.upgrade()
        db.engine.dispose()
    url = f"postgresql:///contacts?host={embedded.socket_dir(data_dir)}&user=console"
    small = url.replace("/contacts?", "/small?")
    with server(data_dir, **LOADING):
        grow(administrator(url), 1, sizes[0])
        with psycopg.connect(administrator(make_conninfo(url, dbname="postgres")), autocommit=True) as connection:
            connection.execute("CREATE DATABASE small OWNER console TEMPLATE contacts")
        grow(administrator(url), sizes[0] + 1, sizes[1])
    with server(data_dir):
        sides = [Side(data_dir, small, sizes[0]), Side(data_dir, url, sizes[1])]
        measure(sides)
        found = [side.measured() for side in sides]
        starts = [side.start_of_a_worker() for side in sides]
    ratios = sorted(big.whole / small.whole for small, big in zip(found[0].values(), found[1].values(), strict=True))
    small_and_big = " and ".join(f"{accounts * CONTACTS:,}" for accounts in sizes)
    milliseconds = " and ".join(f"{took:.0f} ms" for took in starts)
    text = f"""{small_and_big} contacts, medians of {TEAMS * ROUNDS} in {TEAMS} accounts.

{table(*found)}

Once at the start of a worker, to look at every account: {milliseconds}.
Ratio of the whole: median {statistics.median(ratios):.2f}, most {ratios[-1]:.2f}; the goal is {GOAL}."""
    print(text, f"\n{time.monotonic() - begin:.0f} s in all.")
    plot(found[0], found[1], sizes, PROJECT / "tests" / "bench" / "growth.svg")
    document.write("growth", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("small", nargs="?", type=int, default=SMALL, help="accounts at first (%(default)s)")
    parser.add_argument("big", nargs="?", type=int, default=BIG, help="accounts in the end (%(default)s)")
    chosen = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="contacts-growth-")).resolve()
    try:
        run(place, (chosen.small, chosen.big))
    finally:
        kill(processes(place / "data"))
        shutil.rmtree(place)
