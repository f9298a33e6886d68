"""Show that users and operators learn the version of the console, and strangers do not."""

import re

import pytest
from flask import Flask

from contacts_app import __version__
from contacts_app.config import PROJECT
from tests.conftest import Team

MARK = "97.98.99"  # a version that stands nowhere else by chance
FOR_STRANGERS = (
    "/logon",
    "/setup",
    "/contacts",
    "/nowhere",
    "/healthz",
    "/api/v1/alerts",
    "/static/app.js",
    "/static/no",
)


def test_the_version_is_one_of_semantic_versioning() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_version_is_the_latest_of_the_changelog() -> None:
    headings = re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", headings[1])


def test_a_command_prints_the_version(app: Flask) -> None:
    with app.app_context():
        assert app.test_cli_runner().invoke(args=["version"]).output == f"{__version__}\n"


def test_users_see_the_version_in_the_help_dialog(team: Team) -> None:
    dialog = team.get("/contacts").text.partition('<dialog id="keys"')[2].partition("</dialog>")[0]
    assert f"Alert Contacts {__version__}" in dialog


@pytest.mark.parametrize("path", FOR_STRANGERS)
def test_strangers_do_not_learn_the_version(app: Flask, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setitem(app.config, "VERSION", MARK)
    for method in ("GET", "POST"):
        answer = app.test_client().open(path, method=method)
        assert MARK not in answer.text + str(answer.headers)
