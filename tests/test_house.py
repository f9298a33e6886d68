"""Hold the floors of the house: imports run down only, and nothing is imported inside a function to dodge that."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "contacts_app"
GROUND = ("config", "core", "migrations", "web")
ROOMS = ("accounts", "audit", "contacts", "groups", "delivery", "intake", "reach", "exchange")
FACES = ("ops", "pages", "api", "cli")
# What each may import beside itself. `create_app`, at the top, may import everything.
MAY_IMPORT = {
    "config": set(),
    "core": {"config"},
    "migrations": {"config", "core"},
    "web": {"config", "core"},
    **{room: {*GROUND, *ROOMS[:place]} for place, room in enumerate(ROOMS)},
    **{face: {*GROUND, *ROOMS} for face in FACES},
    "cli": {*GROUND, *ROOMS, "ops"},
    "": {*GROUND, *ROOMS, *FACES},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Return the part of the house that a module is in; empty for create_app's."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py") if first != "__init__.py" else ""


def imported(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the parts of the house that a module imports from, and the statements that do it."""
    package = ("contacts_app", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from ((name[1], node) for name in names if name[0] == "contacts_app" and len(name) > 1)


def test_every_module_is_in_a_part_of_the_house() -> None:
    assert {room_of(path) for path in MODULES} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_down_only(path: Path) -> None:
    room = room_of(path)
    found = {target for target, _ in imported(path)} - {room}
    assert found <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_of_the_house_is_imported_inside_a_function(path: Path) -> None:
    inside = {
        child
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
        if isinstance(child, ast.ImportFrom) and (child.level or (child.module or "").startswith("contacts_app"))
    }
    assert not inside
