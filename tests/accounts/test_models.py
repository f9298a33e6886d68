"""Show that passwords, sessions and the count of log-ons hold in the database, whoever writes to it and when."""

import re
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256

import psycopg
import pytest
from argon2 import PasswordHasher
from flask import Flask
from psycopg import sql as query

from contacts_app import create_app
from contacts_app.accounts.models import LONGEST_PASSWORD, LogonAttempt, Session, User
from contacts_app.core.db import all_accounts, db
from tests.conftest import PASSWORD, PASSWORD_HASH, Team

ZERO_HASH = b"\0" * 32


@pytest.fixture
def context(app: Flask) -> Iterator[None]:
    with app.app_context(), all_accounts():
        yield


def test_the_hash_is_argon2id_at_owasps_floor_or_above(context: None) -> None:
    user = User(email="ann@example.com")
    user.set_password(PASSWORD)
    found = re.fullmatch(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$\S+", user.password_hash)
    assert found
    memory, time, parallelism = map(int, found.groups())
    assert memory >= 19 * 1024
    assert time >= 2
    assert parallelism >= 1


def test_two_users_with_one_password_have_two_hashes(context: None) -> None:
    first, second = User(), User()
    first.set_password(PASSWORD)
    second.set_password(PASSWORD)
    assert first.password_hash != second.password_hash


@pytest.mark.parametrize(
    "typed", ["pässwörter sind gut", "p\u0061\u0308sswo\u0308rter sind gut", "ｐässwörter sind gut"]
)
def test_a_password_is_the_same_from_every_keyboard(context: None, typed: str) -> None:
    user = User()
    user.set_password("pässwörter sind gut")
    assert user.has_password(typed)
    assert not user.has_password(typed + "!")


def test_nothing_longer_than_a_password_may_be_is_right(context: None) -> None:
    user = User()
    user.set_password("x" * LONGEST_PASSWORD)
    assert user.has_password("x" * LONGEST_PASSWORD)
    assert not user.has_password("x" * (LONGEST_PASSWORD + 1))


def test_a_hash_of_weaker_settings_is_replaced_at_the_next_log_on(team: Team, context: None) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    team.sql.execute("UPDATE users SET password_hash = %s WHERE id = %s", [weak, team.user_id])
    assert User.with_password(team.email, PASSWORD)
    db.session.commit()
    stored = team.sql.execute("SELECT password_hash FROM users WHERE id = %s", [team.user_id]).fetchone()[0]
    assert "$m=19456,t=2,p=1$" in stored
    assert User.with_password(team.email, PASSWORD)


@pytest.mark.parametrize("spelling", [str.upper, str.title, str])
def test_a_user_is_found_whatever_the_case_of_the_email(
    team: Team, context: None, spelling: Callable[[str], str]
) -> None:
    found = User.by_email(spelling(team.email))
    assert found
    assert found.id == team.user_id


def test_only_the_hash_of_a_sessions_token_is_stored(team: Team, context: None) -> None:
    user = User.by_email(team.email)
    assert user
    token = Session.begin(user)
    db.session.commit()
    assert len(token) >= 43  # 32 random bytes
    rows = team.sql.execute("SELECT * FROM sessions WHERE user_id = %s", [team.user_id]).fetchall()
    assert sha256(token.encode()).digest() in [row[0] for row in rows]
    written = team.sql.execute("SELECT string_agg(sessions::text, '') FROM sessions").fetchone()[0]
    assert token not in written
    assert token.encode().hex() not in written


def test_a_log_on_removes_the_rows_of_sessions_that_are_30_days_old(team: Team, context: None) -> None:
    team.sql.execute(
        "UPDATE sessions SET created_at = now() - interval '30 days 1 s' WHERE user_id = %s", [team.user_id]
    )
    user = User.by_email(team.email)
    assert user
    Session.begin(user)
    db.session.commit()
    assert team.sql.execute("SELECT count(*) FROM sessions WHERE user_id = %s", [team.user_id]).fetchone() == (1,)


def at_once(attempts: list[Callable[[], None]]) -> None:
    """Run all of `attempts` at the same moment, each in a thread."""
    barrier = threading.Barrier(len(attempts))

    def run(attempt: Callable[[], None]) -> None:
        barrier.wait()
        attempt()

    threads = [threading.Thread(target=run, args=[attempt]) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def workers(app: Flask, settings: dict[str, str]) -> list[Flask]:
    """Return two consoles on one database, as two workers are."""
    return [app, create_app(settings)]


def granted(
    workers: list[Flask],
    emails: list[str],
    addresses: list[str],
    begin: Callable[[str, str], int | None] = LogonAttempt.begin,
) -> int:
    """Return how many of the guesses that all arrive at once were let through to the password."""
    results: list[int | None] = []

    def guess(app: Flask, email: str, address: str) -> Callable[[], None]:
        def attempt() -> None:
            with app.app_context(), all_accounts():
                results.append(begin(email, address))

        return attempt

    pairs = zip(emails, addresses, strict=True)
    at_once([guess(workers[n % len(workers)], *pair) for n, pair in enumerate(pairs)])
    assert len(results) == len(emails)
    return sum(result is not None for result in results)


def test_fifty_guesses_at_once_on_one_email_get_ten_tries_between_them(workers: list[Flask]) -> None:
    addresses = [f"192.0.2.{n}" for n in range(50)]
    assert granted(workers, ["guessed@example.com"] * 50, addresses) == 10


def test_fifty_guesses_at_once_of_one_known_browser_get_ten_tries_between_them(workers: list[Flask]) -> None:
    addresses = [f"192.0.2.{100 + n}" for n in range(50)]
    assert granted(workers, ["a random name"] * 50, addresses, LogonAttempt.begin_known) == 10


def test_sixty_guesses_at_once_from_one_address_get_fifty_tries_between_them(workers: list[Flask]) -> None:
    assert granted(workers, [f"many{n}@example.com" for n in range(60)], ["198.51.100.7"] * 60) == 50


@pytest.mark.parametrize(
    ("email", "spellings"),
    [
        ("case@example.com", ["Case@example.com", "CASE@example.com"]),
        # Capital I with a dot: the database folds it to a plain i and so finds the same user.
        ("lisiki@example.com", ["l\u0130siki@example.com", "lis\u0130ki@example.com", "lisik\u0130@example.com"]),
        ("kate@example.com", ["\u212aate@example.com"]),
    ],
)
def test_no_spelling_of_an_email_gives_more_tries_on_its_user(
    sql: psycopg.Connection, context: None, email: str, spellings: list[str]
) -> None:
    for spelling in spellings:
        assert sql.execute("SELECT lower(%s) = lower(%s)", [email, spelling]).fetchone() == (True,), "one user"
    granted = [LogonAttempt.begin(spelling, f"192.0.2.{n}") for n, spelling in enumerate([email, *spellings] * 10)]
    assert sum(attempt is not None for attempt in granted) == 10


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:2:2::1", "2001:db8:2:3::1", False),
        ("203.0.113.1", "203.0.113.2", False),
        ("203.0.113.3", "::ffff:203.0.113.3", True),
        # What a socket for both protocols reports of IPv4 visitors: they are not all one customer.
        ("::ffff:203.0.113.4", "::ffff:203.0.113.5", False),
    ],
)
def test_an_address_is_an_ipv4_address_or_one_customers_ipv6_network(
    context: None, first: str, second: str, are_one: bool
) -> None:
    for n in range(50):
        assert LogonAttempt.begin(f"{first}-{second}-{n}@example.com", first) is not None
    assert LogonAttempt.begin(f"{first}-{second}-a@example.com", first) is None
    assert (LogonAttempt.begin(f"{first}-{second}-b@example.com", second) is None) is are_one


def test_attempts_older_than_ten_minutes_are_removed(sql: psycopg.Connection, context: None) -> None:
    assert LogonAttempt.begin("old@example.com", "192.0.2.77")
    found = "SELECT count(*) FROM logon_attempts WHERE address = '192.0.2.77'"
    assert sql.execute(found).fetchone() == (1,)
    sql.execute("UPDATE logon_attempts SET at = at - interval '10 minutes 1 s' WHERE address = '192.0.2.77'")
    assert LogonAttempt.begin("new@example.com", "192.0.2.78")
    assert sql.execute(found).fetchone() == (0,)


def test_an_attempt_keeps_no_email(sql: psycopg.Connection, context: None) -> None:
    assert LogonAttempt.begin("typed-into-the-wrong-box@example.com", "192.0.2.79")
    written = sql.execute("SELECT string_agg(logon_attempts::text, '') FROM logon_attempts").fetchone()[0]
    assert "wrong-box" not in written
    assert b"wrong-box".hex() not in written


@pytest.mark.parametrize(
    ("table", "changes", "constraint"),
    [
        ("accounts", {"name": None}, "name"),
        ("accounts", {"name": "taken"}, "account_name_is_unique"),
        ("accounts", {"name": ""}, "account_name_is_short"),
        ("accounts", {"name": "   "}, "account_name_is_short"),
        ("accounts", {"name": "x" * 65}, "account_name_is_short"),
        ("accounts", {"contact_quota": None}, "contact_quota"),
        ("accounts", {"contact_count": 101}, "account_is_within_quota"),
        ("accounts", {"contact_count": -1}, "account_is_within_quota"),
        ("users", {"account_id": -1}, "users_accounts_fkey"),
        ("users", {"account_id": None}, "account_id"),
        ("users", {"email": None}, "email"),
        ("users", {"email": "TAKEN@example.com"}, "user_email_is_unique"),
        ("users", {"email": "nobody"}, "user_email_is_an_address"),
        ("users", {"email": "a b@example.com"}, "user_email_is_an_address"),
        ("users", {"password_hash": None}, "password_hash"),
        ("users", {"password_hash": "plain"}, "user_password_is_argon2id"),
        ("users", {"password_hash": "scrypt:32768:8:1$x$y"}, "user_password_is_argon2id"),
        ("sessions", {"token_hash": "taken"}, "sessions_pkey"),
        ("sessions", {"token_hash": b"the token itself"}, "session_token_is_hashed"),
        ("sessions", {"user_id": -1}, "sessions_users_fkey"),
        ("sessions", {"account_id": -1}, "sessions_users_fkey"),
        ("logon_attempts", {"email_hash": None}, "email_hash"),
        ("logon_attempts", {"address": None}, "address"),
    ],
)
def test_the_database_refuses_a_bad_row_past_every_form(
    team: Team, table: str, changes: dict[str, object], constraint: str
) -> None:
    team.sql.execute("UPDATE accounts SET name = %s WHERE id = %s", [f"taken {team.account_id}", team.account_id])
    taken = {
        "name": f"taken {team.account_id}",
        "email": team.email.upper(),
        "token_hash": sha256(team.token.encode()).digest(),
    }
    rows: dict[str, dict[str, object]] = {
        "accounts": {"name": f"good {team.account_id}", "contact_quota": 100, "contact_count": 0},
        "users": {"account_id": team.account_id, "email": f"good{team.user_id}@x.org", "password_hash": PASSWORD_HASH},
        "sessions": {"account_id": team.account_id, "user_id": team.user_id, "token_hash": ZERO_HASH},
        "logon_attempts": {"email_hash": ZERO_HASH, "address": "192.0.2.1"},
    }
    row = rows[table]

    def insert(values: dict[str, object]) -> None:
        statement = query.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            query.Identifier(table),
            query.SQL(", ").join(map(query.Identifier, values)),
            query.SQL(", ").join([query.Placeholder()] * len(values)),
        )
        with team.sql.transaction(force_rollback=True):
            team.sql.execute(statement, list(values.values()))

    insert(row)
    bad = {name: taken[name] if str(value).lower().startswith("taken") else value for name, value in changes.items()}
    with pytest.raises(psycopg.IntegrityError) as refused:
        insert(row | bad)
    assert constraint in (refused.value.diag.constraint_name, refused.value.diag.column_name)


def test_a_deleted_user_has_no_sessions_and_a_deleted_account_no_users(team: Team) -> None:
    count = """SELECT (SELECT count(*) FROM sessions WHERE account_id = %(id)s),
                      (SELECT count(*) FROM users WHERE account_id = %(id)s)"""
    assert team.sql.execute(count, {"id": team.account_id}).fetchone() == (1, 1)
    team.sql.execute("DELETE FROM users WHERE id = %s", [team.user_id])
    assert team.sql.execute(count, {"id": team.account_id}).fetchone() == (0, 0)
    team.sql.execute(
        "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, %s)",
        [team.account_id, team.email, PASSWORD_HASH],
    )
    team.sql.execute("DELETE FROM accounts WHERE id = %s", [team.account_id])
    assert team.sql.execute(count, {"id": team.account_id}).fetchone() == (0, 0)
