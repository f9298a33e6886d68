"""Show that the pages of contacts and groups say who would not be reached, and why, before an alert does."""

import html
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from werkzeug.test import TestResponse

from contacts_app.core.db import all_accounts
from contacts_app.delivery.models import Delivery
from tests.api.test_alerts import alerts_of, deliveries_of
from tests.conftest import ROBOT, Team, watched_statements
from tests.pages.contacts.test_views import SHOWN, as_page_and_htmx, errors_of
from tests.pages.contacts.test_views import rows as names
from tests.pages.groups.test_views import add_group
from tests.pages.notifications.test_views import insert, polls, stories, words

NO_SMS = "Text messages are not set up: SMS_PROVIDER is not set. Ask your administrator to set it up."
NO_MAIL = "E-mail is not set up: SMTP_HOST is not set. Ask your administrator to set it up."
AT = datetime(2026, 11, 25, 7, 30, tzinfo=UTC)
ALL = {"mobile": "+8613800138000", "email": "ann@example.com", "dingtalk_url": f"{ROBOT}abc"}


def note(team: Team, contact: int, channel: str, failing: str = "") -> None:
    """Write what is known of a channel past the console: that it works, or why it is failing."""
    known: dict[str, Any] = {"failing_since": AT, "answer": failing} if failing else {"worked_at": AT}
    ids = {"account_id": team.account_id, "contact_id": contact, "channel": channel}
    insert(team, "channel_states", ids | known)


def healths(answer: TestResponse) -> list[str]:
    """Return what is said below each address, in the order of the page."""
    assert answer.status_code == 200
    return [words(found) for found in re.findall(r'<small class="health[^>]*>(.*?)</small>', answer.text, re.DOTALL)]


def banner(answer: TestResponse) -> list[str]:
    """Return the paragraphs and items at the top of the page."""
    found = re.search(r'<div id="contacts-reach">(.*?)</div>', answer.text, re.DOTALL)
    assert found
    return [words(part) for part in re.findall(r"<(?:p|li)>.*?</(?:p|li)>", found[1], re.DOTALL)]


# Below each address


def test_each_address_says_what_is_known_of_it(full_team: Team) -> None:
    ann = full_team.add("Ann", **ALL)
    assert healths(full_team.get("/contacts")) == ["Never tried"] * 3
    note(full_team, ann, "sms")
    note(full_team, ann, "email", "The mailbox is <full>.")
    expected = [
        "Worked 2026-11-25 07:30 UTC",
        "Fails since 2026-11-25 07:30 UTC: The mailbox is <full>.",
        "Never tried",
    ]
    assert healths(full_team.get("/contacts")) == expected


def test_a_channel_that_is_not_set_up_says_so_whatever_was_known(team: Team) -> None:
    ann = team.add("Ann", **ALL)
    note(team, ann, "sms")
    note(team, ann, "email", "The mailbox is full.")
    assert healths(team.get("/contacts")) == ["Not set up", "Not set up", "Never tried"]


def test_a_new_address_has_never_been_tried(full_team: Team) -> None:
    ann = full_team.add("Ann", **ALL)
    for channel in ("sms", "email"):
        note(full_team, ann, channel, "Refused.")
    form = {"name": "Ann", "email": "ann.new@example.com", "mobile": "+8613800138000", "version": 1}
    full_team.post(f"/contacts/{ann}/edit", form)
    assert healths(full_team.get("/contacts")) == ["Fails since 2026-11-25 07:30 UTC: Refused.", "Never tried"]


def test_a_row_is_made_again_when_something_in_it_changes_and_only_then(full_team: Team) -> None:
    ann, _ = full_team.add("Ann", **ALL), full_team.add("Bob")
    add_group(full_team, "On call", ann)
    made = full_team.app.extensions["contacts.row"].cache_info

    def rows_made(text: str) -> int:
        before = made().misses
        assert text in full_team.get("/contacts").text
        return made().misses - before

    def is_made_again(text: str) -> bool:
        return [rows_made(text), rows_made(text)] == [1, 0]

    def change(statement: str) -> None:
        full_team.sql.execute(statement, [ann])

    assert [rows_made("Ann"), rows_made("Ann")] == [2, 0]
    change("UPDATE contacts SET name = 'Anne' WHERE id = %s")
    assert is_made_again("<bdi>Anne</bdi>")
    change("UPDATE contacts SET receives_system_notifications = true WHERE id = %s")
    assert is_made_again(">Yes</td>")
    change("UPDATE groups SET name = 'Night' FROM memberships WHERE group_id = groups.id AND contact_id = %s")
    assert is_made_again("<bdi>Night</bdi>")
    note(full_team, ann, "sms")
    assert is_made_again("Worked")
    change("UPDATE channel_states SET failing_since = now(), answer = 'Refused.' WHERE contact_id = %s")
    assert is_made_again("Refused.")
    change("DELETE FROM memberships WHERE contact_id = %s")
    assert is_made_again("<bdi>Anne</bdi></a></th>")


# At the top


@pytest.mark.usefixtures("worker")
def test_nothing_is_said_while_everybody_can_be_reached(full_team: Team) -> None:
    ann = full_team.add("Ann", **ALL)
    note(full_team, ann, "sms", "Refused.")  # two channels are left
    note(full_team, ann, "email")
    full_team.add("Bob")  # never tried is not failing
    answer = full_team.get("/contacts")
    assert (banner(answer), "Who would not be reached" in answer.text) == ([], False)


@pytest.mark.usefixtures("no_worker")
def test_a_console_without_a_worker_says_that_nothing_is_delivered(full_team: Team) -> None:
    (said,) = banner(full_team.get("/contacts"))
    assert (
        said
        == "Nothing is delivered at the moment, because no delivery worker runs. Ask your administrator to start one."
    )


@pytest.mark.usefixtures("worker")
def test_channels_that_are_not_set_up_are_named_to_teams_that_have_them(team: Team, other_team: Team) -> None:
    other_team.add(mobile="+8613800138000", email="ann@example.com")
    assert banner(team.get("/contacts")) == []
    team.add("Cid", email="cid@example.com", dingtalk_url=f"{ROBOT}abc")
    assert banner(team.get("/contacts")) == [NO_MAIL]
    team.add("Zoe", mobile="+8613800138000", dingtalk_url=f"{ROBOT}def")
    assert banner(team.get("/contacts")) == banner(team.get("/groups")) == [NO_SMS, NO_MAIL]


@pytest.mark.usefixtures("worker")
def test_who_cannot_be_reached_is_named_with_the_reason(full_team: Team, other_team: Team) -> None:
    for name in ("Zoe", "Ann"):
        contact = full_team.add(name, email=f"{name}@example.com", mobile="+8613800138000" if name == "Ann" else None)
        note(full_team, contact, "email", "The mailbox is full.")
    note(full_team, contact, "sms", "The number is <wrong>.")
    full_team.add("Bob")
    note(other_team, other_team.add("Other"), "email", "Refused.")
    assert banner(full_team.get("/contacts")) == [
        "2 contacts cannot be reached right now.",
        "Ann: Mobile phone number fails: The number is <wrong>.; Mailbox fails: The mailbox is full.",
        "Zoe: Mailbox fails: The mailbox is full.",
    ]


@pytest.mark.usefixtures("worker")
def test_who_has_only_channels_that_are_not_set_up_cannot_be_reached(team: Team) -> None:
    note(team, team.add("Zoe", email="zoe@example.com", dingtalk_url=f"{ROBOT}abc"), "dingtalk", "Token is wrong.")
    team.add("Cid", dingtalk_url=f"{ROBOT}def")
    team.add("Bob")
    assert banner(team.get("/contacts")) == [
        NO_MAIL,
        "2 contacts cannot be reached right now.",
        "Zoe: Mailbox is not set up; DingTalk robot fails: Token is wrong.",
        "Bob: no channel of this contact is set up",
    ]
    team.add("Ann")
    assert banner(team.get("/contacts"))[-1] == "Ann, Bob: no channel of these contacts is set up"


@pytest.mark.usefixtures("worker")
def test_of_many_who_cannot_be_reached_five_are_named_and_all_can_be_shown(full_team: Team) -> None:
    contacts = [full_team.add(f"Ann {number}") for number in range(7)]
    for contact in contacts[:5]:
        note(full_team, contact, "email", "Refused.")
    assert "Show all" not in full_team.get("/contacts").text
    note(full_team, contacts[5], "email", "Refused.")
    answer = full_team.get("/contacts?show=unreachable")
    assert banner(answer)[0] == "6 contacts cannot be reached right now."
    assert [said[:5] for said in banner(answer)[1:]] == [f"Ann {number}" for number in range(5)]
    assert 'href="/contacts?show=unreachable"' in answer.text
    assert names(answer) == [f"Ann {number}" for number in range(6)]


# The lists


@as_page_and_htmx
def test_the_list_can_be_narrowed_to_who_cannot_be_reached_and_to_what_fails(full_team: Team, htmx: bool) -> None:
    note(full_team, full_team.add("Ann", email="ann@example.com", mobile="+8613800138000"), "email", "Refused.")
    note(full_team, full_team.add("Bob"), "email", "Refused.")
    note(full_team, full_team.add("Cid"), "email")
    full_team.add("Zoe")
    found = {"unreachable": ["Bob"], "failing": ["Ann", "Bob"], "all": ["Ann", "Bob", "Cid", "Zoe"]}
    for show, expected in found.items():
        assert names(full_team.get(f"/contacts?show={show}", htmx)) == expected
    assert names(full_team.get("/contacts?show=failing&q=an", htmx)) == ["Ann"]
    assert "is shown under “Cannot be reached”" in words(full_team.get("/contacts?show=unreachable&q=an", htmx).text)


def test_what_is_set_up_is_asked_when_a_list_is_shown(team: Team, full_team: Team) -> None:
    """Two consoles with other settings on one database each have their own view."""
    team.add("Ann")
    full_team.add("Bob")
    for _ in range(2):
        assert names(team.get("/contacts?show=unreachable")) == ["Ann"]
        assert names(full_team.get("/contacts?show=unreachable")) == []


def test_a_group_says_when_none_of_its_members_can_be_reached(full_team: Team) -> None:
    ann, bob = full_team.add("Ann"), full_team.add("Bob")
    groups = {add_group(full_team, "One", ann): True, add_group(full_team, "Both", ann, bob): False}
    groups |= {add_group(full_team, "Nobody"): False}
    note(full_team, ann, "email", "Refused.")
    page = full_team.get("/groups").text
    for group, is_unreachable in groups.items():
        row = re.search(rf'<tr id="group-{group}">.*?</tr>', page, re.DOTALL)
        assert row
        assert ("None of them can be reached right now" in row[0]) is is_unreachable


@as_page_and_htmx
def test_a_group_says_how_many_of_its_members_cannot_be_reached_and_who_and_why(full_team: Team, htmx: bool) -> None:
    ids = [full_team.add(name) for name in ("Ann", "Bob", "Cid", "Dan")]
    group, whole = add_group(full_team, "Ops", *ids), add_group(full_team, "Day", ids[0])
    note(full_team, ids[1], "email", "No such <mailbox>.")
    note(full_team, ids[2], "email", "The mailbox is full.")
    page = full_team.get("/groups", htmx).text
    assert "2 of 4 cannot be reached" in page.partition(f'<tr id="group-{group}">')[2]
    assert "cannot be reached" not in page.partition(f'<tr id="group-{whole}">')[2].partition("</tr>")[0]
    who = [
        "Bob Cannot be reached: Mailbox fails: No such <mailbox>.",
        "Cid Cannot be reached: Mailbox fails: The mailbox is full.",
        *("Ann", "Dan"),
    ]
    shown = full_team.get(f"/groups/{group}", htmx).text
    members = re.search(r'<ul class="names">(.*?)</ul>', shown, re.DOTALL)
    assert members
    assert [words(one) for one in re.findall(r"<li>.*?</li>", members[1], re.DOTALL)] == who
    assert htmx or "2 of 4 cannot be reached right now." in shown
    picker = re.findall(r'<label class="picker-row">.*?</label>', full_team.get("/groups/new", htmx).text, re.DOTALL)
    marked = {words(row).split()[0]: "Cannot be reached: Mailbox fails:" in words(row) for row in picker}
    assert marked == {"Ann": False, "Bob": True, "Cid": True, "Dan": False}


@as_page_and_htmx
def test_what_is_not_set_up_is_said_once_above_the_members_and_not_of_each(team: Team, htmx: bool) -> None:
    zoe = team.add("Zoe", email="zoe@example.com", dingtalk_url=f"{ROBOT}abc")
    note(team, zoe, "dingtalk", "Token is wrong.")
    group = add_group(team, "Ops", zoe, team.add("Bob"), team.add("Cid", dingtalk_url=f"{ROBOT}def"))
    shown = words(team.get(f"/groups/{group}", htmx).text)
    who = "Not set up: Mailbox. Bob Cannot be reached Zoe Cannot be reached: DingTalk robot fails: Token is wrong. Cid"
    assert who in shown
    picker = words(team.get(f"/groups/{group}/edit", htmx).text)
    assert (picker.count("Not set up: Mailbox."), picker.lower().count("not set up")) == (1, 1)


def test_the_picker_marks_those_whom_the_list_calls_unreachable(team: Team) -> None:
    """Whatever their channels and what is known of these: the same as the condition of the filter."""
    kinds = [{"email": "a@example.com"}, {"dingtalk_url": f"{ROBOT}abc"}]
    kinds += [{"email": "b@example.com", "dingtalk_url": f"{ROBOT}abd"}, {"mobile": "+8613800138000"}]
    for number, columns in enumerate(kinds):
        for failing in (False, True):
            columns = {name: value.replace("@", f"{failing:d}@") for name, value in columns.items() if value}
            columns |= {"mobile": f"+861380013801{number + 4 * failing}"} if "mobile" in columns else {}
            contact = team.add(f"C{number}{failing:d}", **columns)
            if failing and "dingtalk_url" in columns:
                note(team, contact, "dingtalk", "Refused.")
    picker = re.findall(r'<label class="picker-row">.*?</label>', team.get("/groups/new").text, re.DOTALL)
    marked = [words(row).split()[0] for row in picker if "Cannot be reached" in words(row)]
    assert sorted(marked) == sorted(names(team.get("/contacts?show=unreachable"))) != []
    assert len(marked) < len(picker)


@as_page_and_htmx
@pytest.mark.usefixtures("worker")
def test_the_banner_stands_on_both_tabs_and_is_fresh_after_each_change(full_team: Team, htmx: bool) -> None:
    ann = full_team.add("Ann")
    group = add_group(full_team, "Ops", ann)
    at_groups = {"HX-Current-URL": "http://localhost/groups"}
    assert [banner(full_team.get(path)) for path in ("/contacts", "/groups")] == [[], []]
    note(full_team, ann, "email", "Refused.")
    said = ["1 contact cannot be reached right now.", "Ann: Mailbox fails: Refused."]
    assert [banner(full_team.get(path, htmx)) for path in ("/contacts", "/groups")] == [said, said]
    edit = {"name": "Night", "version": 1, "member": ann}
    assert banner(full_team.post(f"/groups/{group}/edit", edit, True, **at_groups)) == said
    full_team.sql.execute("DELETE FROM channel_states WHERE account_id = %s", [full_team.account_id])
    assert banner(full_team.post("/groups/delete", {"id": group}, True, **at_groups)) == []


def test_a_group_whose_members_channels_are_not_set_up_reaches_nobody(team: Team) -> None:
    add_group(team, "Night", team.add("Ann"))
    assert "None of them can be reached right now" in team.get("/groups").text
    add_group(team, "Day", team.add("Zoe", dingtalk_url=f"{ROBOT}abc"))
    assert team.get("/groups").text.count("None of them can be reached right now") == 1


def test_no_list_takes_more_than_a_few_queries(full_team: Team) -> None:
    for number in range(20):
        contact = full_team.add(f"Ann {number}", email=f"ann{number}@example.com")
        note(full_team, contact, "email", "Refused.")
        add_group(full_team, f"Group {number}", contact)
    for path in ("/contacts", "/contacts?show=unreachable", "/contacts?show=failing", "/groups"):
        with watched_statements() as sent:
            assert full_team.get(path).status_code == 200
        assert 1 <= len(sent) <= 5


@as_page_and_htmx
def test_the_list_counts_who_was_never_tried_and_who_is_in_no_group(
    full_team: Team, other_team: Team, htmx: bool
) -> None:
    ids = [full_team.add(name) for name in ("Ann", "Bob", "Cid")]
    other_team.add("Not of this team")

    def counted(query: str = "") -> list[str]:
        usage = re.search(r'<p class="usage">.*?</p>', full_team.get(f"/contacts{query}", htmx).text, re.DOTALL)
        assert usage
        return [
            words(link) for link in re.findall(r'<a href="/contacts\?show=(?:untried|ungrouped)">.*?</a>', usage[0])
        ]

    assert counted() == ["3 never tried", "3 in no group"]
    add_group(full_team, "Ops", *ids[:2])
    add_group(full_team, "Day", ids[0])
    for channel in ("sms", "email"):
        note(full_team, ids[0], channel)
    note(full_team, ids[2], "email", "Refused.")
    assert counted() == counted("?q=nobody") == ["1 never tried", "1 in no group"]
    listed = {name: full_team.get(f"/contacts?show={name}", htmx).text for name in ("untried", "ungrouped")}
    shown = {name: re.findall(r'aria-label="Editing (\w+)"', text) for name, text in listed.items()}
    assert shown == {"untried": ["Bob"], "ungrouped": ["Cid"]}
    note(full_team, ids[1], "email")
    add_group(full_team, "Night", ids[2])
    assert counted() == []


# Save and send test


@as_page_and_htmx
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "edit"])
def test_a_contact_is_saved_and_sent_a_test_at_once(full_team: Team, is_new: bool, htmx: bool) -> None:
    path = "/contacts/new" if is_new else f"/contacts/{full_team.add('Ann', email='ann@example.com')}/edit"
    form = {"name": "Annie", "email": "annie@example.com", "mobile": "138 0013 8000", "version": 1, "action": "test"}
    assert 'name="action" value="test"' in full_team.get(path, htmx).text
    answer = full_team.post(path, form, htmx, **(SHOWN if htmx else {}))
    (contact,), (written,) = full_team.contacts(), alerts_of(full_team)
    assert (contact["name"], contact["email"]) == ("Annie", "annie@example.com")
    assert (written["kind"], written["addressee"]) == ("test", "Annie")
    queued = [(written["id"], "Annie", channel, "queued") for channel in ("email", "sms")]
    assert deliveries_of(full_team) == queued
    if htmx:
        assert (answer.status_code, names(answer), polls(answer)) == (200, ["Annie"], True)
        assert '<hx-partial hx-target="#dialog"' in answer.text
        assert [story.split()[-1] for story in stories(answer)] == ["Queued", "Queued"]
        assert answer.headers.get("HX-Trigger") != "dialog:close"
    else:
        assert (answer.status_code, answer.location) == (303, f"/notifications/{written['id']}")
        shown = full_team.get(str(answer.location))
        assert f"Annie has been {'created' if is_new else 'saved'}." in html.unescape(shown.text)


def test_the_list_behind_a_test_keeps_its_pages_and_is_read_once(full_team: Team) -> None:
    full_team.sql.execute("UPDATE accounts SET contact_quota = 250 WHERE id = %s", [full_team.account_id])
    ann, *_ = [full_team.add(f"Contact {number:03}") for number in range(250)]
    form = {"name": "Contact 000", "email": "ann@example.com", "version": 1, "action": "test"}
    at = {"HX-Current-URL": "http://localhost/contacts?page=2"}
    with watched_statements() as sent:
        answer = full_team.post(f"/contacts/{ann}/edit", form, htmx=True, **at)
    pages = re.compile(r'<nav class="pages".*?</nav>', re.DOTALL)
    assert pages.findall(answer.text) == pages.findall(full_team.get("/contacts?page=2", htmx=True).text) != []
    assert sum("FROM alerts" in statement for statement, _ in sent) == 1


@as_page_and_htmx
def test_a_contact_that_is_only_saved_is_sent_nothing(full_team: Team, htmx: bool) -> None:
    form = {"name": "Ann", "email": "ann@example.com"}
    answer = full_team.post("/contacts/new", form, htmx, **(SHOWN if htmx else {}))
    assert (answer.status_code, len(full_team.contacts())) == (200 if htmx else 303, 1)
    assert alerts_of(full_team) == []
    assert answer.headers.get("HX-Trigger") == ("dialog:close" if htmx else None)


@as_page_and_htmx
def test_a_form_that_cannot_be_saved_sends_nothing(full_team: Team, htmx: bool) -> None:
    taken, other = full_team.add("Bob", email="bob@example.com"), full_team.add("Cid", email="cid@example.com")
    tries: list[tuple[str, dict[str, Any], int]]
    tries = [("/contacts/new", {"name": "", "email": "x"}, 422), ("/contacts/new", {"email": "bob@example.com"}, 422)]
    tries += [(f"/contacts/{other}/edit", {"email": "bob@example.com", "version": 1}, 422)]
    tries += [(f"/contacts/{taken}/edit", {"email": "new@example.com", "version": 0}, 409)]
    for path, form, status in tries:
        answer = full_team.post(path, {"name": "Ann", "action": "test"} | form, htmx, **(SHOWN if htmx else {}))
        assert answer.status_code == status
        assert status != 422 or "email" in errors_of(answer)
    assert (alerts_of(full_team), deliveries_of(full_team)) == ([], [])
    assert [contact["name"] for contact in full_team.contacts()] == ["Bob", "Cid"]


def test_what_somebody_else_has_saved_as_well_is_still_tested(full_team: Team) -> None:
    ann = full_team.add("Ann", email="ann@example.com")
    form = {"name": "Ann", "email": "ann@example.com", "version": 0, "action": "test"}
    assert full_team.post(f"/contacts/{ann}/edit", form).status_code == 303
    assert [row[1:] for row in deliveries_of(full_team)] == [("Ann", "email", "queued")]


def test_messages_that_are_late_are_said_at_the_top(full_team: Team, worker: None) -> None:
    contact = full_team.add(mobile="+8613800138000", email="late@example.com")
    full_team.post("/notifications/test", {"contact": contact})
    assert "Messages are late" not in full_team.get("/contacts").text
    full_team.sql.execute(
        "UPDATE deliveries SET next_attempt_at = now() - interval '3 minutes' WHERE account_id = %s",
        [full_team.account_id],
    )
    assert "Messages are late" in full_team.get("/contacts").text


def test_a_backlog_is_not_read_to_see_that_nothing_is_late(full_team: Team) -> None:
    contact = full_team.add(email="backlog@example.com")
    full_team.post("/notifications/test", {"contact": contact})
    full_team.sql.execute(
        "INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name)"
        " SELECT account_id, alert_id, 1000000 + n, channel, contact_name FROM deliveries, generate_series(1, 5000) n"
        " WHERE account_id = %s",
        [full_team.account_id],
    )
    full_team.sql.execute("ANALYZE deliveries")
    with full_team.app.app_context(), all_accounts():
        statement = sa.select(Delivery.is_late(full_team.account_id)).compile(
            dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}
        )
    plan = full_team.sql.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}").fetchone()[0][0]["Plan"]
    parts, reading = [plan], []
    while parts:
        part = parts.pop()
        parts += part.get("Plans", [])
        reading += [part] if part.get("Relation Name") == "deliveries" else []
    assert reading
    assert max(part["Actual Rows"] + part.get("Rows Removed by Filter", 0) for part in reading) <= 2
