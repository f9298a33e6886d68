"""Show that nobody who guesses keeps a user out of a browser that this user has logged on with before."""

import logging
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from contacts_app import create_app
from contacts_app.accounts.models import LOGONS_PER_ADDRESS, LOGONS_PER_SUBJECT
from contacts_app.core.db import all_accounts, db
from contacts_app.pages.accounts import proxies
from tests.conftest import PASSWORD, Team, watched_statements
from tests.pages.accounts.test_views import (
    NEW_PASSWORD,
    WRONG,
    change_password,
    is_logged_on,
    log_on,
    new_address,
    token_in,
)

LIMIT = LOGONS_PER_SUBJECT


def known_browser(team: Team, address: str | None = None) -> FlaskClient:
    """Return a browser that the team's user has logged on with, and off again."""
    client = team.app.test_client()
    assert log_on(client, team.email, address=address).status_code == 303
    assert client.post("/logoff", data={"csrf_token": token_in(client.get("/contacts/new"))}).status_code == 303
    return client


def cookie_of(client: FlaskClient) -> str | None:
    cookie = client.get_cookie("known_browser", path="/logon")
    return cookie.value if cookie else None


def with_cookie(app: Flask, value: str | None) -> FlaskClient:
    """Return a new browser that sends this, whoever noted it."""
    client = app.test_client()
    client.set_cookie("known_browser", value or "", path="/logon")
    return client


def guess_until_refused(team: Team, email: str | None = None) -> None:
    """Have strangers try wrong passwords for the user, each at an address of its own."""
    guesses = [log_on(team.app.test_client(), email or team.email, "a guess").status_code for _ in range(LIMIT + 1)]
    assert guesses == [422] * LIMIT + [429]


def use_up(team: Team, address: str) -> None:
    """Write as many failures of other users at `address` as there may be."""
    add = "INSERT INTO logon_attempts (email_hash, address) SELECT '', %s FROM generate_series(1, %s)"
    team.sql.execute(add, [address, LOGONS_PER_ADDRESS])


def is_known(team: Team, client: FlaskClient, password: str = PASSWORD) -> bool:
    """Return whether the right password is looked at although strangers have guessed too often."""
    client.delete_cookie("console")
    status = log_on(client, team.email, password).status_code
    assert status in (303, 429)
    return status == 303


def test_what_strangers_guess_does_not_keep_the_user_out_of_a_known_browser(team: Team) -> None:
    known = known_browser(team)
    guess_until_refused(team)
    refused = log_on(team.app.test_client(), team.email)
    assert refused.status_code == 429
    assert "in a browser that you have logged on with before" in refused.text
    assert log_on(known, team.email.upper()).status_code == 303
    assert is_logged_on(known)


def test_nor_does_a_stranger_at_the_same_address_who_has_tried_many_users(team: Team) -> None:
    address = new_address()
    known = known_browser(team, address)
    use_up(team, address)
    assert log_on(team.app.test_client(), team.email, address=address).status_code == 429
    assert log_on(known, team.email, address=address).status_code == 303


def test_the_owner_changes_the_password_while_strangers_guess_also_at_the_same_address(team: Team) -> None:
    guess_until_refused(team)
    use_up(team, "127.0.0.1")
    try:
        assert change_password(team).status_code == 303
    finally:
        team.sql.execute("DELETE FROM logon_attempts WHERE address = '127.0.0.1'")


def test_a_known_browser_has_tries_of_its_own_and_no_more_wherever_its_cookie_is_copied_to(team: Team) -> None:
    stolen = cookie_of(known_browser(team))
    statuses = [log_on(with_cookie(team.app, stolen), team.email, "a guess").status_code for _ in range(LIMIT + 1)]
    assert statuses == [422] * LIMIT + [429]
    assert log_on(with_cookie(team.app, stolen), team.email).status_code == 429
    assert log_on(team.app.test_client(), team.email).status_code == 303, "a stranger, whom nobody has used up yet"
    team.sql.execute("UPDATE logon_attempts SET at = at - interval '10 minutes 1 s'")
    assert is_known(team, with_cookie(team.app, stolen))


def test_a_change_of_the_password_makes_strangers_of_all_browsers_but_the_one_it_is_changed_in(
    team: Team, settings: dict[str, str]
) -> None:
    other, own = known_browser(team), team.app.test_client()
    log_on(own, team.email)
    values = {"current": PASSWORD, "new": NEW_PASSWORD, "again": NEW_PASSWORD}
    assert own.post("/password", data=values | {"csrf_token": token_in(own.get("/password"))}).status_code == 303
    guess_until_refused(team)
    assert not is_known(team, other, NEW_PASSWORD)
    assert is_known(team, own, NEW_PASSWORD)
    with team.app.app_context(), all_accounts():
        command = ["set-password", "--email", team.email, "--password-stdin"]
        assert team.app.test_cli_runner().invoke(args=command, input=PASSWORD).exit_code == 0
    assert not is_known(team, own)


def test_a_refused_change_of_the_password_leaves_the_browser_as_known_as_it_was(team: Team) -> None:
    client = known_browser(team)
    before = cookie_of(client)
    log_on(client, team.email)
    values = {"current": "a wrong one, again", "new": NEW_PASSWORD, "again": NEW_PASSWORD}
    assert client.post("/password", data=values | {"csrf_token": token_in(client.get("/password"))}).status_code == 422
    assert cookie_of(client) == before


@pytest.mark.parametrize("https", ["0", "1"])
def test_the_cookie_is_long_lived_and_sent_to_the_log_on_alone(
    team: Team, settings: dict[str, str], https: str
) -> None:
    app = create_app(settings | {"HTTPS": https})
    client = app.test_client()
    page = client.get("/logon", base_url="https://localhost")
    answer = client.post(
        "/logon",
        base_url="https://localhost",
        headers={"Referer": "https://localhost/logon"},
        data={"csrf_token": token_in(page), "email": team.email, "password": PASSWORD},
        environ_overrides={"REMOTE_ADDR": new_address()},
    )
    with app.app_context(), all_accounts():
        db.engine.dispose()
    (cookie,) = (it for it in answer.headers.getlist("Set-Cookie") if it.startswith("known_browser="))
    flags = {part.strip() for part in cookie.split(";")[1:]}
    assert {"HttpOnly", "SameSite=Strict", "Path=/logon", f"Max-Age={400 * 86400}"} <= flags
    assert ("Secure" in flags) is (https == "1")
    assert not any(flag.startswith("Domain") for flag in flags)


def test_the_cookie_opens_nothing_and_that_of_a_session_does_not_stand_for_it(team: Team) -> None:
    client = known_browser(team)
    assert not is_logged_on(client)
    client.set_cookie("console", cookie_of(client) or "")
    assert not is_logged_on(client)
    guess_until_refused(team)
    assert not is_known(team, with_cookie(team.app, team.cookie))


def test_a_cookie_of_another_user_or_another_key_or_a_changed_one_is_a_strangers(
    team: Team, other_team: Team, settings: dict[str, str]
) -> None:
    own = cookie_of(known_browser(team)) or ""
    forger = create_app(settings | {"SECRET_KEY": "f" * 40})
    forged = cookie_of(known_browser(Team(**vars(team) | {"app": forger})))
    with forger.app_context(), all_accounts():
        db.engine.dispose()
    guess_until_refused(team)
    changed = own[:-2] + ("A" if own[-2] != "A" else "B") + own[-1]
    for value in (
        cookie_of(known_browser(other_team)),
        forged,
        changed,
        own[1:],
        "",
        ".",
        "W10",
        "x" * 4000,
        "\xff\xfe",
    ):
        assert not is_known(team, with_cookie(team.app, value))
    assert is_known(team, with_cookie(team.app, own))


def test_a_browser_knows_the_last_five_users_who_have_logged_on_with_it(new_team: Callable[..., Team]) -> None:
    teams = [new_team() for _ in range(6)]
    client = teams[0].app.test_client()
    for team in teams:
        client.delete_cookie("console")
        log_on(client, team.email)
        guess_until_refused(team)
    shared = cookie_of(client)
    known = [is_known(team, with_cookie(team.app, shared)) for team in teams]
    assert known == [False, True, True, True, True, True]


@pytest.mark.parametrize("has_cookie", [False, True])
def test_a_browser_finds_out_about_no_other_user(team: Team, other_team: Team, has_cookie: bool) -> None:
    cookie = cookie_of(known_browser(other_team)) if has_cookie else ""
    expected = []
    for email in (team.email, f"nobody-{team.email}"):
        client = with_cookie(team.app, cookie)
        with watched_statements() as sent:
            answer = log_on(client, email, "a wrong password")
        assert (answer.status_code, WRONG in answer.text) == (422, True)
        assert cookie_of(client) == cookie, "what fails notes nothing"
        expected.append([statement for statement, _ in sent])
    assert expected[0] == expected[1]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    proxies.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog
    proxies.warn_once.cache_clear()


@pytest.mark.parametrize(
    ("set_to", "headers", "expected"),
    [
        ({}, {}, None),
        ({}, {"X-Forwarded-For": "203.0.113.9"}, "came with X-Forwarded-For while PROXY_COUNT is 0"),
        ({}, {"X-Real-IP": "203.0.113.9"}, "came with X-Real-IP while PROXY_COUNT is 0"),
        ({}, {"Forwarded": "for=203.0.113.9"}, "came with Forwarded while PROXY_COUNT is 0"),
        ({"PROXY_COUNT": "1"}, {"X-Forwarded-For": "203.0.113.9"}, None),
        ({"PROXY_COUNT": "1"}, {"X-Forwarded-For": "spoofed, 203.0.113.9"}, None),
        ({"PROXY_COUNT": "2"}, {"X-Forwarded-For": "203.0.113.9"}, "fewer addresses in X-Forwarded-For than"),
        ({"PROXY_COUNT": "1"}, {"X-Real-IP": "203.0.113.9"}, "fewer addresses in X-Forwarded-For than"),
        ({}, {"X-Forwarded-Proto": "https"}, "over HTTPS while HTTPS is 0"),
        ({"HTTPS": "1"}, {"X-Forwarded-Proto": "https"}, None),
    ],
)
def test_settings_that_do_not_fit_the_proxy_are_reported_in_one_line_without_an_address(
    app: Flask,  # its database
    settings: dict[str, str],
    log: pytest.LogCaptureFixture,
    set_to: dict[str, str],
    headers: dict[str, str],
    expected: str | None,
) -> None:
    proxied = create_app(settings | set_to)
    # Over HTTPS no test client gets its cookie back by http.
    proxied.config["SESSION_COOKIE_SECURE"] = False

    def try_password() -> TestResponse:
        return log_on(proxied.test_client(), "nobody@example.com", "a guess", headers=headers)

    for _ in range(3):
        assert try_password().status_code in (422, 429)
    lines = [record.getMessage() for record in log.records]
    with app.app_context(), all_accounts():
        db.engine.dispose()
    assert len(lines) == (expected is not None)
    assert all(expected in line and "203.0.113" not in line for line in lines)
