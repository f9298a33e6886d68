"""Show that what a sender posts is written once, for whom it is meant, and that everything else is refused in words."""

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from flask import Flask
from psycopg.conninfo import conninfo_to_dict
from werkzeug.test import TestResponse

from contacts_app import create_app
from contacts_app.core.db import all_accounts, db
from tests.conftest import ROBOT, Share, Team, free_port
from tests.intake.test_formats import alert, grafana, group
from tests.pages.groups.test_views import add_group
from tests.test_attacks import NAMES, NASTY, VERBS
from tests.web.test_errors import relay

PATH = "/api/v1/alerts"
DISK = {"title": "Disk is full"}


def add_integration(team: Team, group: int, name: str = "Alertmanager") -> str:
    """Write an integration past the console and return its token."""
    token = f"token-{name}-of-{group}"
    team.sql.execute(
        "INSERT INTO integrations (account_id, group_id, name, token_hash) VALUES (%s, %s, %s, %s)",
        [team.account_id, group, name, hashlib.sha256(token.encode()).digest()],
    )
    return token


@pytest.fixture
def token(team: Team) -> str:
    """Return the token of an integration of the group Night, which has Ann, with all channels, and Bob, with one."""
    ann = team.add("Ann", mobile="+8613800138000", email="ann@example.com", dingtalk_url=f"{ROBOT}robot-secret")
    return add_integration(team, add_group(team, "Night", ann, team.add("Bob", email="bob@example.com")))


def post(app: Flask, token: str | None, body: Any = DISK, **headers: str) -> TestResponse:
    """Post as a sender does, without a cookie; what is not bytes goes as JSON."""
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return app.test_client().post(PATH, data=data, headers=sent)


def alerts_of(team: Team) -> list[dict[str, Any]]:
    """Return the account's alerts as they stand in the table, oldest first."""
    cursor = team.sql.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute("SELECT * FROM alerts WHERE account_id = %s ORDER BY id", [team.account_id]).fetchall()


def deliveries_of(team: Team) -> list[tuple[Any, ...]]:
    """Return alert, contact's name, channel and state of each of the account's deliveries."""
    query = """SELECT alert_id, contact_name, channel, state FROM deliveries
               WHERE account_id = %s ORDER BY alert_id, contact_name, channel"""
    return team.sql.execute(query, [team.account_id]).fetchall()


def integration_of(team: Team) -> dict[str, Any]:
    cursor = team.sql.cursor(row_factory=psycopg.rows.dict_row)
    found = cursor.execute("SELECT * FROM integrations WHERE account_id = %s", [team.account_id]).fetchone()
    assert found
    return found


def said(answer: TestResponse) -> dict[str, Any]:
    """Return what is in an answer."""
    assert isinstance(answer.json, dict)
    return answer.json


def error_of(answer: TestResponse, status: int) -> str:
    """Return the sentence of a refusal, which has nothing else in it."""
    assert (answer.status_code, answer.mimetype, list(said(answer))) == (status, "application/json", ["error"])
    return str(said(answer)["error"])


@contextmanager
def another(settings: dict[str, str], **environ: str) -> Iterator[Flask]:
    """Yield the console with other settings."""
    app = create_app(settings | environ)
    yield app
    with app.app_context(), all_accounts():
        db.engine.dispose()


# Taken


def test_an_alert_is_written_with_a_delivery_for_each_channel_of_each_member(team: Team, token: str) -> None:
    team.add("Zoe", email="not.in.the.group@example.com")
    answer = post(team.app, token)
    (written,) = alerts_of(team)
    assert (answer.status_code, answer.json) == (202, {"id": written["id"], "deliveries": 4})
    expected = [("Ann", "dingtalk"), ("Ann", "email"), ("Ann", "sms"), ("Bob", "email")]
    assert deliveries_of(team) == [(written["id"], name, channel, "queued") for name, channel in expected]
    assert (written["kind"], written["addressee"], written["integration_name"]) == ("alert", "Night", "Alertmanager")
    robots = "SELECT due_at <= now() FROM robots WHERE account_id = %s"
    assert team.sql.execute(robots, [team.account_id]).fetchall() == [(True,)]


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        (
            {"title": "Disk", "text": "98 %", "severity": "critical", "status": "resolved", "key": "db1"},
            ("plain", "Disk", "98 %", "critical", "resolved", "db1"),
        ),
        (
            group(alert("web1", summary="Load")),
            (
                "alertmanager",
                "HighLoad",
                "Load; since 2026-11-25 07:51:03 UTC\nLabels: instance=web1, job=node\nhttp://alertmanager:9093",
                "warning",
                "firing",
                '{}:{alertname="HighLoad"}',
            ),
        ),
        (
            grafana(alert("web1"), title="Own title", message="Own message", groupKey=None),
            ("grafana", "Own title", "Own message", "warning", "firing", None),
        ),
    ],
    ids=["plain", "alertmanager", "grafana"],
)
def test_each_shape_ends_in_the_right_columns(team: Team, token: str, body: Any, columns: tuple[Any, ...]) -> None:
    assert post(team.app, token, body).status_code == 202
    (written,) = alerts_of(team)
    assert tuple(written[name] for name in ("source", "title", "text", "severity", "status", "key")) == columns


def test_json_of_any_name_is_taken(team: Team, token: str) -> None:
    for number, content_type in enumerate(["application/json; charset=utf-8", "application/problem+json"]):
        assert post(team.app, token, {"title": f"{number}"}, Content_Type=content_type).status_code == 202


def test_the_scheme_of_the_token_is_read_in_any_case(team: Team, token: str) -> None:
    for number, start in enumerate(["bearer ", "BEARER ", "Bearer   "]):
        headers = {"Authorization": f"{start}{token}"}
        answer = team.app.test_client().post(PATH, json={"title": f"{number}"}, headers=headers)
        assert answer.status_code == 202


def test_the_use_of_an_integration_is_noted(team: Team, token: str) -> None:
    post(team.app, token, b"")  # what is no alert is no use, and keeps nobody's row locked
    assert integration_of(team)["used_at"] is None
    post(team.app, token)
    first = integration_of(team)["used_at"]
    assert first
    assert post(team.app, token).status_code == 200
    assert integration_of(team)["used_at"] > first


def test_a_group_without_members_is_reported_to_the_sender_and_on_the_list(team: Team) -> None:
    answer = post(team.app, add_integration(team, add_group(team, "Nobody <b>")))
    (written,) = alerts_of(team)
    warning = "The contact group Nobody <b> has no members, so nobody is notified."
    assert (answer.status_code, answer.json) == (202, {"id": written["id"], "deliveries": 0, "warning": warning})
    assert "Nobody was notified" in team.get("/notifications").text
    assert "Nobody was notified" in team.get(f"/notifications/{written['id']}").text


def test_an_alert_goes_where_the_token_belongs_whoever_is_logged_on(team: Team, other_team: Team, token: str) -> None:
    other_team.add("Other")
    headers = {"Authorization": f"Bearer {token}"}
    assert other_team.client.post(PATH, json=DISK, headers=headers).status_code == 202
    assert (len(alerts_of(team)), len(deliveries_of(team))) == (1, 4)
    assert (alerts_of(other_team), deliveries_of(other_team)) == ([], [])


def test_no_cookie_is_set_and_none_opens_the_door(team: Team, token: str) -> None:
    for answer in (post(team.app, token), post(team.app, "x"), team.client.post(PATH, json=DISK)):
        assert "Set-Cookie" not in answer.headers
    assert answer.status_code == 401


# Taken once


def test_the_same_body_within_a_minute_is_the_same_alert(team: Team, token: str) -> None:
    first, second = post(team.app, token), post(team.app, token)
    assert (second.status_code, second.json) == (200, {"id": said(first)["id"]})
    assert (len(alerts_of(team)), len(deliveries_of(team))) == (1, 4)


def test_the_same_idempotency_key_is_the_same_alert_at_any_time_with_any_body(team: Team, token: str) -> None:
    first = post(team.app, token, Idempotency_Key="k" * 200)
    team.sql.execute("UPDATE alerts SET received_at = now() - interval '1 day' WHERE id = %s", [said(first)["id"]])
    second = post(team.app, token, {"title": "Another"}, Idempotency_Key="k" * 200)
    assert (first.status_code, second.status_code, second.json) == (202, 200, {"id": said(first)["id"]})
    assert len(alerts_of(team)) == 1


def test_another_body_key_or_integration_is_another_alert(team: Team, token: str) -> None:
    second = add_integration(team, add_group(team, "Day"), "Second")
    sent: list[tuple[str, Any, dict[str, str]]]
    sent = [(token, DISK, {}), (token, {"title": "Disk  is full"}, {}), (second, DISK, {})]
    sent += [(token, DISK, {"Idempotency_Key": "a"}), (token, DISK, {"Idempotency_Key": "b"})]
    sent += [(second, DISK, {"Idempotency_Key": "a"})]
    assert [post(team.app, whose, body, **headers).status_code for whose, body, headers in sent] == [202] * 6
    assert len(alerts_of(team)) == 6


@pytest.mark.parametrize(("seconds", "status"), [(50, 200), (60, 202)])
def test_the_same_body_after_a_minute_is_another_alert(team: Team, token: str, seconds: int, status: int) -> None:
    post(team.app, token)
    # The moment of the second is the start of its transaction, which is a little later.
    query = "UPDATE alerts SET received_at = now() - make_interval(secs => %s) WHERE account_id = %s"
    team.sql.execute(query, [seconds, team.account_id])
    assert post(team.app, token).status_code == status


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "a"}], ids=["body", "key"])
def test_of_what_comes_in_eight_times_at_once_one_alert_is_made(
    team: Team, token: str, headers: dict[str, str]
) -> None:
    query = (
        "UPDATE integrations SET window_began_at = now() - interval '1 hour', window_count = 5 WHERE account_id = %s"
    )
    team.sql.execute(query, [team.account_id])
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(team.app, token, **headers), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert {said(answer)["id"] for answer in answers} == {alerts_of(team)[0]["id"]}
    assert (len(alerts_of(team)), len(deliveries_of(team))) == (1, 4)
    assert integration_of(team)["window_count"] == 8


# Refused

TOO_MANY = "More than 2 alerts were sent within a minute. Further alerts in that minute are refused as well."


@pytest.mark.parametrize("token_sent", [None, "", " ", "guess", "é", "x" * 5000])
def test_without_a_token_that_is_known_nothing_is_taken(team: Team, token: str, token_sent: str | None) -> None:
    answer = post(team.app, token_sent)
    sentence = error_of(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    known = (
        "There is no integration with this token. It may have been renewed, or its contact group may have been deleted."
    )
    missing = "Send the token of an integration in the header Authorization, after the word Bearer."
    assert sentence == (known if (token_sent or "").strip() else missing)
    assert alerts_of(team) == []


def test_a_token_of_another_scheme_is_not_looked_at(team: Team, token: str) -> None:
    for value in (f"Basic {token}", token, f"Token {token}", f"Bearer{token}"):
        answer = team.app.test_client().post(PATH, json=DISK, headers={"Authorization": value})
        assert "after the word Bearer" in error_of(answer, 401)


@pytest.mark.parametrize("way", ["renewed", "deleted", "group deleted"])
def test_a_token_that_has_ended_opens_nothing(team: Team, token: str, way: str) -> None:
    integration = integration_of(team)
    if way == "group deleted":
        team.post("/groups/delete", {"id": integration["group_id"]})
    else:
        form = {"made": integration["token_made_at"].isoformat()}
        team.post(f"/integrations/{integration['id']}/{'renew' if way == 'renewed' else 'delete'}", form)
    assert post(team.app, token).status_code == 401
    assert alerts_of(team) == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty."),
        (b"{", "The body is not JSON: "),
        (b'{"title": "\xff"}', "it is not in UTF-8."),
        (b"[" * 100_000, "nested too deeply."),
        (b'{"title": ' + b"9" * 5000 + b"}", "a number with too many digits."),
        (b'{"title": NaN}', "NaN is not a value of JSON."),
        ([], "The body must be an object"),
        ({}, "This is not an alert in a known format."),
        ({"text": "x"}, 'The field "title" is missing.'),
        ({"title": 1}, 'The field "title" must be text, not a number.'),
        ({"title": "x", "color": "red"}, 'The field "color" is not known.'),
        ({"title": "x", "status": "on"}, 'The field "status" must be firing or resolved, not "on".'),
        (group(alert("web1"), version="3"), 'The field "version" must be "4"'),
        (group(alert("web1"), alerts=[]), 'The field "alerts" must contain at least one alert.'),
    ],
)
def test_what_is_no_alert_is_refused_with_the_reason(team: Team, token: str, body: Any, sentence: str) -> None:
    assert sentence in error_of(post(team.app, token, body), 400)
    assert alerts_of(team) == []


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 201, "é", "\x7f"])
def test_an_idempotency_key_that_cannot_be_kept_is_refused(team: Team, token: str, key: str) -> None:
    sentence = "The Idempotency-Key must have 1 to 200 visible ASCII characters."
    assert error_of(post(team.app, token, Idempotency_Key=key), 400) == sentence
    assert alerts_of(team) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused_with_the_right_one(team: Team, token: str, method: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    answer = team.app.test_client().open(PATH, method=method, json=DISK, headers=headers)
    assert error_of(answer, 405) == "Send alerts to /api/v1/alerts with the method POST."
    assert set(answer.allow) == {"POST", "OPTIONS"}


def test_at_another_address_below_api_a_sender_learns_the_right_one(team: Team, token: str) -> None:
    for path in ("/api/v1/alert", "/api/v2/alerts", "/api/"):
        for body in ({"json": DISK}, {"data": "x"}):
            answer = team.app.test_client().post(path, **body, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 404
            assert said(answer) == {"error": "Send alerts to /api/v1/alerts with the method POST."}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_is_not_called_json_is_refused(team: Team, token: str, content_type: str) -> None:
    sentence = "Send JSON, with the header Content-Type: application/json."
    assert error_of(post(team.app, token, Content_Type=content_type), 415) == sentence
    assert alerts_of(team) == []


def test_a_body_of_four_megabytes_is_taken_and_more_is_refused(team: Team, token: str) -> None:
    body = json.dumps(DISK).encode().ljust(4 * 1024 * 1024)
    assert post(team.app, token, body).status_code == 202
    sentence = "An alert can have at most 4 MB. Configure the sender to group fewer alerts into one message."
    assert error_of(post(team.app, token, body + b" "), 413) == sentence


def test_a_body_of_unknown_length_is_refused_in_words_for_a_sender(team: Team, token: str) -> None:
    answer = post(team.app, token, Transfer_Encoding="chunked")
    assert error_of(answer, 411) == "Send the length of the body, in the header Content-Length."


def test_too_many_alerts_a_minute_have_to_wait(team: Team, token: str, settings: dict[str, str]) -> None:
    with another(settings, ALERTS_PER_MINUTE="2") as app:
        assert [post(app, token, {"title": f"{n}"}).status_code for n in range(2)] == [202, 202]
        for body in (b"", DISK, {"title": "0"}):
            answer = post(app, token, body)
            assert error_of(answer, 429) == TOO_MANY
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert len(alerts_of(team)) == 2
        query = "UPDATE integrations SET window_began_at = now() - make_interval(secs => %s) WHERE account_id = %s"
        team.sql.execute(query, [50, team.account_id])
        assert 1 <= int(post(app, token).headers["Retry-After"]) <= 10
        team.sql.execute(query, [60, team.account_id])
        assert [post(app, token, {"title": f"{n}"}).status_code for n in range(3, 6)] == [202, 202, 429]


def test_one_integration_that_sends_too_much_leaves_the_others_alone(
    team: Team, token: str, settings: dict[str, str]
) -> None:
    second = add_integration(team, add_group(team, "Day"), "Second")
    with another(settings, ALERTS_PER_MINUTE="1") as app:
        assert [post(app, whose).status_code for whose in (token, token, second)] == [202, 429, 202]


@pytest.mark.long
def test_a_database_that_is_away_is_503_until_it_is_back(
    team: Team, token: str, settings: dict[str, str], database_url: str
) -> None:
    port, target = free_port(), {k: str(v) for k, v in conninfo_to_dict(database_url).items()}
    parts = {k: v for k, v in target.items() if k not in ("host", "port")}
    query = urlencode(parts | {"host": "127.0.0.1", "port": port, "sslmode": "disable"})
    with another(settings, DATABASE_URL=f"postgresql:///?{query}") as app:

        def check_away() -> None:
            answer = post(app, token)
            assert "The database cannot be reached." in error_of(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0

        check_away()
        with relay(port, target):
            assert post(app, token).status_code == 202
        check_away()
    assert len(alerts_of(team)) == 1


def test_what_cannot_be_written_as_a_whole_is_not_written_and_may_come_again(
    team: Team, token: str, settings: dict[str, str], database_url: str
) -> None:
    """A sender like Alertmanager takes any 4xx as final: what is only held up must be a 5xx."""
    robot = bytes(32)
    query = "UPDATE contacts SET dingtalk_url_hash = %s WHERE name = 'Ann' AND account_id = %s"
    team.sql.execute(query, [robot, team.account_id])
    team.sql.execute("INSERT INTO robots (account_id, url_hash) VALUES (%s, %s)", [team.account_id, robot])
    with another(settings, DATABASE_URL=database_url + "&options=-c%20lock_timeout%3D50ms") as app:
        with psycopg.connect(database_url) as other:
            other.execute("SELECT 1 FROM robots WHERE account_id = %s FOR UPDATE", [team.account_id])
            answer = post(app, token)
            assert "Try again" in error_of(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
        assert (alerts_of(team), deliveries_of(team), integration_of(team)["used_at"]) == ([], [], None)
        assert post(app, token).status_code == 202


# Attacked


def test_a_token_is_in_no_log_and_in_no_table(
    team: Team, token: str, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with another(settings, DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/x") as away:
        texts = [post(away, token).text]
    for body, headers in ((DISK, {}), (DISK, {}), (b"{", {}), (DISK, {"Content_Type": "text/plain"})):
        texts.append(post(team.app, token, body, Idempotency_Key="seen", **headers).text)
    texts += [post(team.app, f"{token}x").text]
    assert not any(token in text for text in (caplog.text, *texts))
    assert integration_of(team)["token_hash"] == hashlib.sha256(token.encode()).digest()
    for table in ("integrations", "alerts", "deliveries"):
        query = f"SELECT count(*) FROM {table} t WHERE strpos(t::text, %s) > 0"
        assert team.sql.execute(query, [token]).fetchone() == (0,)


# Each meets the way in: as the whole body, in each field, and in each header that somebody reads.
HEADERS = ["CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HX_REQUEST", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR", "HTTP_RANGE"]
HEADERS += ["HTTP_CONTENT_ENCODING", "HTTP_EXPECT", "HTTP_ACCEPT", "HTTP_REFERER", "HTTP_ORIGIN", "HTTP_USER_AGENT"]


@pytest.mark.parametrize("number", range(len(NASTY)), ids=NAMES)
def test_nothing_nasty_is_an_error(team: Team, token: str, number: int) -> None:
    nasty = NASTY[number]
    raw = nasty if isinstance(nasty, bytes) else str(nasty).encode()
    text = raw.decode("latin1") if isinstance(nasty, bytes) else str(nasty)
    header = raw.decode("latin1")
    fields = dict.fromkeys(("title", "text", "severity", "key"), text)
    labels = group(alert("web1"), commonLabels={text: text}, externalURL=text)
    sent: list[tuple[Any, dict[str, str]]] = [(body, {}) for body in (raw, fields, fields | {"status": text}, labels)]
    sent += [({"title": f"{key}"}, {key: header}) for key in ("HTTP_AUTHORIZATION", "HTTP_IDEMPOTENCY_KEY")]
    sent += [(DISK, {"HTTP_AUTHORIZATION": f"Bearer {header}"})]
    sent += [(DISK, {HEADERS[number % len(HEADERS)]: header})]
    for body, environ in sent:
        environ = {"HTTP_AUTHORIZATION": f"Bearer {token}"} | environ
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = team.app.test_client()
        answer = client.post(PATH, data=data, content_type="application/json", environ_overrides=environ)
        assert answer.status_code < 500
        assert answer.mimetype == "application/json"
        assert ("error" in said(answer)) == (answer.status_code >= 400)
    assert len(alerts_of(team)) >= 1
    assert team.get("/notifications").status_code == 200


@pytest.mark.parametrize("verb", VERBS)
def test_of_all_verbs_and_visitors_only_a_post_with_a_token_writes(
    team: Team, other_team: Team, token: str, verb: str
) -> None:
    foreign = add_integration(other_team, add_group(other_team, "Night", other_team.add("Other")))
    for client in (team.app.test_client(), team.client):
        for path in (PATH, f"{PATH}/", f"{PATH}/1", f"{PATH}?token={token}"):
            for value in (None, "Bearer guess", f"Basic {token}", f"Bearer {team.token}", f"Bearer {foreign}"):
                headers = {} if value is None else {"Authorization": value}
                answer = client.open(path, method=verb, json=DISK, headers=headers)
                is_meant = verb == "POST" and path.partition("?")[0] == PATH and value == f"Bearer {foreign}"
                allowed = (200, 202) if is_meant else (200, 404) if verb == "OPTIONS" else range(401, 416)
                assert answer.status_code in allowed, f"{path} {value}"
                assert verb == "HEAD" or answer.status_code < 400 or list(said(answer)) == ["error"]
    assert alerts_of(team) == []
    assert len(alerts_of(other_team)) == (verb == "POST")


# In the place of each value that a sender sends, however deep.
ODD = [None, True, 0, -1, 1e308, 10**300, "", "\ud800", "\udfff\ud800", "\0", " ", [], {}, [[]], [None], {"": ""}]
ODD += [{"\0": "\ud800"}, ["x"] * 1000, "x" * 100_000]


def with_odd_values(value: Any) -> Iterator[Any]:
    """Yield `value` again and again, each time with another odd value in another place."""
    yield from ODD
    if isinstance(value, dict):
        for name in value:
            yield from ({**value, name: odd} for odd in with_odd_values(value[name]))
            yield {**value, f"{name}\ud800": value[name]}
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from ([*value[:index], odd, *value[index + 1 :]] for odd in with_odd_values(value[index]))


@pytest.mark.long
@pytest.mark.parametrize("number", range(3), ids=["plain", "alertmanager", "grafana"])
def test_no_odd_value_in_any_place_is_an_error_and_what_is_refused_is_not_written(
    team: Team, token: str, share: Share[Any], number: int
) -> None:
    bodies = [
        dict.fromkeys(("title", "text", "severity", "status", "key"), "firing"),
        group(alert("web1", summary="x")),
    ]
    bodies += [grafana(alert("web1", "resolved"), title="Own", message="Own")]
    taken: set[int] = set()
    for body in share(with_odd_values(bodies[number]), number):
        answer = post(team.app, token, body)
        assert answer.status_code in (200, 202, 400), body
        if answer.status_code < 400:
            taken.add(said(answer)["id"])
        else:
            assert len(error_of(answer, 400)) < 500
    assert {written["id"] for written in alerts_of(team)} == taken
    assert team.get("/notifications").status_code == 200


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b'{"title":' + b'{"a":' * 800_000, {400}),
        (b'{"title": "x", "text": ' + b"[" * 900 + b"]" * 900 + b"}", {400}),
        (b'{"alerts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {400}),
        (b'{"title": "%s"}' % (b"x" * 1_000_000), {202}),
        (b'{"title": "x", "text": "%s"}' % (rb"\ud800\u0000" * 100_000), {202}),
        (b'{"%s": 1}' % (b"x" * 1_000_000), {400}),
        (b'{"title": "a", "title": "b"}', {202}),
        (b'{"title": "a", "title": 1}', {400}),
        (b'{"title": "a"} {"title": "b"}', {400}),
        (b'{"title": "a"}\0', {400}),
        (b'\xef\xbb\xbf{"title": "a"}', {202, 400}),
        ('{"title": "a"}'.encode("utf-16"), {202, 400}),
        (b'{"title": 1e999999}', {400}),
        (b'{"title": -' + b"9" * 4300 + b"}", {400}),
        (b'{"title": Infinity}', {400}),
        (b'"title"', {400}),
        (
            b'{"alerts": ['
            + b'{"status": "firing"},' * 150_000
            + b'{"status": "firing"}], "orgId": 1, "status": "firing"}',
            {202},
        ),
    ],
    ids=range(17),
)
def test_json_that_is_no_alert_of_any_sender_is_no_error(
    team: Team, token: str, body: bytes, statuses: set[int]
) -> None:
    answer = post(team.app, token, body)
    assert answer.status_code in statuses
    assert len(alerts_of(team)) == (answer.status_code == 202)
    assert team.get("/notifications").status_code == 200


def test_firing_resolved_and_firing_again_are_three_alerts(team: Team, token: str) -> None:
    firing, resolved = DISK | {"key": "db1"}, DISK | {"key": "db1", "status": "resolved"}
    answers = [post(team.app, token, body) for body in (firing, firing, resolved, firing, firing)]
    assert [answer.status_code for answer in answers] == [202, 200, 202, 202, 200]
    assert [alert["status"] for alert in alerts_of(team)] == ["firing", "resolved", "firing"]


def test_an_integration_that_sends_too_much_says_so_on_its_page(
    team: Team, token: str, settings: dict[str, str]
) -> None:
    limited = create_app(settings | {"ALERTS_PER_MINUTE": "1"})
    path = f"/integrations/{integration_of(team)['id']}"
    assert post(limited, token, {"title": "one"}).status_code == 202
    pages = path, f"/groups/{integration_of(team)['group_id']}/integrations"
    assert all("Rate limited" not in team.get(page).text for page in pages)
    assert post(limited, token, {"title": "two"}).status_code == 429
    assert all("Rate limited" in team.get(page).text for page in pages)
    with limited.app_context(), all_accounts():
        db.engine.dispose()
