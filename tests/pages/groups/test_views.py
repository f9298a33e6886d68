"""Show that groups are listed, created, edited, deleted and filled with contacts, by their own team only."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from markupsafe import escape
from werkzeug.test import TestResponse

from tests.conftest import HTMX, Team, watched_statements
from tests.pages.contacts.test_views import HOSTILE, add_numbered, as_page_and_htmx, errors_of, refused_in_words

SHOWN = {"HX-Current-URL": "http://localhost/groups"}
GONE = "This group does not exist, or somebody has deleted it meanwhile."
# Every view; {group} and {contact} stand for ids.
GETS = ["/groups", "/groups/{group}", "/groups/new", "/groups/{group}/edit", "/groups/delete?id={group}"]
GETS += ["/groups/assign?id={contact}"]
POSTS = ["/groups/new", "/groups/{group}/edit", "/groups/delete", "/groups/assign", "/groups/members"]
OF_ONE = [("GET", path) for path in GETS if "{group}" in path] + [("POST", path) for path in POSTS[1:4]]


def add_group(team: Team, name: str, *members: int) -> int:
    """Write a group past the console and return its id."""
    query = "INSERT INTO groups (account_id, name) VALUES (%s, %s) RETURNING id"
    group = team.sql.execute(query, [team.account_id, name]).fetchone()[0]
    query = "INSERT INTO memberships SELECT %s, %s, unnest(%s::bigint[])"
    team.sql.execute(query, [team.account_id, group, list(members)])
    return group


def rows(answer: TestResponse) -> list[str]:
    """Return the names in the table, from the first row to the last."""
    return [html.unescape(name) for name in re.findall(r'<th scope="row"><a [^>]*><bdi>([^<]*)</bdi>', answer.text)]


def groups(team: Team) -> dict[str, set[int]]:
    """Return the ids of each group's members, by the group's name."""
    query = """SELECT name, array_remove(array_agg(contact_id), NULL) FROM groups
               LEFT JOIN memberships ON (memberships.account_id, group_id) = (groups.account_id, groups.id)
               WHERE groups.account_id = %s GROUP BY groups.id, name"""
    return {name: set(members) for name, members in team.sql.execute(query, [team.account_id])}


def snapshot(*teams: Team) -> list[Any]:
    query = "SELECT * FROM groups WHERE account_id = %s ORDER BY id"
    return [(groups(team), team.sql.execute(query, [team.account_id]).fetchall(), team.contacts()) for team in teams]


def send(team: Team, method: str, path: str, group: int, contact: int, htmx: bool = False) -> TestResponse:
    """Send a good request for `group` and `contact` to a view."""
    address = path.format(group=group, contact=contact)
    if method == "GET":
        return team.get(address, htmx)
    data: dict[str, Any] = {"name": "Night", "version": 1, "member": contact, "pick": ""}
    if path.endswith("delete"):
        data = {"id": group}
    elif path.endswith("assign"):
        data = {"id": contact, "group": group, "action": "add"}
    return team.post(address, data, htmx, **(SHOWN if htmx else {}))


def picked(answer: TestResponse) -> set[int]:
    """Return the ids that the form in `answer` sends as members."""
    shown = re.findall(r'<input[^>]* name="member"[^>]* value="(\d+)"[^>]* checked', answer.text)
    return {int(id) for id in shown + re.findall(r'<option value="(\d+)" selected>', answer.text)}


def test_the_picker_shows_a_number_as_the_list_does(team: Team) -> None:
    team.add("Ann", mobile="+8613800138000", email=None)
    assert "<small>+86 138 0013 8000</small>" in team.get("/groups/new").text


def offered(answer: TestResponse) -> list[str]:
    """Return the names that the picker shows."""
    return [html.unescape(name) for name in re.findall(r'name="member"[^>]*> <bdi>([^<]*)<', answer.text)]


def message(answer: TestResponse, team: Team) -> str:
    """Return what the person reads after a change."""
    return html.unescape(answer.text if answer.status_code != 303 else team.get(answer.location).text)


# Every view


@as_page_and_htmx
@pytest.mark.parametrize("path", GETS)
def test_a_view_answers_a_page_to_a_browser_and_a_part_of_it_to_htmx(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ann and others", contact)
    answer = send(team, "GET", path, group, contact, htmx)
    assert answer.status_code == 200
    assert ("<html" in answer.text) is not htmx
    assert "Ann" in answer.text
    assert "HX-Request" in answer.vary
    assert answer.headers["Cache-Control"] == "no-store"


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS[:3])
def test_a_change_leads_a_browser_to_the_list_and_gives_htmx_its_new_parts(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    answer = send(team, "POST", path, add_group(team, "Ops"), contact, htmx)
    if htmx:
        assert answer.status_code == 200
        assert "<html" not in answer.text
        assert 'hx-target="#groups-table"' in answer.text
        assert answer.headers["HX-Trigger"] == "dialog:close"
    else:
        assert (answer.status_code, answer.location) == (303, "/groups")
    assert re.search("has been (created|saved|deleted)", message(answer, team))


@as_page_and_htmx
@pytest.mark.parametrize(("method", "path"), OF_ONE)
def test_another_teams_group_and_an_unknown_one_do_not_exist(
    team: Team, other_team: Team, method: str, path: str, htmx: bool
) -> None:
    contact, group = team.add("Ann"), add_group(other_team, "Secret", other_team.add("Hidden"))
    before = snapshot(team, other_team)
    for identity in (group, 900_000_000_000_000_000):
        answer = send(team, method, path, identity, contact, htmx)
        assert answer.status_code == 404
        assert "Secret" not in answer.text
        assert "Hidden" not in answer.text
    assert snapshot(team, other_team) == before


@as_page_and_htmx
@pytest.mark.parametrize("path", [*GETS, "/groups/members"])
def test_a_method_that_a_view_does_not_know_is_refused(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ops", contact)
    before = snapshot(team)
    headers = {"X-CSRFToken": team.csrf_token} | (HTMX if htmx else {})
    for method in ("PUT", "PATCH", "DELETE", "QUERY", "GET" if path.endswith("members") else "PUT"):
        address = path.format(group=group, contact=contact)
        answer = team.client.open(address, method=method, data={"id": group, "name": "Night"}, headers=headers)
        refused_in_words(answer, 405)
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize("path", POSTS)
def test_a_post_without_this_sessions_token_is_refused(team: Team, path: str, token: str | None, htmx: bool) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ops")
    before = snapshot(team)
    data = {"name": "Night", "id": contact, "group": group, "member": contact, "version": 1}
    data |= {} if token is None else {"csrf_token": token}
    answer = team.client.post(path.format(group=group), data=data, headers=HTMX if htmx else {})
    refused_in_words(answer, 400)
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize(("method", "path"), [("GET", path) for path in GETS] + [("POST", path) for path in POSTS])
def test_who_is_not_logged_on_is_led_to_the_log_on(team: Team, method: str, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ops", contact)
    before = snapshot(team)
    answer = send(replace(team, client=team.app.test_client()), method, path, group, contact, htmx)
    assert answer.status_code == (204 if htmx else 303)
    assert (answer.headers["HX-Redirect"] if htmx else answer.location).startswith("/logon")
    assert "Ops" not in answer.text
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS[:2])
@pytest.mark.parametrize("name", ["", " 　", "\u200b", "x" * 65, "a\0b", "e\u202evil", "x\U000105d2\u0307"], ids=ascii)
def test_a_bad_name_is_reported_beside_its_field_and_nothing_is_written(
    team: Team, path: str, name: str, htmx: bool
) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ops")
    before = snapshot(team)
    data = {"name": name, "version": 1, "member": contact}
    answer = team.post(path.format(group=group), data, htmx)
    assert answer.status_code == 422
    assert errors_of(answer).keys() == {"name"}
    assert picked(answer) == {contact}
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS[:2])
@pytest.mark.parametrize("name", ["Night watch", "NIGHT WATCH", "ｎｉｇｈｔ　ｗａｔｃｈ"])
def test_a_name_that_is_taken_whatever_its_case_is_reported_beside_its_field(
    team: Team, other_team: Team, path: str, name: str, htmx: bool
) -> None:
    contact = team.add("Ann")
    group = add_group(team, "Ops")
    add_group(other_team, "Elsewhere")
    add_group(team, "Night watch")
    before = snapshot(team)
    answer = team.post(path.format(group=group), {"name": name, "version": 1, "member": contact}, htmx)
    assert answer.status_code == 422
    assert "There is a group of this name already." in errors_of(answer)["name"]
    assert picked(answer) == {contact}
    assert snapshot(team) == before
    assert team.post("/groups/new", {"name": "Elsewhere"}).status_code == 303


@pytest.mark.parametrize("bad", ["x", "-1", "0", "", "1e3", "9" * 19, "١"], ids=ascii)
@pytest.mark.parametrize("path", [*POSTS[:2], "/groups/members"])
def test_a_member_that_is_no_number_is_refused(team: Team, path: str, bad: str) -> None:
    group = add_group(team, "Ops", team.add("Ann"))
    before = snapshot(team)
    refused_in_words(team.post(path.format(group=group), {"name": "Night", "version": 1, "member": bad}), 400)
    assert snapshot(team) == before


# Create, edit and pick


def test_a_group_is_created_with_its_members(team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    team.add("Cid")
    team.post("/groups/new", {"name": "  Ｏｐｓ  ", "member": [ann, bob, ann]})
    assert groups(team) == {"Ｏｐｓ": {ann, bob}}


def test_editing_shows_what_is_saved_and_saves_what_is_picked(team: Team) -> None:
    ann, bob, cid = team.add("Ann"), team.add("Bob"), team.add("Cid")
    group = add_group(team, "Ops", ann, bob)
    assert picked(team.get(f"/groups/{group}/edit")) == {ann, bob}
    team.post(f"/groups/{group}/edit", {"name": "OPS", "version": 1, "member": [bob, cid]})
    assert groups(team) == {"OPS": {bob, cid}}


@pytest.mark.parametrize("path", POSTS[:2])
def test_members_of_another_account_or_deleted_meanwhile_are_left_out(team: Team, other_team: Team, path: str) -> None:
    ann, foreign, gone = team.add("Ann"), other_team.add("Foreign"), team.add("Gone")
    group = add_group(team, "Night")
    team.sql.execute("DELETE FROM contacts WHERE id = %s", [gone])
    answer = team.post(path.format(group=group), {"name": "Ops", "version": 1, "member": [ann, foreign, gone]})
    assert answer.status_code == 303
    assert groups(team)["Ops"] == {ann}
    assert groups(other_team) == {}


@as_page_and_htmx
def test_the_picker_keeps_what_was_picked_while_filtering(team: Team, other_team: Team, htmx: bool) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    other_team.add("Bob of another account")
    answer = team.post("/groups/members", {"pick": "ＢＯＢ", "member": [ann]}, htmx)
    assert offered(answer) == ["Bob"]
    assert picked(answer) == {ann}
    answer = team.post("/groups/members", {"pick": "", "member": [ann, bob]}, htmx)
    assert offered(answer) == ["Ann", "Bob"]
    assert picked(answer) == {ann, bob}
    answer = team.post("/groups/members", {"pick": "nobody", "member": [bob]}, htmx)
    assert "No contact has this in the name." in answer.text
    assert picked(answer) == {bob}


def test_the_picker_finds_anybody_among_ten_thousand(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=10_000)
    numbered = add_numbered(team, 10_000)
    page = team.get("/groups/new", htmx=True)
    assert len(offered(page)) == 100
    assert "the first 100 of 10000 are shown" in page.text
    answer = team.post("/groups/members", {"pick": "ANN 9876", "member": numbered[:3]}, htmx=True)
    assert offered(answer) == ["Ann 9876"]
    assert picked(answer) == set(numbered[:3])


@pytest.mark.long
def test_a_group_of_ten_thousand_can_be_made_and_edited(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=10_000)
    numbered = add_numbered(team, 10_000)
    assert team.post("/groups/new", {"name": "All", "member": numbered}).status_code == 303
    group = team.sql.execute("SELECT id FROM groups WHERE account_id = %s", [team.account_id]).fetchone()[0]
    shown = picked(team.get(f"/groups/{group}/edit"))
    assert shown == set(numbered)
    assert picked(team.post("/groups/members", {"pick": "9876", "member": sorted(shown)}, htmx=True)) == shown
    version = team.sql.execute("SELECT version FROM groups WHERE id = %s", [group]).fetchone()[0]
    data = {"name": "All", "version": version, "member": numbered[1:]}
    assert team.post(f"/groups/{group}/edit", data).status_code == 303
    assert groups(team) == {"All": set(numbered[1:])}


@as_page_and_htmx
def test_who_edits_second_sees_what_was_saved_and_overwrites_only_knowingly(team: Team, htmx: bool) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann)
    path, mine = f"/groups/{group}/edit", {"name": "Mine", "member": bob}
    assert team.post(path, {"name": "Theirs", "version": 1, "member": ann}).status_code == 303
    answer = team.post(path, mine | {"version": 1}, htmx)
    assert answer.status_code == 409
    assert "its members are <strong>Ann</strong>" in answer.text
    assert "Saved meanwhile: <strong>Theirs</strong>" in answer.text
    assert picked(answer) == {bob}
    assert groups(team) == {"Theirs": {ann}}
    version = re.search(r'name="version"[^>]*value="(\d+)"', answer.text)[1]
    team.post(path, mine | {"version": version}, htmx)
    assert groups(team) == {"Mine": {bob}}


def test_a_change_of_the_members_alone_is_a_change_that_others_are_shown(team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann)
    team.post("/groups/assign", {"id": bob, "group": group, "action": "add"})
    assert team.post(f"/groups/{group}/edit", {"name": "Ops", "version": 1, "member": ann}).status_code == 409
    assert groups(team) == {"Ops": {ann, bob}}


def opened_form(team: Team, path: str) -> dict[str, Any]:
    """Return what a browser would send of a form that was opened and in which nothing was touched."""
    answer = team.get(path)
    return sent_of(answer) | {"name": re.search(r'name="name"[^>]* value="([^"]*)"', answer.text)[1]}


def sent_of(answer: TestResponse) -> dict[str, Any]:
    """Return what is hidden in a form, and who is picked in it."""
    names = ("version", "opened", "opened_members")
    hidden = {name: re.search(rf'<input[^>]* name="{name}"[^>]* value="([^"]*)"', answer.text)[1] for name in names}
    return hidden | {"member": list(picked(answer))}


@as_page_and_htmx
def test_two_people_who_add_and_take_different_members_both_keep_their_change(team: Team, htmx: bool) -> None:
    ann, bob, cid, dan, eve = (team.add(name) for name in ("Ann", "Bob", "Cid", "Dan", "Eve"))
    path = f"/groups/{add_group(team, 'Ops', ann, bob, eve)}/edit"
    form = opened_form(team, path)
    assert team.post(path, form | {"member": [bob, cid], "name": "Day"}).status_code == 303  # without Ann and Eve
    answer = team.post(path, form | {"member": [ann, dan, eve]}, htmx, **SHOWN)  # without Bob, with Dan
    assert answer.status_code == (200 if htmx else 303)
    assert groups(team) == {"Day": {cid, dan}}
    shown = answer.text if htmx else team.get("/groups").text
    assert "Day has been saved. It holds what somebody else has changed meanwhile, too." in shown


def test_who_is_added_from_the_list_of_contacts_stays_in_a_group_that_somebody_edits(team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann)
    form = opened_form(team, f"/groups/{group}/edit")
    team.post("/groups/assign", {"id": bob, "group": group, "action": "add"})
    assert team.post(f"/groups/{group}/edit", form | {"name": "Day"}).status_code == 303
    assert groups(team) == {"Day": {ann, bob}}


@as_page_and_htmx
def test_a_name_that_both_have_changed_is_a_conflict_and_the_members_are_merged(team: Team, htmx: bool) -> None:
    ann, bob, cid = (team.add(name) for name in ("Ann", "Bob", "Cid"))
    path = f"/groups/{add_group(team, 'Ops', ann)}/edit"
    form = opened_form(team, path)
    assert team.post(path, form | {"name": "Theirs", "member": [ann, bob]}).status_code == 303
    answer = team.post(path, form | {"name": "Mine", "member": [cid]}, htmx)
    assert (answer.status_code, picked(answer)) == (409, {bob, cid})
    assert "Saved meanwhile: <strong>Theirs</strong>" in answer.text
    assert groups(team) == {"Theirs": {ann, bob}}
    assert team.post(path, sent_of(answer) | {"name": "Mine"}).status_code == 303
    assert groups(team) == {"Mine": {bob, cid}}


@as_page_and_htmx
def test_a_group_that_was_deleted_or_a_name_that_was_taken_meanwhile_is_reported(team: Team, htmx: bool) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann)
    path = f"/groups/{group}/edit"
    form = opened_form(team, path)
    team.post("/groups/assign", {"id": bob, "group": group, "action": "add"})
    add_group(team, "Taken")
    answer = team.post(path, form | {"name": "TAKEN"}, htmx)
    assert (answer.status_code, set(errors_of(answer)), picked(answer)) == (422, {"name"}, {ann, bob})
    team.post("/groups/delete", {"id": group})
    answer = team.post(path, form, htmx)
    assert (answer.status_code, GONE in answer.text) == (404, True)


@pytest.mark.parametrize("bad", [None, "1 x", "0", "-1", "9" * 19, "\x00", " 1"])
def test_a_group_that_does_not_know_whom_it_was_opened_with_loses_nobody_unseen(team: Team, bad: str | None) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann)
    form = opened_form(team, f"/groups/{group}/edit") | {"opened_members": bad}
    team.post("/groups/assign", {"id": bob, "group": group, "action": "add"})
    data = {name: value for name, value in form.items() if value is not None}
    answer = team.post(f"/groups/{group}/edit", data)
    assert (answer.status_code, "its members are <strong>Ann, Bob</strong>" in answer.text) == (409, True)
    assert groups(team) == {"Ops": {ann, bob}}


@pytest.mark.parametrize("version", ["", "abc", "-1", "9" * 40, None])
def test_an_edit_that_does_not_know_its_version_overwrites_nothing_unseen(team: Team, version: str | None) -> None:
    group = add_group(team, "Ops")
    data = {"name": "Mine"} | ({} if version is None else {"version": version})
    assert team.post(f"/groups/{group}/edit", data).status_code in (409, 422)
    assert groups(team) == {"Ops": set()}


# Add to a group, take from it


@as_page_and_htmx
def test_selected_contacts_are_added_and_taken_in_one_go(team: Team, other_team: Team, htmx: bool) -> None:
    ann, bob, cid = team.add("Ann"), team.add("Bob"), team.add("Cid")
    group, foreign = add_group(team, "Ops", ann), other_team.add("Foreign")
    question = team.get(f"/groups/assign?id={ann}&id={bob}", htmx)
    assert re.findall(r'name="id" value="(\d+)"', question.text) == [str(ann), str(bob)]
    assert f'<option value="{group}">Ops</option>' in question.text
    shown = {"HX-Current-URL": "http://localhost/contacts?sort=-name"} if htmx else {}
    data = {"id": [ann, bob, cid, foreign], "group": group}
    assert "2 contacts have been added to Ops." in message(
        team.post("/groups/assign", data | {"action": "add"}, htmx, **shown), team
    )
    assert groups(team) == {"Ops": {ann, bob, cid}}
    taken = team.post("/groups/assign", {"id": [bob, foreign], "group": group, "action": "remove"}, htmx, **shown)
    assert "1 contact has been taken from Ops." in message(taken, team)
    assert (taken.headers["HX-Replace-Url"] if htmx else taken.location) == f"/contacts{'?sort=-name' if htmx else ''}"
    assert groups(team) == {"Ops": {ann, cid}}


@pytest.mark.parametrize("data", [{"group": "x"}, {"group": ""}, {}, {"group": "9" * 19}])
def test_an_assignment_to_no_group_is_refused(team: Team, data: dict[str, str]) -> None:
    ann = team.add("Ann")
    add_group(team, "Ops")
    refused_in_words(team.post("/groups/assign", {"id": ann, "action": "add"} | data), 400)
    assert groups(team) == {"Ops": set()}


def test_the_list_after_an_assignment_is_the_one_that_the_page_shows(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=101)
    contacts = [team.add(f"Contact {number:03}") for number in range(101)]
    group = add_group(team, "Ops")
    page = team.get("/contacts?sort=-name&page=2", htmx=True).text
    shown = {"HX-Current-URL": "http://localhost/contacts?sort=-name&page=2"}
    answer = team.post("/groups/assign", {"id": contacts[1], "group": group, "action": "add"}, htmx=True, **shown)
    assert answer.headers["HX-Replace-Url"] == "/contacts?sort=-name&page=2"
    links = re.compile(r' (?:href|hx-get|action)="([^"]+)"')
    assert links.findall(answer.text) == links.findall(page)
    assert f"/contacts/{contacts[0]}/edit" in answer.text


def test_another_teams_contacts_are_not_offered_for_a_group(team: Team, other_team: Team) -> None:
    foreign = other_team.add("Hidden")
    answer = team.get(f"/groups/assign?id={foreign}")
    assert answer.status_code == 404
    assert "Hidden" not in answer.text


# The list


def test_the_list_shows_each_group_and_how_many_are_in_it(team: Team, other_team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    add_group(other_team, "Foreign")
    add_group(team, "b", ann, bob)
    add_group(team, "A", ann)
    add_group(team, "c")
    answer = team.get("/groups")
    assert rows(answer) == ["A", "b", "c"]
    assert ("2 contacts" in answer.text, "1 contact<" in answer.text) == (True, True)
    assert "an alert for this group reaches no one" in answer.text


@as_page_and_htmx
def test_a_row_opens_to_its_members(team: Team, htmx: bool) -> None:
    group = add_group(team, "Ops", team.add("bob"), team.add("Ann"))
    team.add("Not in it")
    answer = team.get(f"/groups/{group}", htmx)
    assert re.findall(r"<a href=\"/contacts/\d+/edit\"><bdi>(\w+)", answer.text) == ["Ann", "bob"]
    assert "Not in it" not in answer.text


@as_page_and_htmx
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("OPS", ["Ops"]),
        ("ｏｐ", ["Ops"]),
        ("zoË", ["Night"]),
        ("ＺＯ", ["Night"]),
        ("t", ["Night", "ｔest"]),
        ("%", []),
    ],
)
def test_groups_are_found_by_their_name_or_a_members(
    team: Team, other_team: Team, text: str, names: list[str], htmx: bool
) -> None:
    add_group(team, "Ops")
    add_group(team, "Night", team.add("Zoë"), team.add("zoË 2"))
    add_group(team, "ｔest")
    add_group(other_team, "Foreign ops t", other_team.add("Zoë"))
    answer = team.client.get("/groups", query_string={"q": text}, headers=HTMX if htmx else {})
    assert answer.status_code == 200
    assert rows(answer) == names


def test_a_long_list_comes_in_pages_of_a_hundred(team: Team) -> None:
    team.sql.execute(
        "INSERT INTO groups (account_id, name) SELECT %s, 'Group ' || lpad(n::text, 3, '0')"
        " FROM generate_series(1, 101) n",
        [team.account_id],
    )
    assert len(rows(team.get("/groups"))) == 100
    assert rows(team.get("/groups?page=2")) == ["Group 101"]
    refused_in_words(team.get("/groups?page=3"), 404)
    for query in ("page=0", "page=x", "q=%00", f"q={'x' * 255}"):
        refused_in_words(team.get(f"/groups?{query}"), 400)


@pytest.mark.parametrize("path", ["/groups", "/groups?q=ann"])
def test_the_list_of_groups_takes_at_most_four_queries(team: Team, path: str) -> None:
    for number in range(5):
        add_group(team, f"Group {number}", team.add("Ann"))
    with watched_statements() as sent:
        assert len(rows(team.get(path))) == 5
    assert 1 <= len(sent) <= 4


# Delete


@as_page_and_htmx
def test_groups_are_deleted_together_and_their_contacts_stay(team: Team, htmx: bool) -> None:
    ann = team.add("Ann")
    ids = [add_group(team, name, ann) for name in ("First", "Second", "Third")]
    question = team.get(f"/groups/delete?id={ids[0]}&id={ids[1]}", htmx)
    assert "Delete 2 groups?" in question.text
    assert ("First" in question.text, "Second" in question.text, "Third" in question.text) == (True, True, False)
    answer = team.post("/groups/delete", {"id": ids[:2]}, htmx, **(SHOWN if htmx else {}))
    assert "2 groups have been deleted." in message(answer, team)
    assert groups(team) == {"Third": {ann}}
    assert team.contact(ann)


def test_groups_that_are_gone_already_are_reported(team: Team, other_team: Team) -> None:
    first, foreign = add_group(team, "First"), add_group(other_team, "Foreign")
    answer = team.post("/groups/delete", {"id": [first, foreign]}, htmx=True, **SHOWN)
    assert answer.status_code == 200
    assert "First has been deleted. 1 was gone already." in answer.text
    answer = team.post("/groups/delete", {"id": first}, htmx=True, **SHOWN)
    assert answer.status_code == 404
    assert "Nothing to delete: 1 was gone already." in answer.text
    assert GONE in team.post("/groups/delete", {"id": first}).text
    assert groups(other_team) == {"Foreign": set()}


# What the contacts' pages show of groups


@as_page_and_htmx
def test_the_question_names_the_groups_that_contacts_leave(team: Team, other_team: Team, htmx: bool) -> None:
    ann, bob, cid = team.add("Ann"), team.add("Bob"), team.add("Cid")
    add_group(team, "Alone", ann)
    add_group(team, "Pair", ann, bob)
    add_group(team, "Elsewhere", cid)
    add_group(other_team, "Foreign", other_team.add("Ann"))

    def shown(*ids: int) -> str:
        answer = team.get("/contacts/delete?" + "&".join(f"id={id}" for id in ids), htmx)
        return html.unescape(re.sub("<[^>]*>", "", answer.text))

    assert "The group Alone is left with nobody." in shown(ann)
    assert "The group Pair loses this contact." in shown(ann)
    assert "The group Pair is left with nobody." in shown(ann, bob)
    for text in (shown(ann), shown(ann, bob)):
        assert "Elsewhere" not in text
        assert "Foreign" not in text
    team.post("/contacts/delete", {"id": [ann, bob]})
    assert groups(team) == {"Alone": set(), "Pair": set(), "Elsewhere": {cid}}


@as_page_and_htmx
def test_a_contact_shows_its_groups_in_its_row_and_in_its_dialog(team: Team, htmx: bool) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    add_group(team, "Ops", ann)
    add_group(team, "Night", ann)
    for path in ("/contacts", f"/contacts/{ann}/edit"):
        assert "<bdi>Night</bdi>, <bdi>Ops</bdi>" in re.sub("</?a[^>]*>", "", team.get(path, htmx).text)
    assert "In no group" in team.get(f"/contacts/{bob}/edit", htmx).text
    row = team.get("/contacts", htmx).text.partition(f'id="contact-{bob}"')[2]
    assert "Ops" not in row.partition("</tr>")[0]


@as_page_and_htmx
def test_the_list_of_contacts_shows_who_is_in_no_group(team: Team, htmx: bool) -> None:
    add_group(team, "Ops", team.add("Ann"))
    team.add("Bob")
    team.add("Cid")
    assert rows(team.get("/contacts?show=ungrouped", htmx)) == ["Bob", "Cid"]
    assert rows(team.get("/contacts?show=ungrouped&q=bo", htmx)) == ["Bob"]
    assert rows(team.get("/contacts?show=all", htmx)) == ["Ann", "Bob", "Cid"]
    refused_in_words(team.get("/contacts?show=nobody", htmx), 400)


@pytest.mark.parametrize("query", ["", "?show=ungrouped", "?q=ann&sort=-changed"])
def test_the_list_of_contacts_still_takes_at_most_five_queries(team: Team, query: str) -> None:
    add_group(team, "Ops", *add_numbered(team, 50)[:25])
    with watched_statements() as sent:
        assert team.get(f"/contacts{query}").status_code == 200
    assert 1 <= len(sent) <= 5


# Hostile input


@as_page_and_htmx
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_come_back_as_text(team: Team, text: str, htmx: bool) -> None:
    contact = team.add(text)
    answer = team.post("/groups/new", {"name": text, "member": contact}, htmx, **(SHOWN if htmx else {}))
    (group,) = team.sql.execute("SELECT id FROM groups WHERE account_id = %s", [team.account_id]).fetchone()
    answers = [answer] if htmx else []
    answers += [send(team, "GET", path, group, contact, htmx) for path in GETS if path != "/groups/new"]
    answers += [team.get(path, htmx) for path in ("/contacts", f"/contacts/delete?id={contact}")]
    answers.append(team.post(f"/groups/{group}/edit", {"name": "Other", "version": 0, "member": contact}, htmx))
    answers.append(team.post("/groups/new", {"name": text}, htmx))
    for answer in answers:
        assert str(escape(text)) in answer.text, answer.request.path
        if escape(text) != text:
            assert text not in answer.text, answer.request.path
