"""Show that every answer carries the headers that keep a browser from doing what the console never asks for."""

import time
from collections.abc import Callable
from http.client import HTTPConnection

import pytest
from flask import Flask
from itsdangerous import URLSafeTimedSerializer
from werkzeug.test import TestResponse

from contacts_app import create_app
from contacts_app.accounts.setup import setup_token
from contacts_app.core.db import all_accounts
from tests.conftest import HTMX, Team, free_port
from tests.pages.accounts.test_views import log_on, new_address, token_in

POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
}
UNREADABLE_FORM = "This form was opened in another session"


def away(team: Team, settings: dict[str, str], path: str) -> TestResponse:
    """Ask a console whose database nobody serves."""
    app = create_app(settings | {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"})
    client = app.test_client()
    client.set_cookie("console", team.cookie)
    return client.get(path)


def broken(settings: dict[str, str], new_database: Callable[[], str]) -> TestResponse:
    """Ask a console whose database holds no tables."""
    app = create_app(settings | {"DATABASE_URL": new_database()})
    with app.app_context(), all_accounts():
        link = f"/setup?token={setup_token()}"
    return app.test_client().get(link)


def too_many(team: Team) -> TestResponse:
    """Guess a password too often."""
    for _ in range(10):
        log_on(team.app.test_client(), team.email, "a guess")
    return log_on(team.app.test_client(), team.email, "a guess")


@pytest.fixture
def answers(team: Team, settings: dict[str, str], new_database: Callable[[], str]) -> list[tuple[int, TestResponse]]:
    """Return an answer of every kind that the console gives, and the status that it should have."""
    bare = team.app.test_client()
    return [
        (200, team.get("/contacts")),
        (200, team.get("/contacts", htmx=True)),
        (200, bare.get("/logon")),
        (200, bare.get("/healthz")),
        (200, team.client.options("/contacts")),
        (200, team.client.head("/contacts")),
        (200, bare.get("/static/app.css")),
        (204, bare.get("/contacts", headers=HTMX)),
        (303, bare.get("/contacts")),
        (304, bare.get("/static/app.css", headers={"If-None-Match": bare.get("/static/app.css").headers["ETag"]})),
        (308, team.get("//contacts")),
        (400, team.client.post("/contacts/new")),
        (404, team.get("/nowhere")),
        (404, team.get("/contacts/999999999/edit", htmx=True)),
        (404, team.get("/static/none.css")),
        (405, team.client.delete("/contacts")),
        (413, team.post("/contacts/new", {"name": "x" * 70_000})),
        (416, bare.get("/static/app.css", headers={"Range": "bytes=99999999-"})),
        (422, team.post("/contacts/new", {"name": ""})),
        (429, too_many(team)),
        (500, broken(settings, new_database)),
        (503, away(team, settings, "/contacts")),
        (503, away(team, settings, "/nowhere")),
        (503, away(team, settings, "/healthz")),
    ]


def test_every_answer_carries_the_headers(answers: list[tuple[int, TestResponse]]) -> None:
    for status, answer in answers:
        what = f"{answer.request.method} {answer.request.path}, {answer.status}"
        assert answer.status_code == status, what
        headers = answer.headers
        assert headers.getlist("Content-Security-Policy") != [], what
        assert {part.strip() for part in headers["Content-Security-Policy"].split(";")} == POLICY, what
        assert headers["X-Content-Type-Options"] == "nosniff", what
        assert headers["Referrer-Policy"] == "same-origin", what
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", what
        assert all(f"{power}=()" in headers["Permissions-Policy"] for power in ("camera", "geolocation", "microphone"))
        assert "Strict-Transport-Security" not in headers, what
        is_file = answer.request.path.startswith("/static/") and status in (200, 304)
        assert headers["Cache-Control"] == ("no-cache" if is_file else "no-store"), what


def test_hsts_is_sent_under_https_only(settings: dict[str, str]) -> None:
    client = create_app(settings | {"HTTPS": "1"}).test_client()
    for path in ("/logon", "/nowhere", "/healthz", "/static/app.css"):
        assert "max-age=31536000" in client.get(path, base_url="https://localhost").headers["Strict-Transport-Security"]


@pytest.mark.parametrize("path", ["/contacts", "/contacts/new", "/password", "/nowhere"])
def test_no_page_holds_what_the_policy_forbids(team: Team, path: str) -> None:
    page = team.get(path).text
    for forbidden in (
        "<style",
        " style=",
        "<script>",
        " onclick=",
        " onload=",
        "javascript:",
        "hx-on",
        "http://",
        "//cdn",
    ):
        assert forbidden not in page


def test_a_static_file_has_no_cookie(team: Team) -> None:
    assert "Set-Cookie" not in team.get("/static/app.css").headers


def sent(team: Team, token: str | None, **headers: str) -> TestResponse:
    """Post a contact with `token`."""
    values = {"name": "Ann", "email": "ann@example.com"} | ({} if token is None else {"csrf_token": token})
    return team.client.post("/contacts/new", data=values, headers=headers)


def foreign_token(app: Flask, secret: str = "of another session", key: str | None = None) -> str:
    """Return a token as another session, or another console, signs it."""
    return URLSafeTimedSerializer(key or str(app.secret_key), salt="wtf-csrf-token").dumps(secret)


@pytest.mark.parametrize("htmx", [False, True])
def test_a_form_without_a_token_of_this_session_is_refused_with_a_sentence(team: Team, htmx: bool) -> None:
    own = "of this session"
    tokens = [
        None,
        "",
        "x",
        "\0",
        "x" * 60_000,
        "\ud7ff\U0001f600",
        team.csrf_token + "x",
        team.csrf_token.split(".")[0],
    ]
    for token in [*tokens, foreign_token(team.app), foreign_token(team.app, own, "another key" * 5)]:
        answer = sent(team, token, **(HTMX if htmx else {}))
        assert answer.status_code == 400
        assert UNREADABLE_FORM in answer.text
    assert team.contacts() == []


def test_another_teams_token_is_refused(team: Team) -> None:
    """Every session signs its own secret, also where both belong to one user."""
    client = team.app.test_client()
    log_on(client, team.email)
    assert sent(team, token_in(client.get("/contacts"))).status_code == 400
    assert sent(team, team.csrf_token).status_code == 303


def test_a_token_does_not_expire_with_time(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: 1_500_000_000)
    token = foreign_token(team.app, "of this session")
    monkeypatch.undo()
    assert sent(team, token).status_code == 303


def test_under_https_a_form_of_another_site_is_refused(settings: dict[str, str], team: Team) -> None:
    client = create_app(settings | {"HTTPS": "1"}).test_client()
    token = token_in(client.get("/logon", base_url="https://localhost"))
    values = {"csrf_token": token, "email": "ann@example.com", "password": "a guess"}
    environ = {"REMOTE_ADDR": new_address()}
    for referrer, status in (("https://evil.example/", 400), ("", 400), ("https://localhost/logon", 422)):
        answer = client.post(
            "/logon",
            base_url="https://localhost",
            data=values,
            headers={"Referer": referrer},
            environ_overrides=environ,
        )
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("contacts.example.com", 200),
        ("contacts.example.com:8443", 200),
        ("evil.example", 400),
        ("contacts.example.com.evil.example", 400),
        ("evil.example/contacts.example.com", 400),
        ("[", 400),
        ("x" * 300, 400),
        ("<script>alert(1)</script>", 400),
        ("\xff", 400),
        ("", 400),
    ],
)
@pytest.mark.parametrize("path", ["/logon", "/nowhere"])
def test_only_trusted_hosts_are_answered(settings: dict[str, str], host: str, status: int, path: str) -> None:
    client = create_app(settings | {"TRUSTED_HOSTS": "contacts.example.com"}).test_client()
    answer = client.get(path, environ_overrides={"HTTP_HOST": host})
    assert answer.status_code == (404 if status == 200 and path == "/nowhere" else status)
    assert "<script>alert" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "host", ["a b", "[", "x" * 300, "h:99999999", "h/../x", "", "<script>alert(1)", "\xff", "a\tb"]
)
def test_a_strange_host_is_no_error_of_the_console(app: Flask, host: str) -> None:
    answer = app.test_client().get("/logon", environ_overrides={"HTTP_HOST": host})
    assert answer.status_code in (200, 400)
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize(
    "path", ["/contacts/new", "/contacts/delete", "/password", "/logoff", "/logon", "/contacts/1/edit"]
)
def test_ten_megabytes_are_refused(team: Team, path: str) -> None:
    body = b"csrf_token=" + b"x" * 10_000_000
    answer = team.client.post(path, data=body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 413
    assert "do it in parts" in answer.text


def test_a_long_form_that_does_not_announce_its_length_is_refused(console: str, team: Team) -> None:
    connection = HTTPConnection(console.removeprefix("http://"), timeout=20)
    headers = {"Cookie": f"console={team.cookie}", "Content-Type": "application/x-www-form-urlencoded"}
    chunks = [f"csrf_token={team.csrf_token}&email=ann@example.com&name=Ann&rest=".encode(), *[b"x" * 10_000] * 7]
    connection.request("POST", "/contacts/new", iter(chunks), headers, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status in (411, 413)
    answer.read()
    connection.close()
    assert team.contacts() == []


def test_a_form_of_just_under_64_kib_is_read(team: Team) -> None:
    assert team.post("/contacts/new", {"name": "x" * 65_000}).status_code == 422
    assert team.post("/contacts/new", {"name": "x" * 65_536}).status_code == 413


@pytest.mark.parametrize("text", ["x" + " " * 16_000 + "x", "x" + "\u200b" * 16_000 + "x", "\u00ad " * 8_000 + "x\ny"])
@pytest.mark.parametrize("field", ["name", "mobile", "email", "dingtalk_url"])
def test_long_text_costs_no_more_than_its_length(team: Team, field: str, text: str) -> None:
    """Count processor time: a pattern that goes over the same white space again and again takes seconds."""
    started = time.thread_time()
    body = {"csrf_token": team.csrf_token, field: text}
    assert team.client.post("/contacts/new", data=body, content_type="multipart/form-data").status_code == 422
    assert time.thread_time() - started < 1
