"""Show that nothing anybody sends costs much more than plain letters of the same length.

What takes the square of the length of a text takes seconds for a form and holds the interpreter's lock all the while:
whoever finds one such place stops the console with a few requests.
"""

import gc
import gzip
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import click
import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from gunicorn.config import Config
from werkzeug.datastructures import Headers
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from contacts_app import create_app
from contacts_app.ops.front import HEAD_BYTES
from contacts_app.web.machines import ALERT_BYTES, FORM_BYTES
from contacts_app.web.security import MAX_ENCODED, MAX_FIELDS
from tests.api.test_alerts import PATH as ALERTS
from tests.api.test_alerts import token as token  # a fixture
from tests.conftest import HTMX, PASSWORD, Share, Team
from tests.intake.test_formats import alert, grafana, group
from tests.test_attacks import PUBLIC, QUERY, READS, Fields, add_both, path_of, rules
from tests.test_attacks import setup_app as setup_app  # a fixture

TIMES, FLOOR = 20, 0.002  # seconds; what costs less is not worth a comparison
LINE_BYTES = Config().limit_request_line - len(
    "OPTIONS http://localhost/notifications/9223372036854775807/result? HTTP/1.1"
)
ARGUMENT_BYTES = 32 * os.sysconf("SC_PAGESIZE") - 1  # of one argument, as Linux has it
MANY = 32 * 1024  # bytes; of what may be longer, make test takes few shapes
JOINED_BYTES = 800_000  # of a header, a hundred of which gunicorn takes and joins to one
_numbers = count(1)


def of(pattern: str) -> Callable[[int], str]:
    """Return a function that repeats `pattern` up to so many bytes."""
    return lambda size: pattern * (size // len(pattern.encode("utf-8", "surrogatepass")))


def halves(first: str, second: str) -> Callable[[int], str]:
    return lambda size: of(first)(size // 2) + of(second)(size // 2)


SHAPES: dict[str, Callable[[int], str]] = {
    # Marks of two classes in the wrong order: the normal form sorts them, one place at a time.
    "marks": halves("\u0300", "\u0316"),
    "marks within": lambda size: "a" + of("\u0316\u0300")(size - 2) + "a",
    "jamo": of("\u1100\u1161\u11a8"),
    "ligatures": of("\ufdfa"),
    "blank within": lambda size: "a" + of(" ")(size - 2) + "a",
    "halves of pairs": of("\ud800"),
    "mixed": of("a\u0316\u0300 \u200b<@.+9\\ﷺ"),
    **{repr(sign): of(sign) for sign in ' .@+\\<(["%&0\u3000\u200b\x00'},
    **{repr(sign): of(sign) for sign in ("a=b; ", "a;q=0.1,", '"a",', "0-1,")},
    **{repr(sign): of(sign) for sign in ("a.", "a@", "<a>", "(a)", "a: ", "%0", "%cc%80", "a=&", "a,", "a; ")},
}
Act = Callable[[], Any]
Send = Callable[[str], Act]  # prepares, and returns what is measured


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Have the collector walk as seldom as in production, not over all that the tests have loaded."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def most_bytes(app: Flask, path: str) -> int:
    """Return how long a body may be that is posted to `path`, as the console itself has it."""
    with app.test_request_context(path, method="POST"):
        for name in (None, *request.blueprints):
            for take in app.url_value_preprocessors.get(name, ()):
                take(request.endpoint, request.view_args)
        assert request.max_content_length
        return request.max_content_length


def few(share: Share[str], number: int, size: int) -> list[str]:
    """Return the shapes to try: in make test a quarter of them, of what is large a quarter of that."""
    shapes = share(SHAPES, number)
    return share(shapes, number // 4) if size > MANY else shapes


def dear(send: Send, size: int, shapes: Iterator[str] | list[str]) -> dict[str, str]:
    """Return which shapes of a text of `size` bytes cost more than they may, and how much."""
    plain = max(min(seconds(send, "x" * size) for _ in range(2)), FLOOR)
    found = {}
    for shape in shapes:
        text = SHAPES[shape](size)
        took = seconds(send, text)
        for _ in range(4):  # the least of several: what else the machine does only adds
            if took <= TIMES * plain:
                break
            took = min(took, seconds(send, text))
        else:
            found[shape] = f"{took * 1000:.0f} ms for {plain * 1000:.1f} ms"
    return found


def seconds(send: Send, text: str) -> float:
    return spent(send(text))


def spent(act: Act) -> float:
    begin = time.thread_time()
    act()
    return time.thread_time() - begin


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def form(client: FlaskClient, path: str, field: str, rest: dict[str, str], **options: Any) -> Send:
    """Return a function that sends the form with a text in `field`, as it is: encoded, it would be a sixth as long."""
    others = "&".join(f"{name}={value}" for name, value in rest.items() if name != field).encode()

    def send(text: str) -> Act:
        return post(client, path, others + f"&{field}=".encode() + raw(text), **options)

    return send


def post(client: FlaskClient, path: str, body: bytes, **options: Any) -> Act:
    """Return a function that posts a form of this body."""

    def act() -> int:
        answer = client.post(path, data=body, content_type="application/x-www-form-urlencoded", **options)
        assert answer.status_code < 500
        return answer.status_code

    return act


def room(app: Flask, path: str, rest: dict[str, str]) -> int:
    """Return how long a field of the form may be."""
    return most_bytes(app, path) - sum(len(name) + len(value) + 2 for name, value in rest.items()) - 100


def test_the_largest_of_each_kind_is_known(app: Flask) -> None:
    assert most_bytes(app, "/groups/new") == FORM_BYTES
    assert most_bytes(app, ALERTS) == ALERT_BYTES
    assert most_bytes(app, "/contacts/new") == app.config["MAX_CONTENT_LENGTH"]
    assert app.config["MAX_FORM_MEMORY_SIZE"] >= app.config["MAX_CONTENT_LENGTH"]


def test_no_text_in_a_field_of_any_form_is_dear(team: Team, share: Share[str]) -> None:
    found, number = {}, 0
    for rule in rules(team.app, "POST"):
        if rule.endpoint in PUBLIC:
            continue
        identity = add_both(team, f"Ann {number}", f"ann{number}@example.com")
        path = path_of(rule, identity)
        shown = f"{path}?id={identity}&contact={identity}" if "GET" in (rule.methods or ()) else "/groups/new"
        fields = Fields(team.get(shown).text).names | {"id", "csrf_token", "unknown"}
        good = {"name": "Bob", "email": "bob@example.com", "version": "1", "id": "1", "new": PASSWORD}
        good |= {"member": str(identity), "group": str(identity), "contact": str(identity), "action": "add"}
        good = {name: value for name, value in good.items() if name in fields} | {"csrf_token": team.csrf_token}
        for field in sorted(fields | ({"mobile_anyway", "email_anyway"} if "mobile" in fields else set())):
            number += 1
            team.sql.execute("DELETE FROM logon_attempts")
            send = form(team.client, path, field, good)
            size = room(team.app, path, good)
            if excess := dear(send, size, few(share, number, size)):
                found[f"{path} {field}"] = excess
    assert not found


@pytest.mark.parametrize(
    ("pattern", "status"), [("%", 400), ("%0&", 400), ("%61", 413), ("&", 413), ("&a=", 413), ("&\u00e9=", 413)]
)
def test_a_form_that_no_browser_sends_is_refused_before_it_is_parsed(team: Team, pattern: str, status: int) -> None:
    """As long as a group's form may be: nothing but signs that encode nothing, or 350,000 empty fields."""
    statuses: list[int] = []

    def send(text: str) -> Act:
        act = post(team.client, "/groups/new", f"csrf_token={team.csrf_token}&name={text}".encode())
        return lambda: statuses.append(act())

    size = FORM_BYTES - 1000
    plain = max(min(seconds(send, "x" * size) for _ in range(2)), FLOOR)
    statuses.clear()
    took = min(seconds(send, of(pattern)(size)) for _ in range(3))
    assert set(statuses) == {status}
    assert took < TIMES * plain, f"{took * 1000:.0f} ms for {plain * 1000:.1f} ms"


@pytest.mark.parametrize("field", ["email", "password", "account", "csrf_token", "next"])
@pytest.mark.parametrize("page", ["/logon", "/setup", "/logoff"])
def test_no_text_in_the_forms_that_are_for_everybody_is_dear(
    app: Flask, setup_app: tuple[Flask, str, str], share: Share[str], page: str, field: str
) -> None:
    unset, token, _ = setup_app
    client = (unset if page == "/setup" else app).test_client()
    path = f"{page}?token={token}" if page == "/setup" else page
    text = client.get("/logon" if page == "/logoff" else path).text
    csrf = text.partition('csrf_token" value="')[2].partition('"')[0]
    assert csrf

    def send(text: str) -> Act:
        # Another guesser each time, or the limit would keep the password from being looked at.
        number = next(_numbers)
        rest = {"csrf_token": csrf, "email": f"nobody{number}@example.com", "password": "short", "account": "A"}
        environ = {"REMOTE_ADDR": f"10.9.{number >> 8}.{number & 255}"}
        return form(client, path, field, rest, environ_overrides=environ)(text)

    assert not dear(
        send,
        room(app, path, {"csrf_token": csrf}) - 200,
        share(SHAPES, ("/logon", "/setup").index(page) if page != "/logoff" else 2),
    )


def check(answer: TestResponse) -> None:
    assert answer.status_code < 500


def get(client: FlaskClient, path: str, query: str, **options: Any) -> Act:
    """Return a function that asks with the query as it is."""
    return lambda: check(client.get(path, environ_overrides={"QUERY_STRING": query}, **options))


def test_no_text_in_an_address_is_dear(team: Team, share: Share[str]) -> None:
    identity, bare, found, number = add_both(team), team.app.test_client(), {}, 0

    def query(client: FlaskClient, path: str, name: str, headers: dict[str, str]) -> Send:
        def send(text: str) -> Act:
            return get(client, path, f"{name}=" + raw(text).decode("latin1"), headers=headers)

        return send

    def within(client: FlaskClient, rule: Rule) -> Send:
        def send(text: str) -> Act:
            environ = {"PATH_INFO": path_of(rule, raw(text).decode("latin1"))}
            return lambda: check(client.get("/", environ_overrides=environ))

        return send

    for rule in rules(team.app, "GET"):
        client = bare if rule.endpoint in PUBLIC else team.client
        path = path_of(rule, identity)
        for name in {*READS.get(rule.endpoint, ()), QUERY[number % len(QUERY)]}:
            number += 1
            for headers in ({}, HTMX):
                if excess := dear(query(client, path, name, headers), LINE_BYTES, share(SHAPES, number)):
                    found[f"{path}?{name}="] = excess
        if rule.arguments and (excess := dear(within(client, rule), LINE_BYTES, share(SHAPES, number))):
            found[rule.rule] = excess
    for field in ("name", "mobile", "email"):
        number += 1
        search = query(team.client, "/contacts", f"field={field}&q", {})
        if excess := dear(search, LINE_BYTES, share(SHAPES, number)):
            found[f"search for {field}"] = excess
    assert not found


def head_room(header: str) -> int:
    """Return how long a header may be, in as many lines as it takes."""
    of_lines, lines = Config().limit_request_field_size, Config().limit_request_fields
    most = min(HEAD_BYTES, of_lines * lines)
    return most - (most // of_lines + 1) * len(f"{header}: \r\n") - 200  # the first line, Host and the cookie


# All of one name are joined to one, as gunicorn does.
HEADERS = ["Cookie", "HX-Current-URL", "HX-Source", "HX-Request", "X-CSRFToken", "Referer", "Origin", "Host"]
HEADERS += ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Accept", "Accept-Encoding", "Accept-Language"]
HEADERS += ["Content-Type", "Content-Length", "If-None-Match", "If-Modified-Since", "If-Range", "Range", "User-Agent"]
HEADERS += ["Authorization", "Idempotency-Key"]


@pytest.mark.parametrize("header", HEADERS)
def test_no_text_in_a_header_is_dear(
    team: Team, settings: dict[str, str], token: str, share: Share[str], header: str
) -> None:
    key = header.upper().replace("-", "_")
    key = key if key.startswith("CONTENT_") else f"HTTP_{key}"
    proxied = create_app(settings | {"PROXY_COUNT": "1", "TRUSTED_HOSTS": "localhost,example.com", "HTTPS": "1"})
    logged_on = proxied.test_client()
    logged_on.set_cookie("console", team.cookie)
    clients = {"/contacts": logged_on, "/contacts/new": logged_on, "/logon": proxied.test_client()}
    clients |= {"/static/app.css": proxied.test_client(), "/nowhere": proxied.test_client()}
    if header == "Cookie":  # a client that keeps cookies sends its own instead
        logged_on = proxied.test_client(use_cookies=False)
        clients = dict.fromkeys(clients, logged_on)
    prefixes = ["", "http://localhost/contacts?q="] if header in ("HX-Current-URL", "Referer", "Origin") else [""]
    prefixes += {"Cookie": ["console="], "Authorization": ["Bearer "], "Range": ["bytes="]}.get(header, [])
    found: dict[str, Any] = {}

    def send(client: FlaskClient, method: str, path: str, prefix: str, **options: Any) -> Send:
        def sending(text: str) -> Act:
            value = prefix + raw(text).decode("latin1").replace("\r", " ").replace("\n", " ").replace("\0", " ")
            environ = {"HTTP_HX_REQUEST": "true", key: value}
            return lambda: check(client.open(path, method=method, environ_overrides=environ, **options))

        return sending

    for prefix in prefixes:
        for number, (path, client) in enumerate(clients.items(), HEADERS.index(header)):
            if excess := dear(send(client, "GET", path, prefix), head_room(header), share(SHAPES, number)):
                found[f"GET {path} {prefix}"] = excess
        data = {"csrf_token": team.csrf_token, "name": ""}
        number = HEADERS.index(header) + 1
        if excess := dear(
            send(logged_on, "POST", "/contacts/new", prefix, data=data), head_room(header), share(SHAPES, number)
        ):
            found[f"POST {prefix}"] = excess
        headers = Headers({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        posted = send(proxied.test_client(), "POST", ALERTS, prefix, data=b"[]", headers=headers)
        if excess := dear(posted, head_room(header), share(SHAPES, number)):
            found[f"alert {prefix}"] = excess
    assert not found


@pytest.mark.parametrize("pattern", ["a=b; ", "a;", ";", 'a="\\1";'])
def test_a_hundred_headers_of_cookies_that_are_joined_to_one_are_not_dear(app: Flask, pattern: str) -> None:
    client = app.test_client(use_cookies=False)

    def send(text: str) -> Act:
        return lambda: client.get("/logon", environ_overrides={"HTTP_COOKIE": text}).status_code

    plain = max(min(seconds(send, "x" * JOINED_BYTES) for _ in range(3)), FLOOR)
    took = min(seconds(send, of(pattern)(JOINED_BYTES)) for _ in range(3))
    assert took < TIMES * plain, f"{took * 1000:.0f} ms for {plain * 1000:.1f} ms"


ALERT, GRAFANA = group(alert("db1")), grafana(alert("db1"))


def bodies(text: str) -> Iterator[tuple[str, Any]]:
    """Yield alerts with the text in each of their fields in turn."""
    for name in ("title", "text", "severity", "key", "status", "other"):
        yield name, {"title": "Disk is full", name: text}
    yield "a name", {"title": "Disk is full", text: "x"}
    for name in ("groupKey", "externalURL", "receiver", "version"):
        yield name, ALERT | {name: text}
    for name in ("title", "message"):
        yield f"Grafana's {name}", GRAFANA | {name: text}
    for part, names in (
        ("labels", ("alertname", "severity", "host")),
        ("annotations", ("summary", "description", "runbook_url", "Error")),
    ):
        for name in names:
            excess = alert("db1")
            excess[part] = excess[part] | {name: text}
            yield f"{part}.{name}", group(excess)
    for name in (
        "startsAt",
        "endsAt",
        "generatorURL",
        "fingerprint",
        "status",
        "panelURL",
        "silenceURL",
        "valueString",
    ):
        yield f"an alert's {name}", GRAFANA | {"alerts": [alert("db1") | {name: text}]}
    for name in ("commonLabels", "groupLabels"):
        yield name, ALERT | {name: {"alertname": text, text: "x"}}


def alert_of(app: Flask, token: str, body: bytes, **headers: str) -> Act:
    """Return a function that posts the body as a sender does."""
    client = app.test_client()
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers

    def act() -> int:
        answer = client.post(ALERTS, data=body, headers=sent)
        assert answer.status_code < 500
        assert answer.status_code not in (413, 429)  # or nothing of it would have been looked at
        return answer.status_code

    return act


def fitting(name: str, text: str) -> bytes:
    """Return the alert with as much of the text in the field as a body may have."""
    while True:
        body = json.dumps(dict(bodies(text))[name], ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(body) <= ALERT_BYTES:
            return body
        text = text[: int(len(text) * (ALERT_BYTES - 2000) / len(body))]


@pytest.mark.parametrize("packed", [False, True])
def test_no_text_in_an_alert_is_dear(settings: dict[str, str], token: str, share: Share[str], packed: bool) -> None:
    app, found = create_app(settings | {"ALERTS_PER_MINUTE": "1000000"}), {}

    def send(name: str) -> Send:
        def sending(text: str) -> Act:
            body = fitting(name, text)
            return (
                alert_of(app, token, gzip.compress(body, 1), Content_Encoding="gzip")
                if packed
                else (alert_of(app, token, body))
            )

        return sending

    names = [name for name, _ in bodies("")]
    for number, name in enumerate(share(names, 0) if packed else names):
        if excess := dear(send(name), ALERT_BYTES, few(share, number, ALERT_BYTES)):
            found[name] = excess
    assert not found


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("create-account", "--account"),
        ("create-user", "--account"),
        ("create-user", "--email"),
        ("set-password", "--email"),
    ],
)
def test_no_argument_of_a_command_is_dear(app: Flask, share: Share[str], command: str, option: str) -> None:
    parameter = next(p for p in app.cli.get_command(click.Context(app.cli), command).params if option in p.opts)

    def send(text: str) -> Act:
        def act() -> None:
            with pytest.raises(click.BadParameter):
                parameter.callback(click.Context(app.cli), parameter, text)

        return act

    assert not dear(send, ARGUMENT_BYTES, share(SHAPES, len(option)))


def repeated(begin: bytes, item: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return a function that repeats the item, with commas between, up to so many bytes."""
    return lambda size: begin + b",".join([item] * ((size - len(begin) - len(end)) // (len(item) + 1))) + end


def numbered(begin: bytes, item: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return a function that does so with another number in each item."""

    def make(size: int) -> bytes:
        items = (item.replace(b"%x", b"%x" % number) for number in count(0x10000))
        most = len(next(items)) + item.count(b"%x") + 1
        return begin + b",".join(islice(items, (size - len(begin) - len(end)) // most)) + end

    return make


GROUP = b'{"version":"4","status":"firing",'
LIST = GROUP + b'"alerts":['
ONE = LIST + b'{"status":"firing",'
CLASSIC = b'{"ruleId":1,"state":"alerting",'
SMALL: dict[str, Callable[[int], bytes]] = {
    "alerts": repeated(LIST, b'{"status":"firing"}', b"]}"),
    "real alerts": repeated(LIST, json.dumps(alert("db1", summary="Disk is full")).encode(), b"]}"),
    "alerts with labels": repeated(
        LIST, b'{"status":"firing","labels":{"a":"b"},"annotations":{"summary":"b"}}', b"]}"
    ),
    "alerts with names": numbered(LIST, b'{"status":"firing","labels":{"alertname":"%x","severity":"%x"}}', b"]}"),
    "labels": numbered(ONE + b'"labels":{', b'"%x":""', b"}}]}"),
    "alerts with values": repeated(
        LIST, b'{"status":"firing","values":{"B":1},"valueString":"var=1"}', b'],"orgId":1}'
    ),
    "the last is none": repeated(LIST, b'{"status":"firing"}', b",1]}"),
    "alerts with no status": repeated(LIST, b"{}", b"]}"),
    "lists": repeated(b'{"title":[', b"[]", b"]}"),
    "annotations": numbered(ONE + b'"annotations":{', b'"%x":"a"', b"}}]}"),
    "values": numbered(ONE + b'"values":{', b'"%x":1', b"}}]}"),
    "common labels": numbered(GROUP + b'"alerts":[{"status":"firing"}],"commonLabels":{', b'"%x":""', b"}}"),
    "equal labels": repeated(ONE + b'"labels":{', b'"a":""', b"}}]}"),
    "unknown fields": numbered(b'{"title":"a",', b'"%x":1', b"}"),
    "matches": repeated(CLASSIC + b'"evalMatches":[', b'{"metric":"a","value":1}', b"]}"),
    "tags": numbered(CLASSIC + b'"tags":{', b'"%x":""', b"}}"),
    "numbers": repeated(b'{"title":[', b"0", b"]}"),
    "fractions": repeated(b'{"title":[', b"1e1", b"]}"),
    "long numbers": repeated(b'{"title":[', b"1" * 4000, b"]}"),
    "one long number": lambda size: b'{"title":' + b"1" * (size - 10) + b"}",
    "deep lists": lambda size: b"[" * size,
    "deep lists that end": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "deep objects": lambda size: b'{"a":' * (size // 5),
    "deep in a field": lambda size: b'{"title":"a","text":' + b"[" * (size - 100),
    "escapes": lambda size: b'{"title":"' + rb"\u0041" * (size // 6 - 5) + b'"}',
    "lines": lambda size: b"\n" * (size - 2) + b"{",
}


def test_no_alert_of_many_small_things_is_dear(settings: dict[str, str], token: str, share: Share[str]) -> None:
    app, found = create_app(settings | {"ALERTS_PER_MINUTE": "1000000"}), {}
    letters = alert_of(app, token, fitting("labels.host", "x" * ALERT_BYTES))
    plain = min(spent(letters) for _ in range(3))
    for name in share(SMALL, 0):
        quarter, whole = (alert_of(app, token, SMALL[name](size)) for size in (ALERT_BYTES // 4, ALERT_BYTES))
        if excess := faults(quarter, whole, plain):
            found[name] = excess
    assert not found


def faults(quarter: Act, whole: Act, plain: float) -> str:
    """Say whether the whole takes much more than plain letters do, or much more than four times a quarter of it."""
    for _ in range(5):  # what else the machine does only adds
        small, large = max(spent(quarter), FLOOR), spent(whole)
        if large <= TIMES * max(plain, FLOOR) and large <= 10 * small:
            return ""
    return f"{large * 1000:.0f} ms, a quarter {small * 1000:.1f} ms, letters {plain * 1000:.1f} ms"


def bomb(size: int) -> bytes:
    """Return gzip that goes on unpacking: 150 times as many bytes of zeros, in one block that is repeated."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, block = (packing.compress(bytes(2**20)) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * (150 * size // 2**20)


def blocks(size: int) -> bytes:
    """Return so many bytes of gzip that unpack to nothing: blocks of no length."""
    packing = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packing.compress(b"") + packing.flush(zlib.Z_FULL_FLUSH)
    return head + b"\0\0\0\xff\xff" * ((size - len(head)) // 5)


@pytest.mark.parametrize("kind", ["bomb", "blocks", "members"])
def test_no_packed_body_is_dear(settings: dict[str, str], token: str, kind: str) -> None:
    app = create_app(settings | {"ALERTS_PER_MINUTE": "1000000"})
    plain = min(spent(alert_of(app, token, fitting("text", "x" * ALERT_BYTES))) for _ in range(3))
    make = {
        "bomb": bomb,
        "blocks": blocks,
        "members": lambda size: gzip.compress(b"") * (size // len(gzip.compress(b""))),
    }[kind]

    def send(body: bytes) -> Act:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Content-Encoding": "gzip"}

        def act() -> None:
            status = app.test_client().post(ALERTS, data=body, headers=headers).status_code
            assert status == (413 if kind == "bomb" else 400)

        return act

    assert not faults(send(make(ALERT_BYTES // 4)), send(make(ALERT_BYTES)), plain)


# What a form may have many of; its signs of percent are as many as are let through.
FIELDS: dict[str, Callable[[int], str]] = {
    "member": lambda number: f"member={10**17 + number}",
    "id": lambda number: f"id={number + 1}",
    "names": lambda number: f"x{number}=",
    "equal names": lambda number: "name=",
    "nothing": lambda number: "",
    "contact": lambda number: f"contact={number + 1}",
    "encoded": lambda number: "%41=" if number < MAX_ENCODED - 100 else "",
}


def test_no_form_of_many_fields_is_dear(team: Team, share: Share[str]) -> None:
    found: dict[str, Any] = {}
    for number, rule in enumerate(rules(team.app, "POST")):
        if rule.endpoint in PUBLIC:
            continue
        identity = add_both(team, f"Ann {number}", f"ann{number}@example.com")
        path = path_of(rule, identity)
        size = most_bytes(team.app, path) - 10
        begin = f"csrf_token={team.csrf_token}&unknown="
        plain = min(spent(post(team.client, path, begin.encode() + b"x" * (size - len(begin)))) for _ in range(2))

        def many(part: int, name: str, begin: str = begin, size: int = size) -> bytes:
            """Return the largest form with as many fields as it may have, or a part of them."""
            fields, left = [], size - len(begin) - 1
            for number in range(MAX_FIELDS // part - 10):
                field = FIELDS[name](number)
                if (left := left - len(field) - 1) < 0:
                    break
                fields.append(field)
            return f"{begin}{'x' * max(left, 0)}&{'&'.join(fields)}".encode()

        for name in share(FIELDS, number):
            team.sql.execute("DELETE FROM logon_attempts")
            quarter, whole = (post(team.client, path, many(part, name)) for part in (4, 1))
            if excess := faults(quarter, whole, plain):
                found[f"{path} {name}"] = excess
        assert post(team.client, path, b"&" * (MAX_FIELDS + 1))() == 413
        assert post(team.client, path, b"%41" * (MAX_ENCODED + 1))() == 413 or size < 3 * MAX_ENCODED
    assert not found


def test_no_group_with_many_members_is_dear_to_merge(team: Team) -> None:
    identity = add_both(team)
    path, size = f"/groups/{identity}/edit", FORM_BYTES - 1000
    begin = f"csrf_token={team.csrf_token}&name=Ann&version=0&opened=&opened_members="
    plain = min(spent(post(team.client, path, begin.encode() + b"x" * size)) for _ in range(2))
    quarter, whole = (post(team.client, path, f"{begin}1{'+1' * (part // 2)}".encode()) for part in (size // 4, size))
    assert not faults(quarter, whole, plain)


ITEMS = {
    "ids": "id={0}",
    "contacts": "contact={0}",
    "searches": "q=a",
    "nothing": "",
    "names": "x{0}=",
    "signs": "%41=",
}


def test_no_address_of_many_arguments_is_dear(team: Team, share: Share[str]) -> None:
    identity, found = add_both(team), {}
    for number, rule in enumerate(rules(team.app, "GET")):
        path = path_of(rule, identity)
        plain = min(spent(get(team.client, path, "unknown=" + "x" * (LINE_BYTES - 8))) for _ in range(2))
        for name in share(ITEMS, number):
            text = "&".join(ITEMS[name].format(number + 1) for number in range(LINE_BYTES))
            quarter, whole = (get(team.client, path, text[:size]) for size in (LINE_BYTES // 4, LINE_BYTES))
            if excess := faults(quarter, whole, plain):
                found[f"{path} {name}"] = excess
    assert not found


def test_no_head_of_many_lines_is_dear(team: Team) -> None:
    most = Config().limit_request_fields - 3

    def ask(lines: int) -> Act:
        environ = {f"HTTP_X_{number}": "x" * (HEAD_BYTES // most - 20) for number in range(lines)}
        return lambda: check(team.client.get("/contacts", environ_overrides=environ))

    environ = {"HTTP_X_1": "x" * head_room("X-1")}
    plain = min(spent(lambda: team.client.get("/contacts", environ_overrides=environ)) for _ in range(2))
    assert not faults(ask(most // 4), ask(most), plain)
