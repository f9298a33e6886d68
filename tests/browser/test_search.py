"""Show that a search finds while one types, keeps its address, and never shows an older answer over a newer one."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    WIDE,
    Held,
    NewPage,
    batch_delete,
    control,
    dialog,
    message,
    names,
    search_box,
    until,
)
from tests.conftest import Team

ALL = ["Ann", "Bob", "Joanna"]


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return the list of three contacts."""
    team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    team.add("Bob", mobile="+12025550123", email="bob@example.org")
    team.add("Joanna", email="joanna@example.org")
    page = new_page(team)
    page.goto("/contacts")
    return page


def choose(page: Page, label: str) -> None:
    page.get_by_role("combobox", name="Search in").select_option(label=label)


def sort_by(page: Page, label: str) -> None:
    page.get_by_text("Sort by").get_by_role("link", name=label).click()


def asked(page: Page) -> list[str]:
    """Return a list that grows with each request for contacts."""
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url) if "/contacts?" in request.url else None)
    return addresses


@pytest.fixture
def stopped_clock(page: Page) -> Iterator[None]:
    """Have time stand still on the page."""
    page.clock.install()
    page.reload()
    page.clock.pause_at(page.evaluate("Date.now()") + 60_000)
    yield
    page.context.close()  # whose clock no other test is to get


@pytest.mark.usefixtures("stopped_clock")
def test_a_search_starts_200_ms_after_the_last_key(page: Page) -> None:
    addresses = asked(page)
    search_box(page).press("a")
    page.clock.run_for(150)
    search_box(page).press("n")
    page.clock.run_for(199)
    page.evaluate("() => fetch('/healthz')")  # a search that had started would have been seen before this
    assert addresses == []
    page.clock.run_for(1)
    until(page, lambda: addresses)
    page.clock.resume()
    expect(names(page)).to_have_text(["Ann", "Joanna"])
    assert len(addresses) == 1
    assert "q=an&" in addresses[0] + "&"


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("way", ["Enter", "icon", "drop-down"])
def test_enter_the_icon_and_the_drop_down_search_at_once(page: Page, way: str) -> None:
    addresses = asked(page)
    search_box(page).fill("bob")
    if way == "Enter":
        search_box(page).press("Enter")
    elif way == "icon":
        page.get_by_role("button", name="Search", exact=True).click()
    else:
        choose(page, "Email")
    until(page, lambda: addresses)
    page.clock.resume()
    expect(names(page)).to_have_text(["Bob"])
    expect(dialog(page)).to_have_count(0)


def test_the_drop_down_keeps_the_text_and_searches_again(page: Page) -> None:
    search_box(page).fill("org")
    expect(page.get_by_role("heading", name="No contact found")).to_be_visible()
    choose(page, "Email")
    expect(names(page)).to_have_text(["Bob", "Joanna"])
    expect(search_box(page)).to_have_value("org")
    choose(page, "Cell phone number")
    expect(names(page)).to_have_count(0)
    search_box(page).fill("0013 80")
    expect(names(page)).to_have_text(["Ann"])


def test_clearing_shows_everything_and_typing_goes_on(page: Page) -> None:
    search_box(page).press_sequentially("zzz")
    expect(page.get_by_role("heading", name="No contact found")).to_be_visible()
    expect(search_box(page)).to_be_focused()
    search_box(page).press("ControlOrMeta+a")
    search_box(page).press("Delete")
    expect(names(page)).to_have_text(ALL)
    expect(search_box(page)).to_be_focused()
    expect(page).to_have_url(re.compile("/contacts$"))


def test_a_late_answer_never_replaces_a_newer_one(page: Page) -> None:
    ended: list[str] = []
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda request: ended.append(request.url))
    held = Held(page, lambda request: "q=an&" in request.url + "&")
    search_box(page).press_sequentially("an")
    held.wait()
    search_box(page).press_sequentially("n")
    expect(names(page)).to_have_text(["Ann", "Joanna"])
    search_box(page).press_sequentially(" ")
    search_box(page).fill("bob")
    expect(names(page)).to_have_text(["Bob"])
    held.release()
    until(page, lambda: any("q=an&" in address + "&" for address in ended))
    page.evaluate("() => fetch('/healthz')")
    expect(names(page)).to_have_text(["Bob"])
    expect(page).to_have_url(re.compile(r"\?q=bob$"))


def test_a_late_sort_never_replaces_a_newer_search(page: Page) -> None:
    held = Held(page, lambda request: "sort=-" in request.url and "q=" not in request.url)
    sort_by(page, "Creation")
    held.wait()
    search_box(page).fill("bob")
    expect(names(page)).to_have_text(["Bob"])
    held.release()
    page.evaluate("() => fetch('/contacts?q=later').then(answer => answer.text())")
    expect(search_box(page)).to_have_value("bob")
    expect(names(page)).to_have_text(["Bob"])
    expect(page).to_have_url(re.compile("q=bob"))


def test_the_count_of_hits_is_announced(page: Page) -> None:
    for text, said in (("an", "2 contacts found"), ("bob", "1 contact found"), ("zzz", "No contact found")):
        search_box(page).fill(text)
        expect(message(page)).to_contain_text(said)
    search_box(page).fill("")
    expect(message(page)).to_contain_text("3 contacts")


def test_a_reload_a_copied_link_and_back_show_the_same_list(new_page: NewPage, page: Page, team: Team) -> None:
    text = "example.org"
    choose(page, "Email")
    search_box(page).fill(text)
    expect(names(page)).to_have_text(["Bob", "Joanna"])
    sort_by(page, "Name")
    expect(names(page)).to_have_text(["Joanna", "Bob"])
    expect(page).to_have_url(re.compile(f"q={quote(text)}&field=email&sort=-name$"))

    def shows_the_same(page: Page) -> None:
        expect(names(page)).to_have_text(["Joanna", "Bob"])
        expect(search_box(page)).to_have_value(text)
        expect(page.get_by_role("combobox", name="Search in")).to_have_value("email")

    page.reload()
    shows_the_same(page)
    copy = new_page(team)
    copy.goto(page.url)
    shows_the_same(copy)
    page.goto("/password")
    page.go_back()
    shows_the_same(page)
    page.go_back()
    expect(names(page)).to_have_text(["Bob", "Joanna"])
    expect(search_box(page)).to_have_value(text)


def test_typing_does_not_fill_the_history(page: Page) -> None:
    before = page.evaluate("history.length")
    for text in ("a", "an", "ann"):
        search_box(page).fill(text)
        expect(page).to_have_url(re.compile(rf"\?q={text}$"))
    assert page.evaluate("history.length") == before


def test_a_search_keeps_the_sort_and_starts_at_the_first_page(page: Page, team: Team) -> None:
    team.sql.execute("UPDATE accounts SET contact_quota = 300 WHERE id = %s", [team.account_id])
    for number in range(110):
        team.add(f"Many {number:03}")
    page.goto("/contacts?sort=-name")
    page.set_viewport_size({"width": WIDE, "height": 300})
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    expect(page.get_by_role("heading", name="Contact Management")).to_be_in_viewport()
    expect(page).to_have_url(re.compile("sort=-name&page=2$"))
    page.go_back()
    expect(page.get_by_text("Page 1 of 2")).to_be_visible()
    page.go_forward()
    search_box(page).fill("many 00")
    expect(names(page).first).to_have_text("Many 009")
    expect(names(page)).to_have_count(10)


def test_a_link_that_leads_nowhere_any_more_leaves_address_and_history(page: Page, team: Team) -> None:
    team.sql.execute("UPDATE accounts SET contact_quota = 300 WHERE id = %s", [team.account_id])
    for number in range(110):
        team.add(f"Many {number:03}")
    page.goto("/contacts?sort=-name")
    before = page.evaluate("history.length")
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s AND name LIKE 'Many%%'", [team.account_id])
    page.get_by_role("link", name="Next").click()
    expect(message(page)).to_contain_text("The list has no page 2.")
    expect(page).to_have_url(re.compile("sort=-name$"))
    assert page.evaluate("history.length") == before


def test_what_is_selected_stays_selected_only_while_it_can_be_seen(page: Page, team: Team) -> None:
    for name in ("Ann", "Bob"):
        control(page, name, "Select").check()
    expect(batch_delete(page)).to_have_accessible_name("Batch delete (2)")
    search_box(page).fill("an")
    expect(names(page)).to_have_text(["Ann", "Joanna"])
    expect(control(page, "Ann", "Select")).to_be_checked()
    expect(control(page, "Joanna", "Select")).not_to_be_checked()
    expect(batch_delete(page)).to_have_accessible_name("Batch delete (1)")
    batch_delete(page).click()
    expect(dialog(page).get_by_role("listitem")).to_have_text(["Ann"])
    dialog(page).get_by_role("button", name="OK").click()
    expect(names(page)).to_have_text(["Joanna"])
    assert [contact["name"] for contact in team.contacts()] == ["Bob", "Joanna"]


def test_what_is_selected_stays_selected_in_another_order(page: Page) -> None:
    control(page, "Bob", "Select").check()
    sort_by(page, "Name")
    expect(names(page)).to_have_text(ALL[::-1])
    for name in ALL:
        expect(control(page, name, "Select")).to_be_checked(checked=name == "Bob")
    expect(batch_delete(page)).to_have_accessible_name("Batch delete (1)")
