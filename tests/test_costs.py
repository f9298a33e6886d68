"""Show that nothing anybody sends costs much more than plain letters of the same length.

What takes the square of the length of a text takes seconds for a form and holds the interpreter's lock all the while:
whoever finds one such place stops the console with a few requests.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import click
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.routing import Rule

from contacts_app import cli, create_app
from contacts_app.pages.groups.views import MOST_BYTES as GROUP_BYTES
from tests.api.test_alerts import PATH as ALERTS
from tests.api.test_alerts import token as token  # a fixture
from tests.conftest import HTMX, PASSWORD, Share, Team
from tests.intake.test_formats import alert, grafana, group
from tests.test_attacks import PUBLIC, QUERY, READS, Fields, add_both, path_of, rules
from tests.test_attacks import setup_app as setup_app  # a fixture

TIMES, FLOOR = 20, 0.002  # seconds; what costs less is not worth a comparison
LARGEST = 256 * 1024  # of what may be longer: enough for a square to show
FORM_BYTES, LINE_BYTES, HEAD_BYTES, ALERT_BYTES = 64 * 1024, 4000, 64_000, LARGEST
ARGUMENT_BYTES = 128 * 1024
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
    **{repr(sign): of(sign) for sign in ("a.", "a@", "<a>", "(a)", "a: ", "%0", "%cc%80", "a=&", "a,", "a; ")},
}
Send = Callable[[str], Any]


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
    begin = time.thread_time()
    send(text)
    return time.thread_time() - begin


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def form(client: FlaskClient, path: str, field: str, rest: dict[str, str], **options: Any) -> Send:
    """Return a function that sends the form with a text in `field`, as it is: encoded, it would be a sixth as long."""
    others = "&".join(f"{name}={value}" for name, value in rest.items() if name != field).encode()

    def send(text: str) -> None:
        body = others + f"&{field}=".encode() + raw(text)
        answer = client.post(path, data=body, content_type="application/x-www-form-urlencoded", **options)
        assert answer.status_code < 500

    return send


def room(path: str, rest: dict[str, str]) -> int:
    """Return how long a field of the form may be."""
    most = GROUP_BYTES if path.startswith("/groups") and "/integrations" not in path else FORM_BYTES
    return min(most, LARGEST) - sum(len(name) + len(value) + 2 for name, value in rest.items()) - 100


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
            if told := dear(send, room(path, good), share(SHAPES, number)):
                found[f"{path} {field}"] = told
    assert not found


@pytest.mark.parametrize(
    ("pattern", "status"), [("%", 400), ("%0&", 400), ("%61", 413), ("&", 413), ("&a=", 413), ("&\u00e9=", 413)]
)
def test_a_form_that_no_browser_sends_is_refused_before_it_is_parsed(team: Team, pattern: str, status: int) -> None:
    """As long as a group's form may be: nothing but signs that encode nothing, or 350,000 empty fields."""
    statuses: list[int] = []

    def send(text: str) -> None:
        body = f"csrf_token={team.csrf_token}&name={text}".encode()
        answer = team.client.post("/groups/new", data=body, content_type="application/x-www-form-urlencoded")
        statuses.append(answer.status_code)

    size = GROUP_BYTES - 1000
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

    def send(text: str) -> None:
        # Another guesser each time, or the limit would keep the password from being looked at.
        number = next(_numbers)
        rest = {"csrf_token": csrf, "email": f"nobody{number}@example.com", "password": "short", "account": "A"}
        environ = {"REMOTE_ADDR": f"10.9.{number >> 8}.{number & 255}"}
        form(client, path, field, rest, environ_overrides=environ)(text)

    assert not dear(
        send,
        room(path, {"csrf_token": csrf}) - 200,
        share(SHAPES, ("/logon", "/setup").index(page) if page != "/logoff" else 2),
    )


def test_no_text_in_an_address_is_dear(team: Team, share: Share[str]) -> None:
    identity, bare, found, number = add_both(team), team.app.test_client(), {}, 0

    def query(client: FlaskClient, path: str, name: str, headers: dict[str, str]) -> Send:
        def send(text: str) -> None:
            environ = {"QUERY_STRING": f"{name}=".encode().decode() + raw(text).decode("latin1")}
            assert client.get(path, environ_overrides=environ, headers=headers).status_code < 500

        return send

    def within(client: FlaskClient, rule: Rule) -> Send:
        def send(text: str) -> None:
            environ = {"PATH_INFO": path_of(rule, raw(text).decode("latin1"))}
            assert client.get("/", environ_overrides=environ).status_code < 500

        return send

    for rule in rules(team.app, "GET"):
        client = bare if rule.endpoint in PUBLIC else team.client
        path = path_of(rule, identity)
        for name in {*READS.get(rule.endpoint, ()), QUERY[number % len(QUERY)]}:
            number += 1
            for headers in ({}, HTMX):
                if told := dear(query(client, path, name, headers), LINE_BYTES, share(SHAPES, number)):
                    found[f"{path}?{name}="] = told
        if rule.arguments and (told := dear(within(client, rule), LINE_BYTES, share(SHAPES, number))):
            found[rule.rule] = told
    for field in ("name", "mobile", "email"):
        number += 1
        search = query(team.client, "/contacts", f"field={field}&q", {})
        if told := dear(search, LINE_BYTES, share(SHAPES, number)):
            found[f"search for {field}"] = told
    assert not found


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
    prefixes = ["", "http://localhost/contacts?q="] if header in ("HX-Current-URL", "Referer", "Origin") else [""]
    prefixes += {"Cookie": ["console="], "Authorization": ["Bearer "], "Range": ["bytes="]}.get(header, [])
    found: dict[str, Any] = {}

    def send(client: FlaskClient, method: str, path: str, prefix: str, **options: Any) -> Send:
        def sending(text: str) -> None:
            value = prefix + raw(text).decode("latin1").replace("\r", " ").replace("\n", " ").replace("\0", " ")
            environ = {"HTTP_HX_REQUEST": "true", **options.pop("environ_overrides", {}), key: value}
            assert client.open(path, method=method, environ_overrides=environ, **options).status_code < 500

        return sending

    for prefix in prefixes:
        for number, (path, client) in enumerate(clients.items(), HEADERS.index(header)):
            if told := dear(send(client, "GET", path, prefix), HEAD_BYTES, share(SHAPES, number)):
                found[f"GET {path} {prefix}"] = told
        data = {"csrf_token": team.csrf_token, "name": ""}
        number = HEADERS.index(header) + 1
        if told := dear(send(logged_on, "POST", "/contacts/new", prefix, data=data), HEAD_BYTES, share(SHAPES, number)):
            found[f"POST {prefix}"] = told
        headers = Headers({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        posted = send(proxied.test_client(), "POST", ALERTS, prefix, data=b"[]", headers=headers)
        if told := dear(posted, HEAD_BYTES, share(SHAPES, number)):
            found[f"alert {prefix}"] = told
    assert not found


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
            told = alert("db1")
            told[part] = told[part] | {name: text}
            yield f"{part}.{name}", group(told)
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


def test_no_text_in_an_alert_is_dear(app: Flask, token: str, share: Share[str]) -> None:
    client, found = app.test_client(), {}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def send(name: str) -> Send:
        def sending(text: str) -> None:
            body = json.dumps(dict(bodies(text))[name], ensure_ascii=False).encode("utf-8", "surrogatepass")
            assert client.post(ALERTS, data=body, headers=headers).status_code < 500

        return sending

    for number, (name, _) in enumerate(bodies("")):
        if told := dear(send(name), ALERT_BYTES, share(SHAPES, number)):
            found[name] = told
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

    def send(text: str) -> None:
        with pytest.raises(click.BadParameter):
            parameter.callback(click.Context(cli.demo), parameter, text)

    assert not dear(send, ARGUMENT_BYTES, share(SHAPES, len(option)))
