"""Show that static files are kept for a year under their content's hash, and only so."""

import hashlib
import re
from pathlib import Path

import pytest
from flask import Flask

from contacts_app import create_app
from contacts_app.config import PROJECT
from tests.conftest import Team

FOREVER = "public, max-age=31536000, immutable"


def test_every_static_file_of_a_page_has_its_contents_hash_and_is_kept_for_a_year(team: Team) -> None:
    page = team.get("/contacts").text
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert {Path(link.split("?")[0]).suffix for link in links} == {".css", ".js", ".svg"}
    for link in links:
        answer = team.client.get(link)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == FOREVER
        assert link.endswith(f"?v={hashlib.sha256(answer.data).hexdigest()[:12]}")


@pytest.mark.parametrize("rest", ["", "?v=", "?v=000000000000", "?v=%00", "?w=x", "/"])
def test_a_static_file_with_another_hash_or_none_is_asked_for_again(app: Flask, rest: str) -> None:
    answer = app.test_client().get(f"/static/app.css{rest}")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["ETag"]


def test_a_file_that_has_not_changed_is_not_sent_again(app: Flask) -> None:
    client = app.test_client()
    etag = client.get("/static/app.css").headers["ETag"]
    answer = client.get("/static/app.css", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.data) == (304, b"")


def test_a_file_that_came_after_the_start_is_not_kept_without_a_hash(settings: dict[str, str], tmp_path: Path) -> None:
    app = create_app(settings)
    app.static_folder = str(tmp_path)
    (tmp_path / "late.css").write_text("a {}")
    answer = app.test_client().get("/static/late.css")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/static/none.css",
            "/static/",
            "/static/vendor",
            "/static/%00",
            "/static/../wsgi.py",
            "/static/..%2fwsgi.py",
        ),
        *("/static/%2e%2e/wsgi.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/" + "x" * 5000),
        *("/static/..\\wsgi.py", "/static/%ff"),
    ],
)
def test_no_path_leaves_the_static_folder(app: Flask, path: str) -> None:
    answer = app.test_client().get(path, follow_redirects=True)
    assert answer.status_code == 404
    assert "create_app" not in answer.text
    assert FOREVER not in answer.headers.get("Cache-Control", "")


def test_a_missing_file_shown_to_a_user_is_not_kept(team: Team) -> None:
    """The page that says so carries the user's e-mail, and nothing between may keep that."""
    answer = team.get("/static/none.css?v=000000000000")
    assert answer.status_code == 404
    assert answer.headers.get("Cache-Control") == "no-store" or team.email not in answer.text


@pytest.mark.parametrize(
    "headers", [{"Range": "bytes=9-1"}, {"Range": "bytes=99999999-"}, {"Range": "x" * 999}, {"If-Modified-Since": "x"}]
)
def test_a_strange_condition_is_no_error_of_the_console(app: Flask, headers: dict[str, str]) -> None:
    assert app.test_client().get("/static/app.css", headers=headers).status_code in (200, 206, 400, 416)


def test_words_stand_in_the_pages_and_not_in_the_styles() -> None:
    styles = (PROJECT / "static" / "app.css").read_text()
    assert re.findall(r'content: *"[^"]*\w[^"]*"', styles) == []


def test_the_script_of_our_own_stays_small() -> None:
    assert len((PROJECT / "static" / "app.js").read_text().splitlines()) < 130
