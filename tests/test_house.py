"""Hold the floors of the house: imports run down only, and nothing is imported inside a function to dodge that.

Hold as well that tests use nothing private, so that the inside can change without them.
"""

import ast
import re
from collections import Counter
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
    "gunicorn_conf": {"ops"},  # its name before 0.2.0
}
# What rooms know of the web, beside the normal forms in web.fields: a worker's threads enter the app's context.
KNOWN_OF_THE_WEB = {"delivery/worker.py": {"flask.Flask"}}
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted({*Path(__file__).parent.rglob("*.py")} - {Path(__file__)})  # this one holds examples
# Public all the same: collections.namedtuple documents them.
OF_NAMED_TUPLES = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}


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


def test_every_folder_of_modules_is_a_package() -> None:
    # Alembic loads the versions by their files.
    folders = {path.parent for path in (*MODULES, *TESTS)} - {PACKAGE / "migrations/versions"}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


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


def imported_names(path: Path) -> Iterator[str]:
    """Yield what a module imports, wherever it does, as `module.name`; a relative import begins with its dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def test_channels_know_of_delivery_only_answers_and_facts() -> None:
    """They are a part of their own, which the rest of delivery asks through the registry."""
    around = {
        (node.module or "").split(".")[0]
        for path in (PACKAGE / "delivery/channels").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }
    assert around == {"answers", "facts"}


def test_no_part_is_too_big_to_know() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {path.name for path, count in lines.items() if count > 450} == set()
    parts = Counter[str]()
    for path, count in lines.items():
        parts["channels" if path.parent.name == "channels" else room_of(path)] += count
    assert {part for part, count in parts.items() if count > parts.total() / 4} == set()


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room_of(path) in ROOMS],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_rooms_know_no_request(path: Path) -> None:
    of_the_web = re.compile(r"(flask|werkzeug|flask_wtf|wtforms)\b|\.+web\.")
    found = {name for name in imported_names(path) if of_the_web.match(name)}
    allowed = KNOWN_OF_THE_WEB.get(path.relative_to(PACKAGE).as_posix(), set())
    assert {name for name in found if name not in allowed and not name.startswith("..web.fields.")} == set()


def is_private(name: str) -> bool:
    return bool(re.match(r"_[^_]|__.*(?<!__)$", name)) and name not in OF_NAMED_TUPLES


def own_names(tree: ast.Module) -> set[str]:
    """Return the names of what a module defines: functions, methods, and what is assigned to attributes."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    stored = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return defined | {node.attr for node in stored if ast.unparse(node.value) in ("self", "cls")}


def private_uses(text: str) -> Iterator[str]:
    """Yield what a test's text uses of other modules that is private there, also in the code that it has run."""
    tree = ast.parse(text)
    own = own_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.expr):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
            names = [part for name in names for part in name.split(".")]
        elif isinstance(node, ast.Attribute):
            is_own = ast.unparse(node.value) in ("self", "cls") and node.attr in own
            names = [] if is_own else [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = re.findall(r"(?:[a-z]\.|\bimport )(_\w+)", node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", ".object")):
            names = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        yield from (f"line {node.lineno}: {name}" for name in names if is_private(name))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(Path(__file__).parent).as_posix())
def test_tests_use_nothing_private(path: Path) -> None:
    assert list(private_uses(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "from contacts_app.core.db import _compiled",
        "from pip._internal import commands",
        "import pip._internal",
        "embedded._run()",
        "self._pool.maxsize = 1",
        "pool.__made",
        "monkeypatch.setattr(models, '_hasher', None)",
        "monkeypatch.setattr('contacts_app.accounts.models._hasher', None)",
        "run('-c', 'from time import _x')",
        "run('-c', 'print(embedded._run())')",
    ],
)
def test_what_is_private_is_found(text: str) -> None:
    assert len(list(private_uses(text))) == 1


@pytest.mark.parametrize(
    "text", ["content._replace(title='x')", "class A:\n def __init__(self): self._x = 1; self._x", "f'{key}_encrypted'"]
)
def test_what_is_ones_own_is_not_private(text: str) -> None:
    assert list(private_uses(text)) == []
