"""Say in tables and a plot how fast alerts were delivered."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from contacts_app.config import PROJECT
from tests.bench.burst import percentile
from tests.bench.console import LIMITS, PARTS, TRANSACTIONS

PLOT = PROJECT / "tests/bench/delivery.svg"


@dataclass
class Figures:
    """What was measured of a way, round by round."""

    one: list[float] = field(default_factory=list)  # milliseconds to the message to one contact
    first: list[float] = field(default_factory=list)  # milliseconds to the first message to a group
    last: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)  # seconds until a burst was taken in
    rate: list[float] = field(default_factory=list)  # messages a second of a burst
    used: list[dict[str, float]] = field(default_factory=list)  # milliseconds of processor time of a message, by part
    size: int = 0  # bytes of a message

    def processor(self) -> list[float]:
        """Return the milliseconds of processor time of a message, of all parts together."""
        return [sum(used.values()) - used.get(TRANSACTIONS, 0) for used in self.used]


@dataclass
class Report:
    """All that was measured; what was left out is empty."""

    versions: str
    contacts: int  # in the group
    alerts: dict[str, int]  # of a burst, by what is sent
    sent: dict[str, dict[str, Figures]] = field(default_factory=dict)  # by what was sent, and by the way
    many: tuple[int, float, float, float] | None = None  # contacts, milliseconds to the answer and from it, rate
    # Number, contacts of each, seconds until all was taken in, rate, median and largest wait.
    accounts: tuple[int, int, float, float, float, float] | None = None
    pages: dict[str, list[float]] = field(default_factory=dict)  # milliseconds of each
    traced: list[str] = field(default_factory=list)


def middle(values: Sequence[float], form: str = ".1f") -> str:
    """Return the median and the range."""
    said = f"{statistics.median(values):{form}}"
    return f"{said} ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else said


def tables(report: Report) -> Iterator[str]:
    """Give the lines of all that was measured."""
    settings = ", ".join(f"`{name}={value}`" for name, value in LIMITS.items())
    yield f"{report.versions}. Limits that do not bite: {settings}."
    for kind, ways in report.sent.items():
        yield ""
        yield from _ways(kind, ways, report)
    yield ""
    yield from _costs(report)
    if report.many:
        contacts, answer, first, rate = report.many
        yield (
            f"\nOne alert to {contacts:,} mailboxes: answered after {answer:.0f} ms, the first mail {first:.0f} ms"
            f" after the answer, {rate:.0f} mails a second until the last."
        )
    if report.accounts:
        number, each, taken, rate, median, most = report.accounts
        yield (
            f"\n{number:,} accounts with an alert to {each} mailboxes each: taken in within {taken:.1f} s,"
            f" {rate:.0f} mails a second until the last; from an alert's POST to its first mail {median:.2f} s"
            f" (median), {most:.2f} s at most."
        )
    if report.pages:
        yield "\n| list page, one browser, 10 a second | pages | median | p99 |\n| --- | --- | --- | --- |"
        for when, took in report.pages.items():
            yield f"| {when} | {len(took)} | {percentile(took, 0.5):.0f} ms | {percentile(took, 0.99):.0f} ms |"
    if report.traced:
        yield ""
        yield from report.traced


def _ways(kind: str, ways: dict[str, Figures], report: Report) -> Iterator[str]:
    word = "mail" if kind == "mail" else "message"
    head = [f"one contact: first {word}", f"{report.contacts} contacts: first", "last"]
    head += [
        f"{report.alerts[kind]} alerts to {report.contacts} contacts taken in",
        f"{word}s a second",
        f"bytes of a {word}",
    ]
    yield f"| {kind} | {' | '.join(head)} |"
    yield "| --- " * (1 + len(head)) + "|"
    for name, seen in ways.items():
        cells = [f"{middle(values)} ms" for values in (seen.one, seen.first, seen.last)]
        cells += ["" if "loop" in name else f"{middle(seen.taken, '.2f')} s", middle(seen.rate, ".0f")]
        yield f"| {name} | {' | '.join(cells)} | {seen.size:,} |"


def _costs(report: Report) -> Iterator[str]:
    yield f"| processor time of a message | {' | '.join(PARTS)} | together | transactions |"
    yield "| --- " * (3 + len(PARTS)) + "|"
    for kind, ways in report.sent.items():
        for name, seen in ways.items():
            cells = [
                f"{statistics.median(used[part] for used in seen.used):.2f} ms" if part in seen.used[0] else ""
                for part in PARTS
            ]
            cells.append(f"{middle(seen.processor(), '.2f')} ms")
            cells.append(
                f"{statistics.median(used[TRANSACTIONS] for used in seen.used):.2f}"
                if TRANSACTIONS in seen.used[0]
                else ""
            )
            yield f"| {kind}, {name} | {' | '.join(cells)} |"


def readme(report: Report) -> str:
    """Return three lines for README.md."""

    def of(name: str) -> str:
        seen = report.sent["mail"][name]
        one, last, rate = (statistics.median(values) for values in (seen.one, seen.last, seen.rate))
        return f"{one:.0f} ms, {last:.0f} ms, {rate:.0f} a second"

    return (
        f"From an alert's POST to the mail to one contact, to the last of {report.contacts} mails, and mails a second"
        f" in a burst:\nconsole {of('console')}; Alertmanager {of('Alertmanager')}; bare `smtplib` loop"
        f" {of('bare smtplib loop')}.\n"
        "On two cores, all on one machine; more in [measurements](docs/measurements.md#alerts).\n"
    )


def plot(report: Report) -> None:
    """Draw the mails beside the alternatives."""
    import matplotlib as mpl  # which takes longer to load than all the rest
    from matplotlib import pyplot as plt

    ways = report.sent["mail"]
    panels = {
        "one contact: first mail, ms": [seen.one for seen in ways.values()],
        f"{report.contacts} contacts: last mail, ms": [seen.last for seen in ways.values()],
        f"{report.alerts['mail']} alerts to {report.contacts} contacts: mails a second": [
            seen.rate for seen in ways.values()
        ],
        "processor time of a mail, ms": [seen.processor() for seen in ways.values()],
    }
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "delivery", "font.family": "sans-serif"}
    figure, places = plt.subplots(2, 2, figsize=(9, 3.6), layout="constrained", facecolor="white", sharey=True)
    colours = ["#b45309" if name == "console" else "#6b7280" for name in ways]
    for axes, (title, rounds) in zip(places.flat, panels.items(), strict=True):
        centre = [statistics.median(values) for values in rounds]
        errors = [
            [mid - min(values) for mid, values in zip(centre, rounds, strict=True)],
            [max(values) - mid for mid, values in zip(centre, rounds, strict=True)],
        ]
        bars = axes.barh(list(ways), centre, xerr=errors, color=colours, ecolor="#111827", capsize=3)
        axes.bar_label(bars, [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in centre], padding=8)
        axes.set_xlim(0, 1.3 * max(map(max, rounds)))
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    places.flat[0].invert_yaxis()
    figure.savefig(PLOT, metadata={"Date": None, "Creator": None})
