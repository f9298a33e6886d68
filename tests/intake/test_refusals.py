"""Show that whoever looks at the console sees what was refused of a sender, who says nothing and does not repeat it."""

import json
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from contacts_app.cli.processes import CHORES
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery.housekeeping import tidy
from contacts_app.intake import refusals
from contacts_app.intake.refusals import MAX_BODY, MAX_RECORDS, masked
from contacts_app.intake.sentences import sentence as in_words
from contacts_app.web.machines import ALERT_BYTES
from tests.api.test_alerts import (
    DISK,
    PATH,
    add_integration,
    alerts_of,
    another,
    error_of,
    integration_of,
    post,
    token,
)
from tests.conftest import Team, watched_statements
from tests.pages.groups.test_views import add_group
from tests.pages.notifications.test_views import words

__all__ = ["token"]  # a fixture
JSON = "application/json"


def refusals_of(team: Team) -> list[dict[str, Any]]:
    """Return what is kept of the account's refusals, oldest first."""
    cursor = team.sql.cursor(row_factory=psycopg.rows.dict_row)
    rows = cursor.execute("SELECT * FROM refusals WHERE account_id = %s ORDER BY id", [team.account_id]).fetchall()
    return [row | {"stored": row["sentence"], "sentence": in_words(row["sentence"])} for row in rows]


def shown(team: Team) -> str:
    return words(team.get(f"/integrations/{integration_of(team)['id']}").text)


def banner(team: Team) -> str:
    page = team.get("/contacts").text
    found = re.search(r'<div id="contacts-reach">(.*?)</div>', page, re.DOTALL)
    assert found
    return words(found[1])


def send(team: Team, token: str, method: str = "POST", path: str = PATH, **kwargs: Any) -> TestResponse:
    """Send anything with the token."""
    headers = {"Authorization": f"Bearer {token}"} | kwargs.pop("headers", {})
    return team.app.test_client().open(path, method=method, headers=headers, **kwargs)


REFUSED: list[tuple[int, dict[str, Any]]] = [
    (400, {"data": b"{", "content_type": JSON}),
    (400, {"data": b"", "content_type": JSON}),
    (400, {"json": {"title": "Disk", "color": "red"}}),
    (400, {"json": DISK, "headers": {"Idempotency-Key": " "}}),
    (400, {"json": DISK, "query_string": "a=%FF"}),
    (404, {"data": "", "path": "/api/v1/alert"}),
    (405, {"json": DISK, "method": "PUT"}),
    (413, {"data": b"{" + b" " * ALERT_BYTES, "content_type": JSON}),
    (411, {"json": DISK, "headers": {"Transfer-Encoding": "gzip"}}),
    (415, {"data": b"title=Disk", "content_type": "application/x-www-form-urlencoded"}),
    (415, {"data": b'{"title": "Disk"}', "content_type": "text/plain"}),
]


@pytest.mark.parametrize(("status", "request_"), REFUSED, ids=[f"{n}-{case[0]}" for n, case in enumerate(REFUSED)])
def test_whatever_is_refused_of_a_valid_token_is_kept_and_shown(
    team: Team, token: str, status: int, request_: dict[str, Any]
) -> None:
    sentence = error_of(send(team, token, **request_), status)
    (kept,) = refusals_of(team)
    integration = integration_of(team)
    assert (kept["integration_id"], kept["status"]) == (integration["id"], status)
    assert kept["sentence"] == sentence
    assert kept["stored"].startswith('{"code":') or "query_string" in request_ or status in (404, 405, 411, 413)
    assert (integration["refused_count"], integration["window_count"], integration["used_at"]) == (1, 1, None)
    sent = request_.get("data", b"")
    assert not sent or kept["body"] == sent.decode()[:MAX_BODY]
    page = shown(team)
    assert all(part in page for part in ("Refused 1 time since", f"HTTP {status}", sentence, "Last refused"))
    assert "was refused 1 time since" in banner(team)
    assert sentence in banner(team)
    assert alerts_of(team) == []


def test_the_top_of_the_pages_says_who_was_refused_how_often_since_when_and_why(team: Team, token: str) -> None:
    for text in ("one", "two", "three"):
        post(team.app, token, {"title": "Disk is full", text: 1})
    team.sql.execute(
        "UPDATE integrations SET refused_since = '2026-11-25 12:00Z' WHERE account_id = %s", [team.account_id]
    )
    last = 'The field "three" is not known. The known fields are title, text, severity, status, key.'
    expected = f"Alertmanager was refused 3 times since 2026-11-25 12:00 UTC: {last}"
    assert expected in banner(team)
    link = re.search(r'<a href="([^"]+)"><bdi>Alertmanager</bdi> was refused', team.get("/contacts").text)
    assert link
    page = words(team.get(link[1].partition("#")[0]).text)
    assert page.index('"three"') < page.index('"two"') < page.index('"one"')
    assert "Refused 3 times" in words(team.get(f"/groups/{integration_of(team)['group_id']}/integrations").text)
    assert expected in words(team.get("/contacts", htmx=True).text)
    assert expected in words(team.get("/groups").text)


def test_the_top_of_the_page_takes_no_further_query(team: Team, token: str) -> None:
    with watched_statements() as before:
        team.get("/contacts")
    post(team.app, token, b"{")
    with watched_statements() as after:
        assert "was refused" in team.get("/contacts").text
    assert len(after) == len(before)


def test_nothing_is_said_of_a_sender_whose_alerts_are_taken(team: Team, token: str) -> None:
    post(team.app, token)
    post(team.app, "guess", b"{")  # an unknown token is nobody's
    assert refusals_of(team) == []
    assert "was refused" not in banner(team)
    assert "Refused" not in shown(team)


def test_a_list_that_was_seen_is_removed_by_its_own_team_only(team: Team, other_team: Team, token: str) -> None:
    post(team.app, token, b"{")
    path = f"/integrations/{integration_of(team)['id']}/dismiss"
    assert "What came in" in shown(team)
    assert other_team.post(path, {}).status_code == 404
    assert len(refusals_of(team)) == 1
    assert "was refused" not in banner(other_team)
    assert team.post(path, {}).status_code == 303
    assert (refusals_of(team), integration_of(team)["refused_count"]) == ([], 0)
    assert "was refused" not in banner(team)
    assert post(team.app, token).status_code == 202


def test_what_is_older_than_a_week_is_removed(team: Team, token: str) -> None:
    for text in ("old", "new"):
        post(team.app, token, {"title": "Disk is full", text: 1})
    old = refusals_of(team)[0]["id"]
    age = "UPDATE refusals SET refused_at = now() - interval '7 days 1 second' WHERE id = %s"
    team.sql.execute(age, [old])

    def tidied() -> tuple[int, int]:
        with team.app.app_context(), all_accounts():
            tidy(90, CHORES)
        return len(refusals_of(team)), integration_of(team)["refused_count"]

    assert tidied() == (1, 2)
    for table, column in (("refusals", "refused_at"), ("integrations", "refused_at")):
        team.sql.execute(
            f"UPDATE {table} SET {column} = now() - interval '8 days' WHERE account_id = %s", [team.account_id]
        )
    assert tidied() == (0, 0)
    assert "was refused" not in banner(team)


def test_an_integration_that_goes_takes_its_refusals_along(team: Team, token: str) -> None:
    post(team.app, token, b"{")
    team.post(f"/integrations/{integration_of(team)['id']}/delete", {})
    assert refusals_of(team) == []


# Floods


def test_what_is_invalid_counts_against_the_limit_as_what_is_valid_does(
    team: Team, token: str, settings: dict[str, str]
) -> None:
    with another(settings, ALERTS_PER_MINUTE="3") as app:
        statuses = [post(app, token, body).status_code for body in (b"{", {"title": "one"}, b"[", b"{", {"title": "x"})]
    assert statuses == [400, 202, 400, 429, 429]
    assert len(alerts_of(team)) == 1
    assert [kept["status"] for kept in refusals_of(team)] == [400, 400, 429]
    assert integration_of(team)["refused_count"] == 3


def test_what_comes_beyond_the_limit_is_neither_read_nor_written_nor_does_it_wait_for_a_lock(
    team: Team, token: str, settings: dict[str, str], database_url: str
) -> None:
    with another(settings, ALERTS_PER_MINUTE="1") as app:
        assert [post(app, token, b"{").status_code for _ in range(2)] == [400, 429]
        before = (integration_of(team), refusals_of(team))
        with psycopg.connect(database_url) as other:
            other.execute("SELECT 1 FROM integrations WHERE account_id = %s FOR UPDATE", [team.account_id])
            started = time.monotonic()
            for kwargs in ({"json": DISK}, {"data": b"x", "content_type": "text/plain"}, {"method": "PUT"}):
                answer = app.test_client().open(
                    PATH, **{"method": "POST"} | kwargs, headers={"Authorization": f"Bearer {token}"}
                )
                assert answer.status_code == 429
                assert int(answer.headers["Retry-After"]) > 0
            assert time.monotonic() - started < 5  # a lock is waited for for longer
        assert (integration_of(team), refusals_of(team)) == before


def test_a_flood_of_refusals_fills_no_disk_and_is_counted(team: Team, token: str) -> None:
    def refuse(number: int) -> int:
        return post(team.app, token, b"x " * 5000 + str(number).encode()).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(refuse, range(60))) == {400}
    assert integration_of(team)["refused_count"] == 60
    assert len(refusals_of(team)) == MAX_RECORDS
    newest = refusals_of(team)[-1]["id"]
    team.sql.execute(
        "UPDATE refusals SET refused_at = now() - interval '2 minutes' WHERE account_id = %s", [team.account_id]
    )
    assert refuse(60) == 400
    kept = refusals_of(team)
    assert len(kept) == MAX_RECORDS
    assert kept[-1]["id"] > newest
    assert all(len(row["body"]) == MAX_BODY for row in kept)


@pytest.fixture
def unwritable(sql: psycopg.Connection) -> Iterator[None]:
    """Have PostgreSQL fail with each row of a refusal."""
    body = "BEGIN RETURN 1 / 0; END"
    sql.execute(f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
    sql.execute("CREATE TRIGGER fails BEFORE INSERT ON refusals FOR EACH ROW EXECUTE FUNCTION fail()")
    yield
    sql.execute("DROP FUNCTION fail() CASCADE")


def test_a_refusal_that_cannot_be_written_is_answered_all_the_same(
    team: Team, token: str, unwritable: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert "not JSON" in error_of(post(team.app, token, b'{"password": "seen"'), 400)
    assert "could not be recorded: DivisionByZero" in caplog.text
    assert "seen" not in caplog.text
    assert (integration_of(team)["refused_count"], refusals_of(team)) == (0, [])
    with team.app.app_context(), all_accounts():
        assert db.session.scalar(sa.select(1)) == 1


# Secrets

SECRET, OWN = "S3cr3t-Value", "the integration's"
WITH_SECRETS = [
    f'{{"password": "{SECRET}", "title": "Disk"}}',
    f'{{"db_password":"a\\"{SECRET}"}}',
    f'{{"apiKey" : "{SECRET}',
    f'{{"Authorization": "Basic {SECRET}"}}',
    f'{{"headers": {{"X-Auth-Token": "{SECRET}"}}}}',
    f'{{"body": "{{\\"client_secret\\": \\"{SECRET}\\"}}"}}',
    f'{{"pwd": {SECRET}}}',
    f"title=Disk&token={SECRET}&x=1",
    f"password: {SECRET}\ntitle: Disk",
    f"Authorization: Bearer {SECRET}",
    f"Cookie: a=1; session={SECRET}",
    f'"Send it with bearer {SECRET}, please"',
    f"https://user:{SECRET}@grafana.example.com/d/1",
    f"https://grafana.example.com/d/1?auth={SECRET}",
    f"https://hooks.slack.com/services/T0/B0/{SECRET}",
    f"https://oapi.dingtalk.com/robot/send?access_token={SECRET}",
    f"https://example.com/webhook/{SECRET}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    f"an own word: {SECRET}0123456789abcdef",
    f"{SECRET}@example.com",
]


@pytest.mark.parametrize("text", WITH_SECRETS)
def test_secrets_are_cut_out_of_what_is_kept(text: str) -> None:
    assert SECRET not in masked(text.encode(), OWN)
    assert "…" in masked(text.encode(), OWN)
    # Also where it is cut: in no place a part of a secret is left that could be its beginning.
    for room in range(refusals.MASKED_BYTES - len(text), refusals.MASKED_BYTES):
        assert SECRET[:6] not in masked(b" " * room + text.encode() + b'" end', OWN).strip(), room


@pytest.mark.parametrize("number", ["+8613800138012", "+1 (202) 555-0123", "13800138012", "0049 30 1234567"])
def test_telephone_numbers_are_cut_out(number: str) -> None:
    assert masked(f'{{"to": "{number}"}}'.encode(), OWN) == '{"to": "…"}'


def test_the_token_of_the_integration_is_cut_out_whatever_it_looks_like() -> None:
    assert masked(b"curl -d hunter", "hunter") == "curl -d …"


def test_what_is_no_secret_stays_to_be_corrected() -> None:
    body = json.dumps(
        {
            "title": "kube_pod_container_status_waiting_reason is 12.5",
            "startsAt": "2026-11-25T09:51:03.157076123+02:00",
            "instance": "10.0.0.1:9100",
            "fingerprint": "c6eadffa33fcdf37",
            "runbook_url": "https://wiki.example.com/disk",
            "count": 1764150000,
        }
    )
    assert masked(body.encode(), OWN) == body


def test_any_bytes_can_be_kept_and_shown(team: Team, token: str) -> None:
    for body in (bytes(range(256)) * 20, "é".encode("utf-16"), b"\xed\xa0\x80", b"<script>alert(1)</script>"):
        assert post(team.app, token, body).status_code == 400
    assert len(refusals_of(team)) == 4
    assert "<script>alert" not in team.get(f"/integrations/{integration_of(team)['id']}").text


@pytest.mark.parametrize(
    "pattern", ["a", "a-", "1a", '"', "http://", "a@", "token", '"token":', "\\", "+1 ", "token=", "Bearer a "]
)
def test_cutting_takes_no_longer_for_any_body(pattern: str) -> None:
    body = (pattern * refusals.MASKED_BYTES).encode()
    started = time.thread_time()
    masked(body, OWN)
    assert time.thread_time() - started < 0.05


def test_what_is_refused_is_in_no_log(team: Team, token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    post(team.app, token, b'{"title": "Looked for", "x": 1}')
    assert "Looked for" not in caplog.text


def test_two_integrations_are_distinguished(team: Team, token: str) -> None:
    second = add_integration(team, add_group(team, "Day"), "Second <b>")
    post(team.app, token, b"{")
    post(team.app, second, b"")
    post(team.app, second, b"")
    said = banner(team)
    assert said.index("Second <b> was refused 2 times since") < said.index("Alertmanager was refused 1 time since")
