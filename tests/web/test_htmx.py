"""Show that one address answers a page to a browser and a fragment to htmx, and never mixes them up."""

import re
from typing import Any

import pytest

from tests.conftest import HTMX, PASSWORD, Team

PAGES = ["/contacts", "/contacts/new"]


@pytest.mark.parametrize("path", PAGES)
def test_a_browser_gets_a_page_and_htmx_a_fragment(team: Team, path: str) -> None:
    page, fragment = team.get(path), team.get(path, htmx=True)
    assert "<!doctype html>" in page.text
    assert "<html" not in fragment.text
    for answer in (page, fragment):
        assert answer.status_code == 200
        assert "HX-Request" in {name.strip() for name in answer.headers["Vary"].split(",")}


@pytest.mark.parametrize("value", ["false", "", "True", "1", "x" * 1000])
def test_only_htmx_own_header_asks_for_a_fragment(team: Team, value: str) -> None:
    headers: dict[str, Any] = {"HX-Request": value}
    assert "<!doctype html>" in team.get("/contacts", **headers).text


def test_a_saved_form_leads_a_browser_on_and_gives_htmx_the_fresh_table(team: Team) -> None:
    plain = team.post("/contacts/new", {"name": "Ann", "email": "ann@example.com"})
    assert (plain.status_code, plain.location) == (303, "/contacts")
    assert "Ann has been created." in team.get("/contacts").text
    assert "Ann has been created." not in team.get("/contacts").text, "a message is shown once"
    current = {"HX-Current-URL": "http://localhost/contacts?sort=-name"}
    swapped = team.post("/contacts/new", {"name": "Bob", "email": "bob@example.com"}, htmx=True, **current)
    assert swapped.status_code == 200
    for part in ('id="contacts-table"', "2 of 100", "Bob has been created."):
        assert part in swapped.text
    assert swapped.text.index("Editing Bob") < swapped.text.index("Editing Ann")
    assert swapped.headers["HX-Trigger"] == "dialog:close"
    assert "has been created" not in team.get("/contacts").text, "htmx has shown it already"


def test_a_form_saved_over_another_page_leads_to_the_list(team: Team) -> None:
    answer = team.post(
        "/contacts/new",
        {"name": "Ann", "email": "ann@example.com"},
        htmx=True,
        **{"HX-Current-URL": "http://localhost/contacts/new"},
    )
    assert (answer.status_code, answer.text, answer.headers["HX-Redirect"]) == (204, "", "/contacts")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("/contacts?sort=name&field=name&q=&show=all", "/contacts"),
        ("/contacts?sort=-name&field=name&q=O'Brien+%26+co&show=all", "/contacts?q=O%27Brien+%26+co&sort=-name"),
        ("/contacts?q=O%27Brien+%26+co&sort=-name", None),
        ("/contacts?q=O'Brien+%26+co&sort=-name", None),
        ("/contacts", None),
        ("/groups?q=", "/groups"),
        ("/groups?q=a", None),
        ("/notifications?q=&show=all", "/notifications"),
        ("/notifications?q=a%27", None),
    ],
)
def test_only_what_a_form_adds_to_the_address_is_taken_out_of_it(team: Team, asked: str, shown: str | None) -> None:
    answer = team.get(asked, htmx=True)
    assert answer.status_code == 200
    assert answer.headers.get("HX-Replace-Url") == shown
    assert "HX-Push-Url" not in answer.headers
    page = team.get(asked).text
    assert re.search(r'<form id="search"[^>]* hx-replace-url="true"', page)


def test_every_link_to_a_list_says_that_it_pushes_its_address(team: Team) -> None:
    team.sql.execute("UPDATE accounts SET contact_quota = 300 WHERE id = %s", [team.account_id])
    for number in range(110):
        team.add(f"Many {number:03}")
    page = team.get("/contacts?q=many&sort=-name").text
    links = re.findall(r'<a [^>]*href="(/contacts[^"]*)" hx-get="([^"]*)"([^>]*hx-swap="none"[^>]*)>', page)
    assert len(links) == 4, "three to sort by, and the next page"
    for href, get, rest in links:
        assert get.removesuffix("#main") == href
        assert re.search('hx-push-url="([^"]*)"', rest)[1] == (href if "#" in get else "true")


NASTY = [
    *(
        "",
        "http://[",
        "http://a//[",
        "http://a//[x",
        "//[",
        "javascript:alert(1)",
        "\xff\xfe\x80",
        "x" * 8000,
        "?",
        "#",
    ),
    *(
        "http://localhost/contacts?" + "a=1&" * 2000,
        "http://localhost/contacts?q=%00",
        "http://localhost/contacts?q=%ff",
    ),
    *(
        "http://localhost/contacts?page=999999",
        "http://localhost/contacts?page=-1&field=x&sort=y",
        "http://h:99999999/",
    ),
    *("http://localhost/contacts?q=%ED%A0%80&field=mobile", "http://localhost/contacts?q=" + "x" * 255),
]


@pytest.mark.parametrize("shown", NASTY)
def test_what_is_said_to_be_shown_never_breaks_a_change(team: Team, shown: str) -> None:
    headers = {"HX-Current-URL": shown}
    created = team.post("/contacts/new", {"name": "Ann", "email": "ann@example.com"}, htmx=True, **headers)
    assert created.status_code in (200, 204)
    assert len(team.contacts()) == 1
    deleted = team.post("/contacts/delete", {"id": team.contacts()[0]["id"]}, htmx=True, **headers)
    assert deleted.status_code in (200, 204)
    assert team.contacts() == []
    for answer in (created, deleted):
        for name in ("HX-Redirect", "HX-Replace-Url", "HX-Push-Url"):
            assert answer.headers.get(name, "/contacts").split("?")[0] == "/contacts"


@pytest.mark.parametrize(
    ("method", "path", "status", "place"),
    [
        ("GET", "/contacts/999999999/edit", 404, "#messages"),
        ("GET", "/contacts?page=0", 400, "#messages"),
        ("POST", "/contacts/999999999/edit", 404, "#dialog-messages"),
        ("POST", "/contacts/delete", 400, "#dialog-messages"),
        ("POST", "/nowhere", 404, "#dialog-messages"),
    ],
)
def test_an_error_for_htmx_is_a_message_and_leaves_the_page_as_it_is(
    team: Team, method: str, path: str, status: int, place: str
) -> None:
    answer = team.client.open(path, method=method, headers=HTMX, data={"csrf_token": team.csrf_token})
    assert answer.status_code == status
    assert (answer.headers["HX-Retarget"], answer.headers["HX-Reswap"]) == (place, "innerHTML")
    assert answer.headers["HX-Push-Url"] == "false"
    assert 'class="message message-error"' in answer.text
    assert "<html" not in answer.text


def test_no_answer_to_htmx_is_a_redirect_that_the_browser_follows_unseen(team: Team) -> None:
    identity = team.add("Ann", email="ann@example.com")
    bare = team.app.test_client()
    paths = ("/contacts", "/contacts/new", f"/contacts/{identity}/edit", f"/contacts/delete?id={identity}", "/password")
    for path in paths:
        answer = bare.get(path, headers=HTMX)
        assert (answer.status_code, answer.text) == (204, "")
        assert answer.headers["HX-Redirect"].startswith("/logon?next=")


def test_a_log_on_a_log_off_and_a_new_password_lead_htmx_to_the_next_page(team: Team) -> None:
    log_on = {"email": team.email, "password": PASSWORD}
    change = {"current": PASSWORD, "new": "a different passphrase", "again": "a different passphrase"}
    for path, data, leads_to in (("/password", change, "/contacts"), ("/logoff", {}, "/logon")):
        answer = team.post(path, data, htmx=True)
        assert (answer.status_code, answer.text, answer.headers["HX-Redirect"]) == (204, "", leads_to)
    page = team.get("/logon").text
    log_on |= {"password": change["new"], "csrf_token": re.search(r'name="csrf_token" value="([^"]+)"', page)[1]}
    answer = team.post("/logon", log_on, htmx=True)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/contacts")
