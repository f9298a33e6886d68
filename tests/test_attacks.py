"""Show that no route, verb, field, argument or header of any kind makes an error, or writes what is refused."""

import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import psycopg
import pytest
from flask import Flask
from itsdangerous import URLSafeTimedSerializer
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from contacts_app import create_app, migrations
from contacts_app.accounts.setup import setup_token
from contacts_app.core.db import all_accounts, db
from tests.conftest import HTMX, PASSWORD, Share, Team
from tests.pages.accounts.test_views import new_address

# Whatever else is served asks for a log-on; who adds a route here says that it is meant for everybody.
PUBLIC = {"static", "accounts.setup", "accounts.logon", "accounts.logoff", "health.healthz"}
VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
QUERY = [
    "q",
    "field",
    "sort",
    "page",
    "id",
    "next",
    "token",
    "v",
    "show",
    "pick",
    "before",
    "state",
    "contact",
    "group",
]
HEADERS = [
    "HX-Current-URL",
    "HX-Source",
    "HX-Target",
    "HX-Trigger",
    "X-CSRFToken",
    "Referer",
    "Origin",
    "X-Forwarded-For",
]
HEADERS += ["Cookie", "Accept", "Accept-Language", "Content-Type", "Content-Length", "If-None-Match", "Range", "Host"]

NASTY: list[str | bytes] = [
    *(
        b"\0",
        b"a\0b",
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xc0\xaf",
        b"%",
        b"%zz",
        b"\r\nSet-Cookie: a=b",
        b"\x1b[31m",
        b"\x7f",
    ),
    *("\u202eevil", "\u2066x", "\u2028", "\ufeff", "\U0010ffff", "e" + "\u0301" * 2000, "ﷺ" * 3000, "٣", "İ", "ß" * 64),
    # Letters that a later Unicode composes: what one program calls normal another does not.
    *("x\U000105d2\u0307", "x\U00016d63\U00016d67", "\u3164", "\u115f", "\u2800"),
    *("{{7*7}}{%raw%}${7*7}<%=7*7%>#{7*7}", "' OR 1=1; DROP TABLE contacts; --", "%' OR '%'='", "\\", "'", '"', "`"),
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "javascript:alert(1)",
        "=cmd|'/C calc'!A0",
        "+1+1",
        "@x",
    ),
    *(
        "../../../etc/passwd",
        "file:///etc/passwd",
        "http://[",
        "//[",
        "//evil.example",
        "http://a:b@c:99999999/",
        "[" * 20_000,
    ),
    *("-1", "0", "1e9", "NaN", "1_0", "9" * 18, "9" * 19, "9" * 5000, "0x10", "true", "null", "[]", "{}", "id", "None"),
    *(
        "x" * 60_000,
        "(" * 5000,
        "00" * 5000,
        "+" * 5000,
        "@" * 5000,
        "a@" + "b." * 2000 + "c",
        "a" * 64 + "@" + "b" * 255,
    ),
]
NAMES = [f"{n}-{value[:12]!r}" for n, value in enumerate(NASTY)]
# What the console itself writes into a form, so that a person can do nothing but reload when it is broken.
WRITTEN_BY_THE_PAGE = {"id", "member", "group", "pick", "unknown", "contact", "channel"}
_logons = count(1)
_identities = count(5_000_000_000)
_fields: dict[str, set[str]] = {}  # of each form, by its endpoint


def encoded(value: str | bytes) -> str:
    return quote_from_bytes(value, "") if isinstance(value, bytes) else quote(value, "")


class Fields(HTMLParser):
    """Collect the names of the fields of a page's forms that are sent to the console."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("input", "select", "textarea", "button") and (name := dict(attributes).get("name")):
            self.names.add(name)


def rules(app: Flask, verb: str | None = None) -> list[Rule]:
    """Return the routes for people; tests/api/test_alerts.py attacks the one for programs."""
    found = (rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("api."))
    return [rule for rule in found if verb is None or verb in (rule.methods or ())]


def path_of(rule: Rule, value: object) -> str:
    """Return the rule's path with `value` as each of its variable parts."""
    return re.sub(r"<[^>]+>", lambda _: str(value), rule.rule)


def add_both(team: Team, name: str = "Ann", email: str = "ann@example.com") -> int:
    """Write a contact, its group, an integration and an alert, all with one id, which fits every route; return it."""
    identity = next(_identities)
    team.add(name, id=identity, email=email)
    team.sql.execute("INSERT INTO groups (account_id, id, name) VALUES (%s, %s, %s)", [team.account_id, identity, name])
    team.sql.execute("INSERT INTO memberships VALUES (%s, %s, %s)", [team.account_id, identity, identity])
    team.sql.execute(
        "INSERT INTO integrations (account_id, id, group_id, name, token_hash) VALUES (%s, %s, %s, %s, %s)",
        [team.account_id, identity, identity, name, identity.to_bytes(32)],
    )
    team.sql.execute(
        "INSERT INTO alerts (account_id, id, kind, source, integration_id, integration_name, addressee, title, text,"
        " severity, status) VALUES (%s, %s, 'alert', 'plain', %s, %s, %s, %s, '', '', 'firing')",
        [team.account_id, identity, identity, name, name, name],
    )
    team.sql.execute(
        "INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, state, next_attempt_at,"
        " ended_at) VALUES (%s, %s, %s, 'email', %s, 'failed', NULL, now())",
        [team.account_id, identity, identity, name],
    )
    return identity


def snapshot(sql: psycopg.Connection) -> tuple[Any, ...]:
    """Return a sum of all that is written, but for what a visit or a guess leaves behind."""
    found = sql.execute(
        """SELECT (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM accounts t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM users t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM contacts t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM groups t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM memberships t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM integrations t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM alerts t),
                  (SELECT (count(*), sum(hashtextextended(t::text, 0)))::text FROM deliveries t),
                  (SELECT (count(*), sum(hashtextextended(token_hash::text, 0)))::text FROM sessions)"""
    ).fetchone()
    assert found
    return found


def check(answer: TestResponse) -> None:
    """Require what every answer keeps: no error of the console, no insides, nothing of the input come alive."""
    what = f"{answer.request.method} {answer.request.path[:80]}: {answer.status}"
    text = answer.get_data(as_text=True)
    assert answer.status_code < 500, what
    for inside in ("Traceback", "psycopg", "sqlalchemy", "werkzeug", "<script>alert", "<img src=x", "7*7=49"):
        assert inside not in text, what
    for name, value in answer.headers:
        assert name.lower() != "set-cookie" or value.startswith(("console=", "known_browser=")), what
        is_address = name.lower() in ("location", "hx-redirect", "hx-replace-url", "hx-push-url")
        is_none = (name, value) == ("HX-Push-Url", "false")  # the page keeps its address
        assert not is_address or is_none or re.match(r"/(?![/\\])|http://localhost/", value), what
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert re.search(r"[A-Z][^<>]{10,}[.!]", text), f"{what}: a sentence for a person"


def refused(answer: TestResponse, sql: psycopg.Connection, before: tuple[Any, ...]) -> None:
    check(answer)
    if answer.status_code >= 400:
        assert snapshot(sql) == before, f"{answer.request.method} {answer.request.path[:80]} wrote something"


@pytest.fixture(scope="session")
def database_url(new_database: Callable[[], str]) -> str:
    """Return the address of a database of these tests' own: a snapshot of all that other tests leave takes long."""
    return new_database()


@pytest.fixture(scope="session")
def settings(database_url: str, data_dir: Path) -> dict[str, str]:
    """Return the environment of a console on that database."""
    return {"DATABASE_URL": database_url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40}


@pytest.fixture(scope="session")
def app(settings: dict[str, str]) -> Flask:
    """Return the console on that database, migrated."""
    app = create_app(settings)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    return app


@pytest.fixture(scope="module")
def setup_app(settings: dict[str, str], new_database: Callable[[], str]) -> Iterator[tuple[Flask, str, str]]:
    """Return a console that nobody has set up, its set-up link's token and its database's address."""
    url = new_database()
    app = create_app(settings | {"DATABASE_URL": url})
    with app.app_context(), all_accounts():
        migrations.upgrade()
        token = setup_token()
    yield app, token, url
    with app.app_context(), all_accounts():
        db.engine.dispose()


@pytest.mark.parametrize("verb", VERBS)
def test_nobody_reaches_a_route_that_is_not_meant_for_everybody(team: Team, verb: str) -> None:
    identity = add_both(team, "Ann of the team")
    before, client = snapshot(team.sql), team.app.test_client()
    for rule in rules(team.app):
        if rule.endpoint in PUBLIC:
            continue
        for path in {path_of(rule, identity), path_of(rule, identity) + f"?id={identity}"}:
            answer = client.open(path, method=verb, data={"id": identity, "name": "x"} if verb == "POST" else None)
            refused(answer, team.sql, before)
            if verb in (rule.methods or ()):
                assert answer.status_code == 303, path
                assert (answer.location or "").startswith("/logon?next="), path
                htmx = client.open(path, method=verb, headers=HTMX)
                assert (htmx.status_code, htmx.text) == (204, ""), path
            else:
                assert answer.status_code == 405, path
            assert "Ann of the team" not in answer.text
    assert snapshot(team.sql) == before


def test_head_answers_as_get_does_and_writes_nothing(team: Team) -> None:
    identity = add_both(team)
    before = snapshot(team.sql)
    for rule in rules(team.app, "HEAD"):
        path = f"{path_of(rule, identity)}?id={identity}"
        for client in (team.client, team.app.test_client()):
            for headers in ({}, HTMX):
                head = client.head(path, headers=headers)
                assert snapshot(team.sql) == before, f"HEAD {path} wrote something"
                assert head.status_code == client.get(path, headers=headers).status_code, path


def foreign_tokens(app: Flask) -> list[str | None]:
    signer = URLSafeTimedSerializer(str(app.secret_key), salt="wtf-csrf-token")
    forger = URLSafeTimedSerializer("another key" * 5, salt="wtf-csrf-token")
    return [None, "", "x", signer.dumps("of another session"), forger.dumps("of this session")]


@pytest.mark.parametrize("is_logged_on", [True, False])
@pytest.mark.parametrize("htmx", [True, False])
def test_no_route_takes_a_form_without_its_token(team: Team, is_logged_on: bool, htmx: bool) -> None:
    identity = add_both(team)
    before = snapshot(team.sql)
    client = team.client if is_logged_on else team.app.test_client()
    values = {"id": identity, "name": "Bob", "email": team.email, "password": PASSWORD, "version": 1}
    values |= {"current": PASSWORD, "new": "another passphrase", "again": "another passphrase"}
    for rule in rules(team.app, "POST"):
        for token in foreign_tokens(team.app):
            data = values | ({} if token is None else {"csrf_token": token})
            answer = client.post(path_of(rule, identity), data=data, headers=HTMX if htmx else {})
            check(answer)
            if is_logged_on or rule.endpoint in PUBLIC:
                assert answer.status_code == 400, rule.rule
    assert snapshot(team.sql) == before


@pytest.mark.parametrize("htmx", [True, False])
def test_what_another_team_has_is_404_on_every_route_for_every_verb(team: Team, other_team: Team, htmx: bool) -> None:
    identity = add_both(other_team, "Not of this team", "secret@example.com")
    before = snapshot(team.sql)
    values = {"csrf_token": team.csrf_token, "id": identity, "name": "Mine", "email": "mine@example.com", "version": 1}
    values |= {"group": identity, "member": identity, "contact": identity}
    for verb in VERBS:
        for rule in rules(team.app):
            takes_id = "id" in rule.arguments or rule.rule.endswith(("/delete", "/assign", "/test"))
            if not takes_id:
                continue
            shown = "/".join(rule.rule.split("/")[:2])  # the list that the route belongs to
            headers = HTMX | {"HX-Current-URL": f"http://localhost{shown}"} if htmx else {}
            path, data = path_of(rule, identity), values if verb == "POST" else None
            path += "" if verb == "POST" else f"?id={identity}&contact={identity}"
            answer = team.client.open(path, method=verb, data=data, headers=headers)
            check(answer)
            assert "Not of this team" not in answer.text
            assert "secret@example.com" not in answer.text
            known = verb in (rule.methods or ())
            assert answer.status_code == (405 if not known else 200 if verb == "OPTIONS" else 404), f"{verb} {path}"
    assert snapshot(team.sql) == before


def form_of(team: Team, rule: Rule, identity: int) -> tuple[str, set[str]]:
    """Return the path of the rule's form and the names of its fields, as its own page has them."""
    path = path_of(rule, identity)
    if rule.endpoint not in _fields:
        shown = f"{path}?id={identity}&contact={identity}" if "GET" in (rule.methods or ()) else "/groups/new"
        page = team.get(shown)
        assert page.status_code == 200, path
        _fields[rule.endpoint] = Fields(page.text).names | {"id", "unknown"}
    return path, _fields[rule.endpoint]


def body_of(nasty_field: str, nasty: str | bytes, rest: dict[str, str]) -> dict[str, Any]:
    """Return what the test client needs to send a form with bytes as they are."""
    pairs = [(nasty_field, nasty), *((name, value) for name, value in rest.items() if name != nasty_field)]
    body = "&".join(f"{name}={encoded(value)}" for name, value in pairs)
    return {"data": body, "content_type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("number", range(len(NASTY)), ids=NAMES)
def test_nothing_nasty_in_a_field_of_any_form_is_an_error(
    team: Team, other_team: Team, share: Share[str], number: int
) -> None:
    identity, nasty = add_both(team), NASTY[number]
    other_team.add("Other", email="ann@example.com")
    good = {"name": "Bob", "email": "bob@example.com", "version": "1", "current": "x", "id": "1"}
    good |= {"member": str(identity), "group": str(identity), "action": "add", "contact": str(identity)}
    forms = [form_of(team, rule, identity) for rule in rules(team.app, "POST") if rule.endpoint not in PUBLIC]
    for path, fields in forms:
        before = snapshot(team.sql)
        for field in share(sorted(fields - {"csrf_token"}), number):
            rest = {name: value for name, value in good.items() if name in fields} | {"csrf_token": team.csrf_token}
            answer = team.client.post(path, **body_of(field, nasty, rest))
            check(answer)
            is_text = isinstance(nasty, str)
            assert answer.status_code != 400 or field in WRITTEN_BY_THE_PAGE or not is_text, "the token was right"
            if answer.status_code >= 400:
                assert snapshot(team.sql) == before, f"{path} wrote something"
            else:
                before = snapshot(team.sql)
    check(team.get("/contacts"))
    assert len(other_team.contacts()) == 1


@pytest.mark.parametrize("nasty", NASTY, ids=NAMES)
def test_nothing_nasty_in_the_forms_that_are_for_everybody_is_an_error(
    app: Flask, setup_app: tuple[Flask, str, str], nasty: str | bytes
) -> None:
    unset, token, url = setup_app
    with psycopg.connect(url, autocommit=True) as connection:
        before = snapshot(connection)
        for console, path in ((unset, f"/setup?token={token}"), (app, "/logon"), (app, "/logoff")):
            client = console.test_client()
            page = client.get("/logon" if path == "/logoff" else path).text
            found = re.search(r'csrf_token" value="([^"]+)', page)
            assert found
            for field in sorted({"csrf_token"} if path == "/logoff" else Fields(page).names):
                rest = {"csrf_token": found[1], "email": f"nobody{next(_logons)}@example.com", "account": "A"}
                environ = {"REMOTE_ADDR": new_address()}
                answer = client.post(path, **body_of(field, nasty, rest), environ_overrides=environ)
                check(answer)
                if answer.status_code >= 400:
                    assert snapshot(connection) == before
                elif console is unset:
                    connection.execute("TRUNCATE accounts CASCADE")


# What a route reads meets each nasty value; beside that, two of all arguments do, which in turn are all.
READS = {
    "static": ["v"],
    "accounts.setup": ["token"],
    "accounts.logon": ["next"],
    "contacts.index": ["q", "field", "sort", "show", "page"],
    "contacts.delete": ["id"],
    "groups.index": ["q", "page"],
    "groups.assign": ["id"],
    "groups.delete": ["id"],
    "notifications.index": ["q", "show", "before"],
    "notifications.show": ["state", "page"],
    "notifications.result": ["contact"],
    "notifications.test": ["contact", "group"],
}


@pytest.mark.parametrize("number", range(len(NASTY)), ids=NAMES)
def test_nothing_nasty_in_a_path_or_an_argument_is_an_error(team: Team, share: Share[Rule], number: int) -> None:
    identity, bare, text = add_both(team), team.app.test_client(), encoded(NASTY[number][:6000])
    before = snapshot(team.sql)
    headers = HTMX if number % 2 else {}
    for rule in share(rules(team.app, "GET"), number):
        for name in {*READS.get(rule.endpoint, ()), *(QUERY[(number + n) % len(QUERY)] for n in (0, 4))}:
            client = bare if rule.endpoint in PUBLIC else team.client
            check(client.get(f"{path_of(rule, identity)}?{name}={text}", headers=headers))
        if rule.arguments:
            check(team.get(path_of(rule, text)))
    every = "&".join(f"{name}={text}" for name in QUERY)
    for path in (f"/contacts?{every}", f"/groups?{every}", f"/{text}?{text}={text}", f"/contacts/{text}"):
        check(bare.get(path))
    assert snapshot(team.sql) == before


@pytest.mark.parametrize(
    "query", ["q=\xff", "q=\xc3\xa4", "\xff\xfe=\x80", "q=\x00", "q=%", "%", "&&&", "=", "q=a;page=b"]
)
def test_a_query_that_no_browser_sends_is_no_error(team: Team, query: str) -> None:
    """Bytes that are not encoded reach the console as they are."""
    for client in (team.client, team.app.test_client()):
        for path in (
            "/contacts",
            "/contacts/new",
            "/contacts/delete",
            "/groups",
            "/groups/new",
            "/groups/assign",
            "/logon",
            "/setup",
            "/nowhere",
            "/static/app.css",
        ):
            check(client.get(path, environ_overrides={"QUERY_STRING": query}))


# Whatever else a form of these carries, its token is all that they need.
NOTHING_BUT_TOKEN = {"accounts.logoff", "notifications.again", "integrations.renew", "integrations.delete"}


def bodies(team: Team, fields: set[str]) -> Iterator[tuple[str, bytes]]:
    """Return bodies that are no form of the console, each with its content type."""
    token = team.csrf_token.encode()
    form = "application/x-www-form-urlencoded"
    yield "application/json", b'{"name": "x", "csrf_token": "' + token + b'"}'
    yield "application/json", b"[" * 60_000
    yield "text/plain", b"csrf_token=" + token
    yield "", b"csrf_token=" + token
    yield "x" * 1000, b"csrf_token=" + token
    yield form, b"\xff\xfe\x00=\xff&name=\xed\xa0\x80&csrf_token=" + token
    yield f"{form}; charset=utf-7", b"name=+ADw-script+AD4-%00&csrf_token=" + token
    yield f"{form}; charset=rot13", b"name=&csrf_token=" + token
    yield form, b"&".join([b"csrf_token=" + token, *[b"id=%d" % n for n in range(6000)]])
    yield form, b"&" * 60_000 + b"csrf_token=" + token
    yield form, b"csrf_token=" + token + b"&name=&name=b&email=c&email=d&version=1&version=2"
    yield form, b"csrf_token[]=" + token + b"&name[]=x&name[a]=y"
    yield "multipart/form-data", b"--x\r\n"
    yield "multipart/form-data; boundary=" + "x" * 300, b"--x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    start = part % (b"csrf_token", b"", token)
    yield "multipart/form-data; boundary=x", start
    yield "multipart/form-data; boundary=x", start + b'--x\r\nContent-Disposition: form-data; name="na'
    yield "multipart/form-data; boundary=x", start + b"--x\r\n\r\nno header\r\n--x--"
    yield "multipart/form-data; boundary=x", start + part % (b"n\xff\0", b"", b"\xff") + b"--x--"
    yield (
        "multipart/form-data; boundary=x",
        start + b"".join(part % (b"f%d" % n, b"", b"") for n in range(1100)) + b"--x--",
    )
    charset = b"\r\nContent-Type: text/plain; charset=rot13"
    yield "multipart/form-data; boundary=x", start + part % (b"name", charset, b"x" * 65) + b"--x--"
    for field in sorted(fields - {"csrf_token"}):
        file = part % (field.encode(), b'; filename="f.txt"\r\nContent-Type: text/plain', b"content")
        yield "multipart/form-data; boundary=x", start + file + b"--x--"
    yield "multipart/form-data; boundary=x", part % (b"csrf_token", b'; filename="f"', token) + b"--x--"


def test_no_body_of_another_kind_is_an_error(team: Team) -> None:
    identity = add_both(team)
    before = snapshot(team.sql)
    for rule in rules(team.app, "POST"):
        if rule.endpoint in NOTHING_BUT_TOKEN:
            continue
        if rule.endpoint in PUBLIC:
            path, fields = path_of(rule, identity), {"email", "password", "account"}
        else:
            path, fields = form_of(team, rule, identity)
        for content_type, body in bodies(team, fields):
            environ = {"REMOTE_ADDR": new_address()}
            answer = team.client.post(path, data=body, content_type=content_type, environ_overrides=environ)
            refused(answer, team.sql, before)
            assert snapshot(team.sql) == before, f"{path} took {content_type}: {body[:200]!r}"


@pytest.mark.parametrize("field", ["email", "password"])
def test_a_file_where_the_log_on_expects_text_is_refused(app: Flask, field: str) -> None:
    client = app.test_client()
    token = re.search(r'csrf_token" value="([^"]+)', client.get("/logon").text)[1]
    values: dict[str, Any] = {"csrf_token": token, "email": "ann@example.com", "password": "x" * 12}
    values[field] = (io.BytesIO(b"content"), "f.txt")
    answer = client.post(
        "/logon", data=values, content_type="multipart/form-data", environ_overrides={"REMOTE_ADDR": new_address()}
    )
    check(answer)
    assert answer.status_code in (400, 415, 422)


@pytest.mark.parametrize("header", HEADERS)
def test_nothing_nasty_in_a_header_is_an_error(team: Team, share: Share[str | bytes], header: str) -> None:
    before, bare = snapshot(team.sql), team.app.test_client()
    key = header.upper().replace("-", "_")
    for nasty in share(NASTY, HEADERS.index(header)):
        raw = nasty if isinstance(nasty, bytes) else nasty.encode()
        environ = {
            key if key.startswith("CONTENT_") else f"HTTP_{key}": raw.decode("latin1"),
            "HTTP_HX_REQUEST": "true",
        }
        for client in (team.client, bare):
            for path in ("/contacts/new", "/nowhere"):
                answer = client.get(path, environ_overrides=environ)
                assert answer.status_code < 500, f"{header}: {nasty[:20]!r} {path}"
        check(bare.get("/static/app.css", environ_overrides=environ))
        refused(team.client.post("/contacts/new", data={"name": ""}, environ_overrides=environ), team.sql, before)


@pytest.mark.parametrize(
    "cookie",
    [
        *(
            "",
            "x",
            ".",
            "..",
            "...",
            "=",
            ";;;",
            "x" * 60_000,
            ".eJw" + "A" * 5000,
            "\xff\xfe",
            '"',
            "a.b.c",
            "e30.x.y",
            "\0",
        ),
        *("e30", ".e30.YQ.YQ", "eyJ0b2tlbiI6IngifQ.ZZZZZZ.AAAAAAAAAAAAAAAAAAAAAAAAAAA", "console=console=x"),
    ],
)
def test_a_broken_cookie_opens_nothing_and_is_no_error(app: Flask, cookie: str) -> None:
    client = app.test_client()
    environ = {"HTTP_COOKIE": f"console={cookie}; known_browser={cookie}; {cookie}"}
    for path, status in (("/contacts", 303), ("/logon", 200), ("/nowhere", 404), ("/healthz", 200)):
        answer = client.get(path, environ_overrides=environ)
        check(answer)
        assert answer.status_code == status
    check(client.post("/logon", data={"email": "a"}, environ_overrides=environ))
