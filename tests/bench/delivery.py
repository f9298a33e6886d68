"""Measure the speed of alerts beside the alternatives: `make bench-delivery`; DELIVERY="--quick" takes 25 seconds.

From the POST of an alert to its messages, all on 127.0.0.1: the console as `make run` starts it, Debian's Alertmanager,
and bare loops, whose messages the same servers take. What is measured by others is not: the network, TLS to mail.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench import traced
from tests.bench.console import PARTS, Served
from tests.bench.receivers import Receiver
from tests.bench.ways import BySmtplib, Way
from tests.delivery.counterparts import Authority
from tests.ops.test_embedded import kill, processes

CONTACTS, ALERTS = 100, 40  # in the group, and in the burst to it


@dataclass
class Figures:
    """What was measured, round by round: milliseconds, seconds, mails a second."""

    one: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


class Bench:
    """The receivers, and the console beside whatever else notifies."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        Authority.make(folder)
        self.mail = self.receiver("mail")
        self.numbers = count(1)  # no two alerts are the same

    def receiver(self, kind: str) -> Receiver:
        """Start a receiver, which ends with the measuring."""
        made = Receiver(kind, self.folder)
        self.stack.callback(made.close)
        return made

    def served(self, settings: dict[str, str]) -> Served:
        """Make a console, which ends with the measuring."""
        data_dir = self.folder / "data"
        self.stack.callback(lambda: kill(processes(data_dir)))
        made = Served(data_dir, settings)
        self.stack.callback(made.stop)
        return made

    def notify(self, way: Way, contacts: int, alerts: int = 1) -> tuple[float, float, list[float]]:
        """Return when it began, and the seconds from there until all was taken in and until each mail arrived."""
        numbers = [next(self.numbers) for _ in range(alerts)]
        way.prepare()
        self.mail.forget()
        begin = time.monotonic()
        way.notify(contacts, numbers)
        taken = time.monotonic() - begin
        return begin, taken, [arrival.at - begin for arrival in self.mail.wait(alerts * contacts)]

    def round(self, way: Way, into: Figures, repeats: int, alerts: int) -> None:
        """Measure a way once."""
        self.notify(way, CONTACTS)  # so that of each channel is known that it works
        into.one.append(statistics.median(1000 * self.notify(way, 1)[2][0] for _ in range(repeats)))
        groups = [self.notify(way, CONTACTS)[2] for _ in range(repeats)]
        into.first.append(statistics.median(1000 * mails[0] for mails in groups))
        into.last.append(statistics.median(1000 * mails[-1] for mails in groups))
        _, taken, mails = self.notify(way, CONTACTS, alerts)
        into.taken.append(taken)
        into.rate.append(len(mails) / mails[-1])


def middle(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Return the median and the range."""
    said = form.format(statistics.median(values))
    return f"{said} ({form.format(min(values))}–{form.format(max(values))})" if len(values) > 1 else said


def mail_table(ways: dict[str, Figures], alerts: int) -> Iterator[str]:
    """Give the table of the mails."""
    head = ["one contact: first mail", f"{CONTACTS} contacts: first", "last"]
    head += [f"{alerts} alerts to {CONTACTS} contacts taken in", "mails a second"]
    yield f"| | {' | '.join(head)} |"
    yield "| --- " * (1 + len(head)) + "|"
    for name, seen in ways.items():
        cells = [f"{middle(values)} ms" for values in (seen.one, seen.first, seen.last)]
        cells += ["" if "loop" in name else f"{middle(seen.taken, '{:.2f}')} s", middle(seen.rate, "{:.0f}")]
        yield f"| {name} | {' | '.join(cells)} |"


def quick(bench: Bench) -> Iterator[str]:
    """Measure mails once, for the console and the bare loop, and say where the time goes."""
    trace = bench.folder / "trace"
    served = bench.served(bench.mail.settings)
    tokens = served.add_team([1, CONTACTS])
    served.start(TRACE_DELIVERY=str(trace))
    way, alerts = served.way(tokens), ALERTS // 2
    bare, console = Figures(), Figures()
    bench.round(BySmtplib(bench.mail.address), bare, 5, alerts)
    bench.notify(way, CONTACTS)
    begins = []
    for _ in range(15):
        begin, _, mails = bench.notify(way, 1)
        begins.append(begin)
        console.one.append(1000 * mails[0])
    groups = [bench.notify(way, CONTACTS)[2] for _ in range(5)]
    console.first, console.last = [1000 * mails[0] for mails in groups], [1000 * mails[-1] for mails in groups]
    used, transactions = served.cpu_milliseconds(), served.transactions()
    burst, taken, mails = bench.notify(way, CONTACTS, alerts)
    served.settle()
    end = time.monotonic()
    used, transactions = served.cpu_milliseconds() - used, served.transactions() - transactions
    console.taken, console.rate = [taken], [len(mails) / mails[-1]]
    yield from mail_table({"console": console, "bare smtplib loop": bare}, alerts)
    told = ", ".join(f"{part} {used[part] / len(mails):.2f} ms" for part in PARTS)
    yield f"\nProcessor time of a mail: {told}; about {transactions / len(mails):.2f} transactions.\n"
    marks = traced.read(trace)
    yield from traced.stations(marks, begins)
    yield ""
    yield from traced.work(marks, burst, end, len(mails))


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.delivery", description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="mails of the console and of the bare loop, once")
    arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="contacts-bench-")).resolve()
    begin = time.monotonic()
    try:
        with ExitStack() as stack:
            for line in quick(Bench(folder, stack)):
                print(line, flush=True)
    finally:
        kill(processes(folder / "data"))
        shutil.rmtree(folder)
    print(f"\nMeasured within {time.monotonic() - begin:.0f} s.", file=sys.stderr)


if __name__ == "__main__":
    main()
