"""Show that people set up, log on, log off and change passwords, and that nobody else comes in."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import TimestampSigner
from werkzeug.test import TestResponse

from contacts_app import create_app, migrations
from contacts_app.accounts import models
from contacts_app.accounts.setup import setup_token
from contacts_app.core.db import all_accounts, db
from tests.conftest import HTMX, PASSWORD, PASSWORD_HASH, Team, cookie_signer

WRONG = "There is no user with this e-mail and this password."
NEW_PASSWORD = "a different passphrase"
SETUP = {"account": "Operations", "email": "ann@example.com", "password": PASSWORD}
_addresses = count(1)


def new_address() -> str:
    """Return an address that nobody has failed to log on from."""
    number = next(_addresses)
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def token_in(page: TestResponse) -> str:
    """Return the token of the page's form."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def log_on(
    client: FlaskClient,
    email: str,
    password: str = PASSWORD,
    address: str | None = None,
    path: str = "/logon",
    headers: dict[str, str] | None = None,
) -> TestResponse:
    """Fill in the log-on page as a browser at `address` does, or one nobody knows yet."""
    values = {"csrf_token": token_in(client.get(path)), "email": email, "password": password}
    environ = {"REMOTE_ADDR": address or new_address()}
    return client.post(path, data=values, headers=headers, environ_overrides=environ)


def is_logged_on(client: FlaskClient) -> bool:
    return client.get("/contacts").status_code == 200


def session_token(app: Flask, client: FlaskClient) -> str | None:
    """Return the secret in the client's cookie."""
    cookie = client.get_cookie("console")
    serializer = cookie_signer(app)
    return serializer.loads(cookie.value).get("token") if cookie else None


@pytest.fixture(scope="module")
def installation(settings: dict[str, str], new_database: Callable[[], str]) -> Iterator[tuple[Flask, str]]:
    """Return a console with a database of its own, and that database's address."""
    url = new_database()
    app = create_app(settings | {"DATABASE_URL": url})
    with app.app_context(), all_accounts():
        migrations.upgrade()
    yield app, url
    with app.app_context(), all_accounts():
        db.engine.dispose()


@pytest.fixture
def empty_app(installation: tuple[Flask, str]) -> Flask:
    """Return a console that nobody has set up."""
    app, url = installation
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE accounts, logon_attempts CASCADE")
    return app


@pytest.fixture
def link(empty_app: Flask) -> str:
    """Return the set-up link without its host."""
    with empty_app.app_context(), all_accounts():
        return f"/setup?token={setup_token()}"


def written(installation: tuple[Flask, str]) -> list[tuple[Any, ...]]:
    with psycopg.connect(installation[1]) as connection:
        return connection.execute(
            "SELECT a.name, a.contact_quota, u.email FROM accounts a LEFT JOIN users u ON u.account_id = a.id"
        ).fetchall()


def set_up(client: FlaskClient, link: str, **changes: str) -> TestResponse:
    return client.post(link, data={"csrf_token": token_in(client.get(link))} | SETUP | changes)


def test_the_set_up_link_creates_the_first_account_and_leads_to_the_empty_contact_page(
    empty_app: Flask, installation: tuple[Flask, str], link: str
) -> None:
    client = empty_app.test_client()
    answer = set_up(client, link)
    assert (answer.status_code, answer.location) == (303, "/contacts")
    assert written(installation) == [("Operations", 100, "ann@example.com")]
    page = client.get("/contacts").text
    for part in ("Contact Management", "No contacts yet", "0 of 100", "Operations", "ann@example.com"):
        assert part in page
    assert log_on(empty_app.test_client(), SETUP["email"]).location == "/contacts"


@pytest.mark.parametrize("path", ["/setup", "/setup?token=", "/setup?token=guess", "/setup?token=%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_set_up_does_not_exist_without_its_token(
    empty_app: Flask, installation: tuple[Flask, str], path: str, method: str
) -> None:
    client = empty_app.test_client()
    data = {"csrf_token": token_in(client.get("/logon"))} | SETUP if method == "POST" else None
    assert client.open(path, method=method, data=data).status_code == 404
    assert written(installation) == []


def test_the_set_up_link_of_another_installation_is_refused(
    empty_app: Flask, settings: dict[str, str], link: str
) -> None:
    other = create_app(settings | {"SECRET_KEY": "o" * 40})
    with other.app_context(), all_accounts():
        assert f"/setup?token={setup_token()}" != link


def test_the_set_up_link_works_once(empty_app: Flask, installation: tuple[Flask, str], link: str) -> None:
    late = empty_app.test_client()
    values = {"csrf_token": token_in(late.get(link))} | SETUP | {"account": "Late", "email": "late@example.com"}
    assert set_up(empty_app.test_client(), link).status_code == 303
    for answer in (late.post(link, data=values), late.get(link)):
        assert (answer.status_code, answer.location) == (303, "/logon")
    assert [row[0] for row in written(installation)] == ["Operations"]
    assert not is_logged_on(late)


def test_eight_who_hold_the_set_up_link_at_once_create_one_account(
    empty_app: Flask, installation: tuple[Flask, str], link: str
) -> None:
    barrier, locations = threading.Barrier(8), []

    def race(number: int) -> None:
        client = empty_app.test_client()
        values = {"csrf_token": token_in(client.get(link))} | SETUP
        values |= {"account": f"Team {number}", "email": f"user{number}@example.com"}
        barrier.wait()
        locations.append(client.post(link, data=values).location)

    threads = [threading.Thread(target=race, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(locations) == ["/contacts"] + ["/logon"] * 7
    assert len(written(installation)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"account": ""}, "Enter a name for the account."),
        ({"email": "ann"}, "This is not a complete e-mail address."),
        ({"password": "short"}, "at least 12 characters"),
    ],
)
def test_a_bad_set_up_keeps_what_was_typed_but_no_password(
    empty_app: Flask, installation: tuple[Flask, str], link: str, changes: dict[str, str], message: str
) -> None:
    answer = set_up(empty_app.test_client(), link, **changes)
    assert answer.status_code == 422
    assert message in answer.text
    typed = SETUP | changes
    for field in ("account", "email"):
        assert f'value="{typed[field]}"' in answer.text
    assert typed["password"] not in answer.text
    assert f'id="{next(iter(changes))}-errors"' in answer.text
    assert written(installation) == []


def test_a_user_logs_on_with_email_and_password(team: Team) -> None:
    client = team.app.test_client()
    answer = log_on(client, team.email.upper())
    assert (answer.status_code, answer.location) == (303, "/contacts")
    assert team.email in client.get("/contacts").text


def test_who_is_logged_on_is_not_asked_again(team: Team) -> None:
    answer = team.get("/logon?next=/password")
    assert (answer.status_code, answer.location) == (303, "/password")


def test_a_wrong_email_and_a_wrong_password_get_the_same_answer(team: Team) -> None:
    def answer() -> str:
        client = team.app.test_client()
        found = log_on(client, email, "a wrong password")
        assert found.status_code == 422
        assert not is_logged_on(client)
        return re.sub(r'(csrf_token" value=")[^"]+', r"\1", found.text) + str(sorted(found.headers.keys()))

    email = f"{team.account_id}-{team.email}"
    for_nobody = answer()
    team.sql.execute("UPDATE users SET email = %s WHERE id = %s", [email, team.user_id])
    assert WRONG in for_nobody
    assert answer() == for_nobody


def test_a_wrong_email_and_a_wrong_password_cost_one_and_the_same_verification(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[str] = []
    verify = PasswordHasher.verify

    def counting(self: PasswordHasher, hash: str | bytes, password: str | bytes) -> Literal[True]:
        costs.append(str(hash).split("$")[3])
        return verify(self, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", counting)
    for email in (team.email, "nobody-at-all@example.com"):
        assert log_on(team.app.test_client(), email, "a wrong password").status_code == 422
    assert costs == ["m=19456,t=2,p=1"] * 2


@pytest.mark.parametrize(
    ("email", "password", "message"),
    [
        ("", "x", "Enter your e-mail address."),
        ("ann", "x", "This is not a complete e-mail address."),
        ("ann@example.com", "", "Enter your password."),
    ],
)
def test_a_bad_log_on_is_explained_and_keeps_the_email(app: Flask, email: str, password: str, message: str) -> None:
    answer = log_on(app.test_client(), email, password)
    assert answer.status_code == 422
    assert message in answer.text
    assert f'value="{email}"' in answer.text


@pytest.mark.parametrize("password", ["x" * 1025, "\u0300" * 5_000 + "\u0316" * 5_000])
def test_a_password_that_is_too_long_is_a_wrong_one_like_any_other(team: Team, password: str) -> None:
    address, seconds = new_address(), []
    for typed in ("wrong", password):
        begin = time.thread_time()
        answer = log_on(team.app.test_client(), team.email, typed, address)
        seconds.append(time.thread_time() - begin)
        assert answer.status_code == 422
        assert WRONG in answer.text
    found = team.sql.execute("SELECT count(*) FROM logon_attempts WHERE address = %s", [address]).fetchone()
    assert found == (2,)
    assert seconds[1] < 2 * seconds[0]  # both hash once


def test_a_wrong_password_is_not_sent_back(app: Flask) -> None:
    assert "hunter2-secret" not in log_on(app.test_client(), "ann@example.com", "hunter2-secret").text


@pytest.mark.parametrize(("by", "limit"), [("email", 10), ("address", 50)])
def test_the_eleventh_failure_of_an_email_and_the_51st_of_an_address_are_not_looked_at(
    team: Team, by: str, limit: int
) -> None:
    client, address = team.app.test_client(), new_address()

    def try_password(password: str) -> TestResponse:
        return log_on(client, team.email, password, address=address if by == "address" else None)

    # All but the last as failures that other workers have counted.
    team.sql.execute(
        "INSERT INTO logon_attempts (email_hash, address) SELECT sha256(%s), %s FROM generate_series(2, %s)",
        [(team.email if by == "email" else address).encode(), address, limit],
    )
    assert try_password("the last guess").status_code == 422
    for password in ("one more guess", PASSWORD):
        refused = try_password(password)
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "600"
        assert "Wait 10 minutes, then try again." in refused.text
    assert not is_logged_on(client)

    shift = "UPDATE logon_attempts SET at = at - %s::interval"
    team.sql.execute(shift, ["9 minutes"])
    assert try_password(PASSWORD).status_code == 429
    team.sql.execute(shift, ["1 minute 1 s"])
    assert try_password(PASSWORD).status_code == 303


def test_the_limit_holds_for_all_workers(team: Team, settings: dict[str, str]) -> None:
    workers = [team.app, create_app(settings)]
    statuses = [log_on(workers[n % 2].test_client(), team.email, "a guess").status_code for n in range(12)]
    assert statuses == [422] * 10 + [429] * 2


def test_fifty_guessers_at_once_get_ten_answers_about_a_password(team: Team, settings: dict[str, str]) -> None:
    workers = [team.app, create_app(settings)]
    barrier, statuses = threading.Barrier(50), []

    def guess(number: int) -> None:
        client = workers[number % 2].test_client()
        values = {"csrf_token": token_in(client.get("/logon")), "email": team.email, "password": f"guess {number}"}
        address = new_address()
        barrier.wait()
        statuses.append(client.post("/logon", data=values, environ_overrides={"REMOTE_ADDR": address}).status_code)

    threads = [threading.Thread(target=guess, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [422] * 10 + [429] * 40


def test_successful_log_ons_do_not_count(team: Team) -> None:
    address = new_address()
    for _ in range(12):
        assert log_on(team.app.test_client(), team.email, address=address).status_code == 303
    found = team.sql.execute("SELECT count(*) FROM logon_attempts WHERE address = %s", [address]).fetchone()
    assert found == (0,)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "counted"),
    [
        ("0", "203.0.113.50", None),
        ("1", "203.0.113.51", "203.0.113.51"),
        ("1", "198.51.100.1, 203.0.113.52", "203.0.113.52"),
        ("2", "198.51.100.1, 203.0.113.53, 192.0.2.1", "203.0.113.53"),
        ("1", "x" * 8000, "x" * 100),
    ],
)
def test_a_forwarded_address_is_believed_only_from_the_proxies_that_are_set(
    sql: psycopg.Connection, settings: dict[str, str], proxies: str, forwarded: str, counted: str | None
) -> None:
    client, peer = create_app(settings | {"PROXY_COUNT": proxies}).test_client(), new_address()
    email = f"proxied{next(_addresses)}@example.com"
    log_on(client, email, "a guess", address=peer, headers={"X-Forwarded-For": forwarded})
    found = sql.execute("SELECT address FROM logon_attempts WHERE email_hash = sha256(%s)", [email.encode()]).fetchall()
    assert found == [(counted or peer,)]


def test_log_off_ends_the_session_wherever_its_cookie_was_copied(team: Team) -> None:
    thief = team.app.test_client()
    thief.set_cookie("console", team.cookie)
    assert is_logged_on(thief)
    answer = team.post("/logoff", {})
    assert (answer.status_code, answer.location) == (303, "/logon")
    assert not is_logged_on(thief)
    assert not is_logged_on(team.client)
    assert session_token(team.app, team.client) is None


def test_log_off_needs_a_token_and_a_post(team: Team) -> None:
    assert team.client.post("/logoff").status_code == 400
    assert team.get("/logoff").status_code == 405
    assert is_logged_on(team.client)


@pytest.mark.parametrize(
    ("column", "age", "is_live"),
    [
        ("seen_at", "11 hours 59 minutes", True),
        ("seen_at", "12 hours 1 s", False),
        ("created_at", "29 days 23 hours 59 minutes", True),
        ("created_at", "30 days 1 s", False),
    ],
)
def test_a_session_ends_after_12_idle_hours_and_after_30_days(team: Team, column: str, age: str, is_live: bool) -> None:
    team.sql.execute(f"UPDATE sessions SET {column} = now() - %s::interval WHERE user_id = %s", [age, team.user_id])
    assert is_logged_on(team.client) is is_live


def test_use_keeps_a_session_alive(team: Team) -> None:
    for _ in range(3):
        team.sql.execute(
            "UPDATE sessions SET seen_at = seen_at - interval '11 hours' WHERE user_id = %s", [team.user_id]
        )
        assert is_logged_on(team.client)


@pytest.mark.parametrize("ahead", [1, 3600, -31 * 86400])
def test_a_session_goes_on_at_a_machine_whose_clock_is_another(
    team: Team, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = team.app.test_client()
    with monkeypatch.context() as patch:
        now = TimestampSigner.get_timestamp
        patch.setattr(TimestampSigner, "get_timestamp", lambda self: now(self) + ahead)
        address = {"REMOTE_ADDR": new_address()}
        form = {"csrf_token": token_in(client.get("/logon")), "email": team.email, "password": PASSWORD}
        assert client.post("/logon", data=form, environ_base=address).status_code == 303
        token = token_in(client.get("/contacts/new"))
    assert is_logged_on(client)
    contact = {"csrf_token": token, "name": "Ann", "email": "ann@example.com"}
    assert client.post("/contacts/new", data=contact).status_code == 303
    assert len(team.contacts()) == 1


@pytest.mark.parametrize("error", ["disk_full", "lock_not_available", "read_only_sql_transaction"])
def test_who_only_looks_is_answered_where_their_visit_cannot_be_noted(team: Team, error: str) -> None:
    team.add("Ann")
    team.sql.execute("UPDATE sessions SET seen_at = now() - interval '1 hour' WHERE user_id = %s", [team.user_id])
    team.sql.execute(
        f"""CREATE FUNCTION fail_{team.user_id}() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION USING ERRCODE = ''{error}''; END';
        CREATE TRIGGER fail_{team.user_id} BEFORE UPDATE ON sessions FOR EACH ROW WHEN (NEW.user_id = {team.user_id})
            EXECUTE FUNCTION fail_{team.user_id}()"""
    )
    try:
        shown = team.get("/contacts")
        assert shown.status_code == 200
        assert "Ann" in shown.text
        assert team.post("/contacts/new", {"name": "Bob", "email": "bob@example.com"}).status_code == 303
    finally:
        team.sql.execute(f"DROP FUNCTION fail_{team.user_id} CASCADE")
    assert [contact["name"] for contact in team.contacts()] == ["Ann", "Bob"]
    query = "SELECT seen_at < now() - interval '59 minutes' FROM sessions WHERE user_id = %s"
    assert team.sql.execute(query, [team.user_id]).fetchone() == (True,)
    assert is_logged_on(team.client)
    assert team.sql.execute(query, [team.user_id]).fetchone() == (False,)


def test_a_cookie_signed_with_another_key_opens_nothing(team: Team, settings: dict[str, str]) -> None:
    forger = create_app(settings | {"SECRET_KEY": "f" * 40})
    cookie = cookie_signer(forger).dumps({"token": team.token})
    client = team.app.test_client()
    client.set_cookie("console", cookie)
    assert not is_logged_on(client)


@pytest.mark.parametrize("token", [None, 1, [], {}, "", "x", "\0", "\U0001f600" * 1000])
def test_a_cookie_with_no_token_of_a_session_opens_nothing(app: Flask, token: object) -> None:
    client = app.test_client()
    client.set_cookie("console", cookie_signer(app).dumps({"token": token}))
    assert client.get("/contacts").status_code == 303


@pytest.mark.parametrize("https", ["0", "1"])
def test_the_cookie_is_for_this_console_alone(team: Team, settings: dict[str, str], https: str) -> None:
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
    assert answer.status_code == 303
    (cookie,) = (it for it in answer.headers.getlist("Set-Cookie") if it.startswith("console="))
    flags = {part.strip() for part in cookie.split(";")[1:]}
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= flags
    assert ("Secure" in flags) is (https == "1")
    assert not any(flag.startswith("Domain") for flag in flags)


def test_a_log_on_gives_a_new_cookie_and_a_new_token(team: Team) -> None:
    client = team.app.test_client()
    planted = session_token(team.app, team.client)
    client.set_cookie("console", team.cookie)
    team.sql.execute("UPDATE sessions SET created_at = now() - interval '31 days' WHERE user_id = %s", [team.user_id])
    old_form = token_in(client.get("/logon"))
    assert log_on(client, team.email).status_code == 303
    assert session_token(team.app, client) not in (None, planted)
    assert not is_logged_on(team.client)
    assert client.post("/logoff", data={"csrf_token": old_form}).status_code == 400
    assert is_logged_on(client)


OWN = ["/contacts?q=ann&field=name", "/contacts/1/edit", "/password", "/contacts?q=%E5%BC%A0"]
FOREIGN = [
    *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example"),
    *("http:evil.example", "javascript:alert(1)", "data:text/html,x", "/\t/evil.example", "/\n/evil.example"),
    *("\t//evil.example", " //evil.example", "/\r\nSet-Cookie: a=b", "/\0", "evil.example", "", "/张", "https:/\\x"),
]


@pytest.mark.parametrize("address", [*OWN, *FOREIGN])
def test_log_on_leads_back_to_own_addresses_only(team: Team, address: str) -> None:
    path = f"/logon?next={quote(address)}"
    expected = address if address in OWN else "/contacts"
    assert team.get(path).location == expected
    if address in (OWN[0], FOREIGN[0]):
        assert log_on(team.app.test_client(), team.email, path=path).location == expected


def end(team: Team) -> None:
    team.sql.execute("DELETE FROM sessions WHERE user_id = %s", [team.user_id])


def next_of(location: str | None) -> str:
    """Return where a way to the log-on page leads back to."""
    parts = urlsplit(location or "")
    assert (parts.scheme, parts.netloc, parts.path) == ("", "", "/logon")
    return parse_qs(parts.query)["next"][0]


@pytest.mark.parametrize(
    "address",
    [
        "/contacts",
        "/contacts?q=ann&sort=-created",
        "/contacts?q=%E5%BC%A0%25",
        "/password",
        "/contacts/delete?id=1&id=2",
    ],
)
def test_a_session_that_has_ended_leads_to_log_on_and_back(team: Team, address: str) -> None:
    end(team)
    answer = team.get(address)
    assert answer.status_code == 303
    assert next_of(answer.location) == address
    assert log_on(team.client, team.email, path=answer.location or "").location == address


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_that_has_ended_sends_htmx_to_log_on_and_back_to_the_page_that_is_shown(
    team: Team, method: str
) -> None:
    end(team)
    shown = "/contacts?q=ann&page=2"
    headers = HTMX | {"HX-Current-URL": f"http://localhost{shown}"}
    answer = team.client.open("/contacts/new", method=method, headers=headers, data={"csrf_token": team.csrf_token})
    assert next_of(answer.headers["HX-Redirect"]) == shown
    assert answer.status_code < 300, "htmx obeys HX-Redirect of an answer that is no redirect itself"
    assert answer.text == ""
    assert log_on(team.client, team.email, path=answer.headers["HX-Redirect"]).location == shown


@pytest.mark.parametrize(
    "shown",
    [
        *("", "http://localhost//evil.example/", "http://localhost/\\evil.example", "https://evil.example/contacts"),
        *("javascript:alert(1)", "http://[", "http://a//[", "\xff\xfe", "x" * 5000, "http://localhost:99999999/"),
    ],
)
def test_a_nasty_current_address_leads_nowhere_foreign(team: Team, shown: str) -> None:
    end(team)
    answer = team.get("/contacts", htmx=True, **{"HX-Current-URL": shown})
    assert answer.status_code == 204
    back = log_on(team.client, team.email, path=answer.headers["HX-Redirect"]).location or ""
    assert back.startswith("/contacts") or back == "/"


@pytest.mark.parametrize("path", ["/contacts/new", "/contacts/{id}/edit", "/contacts/delete", "/password"])
def test_a_form_sent_after_the_session_ended_writes_nothing_and_leads_back_to_a_page(team: Team, path: str) -> None:
    identity = team.add("Ann", email="ann@example.com")
    path = path.format(id=identity)
    end(team)
    shown = f"/contacts/delete?id={identity}" if path == "/contacts/delete" else path
    values = {"name": "Bob", "email": "bob@example.com", "id": identity, "version": 1}
    values |= {"current": PASSWORD, "new": NEW_PASSWORD, "again": NEW_PASSWORD}
    answer = team.post(path, values, Referer=f"http://localhost{shown}")
    assert answer.status_code == 303
    back = log_on(team.client, team.email, path=answer.location or "")
    assert back.status_code == 303, "the password is still the old one"
    assert [contact["name"] for contact in team.contacts()] == ["Ann"]
    assert team.get(back.location or "").status_code == 200


def change_password(team: Team, **changes: str) -> TestResponse:
    return team.post("/password", {"current": PASSWORD, "new": NEW_PASSWORD, "again": NEW_PASSWORD} | changes)


def test_changing_the_password_ends_the_other_sessions_and_not_this_one(team: Team) -> None:
    elsewhere, colleague = team.app.test_client(), team.app.test_client()
    team.sql.execute(
        "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, %s)",
        [team.account_id, f"colleague-{team.email}", PASSWORD_HASH],
    )
    log_on(elsewhere, team.email)
    log_on(colleague, f"colleague-{team.email}")
    answer = change_password(team)
    assert (answer.status_code, answer.location) == (303, "/contacts")
    assert "The password has been changed." in team.get("/contacts").text
    assert not is_logged_on(elsewhere)
    assert is_logged_on(colleague)
    assert log_on(team.app.test_client(), team.email).status_code == 422
    assert log_on(team.app.test_client(), team.email, NEW_PASSWORD).status_code == 303


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current": "a wrong password"}, "This is not your current password."),
        ({"current": ""}, "Enter your current password."),
        ({"new": "short", "again": "short"}, "at least 12 characters"),
        ({"again": "something else"}, "The two new passwords are not the same."),
    ],
)
def test_a_bad_change_of_password_changes_nothing(team: Team, changes: dict[str, str], message: str) -> None:
    elsewhere = team.app.test_client()
    log_on(elsewhere, team.email)
    answer = change_password(team, **changes)
    assert answer.status_code == 422
    assert message in answer.text
    assert PASSWORD not in answer.text
    assert is_logged_on(elsewhere)
    stored = team.sql.execute("SELECT password_hash FROM users WHERE id = %s", [team.user_id]).fetchone()
    assert stored == (PASSWORD_HASH,)


def test_a_password_is_neither_in_the_answer_nor_in_a_row(team: Team) -> None:
    change_password(team)
    rows = team.sql.execute("SELECT string_agg(users::text, '') FROM users").fetchone()[0]
    assert NEW_PASSWORD not in rows


def test_two_users_of_an_account_see_the_same_contacts_and_other_teams_see_none(team: Team, other_team: Team) -> None:
    email = f"second-{team.email}"
    team.sql.execute(
        "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, %s)",
        [team.account_id, email, PASSWORD_HASH],
    )
    identity = team.add("Only of this team")
    second = team.app.test_client()
    log_on(second, email)
    for client, sees in ((team.client, True), (second, True), (other_team.client, False)):
        assert ("Only of this team" in client.get("/contacts").text) is sees
        assert client.get(f"/contacts/{identity}/edit").status_code == (200 if sees else 404)


def test_guesses_of_the_current_password_are_counted_by_the_session(team: Team) -> None:
    values = {"current": "a wrong one, again", "new": NEW_PASSWORD, "again": NEW_PASSWORD}
    address = {"REMOTE_ADDR": new_address()}
    values["csrf_token"] = team.csrf_token
    answers = [
        team.client.post("/password", data=values, environ_overrides=address).status_code
        for _ in range(models.LOGONS_PER_SUBJECT + 1)
    ]
    assert answers == [422] * models.LOGONS_PER_SUBJECT + [429]
    assert log_on(team.app.test_client(), team.email).status_code == 303, "of another session and of no session yet"


@pytest.mark.parametrize("table", ["sessions", "logon_attempts"])
def test_rows_that_somebody_has_locked_keep_nobody_from_logging_on_or_reading(
    team: Team, other_team: Team, table: str
) -> None:
    """Each log-on removes what is too old, whoever's it is, and a page notes that its session is in use."""
    for statement in (
        "UPDATE sessions SET created_at = now() - interval '31 days' WHERE user_id = %(team)s",
        "UPDATE sessions SET seen_at = now() - interval '1 hour' WHERE user_id = %(other)s",
        """INSERT INTO logon_attempts (email_hash, address, at)
            VALUES (sha256(%(team)s::text::bytea), '192.0.2.1', now() - interval '1 hour')""",
    ):
        team.sql.execute(statement, {"team": team.user_id, "other": other_team.user_id})
    with psycopg.connect(team.sql.info.dsn) as holder:
        assert holder.execute(f"SELECT FROM {table} FOR UPDATE").rowcount
        begin = time.monotonic()
        assert log_on(team.app.test_client(), other_team.email).status_code == 303
        assert other_team.get("/contacts").status_code == 200
        assert time.monotonic() - begin < 3


def test_logging_on_again_ends_the_session_before(team: Team) -> None:
    assert team.post("/logon", {"email": team.email, "password": PASSWORD}).status_code == 303
    former = team.app.test_client()
    former.set_cookie("console", team.cookie)
    assert not is_logged_on(former)
    assert is_logged_on(team.client)


def test_statements_of_pages_stay_prepared(team: Team, settings: dict[str, str]) -> None:
    app = create_app(settings)
    client = app.test_client()
    client.set_cookie("console", team.cookie)
    ann = team.add("Ann", email="ann@example.com")
    for _ in range(10):
        assert client.get("/contacts").status_code == 200
    form = {"name": "Anne", "email": "ann@example.com", "version": "1", "csrf_token": team.csrf_token}
    shown = HTMX | {"HX-Current-URL": "http://localhost/contacts"}
    assert "Anne" in client.post(f"/contacts/{ann}/edit", data=form, headers=shown).text
    with app.app_context(), all_accounts():  # the only connection there is
        prepared = db.session.scalars(sa.text("SELECT statement FROM pg_prepared_statements")).all()
        db.engine.dispose()
    for table in ("FROM sessions", "FROM contacts", "AS is_alive"):
        assert any(table in statement for statement in prepared), table
