"""Print the table of dependencies in docs/operating.md, with the dates of their last releases as pip's index has them.

`python -m tests.dependencies` asks the index that pip is set up with, in the way that pip itself does.
"""

import re
import subprocess
import sys
from contextlib import suppress
from datetime import date

import requests

from contacts_app.config import PROJECT

REQUIREMENTS = PROJECT / "requirements.txt"
PINNED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([A-Za-z0-9.]+)")
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| (\d{4}-\d\d-\d\d)([^|]*) \|$", re.MULTILINE)


def pins() -> dict[str, str]:
    """Return the version of each requirement, by its name; raise ValueError for one that is not pinned."""
    found = {}
    for line in REQUIREMENTS.read_text().splitlines():
        if line and not line.startswith("#"):
            if not (pin := PINNED.fullmatch(line)):
                raise ValueError(f"{line} is not pinned.")
            found[pin[1]] = pin[2]
    return found


def rows() -> dict[str, tuple[str, str, date, str]]:
    """Return version, purpose, last release and remark of each dependency in docs/operating.md, by its name."""
    found = ROW.findall((PROJECT / "docs/operating.md").read_text())
    return {name: (version, use, date.fromisoformat(day), rest) for name, version, use, day, rest in found}


def pip_settings() -> dict[str, str]:
    """Return pip's settings that hold for all of its commands, by their names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = re.findall(r"^(global|:env:)\.([a-z-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    return {name: value for _, name, value in sorted(found, reverse=True)}  # the environment's after those of the files


def last_releases(names: list[str]) -> dict[str, date]:
    """Return when each package was last released, by its name; raise LookupError for one unknown."""
    settings = pip_settings()
    indexes = [settings.get("index-url", "https://pypi.org/simple"), *settings.get("extra-index-url", "").split()]
    found = {}
    for name in names:
        days = []
        for index in indexes:
            if index.startswith("http"):
                answer = requests.get(
                    f"{index.rstrip('/')}/{name}/",
                    headers={"Accept": "application/vnd.pypi.simple.v1+json"},
                    verify=settings.get("cert", True),
                    timeout=60,
                )
                with suppress(requests.JSONDecodeError):
                    days += [file["upload-time"][:10] for file in answer.json()["files"] if not file.get("yanked")]
        if not days:
            raise LookupError(name)
        found[name] = date.fromisoformat(max(days))
    return found


def main() -> None:
    """Print the table as it should stand now."""
    known, pinned = rows(), pins()
    days = last_releases(list(pinned))
    print("| dependency | version | what it is for | last release |\n| --- | --- | --- | --- |")
    for name, version in pinned.items():
        _, use, _, rest = known.get(name, ("", "", date.min, ""))
        print(f"| `{name}` | {version} | {use or '?'} | {days[name]}{rest} |")


if __name__ == "__main__":
    main()
