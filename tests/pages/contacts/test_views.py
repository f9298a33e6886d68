"""Show that contacts are listed, created, edited and deleted as the manual says."""

import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeTimedSerializer
from markupsafe import escape
from werkzeug.test import TestResponse

from contacts_app.delivery.channels.registry import KINDS
from contacts_app.pages.contacts.views import PLACE
from tests.conftest import HTMX, ROBOT, Team, watched_statements

repeatable = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
GOOD = {"name": "Bob", "mobile": "138 0013 8001"}
BAD = {"name": "", "mobile": "12", "email": "bob@", "dingtalk_url": "https://example.com/"}
TOKEN = "0123456789abcdefSECRETwxyz"
SHOWN = {"HX-Current-URL": "http://localhost/contacts"}
GONE = "This contact does not exist, or somebody has deleted it meanwhile."
# Every view, as (method, address); {} stands for a contact's id.
GETS = ["/contacts", "/contacts/new", "/contacts/{}/edit", "/contacts/delete?id={}"]
POSTS = ["/contacts/new", "/contacts/{}/edit", "/contacts/delete"]
OF_ONE = [("GET", "/contacts/{}/edit"), ("POST", "/contacts/{}/edit"), ("GET", "/contacts/delete?id={}")]
OF_ONE += [("POST", "/contacts/delete")]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onfocus='alert(1)",
    "</bdi></th></template></dialog>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${7*7}",
    "%(name)s %s {0} {name}",
    "'; DROP TABLE contacts; --",
    "\\'; DELETE FROM contacts WHERE ''='",
    "&lt;b&gt; &amp;amp;",
    "<hx-partial hx-target='body'>",
]
as_page_and_htmx = pytest.mark.parametrize("htmx", [False, True], ids=["page", "htmx"])


def rows(answer: TestResponse) -> list[str]:
    """Return the names in the table, from the first row to the last."""
    return [html.unescape(name) for name in re.findall(r"<bdi>([^<]*)</bdi></a></th>", answer.text)]


def errors_of(answer: TestResponse) -> dict[str, str]:
    """Return the text beside each field that has errors."""
    found = re.findall(r'<div id="(\w+)-errors"[^>]*>(.*?)</div>', answer.text, re.DOTALL)
    return {field: html.unescape(re.sub("<[^>]*>", "", text)) for field, text in found}


def value_of(answer: TestResponse, field: str) -> str:
    """Return what stands in a field of the form."""
    tag = re.search(rf'<input[^>]* name="{field}"[^>]*>', answer.text)
    value = re.search(r' value="([^"]*)"', tag[0])
    return html.unescape(value[1]) if value else ""


def main_of(answer: TestResponse) -> str:
    return answer.text.partition("<main")[2].partition("</main>")[0] or answer.text


def snapshot(*teams: Team) -> list[Any]:
    return [(team.contacts(), usage(team)) for team in teams]


def usage(team: Team) -> int:
    return team.sql.execute("SELECT contact_count FROM accounts WHERE id = %s", [team.account_id]).fetchone()[0]


def add_numbered(team: Team, count: int) -> list[int]:
    found = team.sql.execute(
        "INSERT INTO contacts (account_id, name, email)"
        " SELECT %s, 'Ann ' || lpad(number::text, 4, '0'), 'ann' || number || '@example.com'"
        " FROM generate_series(1, %s::int) AS number RETURNING id",
        [team.account_id, count],
    )
    return [row[0] for row in found]


def refused_in_words(answer: TestResponse, *statuses: int) -> None:
    """Require an answer that a person understands: the right status, a sentence and no traceback."""
    assert answer.status_code in statuses, answer.text
    assert answer.mimetype == "text/html"
    assert "Traceback" not in answer.text
    assert re.search(r"[A-Z][a-z ]+[^<>]{10,}\.", html.unescape(re.sub("<[^>]*>", "\n", main_of(answer))))


def send(team: Team, method: str, path: str, contact: int, htmx: bool = False) -> TestResponse:
    """Send a good request for `contact` to a view."""
    if method == "GET":
        return team.get(path.format(contact), htmx)
    data = {"id": contact} if path.endswith("delete") else GOOD | {"version": 1}
    return team.post(path.format(contact), data, htmx, **(SHOWN if htmx else {}))


# Every view


@as_page_and_htmx
@pytest.mark.parametrize("path", GETS)
def test_a_view_answers_a_page_to_a_browser_and_a_part_of_it_to_htmx(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    answer = team.get(path.format(contact), htmx)
    assert answer.status_code == 200
    assert ("<html" in answer.text) is not htmx
    assert "Ann" in answer.text or path == "/contacts/new"
    assert "HX-Request" in answer.vary
    assert answer.headers["Cache-Control"] == "no-store"


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS)
def test_a_change_leads_a_browser_to_the_list_and_gives_htmx_its_new_parts(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann", mobile="+8613800138000")
    answer = send(team, "POST", path, contact, htmx)
    assert "HX-Request" in answer.vary
    if htmx:
        assert answer.status_code == 200
        assert "<html" not in answer.text
        assert 'hx-target="#contacts-table"' in answer.text
        assert 'hx-target="#messages"' in answer.text
        assert answer.headers["HX-Trigger"] == "dialog:close"
    else:
        assert (answer.status_code, answer.location) == (303, "/contacts")
        answer = team.get("/contacts")
    verb = {"new": "created", "edit": "saved", "delete": "deleted"}[path.rpartition("/")[2]]
    assert f"{'Ann' if verb == 'deleted' else 'Bob'} has been {verb}." in answer.text
    assert f"{len(team.contacts())} of 100" in answer.text
    assert rows(answer) == sorted(contact["name"] for contact in team.contacts())


@as_page_and_htmx
@pytest.mark.parametrize(("method", "path"), OF_ONE)
def test_a_contact_of_another_account_does_not_exist(
    team: Team, other_team: Team, method: str, path: str, htmx: bool
) -> None:
    theirs = other_team.add("Secret name", mobile="+8613800138000")
    before = snapshot(team, other_team)
    answer = send(team, method, path, theirs, htmx)
    assert answer.status_code == 404
    assert "Secret" not in answer.text
    assert snapshot(team, other_team) == before


@as_page_and_htmx
@pytest.mark.parametrize("number", [0, 404_404_404, 10**17, 2**63 - 1, 2**63, 10**30])
@pytest.mark.parametrize(("method", "path"), OF_ONE)
def test_an_id_that_nobody_has_is_reported_in_words(
    team: Team, method: str, path: str, number: int, htmx: bool
) -> None:
    team.add("Ann")
    before = snapshot(team)
    refused_in_words(send(team, method, path, number, htmx), 404, 400)
    assert snapshot(team) == before


@pytest.mark.parametrize("number", ["-1", "1.5", "abc", "%00", "1%20OR%201=1", "1/../2", "%F0%9F%98%80", "0x1", ""])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_with_no_number_for_an_id_does_not_exist(team: Team, method: str, number: str) -> None:
    path = f"/contacts/{number}/edit"
    refused_in_words(team.get(path) if method == "GET" else team.post(path, GOOD), 404)
    assert team.contacts() == []


@as_page_and_htmx
@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for path in GETS for method in ("PUT", "PATCH", "DELETE", "QUERY")] + [("POST", "/contacts")],
)
def test_a_method_that_a_view_does_not_know_is_refused(team: Team, method: str, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    headers = {"X-CSRFToken": team.csrf_token} | (HTMX if htmx else {})
    answer = team.client.open(path.format(contact), method=method, data=GOOD | {"id": contact}, headers=headers)
    refused_in_words(answer, 405)
    assert "GET" in answer.headers["Allow"]
    assert snapshot(team) == before


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", GETS)
def test_a_method_that_only_asks_changes_nothing(team: Team, method: str, path: str) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    answer = team.client.open(path.format(contact), method=method, data=GOOD | {"id": contact})
    assert (answer.status_code, answer.text) == (200, "")
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize("token", [None, "", "wrong", "foreign", "\x00"])
@pytest.mark.parametrize("path", POSTS)
def test_a_post_without_this_sessions_token_is_refused(team: Team, path: str, token: str | None, htmx: bool) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    if token == "foreign":
        token = URLSafeTimedSerializer(team.app.secret_key, salt="wtf-csrf-token").dumps("of another session")
    data = GOOD | {"id": contact, "version": 1} | ({} if token is None else {"csrf_token": token})
    answer = team.client.post(path.format(contact), data=data, headers=HTMX if htmx else {})
    refused_in_words(answer, 400)
    assert "Reload the page" in answer.text
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize(("method", "path"), [("GET", path) for path in GETS] + [("POST", path) for path in POSTS])
def test_who_is_not_logged_on_is_led_to_the_log_on(team: Team, method: str, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    answer = send(replace(team, client=team.app.test_client()), method, path, contact, htmx)
    leads_to = answer.headers["HX-Redirect"] if htmx else answer.location
    assert answer.status_code == (204 if htmx else 303)
    assert leads_to.startswith("/logon")
    assert "Ann" not in answer.text
    assert snapshot(team) == before


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS[:2])
def test_a_bad_form_stays_as_it_was_typed_and_nothing_is_written(team: Team, path: str, htmx: bool) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    answer = team.post(path.format(contact), BAD | {"version": 1}, htmx)
    assert answer.status_code == 422
    assert ("<html" in answer.text) is not htmx
    assert list(errors_of(answer)) == list(BAD)
    assert {field: value_of(answer, field) for field in BAD} == BAD
    # The first bad field has the focus, and no other.
    (focused,) = re.findall(r"<input[^>]* autofocus[^>]*>", answer.text)
    assert 'name="name"' in focused
    assert snapshot(team) == before


@pytest.mark.parametrize("field", ["mobile", "email", "dingtalk_url"])
def test_the_bad_field_has_the_focus_and_names_its_message(team: Team, field: str) -> None:
    answer = team.post("/contacts/new", {"name": "Ann", field: "12"})
    (focused,) = re.findall(r"<input[^>]* autofocus[^>]*>", answer.text)
    assert f'name="{field}"' in focused
    assert 'aria-invalid="true"' in focused
    assert re.search(rf'aria-describedby="[^"]*{field}-errors', focused)


def test_each_kind_of_channel_alone_makes_a_contact(team: Team) -> None:
    alone = {"sms": ("mobile", "13800138000"), "email": ("email", "ann@example.com")}
    alone |= {"dingtalk": ("dingtalk_url", ROBOT + TOKEN)}
    assert alone.keys() == KINDS.keys()
    for kind, (field, typed) in alone.items():
        assert team.post("/contacts/new", {"name": kind, field: typed}).status_code == 303
    assert {contact["name"] for contact in team.contacts()} == KINDS.keys()


@as_page_and_htmx
def test_without_a_channel_the_message_names_all_three(team: Team, htmx: bool) -> None:
    answer = team.post("/contacts/new", {"name": "Ann"}, htmx)
    assert answer.status_code == 422
    assert errors_of(answer) == {
        "mobile": "Enter a mobile phone number, a mailbox or a DingTalk robot: at least one of the three."
    }


# The list


def test_the_list_shows_a_contact(team: Team) -> None:
    team.add("Ann", mobile="+8613800138000", email="ann@example.com", dingtalk_url=ROBOT + TOKEN)
    page = team.get("/contacts").text
    for text in ("Contact Management", "+86 138 0013 8000", "ann@example.com", "oapi.dingtalk.com …wxyz", "1 of 100"):
        assert text in page
    headings = re.findall(r"<th scope=\"col\"[^>]*>([^<]+)</th>", page)
    assert headings == ["Name", "Cell phone number", "Email", "DingTalk robot", "System notifications", "Operation"]
    assert re.findall(r'<td [^>]*data-label="([^"]+)"', page) == headings[1:-1], "for a screen without columns"


def test_the_home_page_leads_to_the_list(team: Team) -> None:
    answer = team.get("/")
    assert (answer.status_code, answer.location) == (302, "/contacts")


def test_the_list_shows_who_receives_system_notifications(team: Team) -> None:
    team.add("Ann", receives_system_notifications=True)
    assert re.search(r">Yes</td>", team.get("/contacts").text)
    team.sql.execute("UPDATE contacts SET receives_system_notifications = false")
    assert re.search(r">No</td>", team.get("/contacts").text)


@as_page_and_htmx
def test_the_token_of_a_robot_is_in_the_edit_form_only(team: Team, htmx: bool) -> None:
    contact = team.add("Ann", dingtalk_url=ROBOT + TOKEN)
    saved = {"name": "Ann", "dingtalk_url": ROBOT + TOKEN, "version": 1}
    answers = [
        team.get("/contacts", htmx),
        team.get("/contacts?q=ann", htmx),
        team.get(f"/contacts/delete?id={contact}", htmx),
        team.post("/contacts/new", GOOD, htmx, **SHOWN),
        team.post(f"/contacts/{contact}/edit", saved, htmx, **SHOWN),
        team.get("/contacts"),
    ]
    assert all(answer.status_code in (200, 303) for answer in answers)
    assert not any(TOKEN[:-4] in answer.text for answer in answers)
    assert value_of(team.get(f"/contacts/{contact}/edit", htmx), "dingtalk_url") == ROBOT + TOKEN


def test_an_empty_list_says_what_to_do(team: Team) -> None:
    page = team.get("/contacts").text
    assert "No contacts yet" in page
    assert "Create a contact" in page
    assert "0 of 100" in page


@as_page_and_htmx
def test_a_search_that_finds_nothing_says_what_to_do(team: Team, htmx: bool) -> None:
    team.add("Ann")
    answer = team.get("/contacts?q=zoe&field=email", htmx)
    assert answer.status_code == 200
    assert "No contact found" in answer.text
    assert "No contacts yet" not in answer.text
    assert "Show all contacts" in answer.text
    assert "1 of 100" in answer.text


@as_page_and_htmx
def test_the_address_keeps_search_and_order(team: Team, htmx: bool) -> None:
    for name in ("Ann", "Anna", "Bob"):
        team.add(name)
    answer = team.get("/contacts?q=an&field=name&sort=-name", htmx)
    assert rows(answer) == ["Anna", "Ann"]
    assert "2 found" in answer.text
    assert "q=an" in answer.text
    if not htmx:
        assert value_of(answer, "q") == "an"
        assert re.search(r'<option value="name" selected>', answer.text)


@pytest.mark.parametrize("text", ["0013 80", "+86 138", "138-0013", "0086 138"])
def test_a_number_is_searched_by_its_digits(team: Team, text: str) -> None:
    team.add("Ann", mobile="+8613800138000")
    team.add("Bob", mobile="+12025550123")
    assert rows(team.get(f"/contacts?{urlencode({'q': text, 'field': 'mobile'})}")) == ["Ann"]


@as_page_and_htmx
def test_no_text_takes_the_place_of_the_rows(team: Team, htmx: bool) -> None:
    """A name and a search that look like the mark of that place stay text, and the row comes once."""
    team.add(str(PLACE), mobile="+8613800138001")
    answer = team.get(f"/contacts?{urlencode({'q': PLACE})}", htmx=htmx)
    assert rows(answer) == [PLACE]
    assert PLACE not in answer.text
    assert answer.text.index("<tbody") < answer.text.index('<tr id="contact-') < answer.text.index("</tbody>")


def test_a_count_of_hits_is_announced(team: Team) -> None:
    team.add("Ann")
    team.add("Anna")
    announced = r'hx-target="#messages".*?>(\d+ contacts? found\.|No contact found\.)<'
    for text, expected in (("ann", "2 contacts found."), ("anna", "1 contact found."), ("zoe", "No contact found.")):
        assert re.search(announced, team.get(f"/contacts?q={text}", htmx=True).text)[1] == expected


def test_a_long_list_comes_in_pages_of_a_hundred(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=300)
    add_numbered(team, 201)
    pages = [team.get(f"/contacts?page={number}") for number in (1, 2, 3)]
    assert [len(rows(page)) for page in pages] == [100, 100, 1]
    assert rows(pages[2]) == ["Ann 0201"]
    assert all("201 of 300" in page.text for page in pages)
    assert ["Previous" in page.text for page in pages] == [False, True, True]
    assert ["Next" in page.text for page in pages] == [True, True, False]


@as_page_and_htmx
def test_a_page_beyond_the_last_is_not_found(team: Team, htmx: bool) -> None:
    refused_in_words(team.get("/contacts?page=2", htmx), 404)
    refused_in_words(team.get("/contacts?page=999999", htmx), 404)


@as_page_and_htmx
@pytest.mark.parametrize(
    "query",
    [
        "field=password_hash",
        "field=",
        "sort=id",
        "sort=name%3BDROP%20TABLE%20contacts",
        "page=0",
        "page=-1",
        "page=x",
        "page=1e9",
        "page=99999999999999999999",
        "q=a%00b",
        "q=a%ED%A0%80b",
        "q=%FF",
        "q=%E2%80%AEx%E2%80%AEy",
        f"q={'x' * 300}",
    ],
    ids=lambda query: query[:30],
)
def test_an_address_that_no_link_has_is_refused_in_words(team: Team, query: str, htmx: bool) -> None:
    refused_in_words(team.get(f"/contacts?{query}", htmx), 400)


@as_page_and_htmx
@pytest.mark.parametrize("query", ["", "?q=ann&sort=-changed", "?q=138&field=mobile", "?q=zoe", "?page=2"])
def test_the_list_takes_at_most_five_queries(new_team: Callable[..., Team], query: str, htmx: bool) -> None:
    team = new_team(quota=200)
    add_numbered(team, 150)
    with watched_statements() as sent:
        assert team.get(f"/contacts{query}", htmx).status_code == 200
    assert 1 <= len(sent) <= 5  # session, contacts, their groups, their channels, who cannot be reached


# New contact and Editing


def test_a_contact_is_created(team: Team) -> None:
    answer = team.post("/contacts/new", {"name": "Ann", "mobile": "138 0013 8000"})
    assert (answer.status_code, answer.location) == (303, "/contacts")
    assert [(c["name"], c["mobile"]) for c in team.contacts()] == [("Ann", "+8613800138000")]


def test_a_contact_is_created_with_all_there_is(team: Team) -> None:
    typed = {
        "name": " Zoe\u0308 ",
        "mobile": "＋86-138-0013-8000",
        "email": "Zoe@EXAMPLE.com",
        "dingtalk_url": f" {ROBOT}abc ",
        "receives_system_notifications": "y",
    }
    team.post("/contacts/new", typed)
    (contact,) = team.contacts()
    assert {field: contact[field] for field in typed} == {
        "name": "Zo\u00eb",
        "mobile": "+8613800138000",
        "email": "Zoe@example.com",
        "dingtalk_url": f"{ROBOT}abc",
        "receives_system_notifications": True,
    }


@as_page_and_htmx
@pytest.mark.parametrize(("path", "title"), [("/contacts/new", "New contact"), ("/contacts/{}/edit", "Edit contacts")])
def test_the_dialog_has_the_words_of_the_manual(team: Team, path: str, title: str, htmx: bool) -> None:
    contact = team.add("Ann")
    text = main_of(team.get(path.format(contact), htmx))
    assert re.search(rf'<h[12] id="dialog-title"[^>]*>{title}</h[12]>', text)
    labels = [
        html.unescape(re.sub("<[^>]*>|\\*", "", label)).strip() for label in re.findall("<label.*?</label>", text)
    ]
    assert labels == [
        *("Name", "Mobile phone number", "Mailbox", "DingTalk robot", "Signature secret", "Keyword"),
        "Receive system notifications",
    ]
    for word in (">OK<", ">Cancel<", "Bots", "Custom", "signature", "keyword"):
        assert word in text


def test_editing_shows_what_is_saved(team: Team) -> None:
    columns = {"mobile": "+8613800138000", "email": "ann@example.com", "dingtalk_url": ROBOT + TOKEN}
    contact = team.add("Ann", **columns, receives_system_notifications=True)
    answer = team.get(f"/contacts/{contact}/edit")
    fields = ("name", "mobile", "email", "dingtalk_url", "version")
    assert [value_of(answer, field) for field in fields] == [
        "Ann",
        "+86 138 0013 8000",
        *list(columns.values())[1:],
        "1",
    ]
    assert re.search(r'<input[^>]* name="receives_system_notifications"[^>]* checked>', answer.text)


def test_what_editing_shows_can_be_saved_as_it_is(team: Team) -> None:
    columns = {"mobile": "+12025550123", "email": "ann@例子.测试", "dingtalk_url": ROBOT + TOKEN}
    contact = team.add("Ann", **columns)
    form = team.get(f"/contacts/{contact}/edit")
    typed = {field: value_of(form, field) for field in ("name", "mobile", "email", "dingtalk_url", "version")}
    before = team.contact(contact)
    assert team.post(f"/contacts/{contact}/edit", typed).status_code == 303
    after = team.contact(contact)
    assert {field: after[field] for field in columns} == {field: before[field] for field in columns}


@as_page_and_htmx
def test_a_number_that_is_not_known_is_saved_when_its_box_is_ticked(team: Team, htmx: bool) -> None:
    typed = {"name": "Bob", "mobile": "149 1234 5678", "email": "bob@intranet"}
    asked = team.post("/contacts/new", typed, htmx)
    assert asked.status_code == 422
    assert errors_of(asked) == {
        "mobile": "+86 149 1234 5678 is not known as a mobile number. Save it all the same?",
        "email": "intranet has no dot: only a mail server of your own can know it. Save it all the same?",
    }
    assert (value_of(asked, "mobile"), value_of(asked, "email")) == ("149 1234 5678", "bob@intranet")
    boxes = {f"{field}_anyway": value_of(asked, f"{field}_anyway") for field in ("mobile", "email")}
    assert boxes == {"mobile_anyway": "+8614912345678", "email_anyway": "bob@intranet"}
    assert not re.search(r'_anyway"[^>]* checked', asked.text)
    assert team.contacts() == []

    again = team.post("/contacts/new", typed | {"mobile_anyway": boxes["mobile_anyway"]}, htmx)
    assert list(errors_of(again)) == ["email"]
    assert re.findall(r'name="(\w+)_anyway"[^>]* checked>', again.text) == ["mobile"]

    saved = team.post("/contacts/new", typed | boxes, htmx)
    assert saved.status_code < 400
    (contact,) = team.contacts()
    assert (contact["mobile"], contact["email"]) == ("+8614912345678", "bob@intranet")
    found = team.get("/contacts?field=mobile&q=0086 149 1234 5678")
    assert rows(found) == ["Bob"]
    assert "+86 149 1234 5678" in found.text


def test_editing_asks_no_second_time_about_what_is_saved_but_about_another_number(team: Team) -> None:
    contact = team.add("Ann", mobile="+8614912345678", email="ann@intranet")
    form = team.get(f"/contacts/{contact}/edit")
    names = ("name", "mobile", "email", "version", "mobile_anyway", "email_anyway")
    typed = {field: value_of(form, field) for field in names}
    assert len(re.findall(r'name="\w+_anyway"[^>]* checked>', form.text)) == 2
    assert team.post(f"/contacts/{contact}/edit", typed | {"name": "Bea"}).status_code == 303
    other = team.post(f"/contacts/{contact}/edit", typed | {"version": "2", "mobile": "149 1234 5679"})
    assert list(errors_of(other)) == ["mobile"]
    assert (team.contact(contact)["name"], team.contact(contact)["mobile"]) == ("Bea", "+8614912345678")
    unticked = team.post(f"/contacts/{contact}/edit", typed | {"version": "2", "mobile_anyway": ""})
    assert list(errors_of(unticked)) == ["mobile"]


def test_editing_can_empty_a_channel_and_switch_off_notifications(team: Team) -> None:
    contact = team.add("Ann", mobile="+8613800138000", email="ann@example.com", receives_system_notifications=True)
    typed = {"name": "Ann", "mobile": "", "email": "ann@example.com", "version": 1}
    assert team.post(f"/contacts/{contact}/edit", typed).status_code == 303
    saved = team.contact(contact)
    assert (saved["mobile"], saved["receives_system_notifications"], saved["version"]) == (None, False, 2)


def test_two_contacts_may_share_a_name(team: Team) -> None:
    for number in ("13800138000", "13800138001"):
        assert team.post("/contacts/new", {"name": "Ann", "mobile": number}).status_code == 303
    assert [contact["name"] for contact in team.contacts()] == ["Ann", "Ann"]


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS[:2])
@pytest.mark.parametrize(
    ("field", "typed"),
    [("mobile", "(0086)13800138000"), ("email", "ANN@Example.com")],
)
@pytest.mark.parametrize("name", ["Ann", '<b onclick="x">&</b>', "{{ 7 * 7 }}", "{0} {name}"])
def test_a_duplicate_is_reported_beside_its_field_with_a_link_to_the_holder(
    team: Team, path: str, field: str, typed: str, name: str, htmx: bool
) -> None:
    holder = team.add(name, mobile="+8613800138000", email="ann@example.com")
    other = team.add("Bob")
    before = snapshot(team)
    answer = team.post(path.format(other), {"name": "Bob", field: typed, "version": 1}, htmx)
    assert answer.status_code == 422
    assert list(errors_of(answer)) == [field]
    assert errors_of(answer)[field].startswith(
        f"{name} has this {'number' if field == 'mobile' else 'mailbox'} already."
    )
    assert re.search(rf'<a href="/contacts/{holder}/edit"[^>]*>{re.escape(str(escape(name)))}</a>', answer.text)
    assert value_of(answer, field) == typed
    assert snapshot(team) == before


def test_a_number_and_an_address_that_are_both_taken_are_both_reported(team: Team) -> None:
    team.add("Ann", mobile="+8613800138000")
    team.add("Cy", email="cy@example.com")
    found = errors_of(team.post("/contacts/new", {"name": "Bob", "mobile": "13800138000", "email": "cy@example.com"}))
    assert found["mobile"].startswith("Ann has this number already.")
    assert found["email"].startswith("Cy has this mailbox already.")


@pytest.mark.parametrize(
    ("held", "typed"), [("ΟΔΟΣ@example.com", "οδοσ@example.com"), ("İvan@example.com", "ivan@example.com")]
)
def test_the_holder_is_named_whatever_letters_are_one_to_the_database(team: Team, held: str, typed: str) -> None:
    team.add("Ann", email=held)
    answer = team.post("/contacts/new", {"name": "Bob", "email": typed})
    if answer.status_code == 303:  # two addresses to this database
        return
    assert errors_of(answer)["email"].startswith("Ann has this mailbox already.")


def test_another_accounts_number_is_no_duplicate(team: Team, other_team: Team) -> None:
    other_team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    typed = {"name": "Ann", "mobile": "13800138000", "email": "ann@example.com"}
    assert team.post("/contacts/new", typed).status_code == 303


@as_page_and_htmx
def test_a_full_account_is_reported_before_the_form_is_filled_in(new_team: Callable[..., Team], htmx: bool) -> None:
    team = new_team(quota=2)
    add_numbered(team, 2)
    answer = team.get("/contacts/new", htmx)
    assert answer.status_code == 200
    assert "The account has 2 of 2 contacts. Delete one" in answer.text
    assert 'name="mobile"' not in answer.text


@as_page_and_htmx
def test_a_place_that_was_taken_meanwhile_is_reported_and_the_form_stays(
    new_team: Callable[..., Team], htmx: bool
) -> None:
    team = new_team(quota=1)
    holder = team.add("Ann")
    answer = team.post("/contacts/new", GOOD, htmx)
    assert answer.status_code == 422
    assert "The account has as many contacts as it can have." in answer.text
    assert value_of(answer, "mobile") == GOOD["mobile"]
    assert [contact["name"] for contact in team.contacts()] == ["Ann"]
    edited = team.post(f"/contacts/{holder}/edit", GOOD | {"version": 1})
    assert edited.status_code == 303  # changing one takes no place
    team.post("/contacts/delete", {"id": holder})
    assert team.post("/contacts/new", GOOD).status_code == 303


@as_page_and_htmx
def test_who_edits_second_sees_both_values_and_overwrites_only_knowingly(team: Team, htmx: bool) -> None:
    contact = team.add("Ann", mobile="+8613800138000")
    path = f"/contacts/{contact}/edit"
    mine = {"name": "Anna", "mobile": "13800138001", "version": value_of(team.get(path), "version")}
    theirs = {"name": "Annette", "mobile": "13800138000", "email": "ann@example.com", "version": 1}
    assert team.post(path, theirs).status_code == 303
    answer = team.post(path, mine, htmx)
    assert answer.status_code == 409
    assert "Somebody else has saved this contact meanwhile." in answer.text
    assert [value_of(answer, field) for field in ("name", "mobile", "email")] == ["Anna", "13800138001", ""]
    seen = re.findall(r'id="(\w+)-theirs".*?<strong>(.*?)</strong>', answer.text)
    assert seen == [("name", "Annette"), ("mobile", "+86 138 0013 8000"), ("email", "ann@example.com")]
    assert team.contact(contact)["name"] == "Annette"
    again = team.post(path, mine | {"version": value_of(answer, "version")})
    assert again.status_code == 303
    saved = team.contact(contact)
    assert (saved["name"], saved["mobile"], saved["email"]) == ("Anna", "+8613800138001", None)


def test_who_edits_third_is_asked_again(team: Team) -> None:
    contact = team.add("Ann")
    path = f"/contacts/{contact}/edit"
    for version in (1, 2):
        assert (
            team.post(path, {"name": f"Ann {version}", "mobile": "13800138000", "version": version}).status_code == 303
        )
    for version in (1, 2):
        assert team.post(path, {"name": "Zoe", "mobile": "13800138000", "version": version}).status_code == 409
    assert team.contact(contact)["name"] == "Ann 2"


@pytest.mark.parametrize(
    ("before", "typed", "expected"), [(False, {}, "on"), (True, {"receives_system_notifications": "y"}, "off")]
)
def test_a_switch_that_was_changed_meanwhile_is_reported(
    team: Team, before: bool, typed: dict[str, str], expected: str
) -> None:
    contact = team.add("Ann", mobile="+8613800138000", receives_system_notifications=before)
    team.sql.execute("UPDATE contacts SET receives_system_notifications = NOT %s, version = 2", [before])
    answer = team.post(f"/contacts/{contact}/edit", {"name": "Ann", "mobile": "13800138000", "version": 1} | typed)
    assert answer.status_code == 409
    assert f"Saved meanwhile: <strong>{expected}</strong>" in answer.text


FIRST = {"name": "Ann", "mobile": "+8613800138000", "email": "ann@example.com", "dingtalk_url": ROBOT + TOKEN}
FIELDS = ("name", "mobile", "email", "dingtalk_url", "dingtalk_secret", "dingtalk_keyword", "version", "opened")


def opened_form(team: Team, path: str) -> dict[str, str]:
    """Return what a browser would send of a form that was opened and in which nothing was touched."""
    answer = team.get(path)
    sent = {field: value_of(answer, field) for field in FIELDS}
    is_on = re.search(r'name="receives_system_notifications"[^>]* checked>', answer.text)
    return sent | ({"receives_system_notifications": "y"} if is_on else {})


@as_page_and_htmx
@pytest.mark.parametrize(
    ("theirs", "mine", "saved"),
    [
        (
            {"email": "new@example.com"},
            {"mobile": "13800138009"},
            {"email": "new@example.com", "mobile": "+8613800138009"},
        ),
        ({"email": ""}, {"name": "Anna"}, {"email": None, "name": "Anna"}),
        ({"name": "Anna"}, {}, {"name": "Anna"}),
        ({"receives_system_notifications": "y"}, {"email": ""}, {"receives_system_notifications": True, "email": None}),
        ({"dingtalk_secret": "SEC12345678"}, {"name": "Anna"}, {"dingtalk_secret": "SEC12345678", "name": "Anna"}),
        ({"dingtalk_url": "", "email": "x@example.com"}, {"mobile": ""}, {"dingtalk_url": None, "mobile": None}),
        # What is written in another way is not touched.
        ({"mobile": "13800138009"}, {"mobile": "0086 138-0013-8000"}, {"mobile": "+8613800138009"}),
        # Both have typed the same.
        ({"name": "Anna", "email": "a@example.com"}, {"name": "Anna"}, {"name": "Anna", "email": "a@example.com"}),
    ],
)
def test_two_people_who_change_different_fields_both_keep_their_change(
    team: Team, theirs: dict[str, str], mine: dict[str, str], saved: dict[str, Any], htmx: bool
) -> None:
    path = f"/contacts/{team.add(**FIRST)}/edit"
    form = opened_form(team, path)
    assert team.post(path, form | theirs).status_code == 303
    answer = team.post(path, form | mine, htmx, **SHOWN)
    assert (answer.status_code, answer.headers.get("HX-Trigger")) == ((200, "dialog:close") if htmx else (303, None))
    (contact,) = team.contacts()
    untouched = {name: value for name, value in FIRST.items() if name not in {**theirs, **mine}}
    assert contact.items() >= (untouched | saved).items()
    kept = [name for name in theirs if name not in mine or name == "mobile"]
    shown = answer.text if htmx else team.get("/contacts").text
    assert ("What somebody else has changed meanwhile stays" in shown) is bool(kept)


@as_page_and_htmx
def test_only_what_both_have_changed_is_a_conflict(team: Team, htmx: bool) -> None:
    path = f"/contacts/{team.add(**FIRST)}/edit"
    form = opened_form(team, path)
    theirs = {"name": "Annette", "email": "new@example.com", "receives_system_notifications": "y"}
    assert team.post(path, form | theirs).status_code == 303
    answer = team.post(path, form | {"name": "Anna", "mobile": "13800138009"}, htmx)
    assert answer.status_code == 409
    assert re.findall(r'id="(\w+)-theirs".*?<strong>(.*?)</strong>', answer.text) == [("name", "Annette")]
    # What was not touched shows the newer value, and the form says so.
    assert [value_of(answer, name) for name in ("name", "mobile", "email")] == [
        "Anna",
        "13800138009",
        "new@example.com",
    ]
    assert "You did not change Mailbox, Receive system notifications: these fields show what they saved." in answer.text
    assert re.search(r'name="receives_system_notifications"[^>]* checked>', answer.text)
    # Somebody saves once more: what is in the form now is what it was opened with.
    again = opened_form(team, path)
    assert team.post(path, again | {"email": "newest@example.com"}).status_code == 303
    shown = {name: value_of(answer, name) for name in FIELDS} | {"receives_system_notifications": "y"}
    assert team.post(path, shown, htmx, **SHOWN).status_code == (200 if htmx else 303)
    (contact,) = team.contacts()
    expected = ("Anna", "+8613800138009", "newest@example.com", True)
    assert tuple(contact[name] for name in ("name", "mobile", "email", "receives_system_notifications")) == expected


def test_a_doubt_goes_with_the_number_that_somebody_else_has_cleared(team: Team) -> None:
    path = f"/contacts/{team.add('Ann', mobile='+8614912345678', email='ann@example.com')}/edit"
    form = opened_form(team, path) | {"mobile_anyway": "+8614912345678"}
    assert team.post(path, form | {"name": "Annette", "mobile": ""}).status_code == 303
    answer = team.post(path, form | {"name": "Anna"})
    assert (answer.status_code, value_of(answer, "mobile")) == (409, "")
    assert "mobile_anyway" not in answer.text


@as_page_and_htmx
@pytest.mark.parametrize("path", ["/contacts/{}/edit", "/groups/{}/edit"])
def test_a_form_whose_version_is_damaged_says_so(team: Team, path: str, htmx: bool) -> None:
    query = "INSERT INTO groups (account_id, name) VALUES (%s, 'Ann') RETURNING id"
    group = team.sql.execute(query, [team.account_id]).fetchone()[0]
    path = path.format(group if "groups" in path else team.add("Ann"))
    answer = team.post(path, {"name": "Anna", "email": "ann@example.com", "version": "x"}, htmx)
    assert answer.status_code == 422
    assert "This form is damaged. Reload the page and try again." in answer.text


def test_a_field_that_a_third_has_changed_again_is_a_conflict_again(team: Team) -> None:
    path = f"/contacts/{team.add(**FIRST)}/edit"
    form = opened_form(team, path)
    for name in ("Annette", "Antonia"):
        assert team.post(path, opened_form(team, path) | {"name": name}).status_code == 303
        answer = team.post(path, form | {"name": "Anna"})
        assert (answer.status_code, f"Saved meanwhile: <strong>{name}</strong>" in answer.text) == (409, True)
        form = {field: value_of(answer, field) for field in FIELDS}
    assert team.post(path, form).status_code == 303
    assert team.contacts()[0]["name"] == "Anna"


def test_a_robot_is_one_thing_a_secret_never_joins_another_address(team: Team) -> None:
    path = f"/contacts/{team.add(**FIRST)}/edit"
    form = opened_form(team, path)
    theirs = {"dingtalk_url": ROBOT + "f" * 16, "dingtalk_secret": "SEC87654321"}
    assert team.post(path, form | theirs).status_code == 303
    answer = team.post(path, form | {"dingtalk_secret": "SEC12345678"})
    assert answer.status_code == 409
    assert re.findall(r'id="(\w+)-theirs"', answer.text) == ["dingtalk_url", "dingtalk_secret"]
    assert team.contacts()[0].items() >= theirs.items()


@as_page_and_htmx
@pytest.mark.parametrize(
    ("theirs", "mine", "expected"),
    [
        ({"email": ""}, {"mobile": ""}, {"mobile": "at least one of the three"}),
        ({"email": ""}, {"mobile": "13800138007"}, {"mobile": "has this number already."}),
    ],
)
def test_what_two_changes_make_together_has_to_be_a_contact_too(
    team: Team, theirs: dict[str, str], mine: dict[str, str], expected: dict[str, str], htmx: bool
) -> None:
    team.add("Bob", mobile="+8613800138007")
    contact = team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    path = f"/contacts/{contact}/edit"
    form = opened_form(team, path)
    assert team.post(path, form | theirs).status_code == 303
    answer = team.post(path, form | mine, htmx)
    assert answer.status_code == 422
    assert dict.fromkeys(expected, True) == {
        field: expected[field] in words for field, words in errors_of(answer).items()
    }
    assert "You did not change Mailbox: this field shows what they saved." in answer.text
    assert (value_of(answer, "mobile"), value_of(answer, "email")) == (mine["mobile"], "")
    assert team.contact(contact)["mobile"] == "+8613800138000"
    mended = {name: value_of(answer, name) for name in FIELDS} | {"mobile": "13800138008"}
    assert team.post(path, mended, htmx, **SHOWN).status_code == (200 if htmx else 303)
    assert (team.contact(contact)["mobile"], team.contact(contact)["email"]) == ("+8613800138008", None)


@as_page_and_htmx
def test_a_contact_that_was_deleted_while_it_was_edited_is_reported(team: Team, htmx: bool) -> None:
    contact = team.add(**FIRST)
    path = f"/contacts/{contact}/edit"
    form = opened_form(team, path)
    team.post("/contacts/delete", {"id": contact})
    answer = team.post(path, form | {"name": "Anna"}, htmx)
    assert (answer.status_code, GONE in answer.text, team.contacts()) == (404, True, [])


def test_what_a_form_was_opened_with_reveals_nothing_and_stays_short(team: Team) -> None:
    columns = {"dingtalk_url": ROBOT + TOKEN, "dingtalk_secret": "SEC12345678", "email": f"{'a' * 60}@example.com"}
    first, second = (team.add("A" * 64, **columns | {"email": f"{i}{columns['email']}"}) for i in range(2))
    opened = [opened_form(team, f"/contacts/{contact}/edit")["opened"] for contact in (first, second)]
    assert all(re.fullmatch(r"[\w-]{12}(\.[\w-]{12}){6}", marks) for marks in opened)
    # Not even that two contacts have the same robot.
    assert not set(opened[0].split(".")) & set(opened[1].split("."))


@pytest.mark.parametrize("opened", [None, "", "." * 6, "x" * 90, "\x00", "é" * 90, "1." * 40_000])
def test_a_form_that_does_not_know_what_it_was_opened_with_overwrites_nothing_unseen(
    team: Team, opened: str | None
) -> None:
    path = f"/contacts/{team.add(**FIRST)}/edit"
    form = opened_form(team, path)
    assert team.post(path, form | {"email": "new@example.com"}).status_code == 303
    mine = {name: value for name, value in (form | {"name": "Anna", "opened": opened}).items() if value is not None}
    answer = team.post(path, mine)
    refused_in_words(answer, 409, 413)
    if answer.status_code == 409:
        assert re.findall(r'id="(\w+)-theirs"', answer.text) == ["name", "email"]
    assert team.contacts()[0]["name"] == "Ann"


def test_two_people_who_save_the_same_are_both_answered(team: Team) -> None:
    contact = team.add("Ann")
    same = {"name": "Anna", "mobile": "13800138000", "version": 1}
    assert team.post(f"/contacts/{contact}/edit", same).status_code == 303
    answer = team.post(f"/contacts/{contact}/edit", same)
    assert answer.status_code == 303 or "Somebody else has saved this contact meanwhile." in answer.text


@as_page_and_htmx
@pytest.mark.parametrize("version", ["", "abc", "-1", "1.5", "9" * 40, "\x00", None])
def test_an_edit_that_does_not_know_its_version_overwrites_nothing_unseen(
    team: Team, version: str | None, htmx: bool
) -> None:
    contact = team.add("Ann")
    typed = {"name": "Bob", "mobile": "13800138000"} | ({} if version is None else {"version": version})
    refused_in_words(answer := team.post(f"/contacts/{contact}/edit", typed, htmx), 400, 409, 422)
    assert team.contact(contact)["name"] == "Ann"
    shown = main_of(answer)
    assert "form-errors" in shown or "field-errors" in shown or 'class="message' in shown or "<h1>" in shown


@as_page_and_htmx
def test_who_edits_a_contact_that_was_deleted_meanwhile_is_informed(team: Team, htmx: bool) -> None:
    contact = team.add("Ann")
    team.post("/contacts/delete", {"id": contact})
    answer = team.post(f"/contacts/{contact}/edit", GOOD | {"version": 1}, htmx)
    assert answer.status_code == 404
    assert GONE in answer.text
    assert team.contacts() == []


# The list that htmx gets after a change is the one that the person was looking at


@pytest.mark.parametrize("act", ["new", "edit", "delete"])
def test_a_change_keeps_search_and_order_of_the_list(team: Team, act: str) -> None:
    ids = {name: team.add(name) for name in ("Ann", "Anna", "Annette", "Bob")}
    shown = {"HX-Current-URL": "http://localhost/contacts?q=ann&sort=-name"}
    if act == "new":
        answer = team.post("/contacts/new", {"name": "Hanna", "mobile": "13800138000"}, True, **shown)
        expected = ["Hanna", "Annette", "Anna", "Ann"]
    elif act == "edit":
        changed = {"name": "Zoe", "mobile": "13800138000", "version": 1}
        answer = team.post(f"/contacts/{ids['Anna']}/edit", changed, True, **shown)
        expected = ["Annette", "Ann"]
    else:
        answer = team.post("/contacts/delete", {"id": ids["Annette"]}, True, **shown)
        expected = ["Anna", "Ann"]
    assert rows(answer) == expected
    assert f"{len(expected)} found" in answer.text
    assert f"{len(team.contacts())} of 100" in answer.text
    assert answer.headers["HX-Replace-Url"] == "/contacts?q=ann&sort=-name"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://localhost",
        "http://localhost/",
        "http://localhost/contacts/1/edit",
        "http://localhost/contacts/new",
        "http://localhost/password",
        "nonsense",
        "http://[",
        "//[",
        "http://localhost//[",
        "http://localhost/\x80\xff",
    ],
)
def test_a_change_made_elsewhere_leads_to_the_list(team: Team, address: str) -> None:
    answer = team.post("/contacts/new", GOOD, True, **({"HX-Current-URL": address} if address else {}))
    assert (answer.status_code, answer.headers.get("HX-Redirect")) == (204, "/contacts")
    assert len(team.contacts()) == 1
    assert "Bob has been created." in team.get("/contacts").text


@pytest.mark.parametrize(
    "query", ["q=%00", "q=%FF", "field=x", "sort=x", "page=x", "page=0", "q=" + "x" * 999, "&&&==", "%", "q=a&q=b"]
)
def test_a_change_under_an_address_that_no_link_has_still_shows_the_list(team: Team, query: str) -> None:
    shown = {"HX-Current-URL": f"http://localhost/contacts?{query}"}
    answer = team.post("/contacts/new", GOOD, True, **shown)
    assert answer.status_code == 200
    assert "Bob has been created." in answer.text


@pytest.mark.parametrize(("left", "page"), [(100, 1), (250, 3)])
def test_deleting_the_last_row_of_the_last_page_shows_the_page_before(
    new_team: Callable[..., Team], left: int, page: int
) -> None:
    team = new_team(quota=500)
    ids = add_numbered(team, 301)
    team.sql.execute("DELETE FROM contacts WHERE id = ANY(%s)", [ids[left:-1]])
    # Others have deleted whole pages meanwhile; the list that is shown is still the last one there is.
    shown = {"HX-Current-URL": "http://localhost/contacts?page=4"}
    answer = team.post("/contacts/delete", {"id": ids[-1]}, True, **shown)
    assert answer.status_code == 200
    assert len(rows(answer)) == (100 if page == 1 else 50)
    assert rows(answer)[-1] == f"Ann {left:04}"
    assert answer.headers["HX-Replace-Url"] == ("/contacts" if page == 1 else f"/contacts?page={page}")
    assert "No contacts yet" not in answer.text


def test_deleting_the_last_row_of_a_second_page_shows_the_first(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=200)
    ids = add_numbered(team, 101)
    answer = team.post(
        "/contacts/delete", {"id": ids[-1]}, True, **{"HX-Current-URL": "http://localhost/contacts?page=2"}
    )
    assert (len(rows(answer)), answer.headers["HX-Replace-Url"]) == (100, "/contacts")


# Delete and Batch delete


@as_page_and_htmx
@pytest.mark.parametrize(
    ("count", "named", "more"), [(1, 1, None), (2, 2, None), (10, 10, None), (11, 10, 1), (37, 10, 27)]
)
def test_the_question_names_up_to_ten_contacts_and_how_many_more(
    team: Team, count: int, named: int, more: int | None, htmx: bool
) -> None:
    ids = add_numbered(team, count)
    team.add("Not selected")
    answer = team.get(f"/contacts/delete?{urlencode([('id', i) for i in reversed(ids)])}", htmx)
    assert answer.status_code == 200
    names = re.findall(r"<li><bdi>(.*?)</bdi></li>", answer.text)
    assert names == [f"Ann {number:04}" for number in range(1, named + 1)]
    assert re.findall(r"and (\d+) more", answer.text) == ([str(more)] if more else [])
    assert sorted(re.findall(r'name="id" value="(\d+)"', answer.text), key=int) == [str(i) for i in ids]
    assert "Not selected" not in answer.text
    assert ">OK<" in answer.text
    assert ">Cancel<" in answer.text
    assert len(team.contacts()) == count + 1


def test_what_the_question_names_is_deleted_on_ok(team: Team) -> None:
    ids = add_numbered(team, 12)
    kept = team.add("Kept")
    question = team.get(f"/contacts/delete?{urlencode([('id', i) for i in ids])}")
    team.post("/contacts/delete", {"id": re.findall(r'name="id" value="(\d+)"', question.text)})
    assert [contact["id"] for contact in team.contacts()] == [kept]
    assert "12 contacts have been deleted." in team.get("/contacts").text


def test_a_hundred_contacts_are_deleted_at_a_time(team: Team) -> None:
    ids = add_numbered(team, 100)
    assert team.post("/contacts/delete", {"id": ids}).status_code == 303
    assert team.contacts() == []


@as_page_and_htmx
@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (0, "3 contacts have been deleted."),
        (1, "2 contacts have been deleted. 1 was gone already."),
        (2, "Ann 0003 has been deleted. 2 were gone already."),
    ],
)
def test_contacts_that_are_gone_already_are_no_error(team: Team, gone: int, expected: str, htmx: bool) -> None:
    ids = add_numbered(team, 3)
    if gone:
        team.post("/contacts/delete", {"id": ids[:gone]})
        team.get("/contacts")
    shown = SHOWN if htmx else {}
    answer = team.post("/contacts/delete", {"id": ids}, htmx, **shown)
    assert answer.status_code == (200 if htmx else 303)
    assert f"<p>{expected}</p>" in (answer if htmx else team.get("/contacts")).text
    assert team.contacts() == []


def test_contacts_that_are_all_gone_already_are_reported_in_the_fresh_list(team: Team) -> None:
    ids = add_numbered(team, 3)
    team.post("/contacts/delete", {"id": ids[:2]})
    answer = team.post("/contacts/delete", {"id": ids[:2]}, True, **SHOWN)
    assert "2 were gone already." in answer.text
    assert rows(answer) == ["Ann 0003"]
    answer = team.post("/contacts/delete", {"id": ids[:2]})
    assert answer.status_code == 404
    assert GONE in answer.text


@as_page_and_htmx
def test_a_question_about_contacts_that_are_gone_is_not_asked(team: Team, htmx: bool) -> None:
    contact = team.add("Ann")
    team.post("/contacts/delete", {"id": contact})
    answer = team.get(f"/contacts/delete?id={contact}", htmx)
    assert answer.status_code == 404
    assert GONE in answer.text


def test_another_accounts_contacts_are_not_deleted_along(team: Team, other_team: Team) -> None:
    mine, theirs = team.add("Ann"), other_team.add("Secret name")
    both = f"/contacts/delete?id={mine}&id={theirs}"
    assert "Secret" not in team.get(both).text
    answer = team.post("/contacts/delete", {"id": [mine, theirs]}, True, **SHOWN)
    assert "Ann has been deleted. 1 was gone already." in answer.text
    assert team.contacts() == []
    assert [contact["id"] for contact in other_team.contacts()] == [theirs]


BAD_IDS: list[list[Any]] = [[], [""], ["abc"], ["1.5"], ["-1"], ["0"], ["１"], ["1 OR 1=1"], ["\x00"], ["1\n"]]
BAD_IDS += [["9" * 40], list(range(1, 102)), list(range(1, 10_001)), ["{}", "x"]]


@as_page_and_htmx
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ids", BAD_IDS, ids=lambda ids: ascii(ids)[:20])
def test_ids_that_cannot_be_are_refused_and_nothing_is_deleted(
    team: Team, method: str, ids: list[Any], htmx: bool
) -> None:
    contact = team.add("Ann")
    ids = [str(one).format(contact) for one in ids]
    if method == "GET":
        answer = team.get(f"/contacts/delete?{urlencode({'id': ids}, doseq=True)}", htmx)
    else:
        answer = team.post("/contacts/delete", {"id": ids}, htmx)
    refused_in_words(answer, 400, 413)
    assert len(team.contacts()) == 1


# Bad input and enemies


@as_page_and_htmx
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"])
def test_a_body_of_ten_megabytes_is_refused(team: Team, path: str, kind: str, htmx: bool) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    start = f"csrf_token={team.csrf_token}&name=Bob&mobile=13800138000&version=1&id={contact}&email="
    if "multipart" in kind:
        start = '--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n'
    headers = {"X-CSRFToken": team.csrf_token} | (HTMX if htmx else {})
    body = start.encode() + b"x" * 10_000_000
    answer = team.client.post(path.format(contact), data=body, content_type=kind, headers=headers)
    refused_in_words(answer, 413)
    assert snapshot(team) == before


@pytest.mark.parametrize(
    "field", ["name", "mobile", "email", "dingtalk_url", "version", "receives_system_notifications"]
)
@pytest.mark.parametrize("path", POSTS[:2])
def test_a_file_in_the_place_of_a_text_is_refused(team: Team, path: str, field: str) -> None:
    contact = team.add("Ann")
    data = GOOD | {"version": "1", "csrf_token": team.csrf_token, field: (io.BytesIO(b"Bob"), "bob.txt")}
    answer = team.client.post(path.format(contact), data=data, content_type="multipart/form-data")
    assert answer.status_code < 500
    if answer.status_code != 303:
        refused_in_words(answer, 400, 409, 415, 422)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"name": 5, "mobile": "13800138000"}),
        json.dumps({"name": ["Bob"], "mobile": {"a": 1}}),
        json.dumps({"name": [[1]], "mobile": True}),
        json.dumps(GOOD),
        "[1]",
        '"text"',
        "5",
        "null",
        "{",
        "",
        "[" * 60_000,
        '{"name":' * 8_000,
        b"\xff\xfe\x00",
    ],
    ids=lambda body: ascii(body)[:24],
)
@pytest.mark.parametrize("path", POSTS)
def test_json_is_no_form(team: Team, path: str, body: str | bytes) -> None:
    contact = team.add("Ann")
    before = snapshot(team)
    headers = {"X-CSRFToken": team.csrf_token}
    answer = team.client.post(path.format(contact), data=body, content_type="application/json", headers=headers)
    refused_in_words(answer, 400, 409, 415, 422)
    assert snapshot(team) == before


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (field, bad)
        for field in ("name", "mobile", "email", "dingtalk_url")
        for bad in (b"\x00", b"\x1b[2J", b"a\nb", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", "a\u202eb\ufffd".encode())
    ],
)
def test_what_is_no_text_is_refused_beside_its_field(team: Team, field: str, bad: bytes) -> None:
    typed: dict[str, Any] = {"csrf_token": team.csrf_token} | GOOD | {field: b"Ann" + bad + b"Ann"}
    answer = team.client.post("/contacts/new", data=urlencode(typed), content_type="application/x-www-form-urlencoded")
    refused_in_words(answer, 400, 422)
    if answer.status_code == 422:
        assert list(errors_of(answer)) == [field]
    assert team.contacts() == []


@pytest.mark.parametrize("name", ["A\U00016d63\U00016d67", "A\U00016d67\U00016d67", "🫨", "\U000e0fff A"], ids=ascii)
def test_letters_newer_than_python_or_the_database_are_no_error_of_the_console(team: Team, name: str) -> None:
    answer = team.post("/contacts/new", {"name": name, "mobile": "13800138000"})
    if answer.status_code != 303:
        assert answer.status_code == 422
        assert list(errors_of(answer)) == ["name"]


def test_a_number_that_no_country_has_does_not_hide_the_list(team: Team) -> None:
    contact = team.add("Ann", mobile="+999123456")  # written past the form, or its country has gone
    answer = team.get("/contacts")
    assert answer.status_code == 200
    assert "+999123456" in answer.text
    assert team.get(f"/contacts/{contact}/edit").status_code == 200


@as_page_and_htmx
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_as_text(team: Team, text: str, htmx: bool) -> None:
    shown = SHOWN if htmx else {}
    created = team.post("/contacts/new", {"name": text, "mobile": "13800138000"}, htmx, **shown)
    (contact,) = team.contacts()
    assert contact["name"] == text
    edit, delete = f"/contacts/{contact['id']}/edit", f"/contacts/delete?id={contact['id']}"
    found, nothing = f"/contacts?{urlencode({'q': text})}", f"/contacts?{urlencode({'q': text, 'field': 'email'})}"
    answers = [
        created if htmx else team.get("/contacts"),
        *(team.get(path, htmx) for path in (found, nothing, edit, delete)),
        team.post("/contacts/new", {"name": text}, htmx),
        team.post("/contacts/new", {"name": "Bob", "mobile": text, "email": text, "dingtalk_url": text}, htmx),
        team.post("/contacts/new", {"name": "Bob", "mobile": "13800138000"}, htmx),
        team.post(edit, {"name": "Bob", "mobile": "13800138000", "version": 0}, htmx),
        team.post("/contacts/delete", {"id": contact["id"]}, htmx, **shown),
    ]
    if not htmx:
        answers[-1] = team.get("/contacts")
    for answer in answers:
        assert answer.status_code < 500
        assert str(escape(text)) in answer.text
        if text != str(escape(text)):
            assert text not in answer.text


requests = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("name", "mobile", "email", "dingtalk_url", "version", "id", "q", "field", "sort", "page", "next"),
            st.binary(max_size=30)
            | st.text(max_size=30).map(lambda text: text.encode(errors="surrogatepass"))
            | st.sampled_from(
                ["Ann", "13800138000", "ann@example.com", ROBOT + "abc", "1", "mobile", "-name", "%"]
            ).map(str.encode),
        ),
    },
)


@repeatable
@given(data=requests, path=st.sampled_from(POSTS), htmx=st.booleans(), shown=st.binary(max_size=40))
def test_no_form_whatever_is_in_it_breaks_the_console(
    team: Team, data: dict[str, bytes], path: str, htmx: bool, shown: bytes
) -> None:
    before = team.contacts()
    contact = before[0]["id"] if before else team.add("Ann")
    before = team.contacts()
    body = urlencode({"csrf_token": team.csrf_token.encode()} | data)
    address = "http://localhost/contacts?" + shown.decode("latin1").replace("\r", "").replace("\n", "")
    headers = HTMX | {"HX-Current-URL": address} if htmx else {}
    answer = team.client.post(
        path.format(contact), data=body, content_type="application/x-www-form-urlencoded", headers=headers
    )
    assert answer.status_code in (200, 204, 303, 400, 404, 409, 422)
    if answer.status_code >= 400:
        assert team.contacts() == before


@repeatable
@given(data=requests, junk=st.binary(max_size=30), path=st.sampled_from(GETS), htmx=st.booleans())
def test_no_address_whatever_is_in_it_breaks_the_console(
    team: Team, data: dict[str, bytes], junk: bytes, path: str, htmx: bool
) -> None:
    query = "&".join(f"{name}={quote_from_bytes(value)}" for name, value in data.items())
    path = f"{path.format(1).partition('?')[0]}?{query}&{quote_from_bytes(junk)}"
    answer = team.get(path, htmx)
    assert answer.status_code in (200, 400, 404)
    assert team.contacts() == []
