"""Measure the speed of alerts beside the alternatives: `make bench-delivery`; DELIVERY="--quick" takes half a minute.

From the POST of an alert to its messages, all on 127.0.0.1: the console as `make run` starts it, Debian's Alertmanager,
and bare loops, whose messages the same servers take.
"""

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from contacts_app.config import PROJECT
from tests.bench import document, traced
from tests.bench.burst import Reader
from tests.bench.console import Served
from tests.bench.delivery_report import Figures, Report, plot, readme, tables
from tests.bench.receivers import Arrival, Receiver
from tests.bench.ways import (
    ByAlertmanager,
    ByConsole,
    ByRequests,
    BySmtplib,
    Way,
    alertmanager,
    console_post,
    post_to_robot,
    send_text,
)
from tests.delivery.counterparts import Authority
from tests.ops.test_embedded import kill, processes

ROUNDS = 5
CONTACTS, ALERTS, REPEATS = 100, 40, 5  # in the group, in the burst to it, of what is one alert
FEW_ALERTS, FEW_REPEATS = 5, 3  # of texts and to robots: a robot takes 20 messages a minute
MANY, ACCOUNTS, OF_EACH = 10_000, 1_000, 2  # contacts in one group; accounts, and the contacts of each
TRACED, IDLE_SECONDS = 30, 15  # alerts; seconds for which the list is read before the burst
SECTIONS = ("mail", "texts", "robots", "many", "accounts", "pages", "trace")
QUICK = ("quick",)
BEGAN = time.monotonic()


class Bench:
    """The receivers, and the console beside whatever else notifies."""

    def __init__(self, folder: Path, stack: ExitStack, sections: tuple[str, ...]) -> None:
        self.folder, self.stack = folder, stack
        self.authority = Authority.make(folder)
        self.mail = self._receiver("mail")
        self.others: dict[str, Receiver] = {
            kind: self._receiver(kind) for kind in ("texts", "robots") if kind in sections
        }
        data_dir = folder / "data"
        stack.callback(lambda: kill(processes(data_dir)))
        settings = self.mail.settings
        for other in self.others.values():
            settings |= other.settings
        self.served = Served(data_dir, settings)
        stack.callback(self.served.stop)
        self.numbers = count(1)  # no two alerts are the same

    def _receiver(self, kind: str) -> Receiver:
        made = Receiver(kind, self.folder)
        self.stack.callback(made.close)
        return made

    def notify(
        self, way: Way, contacts: int, alerts: int = 1, receiver: Receiver | None = None
    ) -> tuple[float, float, list[Arrival]]:
        """Return when it began, after how many seconds all was taken in, and what arrived how long after it began."""
        receiver = receiver or self.mail
        numbers = [next(self.numbers) for _ in range(alerts)]
        way.prepare()
        receiver.forget()
        begin = time.monotonic()
        way.notify(contacts, numbers)
        taken = time.monotonic() - begin
        arrived = receiver.wait(alerts * contacts)
        return begin, taken, [arrival._replace(at=arrival.at - begin) for arrival in arrived]

    def round(self, way: Way, into: Figures, receiver: Receiver, repeats: int, alerts: int) -> tuple[float, float]:
        """Measure a way once, and return when its burst began and when nothing was left of it."""
        say(type(way).__name__)
        self.notify(way, CONTACTS, 1, receiver)  # so that of each channel is known that it works
        ones = [self.notify(way, 1, 1, receiver)[2][0].at for _ in range(repeats)]
        groups = [self.notify(way, CONTACTS, 1, receiver)[2] for _ in range(repeats)]
        into.one.append(statistics.median(1000 * at for at in ones))
        into.first.append(statistics.median(1000 * arrived[0].at for arrived in groups))
        into.last.append(statistics.median(1000 * arrived[-1].at for arrived in groups))
        way.prepare()
        before = way.used()
        begin, taken, arrived = self.notify(way, CONTACTS, alerts, receiver)
        way.prepare()
        end, after = time.monotonic(), way.used()
        into.taken.append(taken)
        into.rate.append(len(arrived) / arrived[-1].at)
        into.used.append({part: (after[part] - before[part]) / len(arrived) for part in after})
        into.size = round(statistics.median(arrival.size for arrival in arrived))
        return begin, end

    def mails(self, rounds: int, report: Report) -> None:
        """Measure mails, another way first in each round."""
        with alertmanager(self.folder / "alertmanager", self.mail.address, (1, CONTACTS)) as other:
            ways: dict[str, Way] = {
                "Alertmanager": ByAlertmanager(other),
                "bare smtplib loop": BySmtplib(self.mail.address),
            }
            names = ["console", *ways]
            report.sent["mail"] = {name: Figures() for name in names}
            for number in range(rounds):
                for name in names[number % 3 :] + names[: number % 3]:
                    way = ways.get(name) or self.console()
                    self.round(way, report.sent["mail"][name], self.mail, REPEATS, ALERTS)

    def requests(self, kind: str, rounds: int, report: Report) -> None:
        """Measure texts, or messages to robots of which each contact has one."""
        receiver = self.others[kind]
        post = send_text if kind == "texts" else post_to_robot
        bare = ByRequests(receiver.address, self.authority.path, post)
        figures = report.sent[kind] = {"console": Figures(), "bare requests loop": Figures()}
        for number in range(rounds):
            for name in sorted(figures, reverse=bool(number % 2)):
                way = bare if name != "console" else self.console(kind)
                self.round(way, figures[name], receiver, FEW_REPEATS, FEW_ALERTS)

    def console(self, kind: str = "mail", sizes: Sequence[int] = (1, CONTACTS), user: bool = False) -> ByConsole:
        """Return the console as a way, with an account of its own."""
        robots = self.others[kind].address if kind == "robots" else ""
        channel = "mobile" if kind == "texts" else "email"
        return self.served.way(self.served.add_teams(1, sizes, channel, robots, user)[0])

    def many(self, report: Report) -> None:
        """Measure one alert to very many contacts, who were never notified before."""
        _, taken, arrived = self.notify(self.console(sizes=[MANY]), MANY)
        report.many = (MANY, 1000 * taken, 1000 * (arrived[0].at - taken), MANY / arrived[-1].at)

    def accounts(self, report: Report) -> None:
        """Measure very many accounts with an alert to a few contacts each, posted as fast as they are taken."""
        tokens = self.served.add_teams(ACCOUNTS, [OF_EACH])
        posts = [console_post(its[OF_EACH], next(self.numbers)) for its in tokens]
        self.served.settle()
        sender = self.served.sender()
        sender.open()
        self.mail.forget()
        begins = sender.post(posts)
        taken = time.monotonic() - begins[0]
        arrived = self.mail.wait(OF_EACH * ACCOUNTS)
        first: dict[str, float] = {}
        for arrival in arrived:
            first.setdefault(arrival.receiver.partition("@")[2], arrival.at)
        hosts = sorted(first, key=lambda host: int(host.removeprefix("team").partition(".")[0]))  # in order of accounts
        waits = [first[host] - begin for host, begin in zip(hosts, begins, strict=True)]
        rate = len(arrived) / (arrived[-1].at - begins[0])
        report.accounts = (ACCOUNTS, OF_EACH, taken, rate, statistics.median(waits), max(waits))

    def pages(self, report: Report) -> None:
        """Measure the list that somebody reads while mails are sent."""
        way = self.console(user=True)
        self.notify(way, CONTACTS)
        reader = Reader(self.served.port)
        idle = time.monotonic() + 2  # the first pages are slower
        time.sleep(2 + IDLE_SECONDS)
        begin, _, arrived = self.notify(way, CONTACTS, ALERTS)
        reader.stop()
        report.pages = {
            "idle": reader.between(idle, idle + IDLE_SECONDS),
            "while mails are sent": reader.between(begin, begin + arrived[-1].at),
        }

    def trace(self, into: Figures, ones: int, alerts: int) -> list[str]:
        """Say where the time goes: of alerts to one contact, each alone, and of a burst."""
        path = self.folder / "trace"
        self.served.start(TRACE_DELIVERY=str(path))
        way = self.console()
        self.notify(way, CONTACTS)
        say("trace")
        begins = [self.notify(way, 1)[0] for _ in range(ones)]
        begin, end = self.round(way, into, self.mail, REPEATS, alerts)
        marks = traced.read(path)
        return [*traced.stations(marks, begins), "", *traced.work(marks, begin, end, alerts * CONTACTS)]

    def versions(self) -> str:
        """Say what is measured, and how busy the machine is."""
        (postgres,) = self.served.sql.execute("SHOW server_version").fetchone()
        return f"PostgreSQL {postgres.split()[0]}; load before: {os.getloadavg()[0]:.1f}"


def say(what: str) -> None:
    """Say on the terminal what is measured now."""
    print(f"{time.monotonic() - BEGAN:4.0f} s: {what}", file=sys.stderr)


def measure(folder: Path, sections: tuple[str, ...], rounds: int) -> Report:
    """Measure the sections that are asked for, one after the other."""
    with ExitStack() as stack:
        bench = Bench(folder, stack, sections)
        alerts = {"mail": ALERTS, "texts": FEW_ALERTS, "robots": FEW_ALERTS}
        report = Report(bench.versions(), CONTACTS, alerts)
        if sections == QUICK:
            alerts["mail"] = ALERTS // 2
            console, bare = Figures(), Figures()
            report.sent["mail"] = {"console": console, "bare smtplib loop": bare}
            report.traced = bench.trace(console, TRACED // 2, alerts["mail"])
            bench.round(BySmtplib(bench.mail.address), bare, bench.mail, 1, FEW_ALERTS)
            return report
        bench.served.start()
        if "mail" in sections:
            bench.mails(rounds, report)
        for kind in ("texts", "robots"):
            if kind in sections:
                bench.requests(kind, rounds, report)
        for name, section in {"many": bench.many, "accounts": bench.accounts, "pages": bench.pages}.items():
            if name in sections:
                say(name)
                section(report)
        if "trace" in sections:
            report.traced = bench.trace(Figures(), TRACED, ALERTS)
    return report


def main() -> None:
    """Measure and print; a run that leaves nothing out is written down and drawn as well."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.delivery", description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--only", default=",".join(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    arguments.add_argument("--quick", action="store_true", help="mails of the console and the bare loop, once, traced")
    chosen = arguments.parse_args()
    sections = QUICK if chosen.quick else tuple(chosen.only.split(","))
    if unknown := {*sections} - {*SECTIONS, *QUICK}:
        arguments.error(f"There is no {', '.join(unknown)}.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # and leave nothing behind
    folder = Path(tempfile.mkdtemp(prefix="contacts-bench-")).resolve()
    try:
        report = measure(folder, sections, chosen.rounds)
    finally:
        kill(processes(folder / "data"))
        shutil.rmtree(folder)
    print(text := "\n".join(tables(report)))
    say("measured")
    if sections == SECTIONS and chosen.rounds >= ROUNDS:
        plot(report)
        picture = "![Mails beside the alternatives](../tests/bench/delivery.svg)"
        document.write("delivery", f"{picture}\n\n{text}")
        document.replace("delivery", readme(report), PROJECT / "README.md")


if __name__ == "__main__":
    main()
