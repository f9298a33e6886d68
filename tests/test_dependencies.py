"""Show that all that the console runs with is pinned, alive, documented and in the bill of materials."""

import json
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contacts_app.config import PROJECT
from tests import dependencies

COUNTED_FROM = date(2025, 5, 25)  # 18 months before the table was made


def test_every_package_that_another_brings_along_is_pinned_too() -> None:
    pinned = {canonicalize_name(name): version for name, version in dependencies.pins().items()}
    waiting = [Requirement(line) for line in dependencies.REQUIREMENTS.read_text().splitlines() if line[:1] not in "#"]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        assert pinned.get(name) == metadata.version(name), f"{requirement} is not pinned, or another one is installed"
        for extra in ("", *requirement.extras):
            brought = [Requirement(line) for line in metadata.requires(name) or []]
            waiting += [each for each in brought if each.marker is None or each.marker.evaluate({"extra": extra})]
    assert pinned.keys() == {canonicalize_name(Requirement(each).name) for each in seen}, "nothing needs the rest"


def test_every_dependency_is_documented_with_its_version_and_whether_it_is_alive() -> None:
    rows = dependencies.rows()
    assert {name: version for name, (version, *_) in rows.items()} == dependencies.pins()
    for name, (_, use, day, reason) in rows.items():
        assert use.strip("? "), name
        assert day >= COUNTED_FROM or reason.strip(" ,"), f"{name} has had no release since {day}, for no reason given"


@pytest.mark.long
def test_the_bill_of_materials_names_every_requirement(tmp_path: Path) -> None:
    command = ["make", "--silent", "--old-file=.venv/installed-tests", "sbom", f"SBOM={tmp_path / 'new/sbom.json'}"]
    subprocess.run(command, cwd=PROJECT, check=True)
    bill = json.loads((tmp_path / "new/sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {part["name"]: part["version"] for part in bill["components"]} == dependencies.pins()


@pytest.mark.parametrize("line", ["Flask", "Flask>=3", "Flask==3.*", "-e ."])
def test_what_is_not_pinned_exactly_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"# What it runs with.\n\n{line}\n")
    monkeypatch.setattr(dependencies, "REQUIREMENTS", tmp_path / "requirements.txt")
    with pytest.raises(ValueError, match="is not pinned"):
        dependencies.pins()
