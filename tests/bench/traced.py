"""Say where the time of alerts goes, by what the console traces (contacts_app/core/trace.py)."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

STATIONS = {
    "arrived": "the request is complete in the web worker",
    "parsed": "its token and its JSON are read",
    "committed": "alert and deliveries are committed",
    "woken": "the worker is woken",
    "claimed": "the delivery is claimed, which is committed",
    "made": "the mail is made",
    "connected": "there is a connection to the mail server",
    "sent": "the mail server has taken the mail",
    "recorded": "the result is committed",
}
# What a thread of the worker has done since its last mark.
WORK = {"claimed": "claim", "made": "make", "connected": "connect", "sent": "send", "recorded": "record"}


class Mark(NamedTuple):
    """A line of a trace."""

    at: float
    thread: tuple[str, str]  # with its process
    name: str
    key: str


def read(path: Path) -> list[Mark]:
    """Return the marks in the order of time."""
    lines = (line.split(",", 4) for line in path.read_text().splitlines())
    return sorted(Mark(float(at), (pid, thread), name, key) for at, pid, thread, name, key in lines)


def stations(marks: Sequence[Mark], begins: Sequence[float]) -> Iterator[str]:
    """Give a table of when alerts, each alone, passed the stations, of which each next one begins after the last."""
    passed: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[float]] = defaultdict(list)
    for begin, end in zip(begins, [*begins[1:], float("inf")], strict=True):
        first: dict[str, float] = {}
        for mark in marks:
            if begin <= mark.at < end and (mark.name != "arrived" or "/alerts" in mark.key):
                first.setdefault(mark.name, mark.at)
        before = begin
        for name in STATIONS:
            if name in first:
                passed[name].append(1000 * (first[name] - begin))
                steps[name].append(1000 * (first[name] - before))
                before = first[name]
    yield f"| one alert to one contact (median of {len(begins)}) | since the one before | since the POST |"
    yield "| --- | --- | --- |"
    for name, words in STATIONS.items():
        if passed[name]:
            yield f"| {words} | {statistics.median(steps[name]):.2f} ms | {statistics.median(passed[name]):.2f} ms |"


def work(marks: Sequence[Mark], begin: float, end: float, mails: int) -> Iterator[str]:
    """Give a table of what the worker's threads did for the mails between two moments."""
    spent: dict[str, float] = defaultdict(float)
    last: dict[tuple[str, str], float] = {}
    claims = 0
    for mark in marks:
        if begin <= mark.at < end and mark.name in (*WORK, "claiming"):
            if mark.name in WORK:
                spent[WORK[mark.name]] += mark.at - last.get(mark.thread, mark.at)
            claims += mark.name == "claimed"
            last[mark.thread] = mark.at
    yield f"| {' | '.join(['a burst, per mail', *spent, 'mails a claim'])} |"
    yield "| --- " * (2 + len(spent)) + "|"
    each = [f"{1000 * seconds / mails:.2f} ms" for seconds in spent.values()]
    yield f"| time of a thread | {' | '.join(each)} | {mails / max(1, claims):.1f} |"
