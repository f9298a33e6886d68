"""Show that what came in is listed and found with the result of each message, and that tests and retries go out."""

import html
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from werkzeug.test import TestResponse

from contacts_app.delivery import sample
from tests.api.test_alerts import add_integration as new_token
from tests.api.test_alerts import alerts_of, deliveries_of, post
from tests.conftest import ROBOT, Team, watched_statements
from tests.pages.contacts.test_views import HOSTILE, as_page_and_htmx, refused_in_words
from tests.pages.groups.test_views import add_group

GONE = "This notification does not exist, or it is older than notifications are kept."
NO_WORKER = "Nothing is delivered at the moment: no delivery worker is running."
ENDED = {"next_attempt_at": None, "ended_at": datetime(2026, 11, 25, 7, 30, tzinfo=UTC)}
SENT = {"state": "sent", "attempts": 1} | ENDED
FAILED = {"state": "failed", "attempts": 3, "answer": "The mailbox is full."} | ENDED
SENDING = {"state": "sending", "attempts": 1}


def add_alert(team: Team, title: str = "Disk is full", *deliveries: dict[str, Any], **columns: Any) -> int:
    """Write an alert with these deliveries, each to a contact of its own, past the console and return its id."""
    columns = {"kind": "alert", "source": "plain", "addressee": "Night", "text": "", "severity": ""} | columns
    columns |= {"account_id": team.account_id, "title": title, "status": columns.get("status", "firing")}
    alert: int = insert(team, "alerts", columns, "RETURNING id")
    for number, delivery in enumerate(deliveries, 1):
        defaults = {"contact_id": number, "channel": "email", "contact_name": f"Contact {number}"}
        insert(team, "deliveries", {"account_id": team.account_id, "alert_id": alert} | defaults | delivery)
    return alert


def insert(team: Team, table: str, columns: dict[str, Any], returning: str = "") -> Any:
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    found = team.sql.execute(f"INSERT INTO {table} ({names}) VALUES ({marks}) {returning}", list(columns.values()))
    return (found.fetchone() or [None])[0] if returning else None


def titles(answer: TestResponse) -> list[str]:
    """Return the titles in the list, from the first row to the last."""
    assert answer.status_code == 200
    return [html.unescape(title) for title in re.findall(r'<a href="/notifications/\d+"><bdi>(.*?)</bdi>', answer.text)]


def words(fragment: str) -> str:
    """Return what a person reads."""
    spaced = " ".join(html.unescape(re.sub("<[^>]*>", " ", fragment)).split())
    return re.sub(" (?=[:;,?])", "", spaced)


def stories(answer: TestResponse) -> list[str]:
    """Return what is shown of each message."""
    assert answer.status_code == 200
    return [words(item) for item in re.findall(r'<li class="delivery.*?</li>', answer.text, re.DOTALL)]


def polls(answer: TestResponse) -> bool:
    """Return whether the page asks again by itself."""
    return bool(re.search(r'<(section|div) id="notifications-(deliveries|result)"[^>]* hx-trigger="load', answer.text))


def refreshes_list(answer: TestResponse) -> bool:
    """Return whether the page that shows the contacts is refreshed because the messages have ended."""
    return answer.headers.get("HX-Trigger") == "notifications:changed"


def state_of(team: Team, contact: int) -> dict[str, Any]:
    """Return the delivery of a contact as it stands in the table, as far as sending again changes it."""
    names = ("state", "attempts", "answer", "ended_at", "message")
    query = f"SELECT {', '.join(names)} FROM deliveries WHERE account_id = %s AND contact_id = %s"
    row = team.sql.execute(query, [team.account_id, contact]).fetchone()
    assert row
    return dict(zip(names, row, strict=True))


# The list


@as_page_and_htmx
def test_the_list_is_newest_first_with_what_became_of_each(team: Team, other_team: Team, htmx: bool) -> None:
    add_alert(team, "All there is", SENT, SENT, FAILED, {}, SENDING, severity="critical")
    add_alert(team, "It is over", SENT, status="resolved")
    add_alert(team, "Nobody")
    add_alert(team, "Try", {}, kind="test", source="console", addressee="Ann")
    add_alert(team, "A channel fails", SENT, kind="system", severity="warning")
    add_alert(other_team, "Not of this team", SENT)
    answer = team.get("/notifications", htmx)
    assert titles(answer) == ["A channel fails", "Try", "Nobody", "It is over", "All there is"]
    rows = [words(row) for row in re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", answer.text, re.DOTALL)]
    assert [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME", row) for row in rows] == [
        "System A channel fails Night TIME 1 sent",
        "Test Try Ann TIME 1 waiting",
        "Firing Nobody Night TIME Nobody was notified",
        "Resolved It is over Night TIME 1 sent",
        "Firing All there is critical Night TIME 1 failed 2 waiting 2 sent",
    ]
    assert ("<html" in answer.text) is not htmx


@pytest.mark.parametrize(
    ("codes", "title", "text"),
    [
        (
            [
                {"code": "notice.failing_several", "count": 7},
                {
                    **{"code": "notice.channel_fails", "name": "Ann <b>100%</b>", "channel": "email"},
                    **{"since": "2026-03-01T12:30:00+00:00", "why": '{"code":"mail.refused_mailbox","said":"550 No"}'},
                },
                {"code": "notice.channel_works", "name": "Bob", "channel": "pigeon"},
            ],
            "7 channels of the team fail",
            "Ann <b>100%</b>: Mailbox, since 2026-03-01 12:30 UTC: The mail server refused the mailbox: 550 No\n"
            "Bob: pigeon",
        ),
        (None, "As it was sent", "All of it"),
        ([{"code": "notice.of_a_later_version"}, {"code": "notice.more"}], "As it was sent", "All of it"),
        ([{"code": "notice.quota"}], "The contact quota is nearly used up", "All of it"),
        ([["notice.quota"], 5], "As it was sent", "All of it"),
    ],
)
def test_a_system_notification_is_shown_by_its_codes_or_as_it_was_sent(
    team: Team, codes: list[Any] | None, title: str, text: str
) -> None:
    identity = add_alert(
        team, "As it was sent", SENT, kind="system", text="All of it", codes=codes and json.dumps(codes)
    )
    assert titles(team.get("/notifications")) == [title]
    page = team.get(f"/notifications/{identity}").text
    assert f"<bdi>{html.escape(title)}</bdi></h1>" in page
    assert f"<bdi>{html.escape(text)}</bdi></pre>" in page


def test_an_empty_list_says_how_to_begin(team: Team) -> None:
    assert "No notifications yet" in team.get("/notifications").text
    assert "No notification found" in team.get("/notifications?q=x").text


@as_page_and_htmx
def test_older_leads_through_all_there_is(team: Team, htmx: bool) -> None:
    team.sql.execute(
        "INSERT INTO alerts (account_id, kind, source, addressee, title, text, severity, status)"
        " SELECT %s, 'alert', 'plain', 'Night', 'Number ' || number, '', '', 'firing'"
        " FROM generate_series(1, 101) AS number",
        [team.account_id],
    )
    path, seen = "/notifications?q=number&show=alerts", []
    while path:
        answer = team.get(path, htmx)
        seen.append(titles(answer))
        assert ("Newest" in answer.text) is (len(seen) > 1)
        # The link says what becomes of the address, and this header would override it.
        assert "HX-Replace-Url" not in answer.headers
        link = re.search(r'<a href="([^"]+)"[^>]* hx-push-url="([^"]+)"[^>]*>Older ', answer.text)
        assert link is None or link[1] == link[2]
        path = html.unescape(link[1]) if link else ""
    assert [len(page) for page in seen] == [50, 50, 1]
    assert [title for page in seen for title in page] == [f"Number {number}" for number in range(101, 0, -1)]


@pytest.mark.parametrize("query", ["q=disk", "q=DISK IS", "q=über 98", "q=ÜBER", "q=night", "q=grafana", "q=100%25"])
def test_a_search_looks_at_title_text_group_and_source_in_any_case(team: Team, query: str) -> None:
    add_alert(team, "Disk is full", text="Über 98, not 100% yet", addressee="Night", source="grafana")
    add_alert(team, "Another", text="1000", addressee="Day", source="plain")
    assert titles(team.get(f"/notifications?{query}")) == ["Disk is full"]


@pytest.mark.parametrize("text", ["%", "_", "\\", "'", "a%b", "*", "."])
def test_what_means_something_to_a_database_is_plain_in_a_search(team: Team, text: str) -> None:
    add_alert(team, f"x{text}y")
    add_alert(team, "xaby")
    assert titles(team.client.get("/notifications", query_string={"q": text})) == [f"x{text}y"]


@pytest.mark.parametrize(
    ("show", "found"),
    [
        ("all", ["system", "test", "sent", "waiting", "failed"]),
        ("failed", ["failed"]),
        ("waiting", ["waiting"]),
        ("alerts", ["sent", "waiting", "failed"]),
        ("tests", ["test"]),
        ("system", ["system"]),
    ],
)
def test_the_list_can_be_narrowed(team: Team, other_team: Team, show: str, found: list[str]) -> None:
    add_alert(team, "failed", FAILED, SENT)
    add_alert(team, "waiting", SENT, SENDING)
    add_alert(team, "sent", SENT)
    add_alert(team, "test", SENT, kind="test")
    add_alert(team, "system", SENT, kind="system")
    add_alert(other_team, "failed elsewhere", FAILED, {})
    assert titles(team.get(f"/notifications?show={show}")) == found
    assert titles(team.get(f"/notifications?show={show}&q={found[0]}")) == found[:1]


@pytest.mark.parametrize("query", ["show=x", "before=x", "before=0", "before=" + "9" * 19, "q=%00", "q=" + "x" * 255])
def test_a_list_that_is_not_there_is_refused_in_words(team: Team, query: str) -> None:
    refused_in_words(team.get(f"/notifications?{query}"), 400)


# An alert and its messages


def test_each_message_shows_what_became_of_it(team: Team) -> None:
    due = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
    again = {"attempts": 2, "next_attempt_at": due, "answer": "DingTalk answers 500."}
    states: list[dict[str, Any]] = [{}, SENDING, again | {"channel": "dingtalk"}, SENT | {"channel": "sms"}, FAILED]
    states[3] = states[3] | {"address": "+86 138 **** 8000", "answer": "Twilio has taken it."}
    identity = add_alert(team, "Disk is full", *states, text="98 %\nof /var", severity="critical")
    answer = team.get(f"/notifications/{identity}")
    assert stories(answer) == [
        "Contact 5 Mailbox Failed 2026-11-25 07:30 UTC 3 attempts The mailbox is full. Send again",
        "Contact 1 Mailbox Queued",
        "Contact 2 Mailbox Sending",
        "Contact 3 DingTalk robot Trying again at 2026-11-25 08:00 UTC 2 attempts DingTalk answers 500.",
        "Contact 4 Mobile phone number +86 138 **** 8000 Sent 2026-11-25 07:30 UTC Twilio has taken it.",
    ]
    assert "1 failed 3 waiting 1 sent" in words(answer.text)
    assert "98 %\nof /var" in answer.text
    for fact in ("Sent to Night", "From A script", "Severity critical"):
        assert fact in words(answer.text)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_sender_writes_is_shown_as_it_is(team: Team, text: str) -> None:
    hostile = FAILED | {"answer": text, "contact_name": text, "address": text}
    identity = add_alert(team, text, hostile, text=text, addressee=text, severity=text)
    for path in ("/notifications", f"/notifications/{identity}", f"/notifications/{identity}/result"):
        page = team.get(path).text
        assert text in [html.unescape(shown) for shown in re.findall(r"<bdi>([^<]*)</bdi>", page)]
        assert "<script>alert" not in page
        assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("state", "found"), [("all", [4, 1, 2, 3]), ("failed", [4]), ("waiting", [1, 2]), ("sent", [3])]
)
@as_page_and_htmx
def test_messages_are_shown_by_state(team: Team, state: str, found: list[int], htmx: bool) -> None:
    identity = add_alert(team, "Disk", {}, SENDING, SENT, FAILED)
    answer = team.get(f"/notifications/{identity}?state={state}", htmx)
    assert [story.split()[1] for story in stories(answer)] == [str(number) for number in found]
    assert ("<html" in answer.text) is not htmx


def test_many_messages_are_shown_in_pages(team: Team) -> None:
    identity = add_alert(team)
    team.sql.execute(
        "INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, state, attempts,"
        " next_attempt_at, ended_at) SELECT %s, %s, number, 'email', lpad(number::text, 3, '0'), 'sent', 1, NULL, now()"
        " FROM generate_series(1, 301) AS number",
        [team.account_id, identity],
    )
    path = f"/notifications/{identity}"
    first = team.get(path)
    assert (len(stories(first)), "Page 1 of 2" in first.text, "301 sent" in first.text) == (300, True, True)
    following = re.search(r'<a href="([^"]+)">Next</a>', first.text)
    assert following
    second = team.get(html.unescape(following[1]))
    assert [story.split()[0] for story in stories(second)] == ["301"]
    assert ">Previous</a>" in second.text
    assert stories(team.get(f"{path}?page=99")) == stories(second)
    assert "The first 300 are shown." in team.get(f"{path}/result").text
    refused_in_words(team.get(f"{path}?page=0"), 400)
    refused_in_words(team.get(f"{path}?state=x"), 400)


@pytest.mark.parametrize("path", ["/notifications/{}", "/notifications/{}/result"])
@pytest.mark.parametrize("waiting", [{}, SENDING, {"attempts": 1}], ids=["queued", "sending", "again"])
def test_a_page_asks_again_while_something_waits_and_refreshes_the_list_at_the_end(
    team: Team, path: str, waiting: dict[str, Any]
) -> None:
    path = path.format(add_alert(team, "Disk", SENT, waiting))
    for htmx in (False, True):
        answer = team.get(path, htmx)
        assert (polls(answer), refreshes_list(answer)) == (True, False)
    query = "UPDATE deliveries SET state = 'failed', next_attempt_at = NULL, ended_at = now() WHERE account_id = %s"
    team.sql.execute(f"{query} AND state <> 'sent'", [team.account_id])
    assert (polls(team.get(path)), refreshes_list(team.get(path))) == (False, False)
    answer = team.get(path, htmx=True)
    assert (polls(answer), refreshes_list(answer)) == (False, True)


@pytest.mark.usefixtures("no_worker")
def test_without_a_worker_it_is_said_where_something_waits(team: Team) -> None:
    waits, ended = add_alert(team, "Disk", {}), add_alert(team, "Disk", SENT)
    for path in ("/notifications", f"/notifications/{waits}", f"/notifications/{waits}/result"):
        assert NO_WORKER in team.get(path).text
    for path in (f"/notifications/{ended}", f"/notifications/{ended}/result"):
        assert NO_WORKER not in team.get(path).text


@pytest.mark.usefixtures("worker")
def test_with_a_worker_nothing_is_said_until_it_is_silent(team: Team) -> None:
    identity = add_alert(team, "Disk", {})
    for path in ("/notifications", f"/notifications/{identity}", f"/notifications/{identity}/result"):
        assert NO_WORKER not in team.get(path).text
    team.sql.execute("UPDATE workers SET seen_at = now() - interval '31 seconds'")
    assert NO_WORKER in team.get("/notifications").text


def test_a_robots_address_and_secret_are_on_no_page(team: Team) -> None:
    secret = "SECrobotsignature"
    ann = team.add("Ann", dingtalk_url=f"{ROBOT}robot-token-1234567", dingtalk_secret=secret)
    group = add_group(team, "Night", ann)
    answer = team.post("/notifications/test", {"group": group}, htmx=True)
    identity = alerts_of(team)[0]["id"]
    paths = [f"/notifications/test?group={group}", f"/notifications/test?contact={ann}", "/notifications", "/contacts"]
    paths += [f"/notifications/{identity}", f"/notifications/{identity}/result", f"/groups/{group}/integrations"]
    for page in (answer, *(team.get(path) for path in paths)):
        assert page.status_code == 200
        assert not any(part in page.text for part in ("robot-token-1234567", secret, "access_token"))


# Sending again


@as_page_and_htmx
def test_everything_that_failed_is_sent_again_as_if_it_were_new(team: Team, other_team: Team, htmx: bool) -> None:
    identity = add_alert(team, "Disk", FAILED, SENT, SENDING, FAILED)
    add_alert(team, "Another", FAILED | {"contact_id": 9})
    add_alert(other_team, "Disk", FAILED)
    team.sql.execute(
        "UPDATE deliveries SET give_up_at = now() - interval '1 day' WHERE account_id = %s", [team.account_id]
    )
    answer = team.post(f"/notifications/{identity}/again", {}, htmx)
    if htmx:
        assert (answer.status_code, polls(answer), refreshes_list(answer)) == (200, True, False)
        assert [story.split()[3] for story in stories(answer)] == ["Queued", "Sending", "Queued", "Sent"]
        assert "2 messages are sent again." in answer.text
    else:
        assert (answer.status_code, answer.location) == (303, f"/notifications/{identity}")
        assert "2 messages are sent again." in team.get(str(answer.location)).text
    assert [row[3] for row in deliveries_of(team)] == ["queued", "sent", "sending", "queued", "failed"]
    assert (state_of(team, 1)["attempts"], state_of(team, 1)["ended_at"]) == (0, None)
    query = """SELECT count(*) FROM deliveries WHERE account_id = %s AND state = 'queued' AND next_attempt_at <= now()
               AND give_up_at BETWEEN now() + interval '59 minutes' AND now() + interval '1 hour'"""
    assert team.sql.execute(query, [team.account_id]).fetchone() == (2,)
    assert [row[3] for row in deliveries_of(other_team)] == ["failed"]


@as_page_and_htmx
def test_one_message_is_sent_again(team: Team, htmx: bool) -> None:
    identity = add_alert(team, "Disk", FAILED, FAILED, FAILED | {"contact_id": 2, "channel": "sms"})
    form = {"contact": 2, "channel": "email"}
    answer = team.post(f"/notifications/{identity}/again", form, htmx)
    assert answer.status_code == (200 if htmx else 303)
    shown = answer if htmx else team.get(str(answer.location))
    assert "1 message is sent again, to Contact 2 (Mailbox)." in shown.text
    assert [(row[1], row[2], row[3]) for row in deliveries_of(team)] == [
        ("Contact 1", "email", "failed"),
        ("Contact 2", "email", "queued"),
        ("Contact 3", "sms", "failed"),
    ]


@as_page_and_htmx
@pytest.mark.parametrize("act", ["again", "stop"])
def test_the_filter_and_the_page_stay_after_an_act(team: Team, act: str, htmx: bool) -> None:
    waiting = [{"contact_name": f"Contact {number:03}"} for number in range(301)]
    identity = add_alert(team, "Disk", *waiting, FAILED | {"contact_id": 999, "contact_name": "Contact 999"})
    path = f"/notifications/{identity}?state=waiting&page=2"
    shown = team.get(path)
    assert [story.split()[1] for story in stories(shown)] == ["300"]
    action = html.unescape(re.search(rf'<form method="post" action="([^"]*/{act}\?[^"]*)"', shown.text)[1])
    answer = team.post(action, {}, htmx)
    if not htmx:
        assert (answer.status_code, answer.location) == (303, path)
        answer = team.get(path)
    assert f'<a href="/notifications/{identity}?state=waiting"' in answer.text
    assert re.search(r'state=waiting"[^>]* aria-current="true"', answer.text)
    expected = ["300", "999"] if act == "again" else []
    assert [story.split()[1] for story in stories(answer)] == expected
    assert ("1 message is sent again" if act == "again" else "301 messages") in answer.text
    before = deliveries_of(team)
    assert team.post(f"/notifications/{identity}/{act}?state=x", {}, htmx).status_code == 400
    assert deliveries_of(team) == before


def test_what_a_notification_names_is_a_link_for_as_long_as_it_exists(team: Team, other_team: Team) -> None:
    ann, gone = team.add("Ann"), other_team.add("Of another team")
    group = add_group(team, "Night", ann)
    columns = {"group_id": group, "name": "Alertmanager", "token_hash": b"x" * 32, "account_id": team.account_id}
    integration = insert(team, "integrations", columns, "RETURNING id")
    messages = [SENT | {"contact_id": ann, "contact_name": "Ann"}, SENT | {"contact_id": gone, "contact_name": "Bob"}]
    alert = {"integration_id": integration, "integration_name": "Alertmanager"}
    path = f"/notifications/{add_alert(team, 'Disk', *messages, **alert)}"

    def links() -> list[tuple[str, str]]:
        main = team.get(path).text.partition("<main")[2]
        return re.findall(r'<a href="(/(?:contacts|groups|integrations)/[^"]*)"><bdi>([^<]*)</bdi></a>', main)

    whole = [(f"/groups/{group}", "Night"), (f"/integrations/{integration}", "Alertmanager")]
    assert links() == [*whole, (f"/contacts/{ann}/edit", "Ann")]
    for href, _ in links():
        assert team.get(href).status_code == 200
    team.sql.execute("DELETE FROM groups WHERE id = %s", [group])
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [ann])
    assert links() == []
    assert "Sent to Night" in words(team.get(path).text)


def test_the_list_leads_to_the_group_that_was_notified_for_as_long_as_it_exists(team: Team, other_team: Team) -> None:
    token = new_token(team, group := add_group(team, "Night"), "Backups")
    post(team.app, token, {"title": "Disk is full"})
    add_alert(team, addressee="Night", source="console", kind="test")
    links = re.findall(r'<a href="(/groups/\d+)"><bdi>Night</bdi></a>', team.get("/notifications").text)
    assert links == [f"/groups/{group}"]
    team.sql.execute("DELETE FROM groups WHERE id = %s", [group])
    page = team.get("/notifications").text
    assert page.count("<bdi>Night</bdi>") == 2
    assert "/groups/" not in page


@pytest.mark.parametrize("form", [{}, {"contact": 1, "channel": "email"}])
def test_what_has_not_failed_is_not_sent_again(team: Team, form: dict[str, Any]) -> None:
    identity = add_alert(team, "Disk", SENT, SENDING)
    before = state_of(team, 1)
    answer = team.post(f"/notifications/{identity}/again", form)
    assert "Nothing here has failed." in team.get(str(answer.location)).text
    assert (state_of(team, 1), state_of(team, 2)["state"]) == (before, "sending")


def test_sending_again_has_the_robot_looked_at(team: Team) -> None:
    ann = team.add("Ann", dingtalk_url=f"{ROBOT}abc")
    identity = add_alert(team, "Disk", FAILED | {"contact_id": ann, "channel": "dingtalk"})
    team.post(f"/notifications/{identity}/again", {})
    due = team.sql.execute("SELECT due_at IS NOT NULL FROM robots WHERE account_id = %s", [team.account_id]).fetchall()
    assert due == [(True,)]


@pytest.mark.parametrize(
    "form", [{"channel": "fax", "contact": 1}, {"channel": "email"}, {"channel": "email", "contact": "x"}]
)
def test_a_message_that_cannot_be_recognised_is_not_sent_again(team: Team, form: dict[str, Any]) -> None:
    identity = add_alert(team, "Disk", FAILED)
    refused_in_words(team.post(f"/notifications/{identity}/again", form), 400)
    assert state_of(team, 1)["state"] == "failed"


# Tests


@pytest.mark.parametrize("kind", ["contact", "group"])
@as_page_and_htmx
def test_a_test_is_asked_for_and_sent_the_way_of_every_alert(team: Team, kind: str, htmx: bool) -> None:
    ann, bob = team.add("Ann", email="ann@example.com", mobile="+8613800138000"), team.add("Bob")
    group = add_group(team, "Night", ann, bob)
    identity, name = (ann, "Ann") if kind == "contact" else (group, "Night")
    question = team.get(f"/notifications/test?{kind}={identity}", htmx)
    assert f"Send a test to {name}?" in words(question.text)
    assert f'<input type="hidden" name="{kind}" value="{identity}">' in question.text
    assert ("<html" in question.text, "hx-post" in question.text) == (not htmx, htmx)
    assert kind == "contact" or "all 2 members of this group" in words(question.text)
    assert alerts_of(team) == []
    answer = team.post("/notifications/test", {kind: identity}, htmx)
    (written,) = alerts_of(team)
    assert (written["kind"], written["source"], written["addressee"]) == ("test", "console", name)
    expected = [("Ann", "email"), ("Ann", "sms")] + ([("Bob", "email")] if kind == "group" else [])
    assert [(row[1], row[2]) for row in deliveries_of(team)] == expected
    if htmx:
        assert (answer.status_code, polls(answer)) == (200, True)
        assert len(stories(answer)) == len(expected)
    else:
        assert (answer.status_code, answer.location) == (303, f"/notifications/{written['id']}")


@as_page_and_htmx
def test_a_test_of_a_group_without_members_says_that_nobody_was_notified(team: Team, htmx: bool) -> None:
    group = add_group(team, "Night")
    assert "nobody would be notified" in team.get(f"/notifications/test?group={group}", htmx).text
    answer = team.post("/notifications/test", {"group": group}, htmx)
    shown = answer if htmx else team.get(str(answer.location))
    assert "Nobody was notified" in shown.text
    assert not polls(shown)


def test_a_test_has_one_member_of_a_group_in_words(team: Team) -> None:
    group = add_group(team, "Night", team.add("Ann"))
    assert "the one member of this group" in words(team.get(f"/notifications/test?group={group}").text)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("form", [{}, {"contact": "x"}, {"group": ""}])
def test_a_test_of_nobody_is_refused_in_words(team: Team, method: str, form: dict[str, str]) -> None:
    path = f"/notifications/test?{urlencode(form)}"
    refused_in_words(team.get(path) if method == "GET" else team.post("/notifications/test", form), 400)
    assert alerts_of(team) == []


# Of one's own team only


@as_page_and_htmx
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/notifications/{alert}"),
        ("GET", "/notifications/{alert}/result"),
        ("POST", "/notifications/{alert}/again"),
        ("GET", "/notifications/test?contact={contact}"),
        ("POST", "/notifications/test?contact={contact}"),
        ("GET", "/notifications/test?group={group}"),
        ("POST", "/notifications/test?group={group}"),
    ],
)
def test_what_another_team_was_sent_is_not_there(
    team: Team, other_team: Team, method: str, path: str, htmx: bool
) -> None:
    contact = team.add("Secret Ann")
    ids = {"alert": add_alert(team, "Secret disk", FAILED), "contact": contact}
    path = path.format(**ids, group=add_group(team, "Secret group", contact))
    answer = other_team.post(path, {}, htmx) if method == "POST" else other_team.get(path, htmx)
    assert (answer.status_code, "Secret" in answer.text) == (404, False)
    assert alerts_of(other_team) == []
    assert (len(alerts_of(team)), state_of(team, 1)["state"]) == (1, "failed")


def test_an_alert_that_is_not_there_is_said_to_be_gone(team: Team) -> None:
    assert GONE in team.get("/notifications/1").text


def test_no_page_takes_more_than_a_few_queries(team: Team) -> None:
    for _ in range(20):
        identity = add_alert(team, "Disk", SENT, FAILED, {})
    pages = {"/notifications?show=failed&q=disk": 3}  # session, alerts with their counts, workers
    pages |= {f"/notifications/{identity}?state=sent": 5, f"/notifications/{identity}/result": 5}
    for path, most in pages.items():
        with watched_statements() as sent:
            assert team.get(path).status_code == 200
        assert 1 <= len(sent) <= most


def test_a_message_shows_whether_more_than_its_headline_arrived(team: Team) -> None:
    refused = {"state": "failed", "answer": "The text holds a link.", "text_refused": True}
    identity = add_alert(team, "Disk", SENT | {"headline_only": True}, FAILED | refused, SENT, FAILED)
    shown = stories(team.get(f"/notifications/{identity}"))
    assert "Sent, only the headline 2" in shown[2]
    assert "This text was refused 2" in shown[0]
    assert "The text holds a link." in shown[0]
    assert "Failed 2" in shown[1]
    assert "Sent 2" in shown[3]
    assert "only the headline" in team.get(f"/notifications/{identity}/result").text


def test_a_test_says_how_hard_it_is(team: Team) -> None:
    ann = team.add(name="Ann")
    assert "as long as the longest alert" in words(team.get(f"/notifications/test?contact={ann}").text)
    team.post("/notifications/test", {"contact": ann})
    query = "SELECT title, text FROM alerts WHERE account_id = %s"
    assert team.sql.execute(query, [team.account_id]).fetchone() == (sample.TITLE, sample.text(None))


# A test of those who are selected


@as_page_and_htmx
def test_a_test_of_selected_contacts_says_what_it_costs_and_is_one_notification(full_team: Team, htmx: bool) -> None:
    robot = {"dingtalk_url": f"{ROBOT}shared"}
    ids = [
        full_team.add("Ann", mobile="+8613800138001", email="ann@example.com", **robot),
        full_team.add("Bob", mobile="+8613800138002", **robot),
        full_team.add("Cid", email="cid@example.com", dingtalk_url=f"{ROBOT}own"),
    ]
    other = full_team.add("Not selected", mobile="+8613800138009")
    question = full_team.get("/notifications/test?" + "&".join(f"id={id}" for id in ids), htmx)
    assert "Send a test to 3 contacts?" in words(question.text)
    # Who shares a robot is notified in one message.
    assert "6 messages are sent: 2 text messages, 2 e-mails, 2 DingTalk messages." in words(question.text)
    assert [name for name in ("Ann", "Bob", "Cid", "Not selected") if f"<bdi>{name}</bdi>" in question.text] == [
        *("Ann", "Bob", "Cid")
    ]
    full_team.sql.execute("DELETE FROM contacts WHERE id = %s", [ids.pop()])  # somebody deletes one meanwhile
    answer = full_team.post("/notifications/test", {"id": [*ids, other + 10**6]}, htmx)
    (written,) = alerts_of(full_team)
    assert (written["kind"], written["addressee"]) == ("test", "2 contacts")
    queued = {(name, channel) for _, name, channel, _ in deliveries_of(full_team)}
    assert queued == {
        ("Ann", "sms"),
        ("Ann", "email"),
        ("Ann", "dingtalk"),
        ("Bob", "sms"),
        ("Bob", "dingtalk"),
    }
    if htmx:
        assert (polls(answer), "Test of 2 contacts" in words(answer.text)) == (True, True)
    else:
        assert (answer.status_code, answer.location) == (303, f"/notifications/{written['id']}")


@as_page_and_htmx
def test_a_test_that_is_asked_for_badly_sends_nothing(team: Team, other_team: Team, htmx: bool) -> None:
    foreign, mine = other_team.add("Foreign"), team.add("Mine")
    asked = {f"id={foreign}": 404, "id=x": 400, "": 400, "&".join(["id=1"] + [f"id={n}" for n in range(2, 102)]): 400}
    for query, status in asked.items():
        assert team.get(f"/notifications/test?{query}", htmx).status_code == status
    assert team.post("/notifications/test", {"id": foreign}, htmx).status_code == 404
    assert "1 message is sent: 1 e-mail (not set up: it fails)." in words(
        team.get(f"/notifications/test?id={mine}&id={foreign}", htmx).text
    )
    assert deliveries_of(team) == deliveries_of(other_team) == []
