"""Write what was measured into docs/measurements.md: each bench its part, each test of `make chaos` its rows."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from contacts_app.config import PROJECT

MEASUREMENTS = PROJECT / "docs/measurements.md"
HEAD = "| what was done | what was seen | measured | test |\n| --- | --- | --- | --- |\n"


class Finding(NamedTuple):
    """What a test did to the console and what was seen of it."""

    part: str
    test: str  # as pytest names it
    done: str
    seen: str


def write(name: str, text: str, document: Path = MEASUREMENTS) -> None:
    """Replace the part `name`; say when, of which commit, on what machine and with which command it was measured."""
    command = shlex.join(["python", *sys.orig_argv[1:]])
    replace(name, f"{stamp()}, {machine()}: `{command}`\n\n{text.strip()}\n", document)


def write_findings(findings: Iterable[Finding], document: Path = MEASUREMENTS) -> None:
    """Replace the rows of the tests that found something; those of other tests stay."""
    findings, on = list(findings), f"{stamp()}, {os.cpu_count()} cores"
    for part in {finding.part for finding in findings}:
        rows = [
            (it.test, f"| {_cell(it.done)} | {_cell(it.seen)} | {on} | `{it.test}` |")
            for it in findings
            if it.part == part
        ]
        repeated = {test for test, _ in rows}
        rows += [(test, row) for row, test in _rows(part, document) if test not in repeated]
        replace(part, HEAD + "\n".join(row for _, row in sorted(rows, key=itemgetter(0))) + "\n", document)


def stamp() -> str:
    """Say when this is, and of which commit; a plus stands for changes that are not committed."""
    git = ["git", "-C", str(PROJECT)]
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/measurements.md", ":!*.svg"]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    plus = "+" if subprocess.run([*git, *changes], capture_output=True, check=False).stdout else ""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {commit.strip() or 'no commit'}{plus}"


def machine() -> str:
    """Say what the processor is, how much memory there is, and which Python."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    hardware = f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()}), {memory:.0f} GiB"
    return f"{hardware}, Python {platform.python_version()}"


def _pieces(name: str, document: Path) -> list[str]:
    """Return what stands before the part, the part, and what stands behind it."""
    marks = rf"(<!-- \w+:begin {re.escape(name)} -->\n)(.*?)(<!-- \w+:end {re.escape(name)} -->\n)"
    pieces = re.split(marks, document.read_text(), flags=re.DOTALL)
    if len(pieces) != 5:
        raise ValueError(f"{document.name} has no part {name}, or several.")
    return [pieces[0] + pieces[1], pieces[2], pieces[3] + pieces[4]]


def replace(name: str, text: str, document: Path) -> None:
    """Replace the part `name` of a document."""
    before, _, after = _pieces(name, document)
    document.write_text(before + text + after)


def _rows(name: str, document: Path) -> list[tuple[str, str]]:
    """Return the rows of a part that tests write, each with the name of its test."""
    return re.findall(r"^(\|.*\| `([^`|]+)` \|)$", _pieces(name, document)[1], re.MULTILINE)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
