"""Hold the documents to what is there: files, settings, commands and targets of make."""

import re
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flask import Flask

from contacts_app.config import PROJECT, load
from tests.bench import document
from tests.conftest import ALL_CHANNELS
from tests.delivery.counterparts import ALIYUN_KEY, ALIYUN_SECRET, ALIYUN_SIGN, ALIYUN_TEMPLATE

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")])
README, OPERATING = PROJECT / "README.md", PROJECT / "docs/operating.md"
MAX_BYTES = 12 * 1024  # of README: what is read before anything works
ALIYUN = {"SMS_PROVIDER": "aliyun", "ALIYUN_ACCESS_KEY_ID": ALIYUN_KEY, "ALIYUN_ACCESS_KEY_SECRET": ALIYUN_SECRET}
ALIYUN |= {"ALIYUN_SIGN_NAME": ALIYUN_SIGN, "ALIYUN_TEMPLATE_CODE": ALIYUN_TEMPLATE}
# A path of the repository: it begins at its root. What is made when something runs is none (.venv/, instance/, build/).
TOPS = {path.name for path in PROJECT.iterdir()} - {".venv", ".git", "instance", "build", "__pycache__"}
SETTING = re.compile(r"`([A-Z][A-Z_]{3,})`")


def by_name(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(path: Path) -> list[str]:
    """Return what stands in backticks or in an indented block of a document."""
    text = path.read_text()
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)


def test_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MAX_BYTES


def test_the_first_commands_of_readme_run_and_test_the_console() -> None:
    blocks = re.findall(r"(?:^ {4}\S.*\n)+", README.read_text(), re.MULTILINE)
    assert [block.strip() for block in blocks[:2]] == ["make run", "make test"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=by_name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=by_name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    words = {word for piece in code(path) for word in re.split(r"[\s,;()\"']+", piece)}
    named = {word.partition("::")[0].rstrip("/.:") for word in words if re.fullmatch(r"[\w.-]+(/[\w./:-]*)?", word)}
    files = {word for word in named if "/" in word and word.partition("/")[0] in TOPS}
    assert [file for file in sorted(files) if not (PROJECT / file).exists()] == []
    names = {
        word for word in named if re.fullmatch(r"_?[A-Za-z0-9_-]+\.(py|html|css|js|md|toml|txt|ini|png|svg)", word)
    }
    known = {file.name for top in TOPS for file in [PROJECT / top, *(PROJECT / top).rglob("*")]}
    assert names <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=by_name)
def test_every_target_of_make_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {found[1] for piece in code(path) if (found := re.match(r"make ([a-z-]+)", piece))}
    assert named <= targets


def test_every_target_of_make_is_in_its_help() -> None:
    lines = (PROJECT / "Makefile").read_text().splitlines()
    targets = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    help_ = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make ([a-z-]+) +\S", help_, re.MULTILINE) == targets


class Asked(dict[str, str]):
    """Remember which names were asked for."""

    names: ClassVar[set[str]] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def test_operating_lists_the_settings_that_are_read_and_no_other() -> None:
    for environ in ({}, ALL_CHANNELS, ALIYUN):
        load(Asked({"SECRET_KEY": "k" * 40, "ENCRYPTION_KEYS": "A" * 43 + "="} | environ))
    section = OPERATING.read_text().partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in SETTING.findall(row)]
    assert sorted(listed) == sorted(Asked.names)
    assert set(SETTING.findall(README.read_text().partition("## Settings")[2])) <= Asked.names


def test_operating_lists_every_command(app: Flask) -> None:
    section = OPERATING.read_text().partition("## Commands")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row)]
    assert sorted(listed) == sorted(app.cli.commands)


def test_measurements_are_between_marks_that_fit() -> None:
    text = document.MEASUREMENTS.read_text()
    marks = re.findall(r"^<!-- (\w+):(begin|end) (\w+) -->$", text, re.MULTILINE)
    begins, ends = marks[::2], marks[1::2]
    assert [(kind, name) for kind, _, name in begins] == [(kind, name) for kind, _, name in ends]
    assert {side for _, side, _ in begins} == {"begin"}
    assert {side for _, side, _ in ends} == {"end"}
    listed = re.findall(r"^\| `(\w+):(\w+)` \|", text, re.MULTILINE)
    assert listed == [(kind, name) for kind, _, name in begins]


def test_every_part_of_the_measurements_is_written_by_what_measures_and_nothing_else_is() -> None:
    parts = re.findall(r"^<!-- \w+:begin (\w+) -->$", document.MEASUREMENTS.read_text(), re.MULTILINE)
    code = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("*.py"))
    assert {*re.findall(r"\b(?:document\.write|measured)\(\s*\"(\w+)\"", code)} == {*parts}


def test_the_tests_whose_findings_are_in_the_measurements_exist() -> None:
    found = re.findall(r"^\|.*\| `([^`|]+)::(\w+)(?:\[[^`|]*\])?` \|$", document.MEASUREMENTS.read_text(), re.MULTILINE)
    assert found
    assert [(path, test) for path, test in found if f"\ndef {test}(" not in (PROJECT / path).read_text()] == []
