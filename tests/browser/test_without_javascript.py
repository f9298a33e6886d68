"""Show that every address works as a plain page where JavaScript is off."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage, control, field, log_on, message, names, row, search_box
from tests.conftest import PASSWORD, Team


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return the list of Ann, Bob and Cid in a browser that runs no scripts."""
    for name in ("Ann", "Bob", "Cid"):
        team.add(name, email=f"{name.lower()}@example.com")
    page = new_page(team, java_script_enabled=False)
    page.goto("/contacts")
    return page


def path(page: Page) -> str:
    return urlsplit(page.url).path


def ok(page: Page) -> None:
    page.get_by_role("button", name="OK", exact=True).click()


def test_contacts_are_created(page: Page) -> None:
    page.get_by_role("main").get_by_text("New contact", exact=True).click()
    expect(page.get_by_role("heading", name="New contact", level=1)).to_be_visible()
    assert path(page) == "/contacts/new"
    expect(field(page, "Name")).to_be_focused()
    field(page, "Name").fill("Zoe")
    field(page, "Mailbox").fill("ann@example.com")
    ok(page)
    assert path(page) == "/contacts/new"
    expect(field(page, "Name")).to_have_value("Zoe")
    expect(field(page, "Mailbox")).to_be_focused()
    expect(field(page, "Mailbox")).to_have_accessible_description(re.compile("Ann has this mailbox already"))
    field(page, "Mailbox").fill("zoe@example.com")
    ok(page)
    assert path(page) == "/contacts"
    expect(message(page)).to_contain_text("Zoe has been created.")
    expect(names(page)).to_have_text(["Ann", "Bob", "Cid", "Zoe"])
    page.reload()
    expect(message(page)).not_to_contain_text("Zoe")


def test_contacts_are_edited(page: Page) -> None:
    control(page, "Bob", "Editing").click()
    expect(page.get_by_role("heading", name="Edit contacts", level=1)).to_be_visible()
    expect(field(page, "Name")).to_be_focused()
    expect(field(page, "Mailbox")).to_have_value("bob@example.com")
    field(page, "Name").fill("Bert")
    ok(page)
    expect(names(page)).to_have_text(["Ann", "Bert", "Cid"])
    expect(message(page)).to_contain_text("Bert has been saved.")
    control(page, "Bert", "Editing").click()
    page.get_by_text("Cancel", exact=True).click()
    assert path(page) == "/contacts"


def test_a_conflict_shows_both_values(page: Page, team: Team) -> None:
    control(page, "Bob", "Editing").click()
    team.sql.execute(
        "UPDATE contacts SET name = 'Bill', version = version + 1 WHERE account_id = %s AND name = 'Bob'",
        [team.account_id],
    )
    field(page, "Name").fill("Bert")
    ok(page)
    expect(page.get_by_role("main")).to_contain_text("Somebody else has saved this contact meanwhile.")
    expect(field(page, "Name")).to_have_value("Bert")
    expect(field(page, "Name")).to_have_accessible_description(re.compile("Bill"))
    ok(page)
    expect(names(page)).to_have_text(["Ann", "Bert", "Cid"])


def test_contacts_are_searched_and_sorted(page: Page) -> None:
    page.get_by_role("combobox", name="Search in").select_option(label="Email")
    search_box(page).fill("C")
    search_box(page).press("Enter")
    expect(names(page)).to_have_text(["Ann", "Bob", "Cid"])
    page.get_by_text("Sort by").get_by_role("link", name="Name").click()
    expect(names(page)).to_have_text(["Cid", "Bob", "Ann"])
    expect(search_box(page)).to_have_value("C")
    search_box(page).fill("cid@")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(names(page)).to_have_text(["Cid"])
    expect(page).to_have_url(re.compile("q=cid%40&.*sort=-name|sort=-name&.*q=cid%40"))
    search_box(page).fill("nobody")
    search_box(page).press("Enter")
    page.get_by_role("link", name="Show all contacts").click()
    expect(names(page)).to_have_text(["Ann", "Bob", "Cid"])


def test_contacts_are_deleted(page: Page, team: Team) -> None:
    control(page, "Bob", "Delete").click()
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_text(["Bob"])
    page.get_by_text("Cancel", exact=True).click()
    expect(names(page)).to_have_text(["Ann", "Bob", "Cid"])
    control(page, "Bob", "Delete").click()
    ok(page)
    expect(names(page)).to_have_text(["Ann", "Cid"])
    expect(message(page)).to_contain_text("Bob has been deleted.")
    for name in ("Ann", "Cid"):
        control(page, name, "Select").check()
    page.get_by_role("button", name="Batch delete").click()
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_text(["Ann", "Cid"])
    ok(page)
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()
    assert team.contacts() == []


def test_batch_delete_with_none_selected_says_what_to_do(page: Page) -> None:
    page.get_by_role("button", name="Batch delete").click()
    expect(page.get_by_role("main")).to_contain_text("Nothing is selected. Select rows of the list first.")
    page.get_by_role("link", name="Go to the contacts").click()
    expect(names(page)).to_have_text(["Ann", "Bob", "Cid"])


def test_nothing_is_offered_that_needs_a_script(page: Page) -> None:
    control(page, "Bob", "Delete").click()
    ok(page)
    expect(message(page)).to_contain_text("Bob has been deleted.")
    for name in ("Keys", "Dismiss"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("checkbox", name="Select all contacts")).to_have_count(0)


def test_one_logs_off_and_on_again(page: Page, team: Team) -> None:
    page.get_by_role("button", name=team.email).click()
    page.get_by_role("button", name="Log off").click()
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()
    page.goto("/contacts?q=bob")
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()
    log_on(page, team, "a wrong password")
    expect(page.get_by_role("alert")).to_contain_text("There is no user with this e-mail and this password.")
    log_on(page, team, PASSWORD)
    expect(page).to_have_url(re.compile(r"/contacts\?q=bob$"))
    expect(row(page, "Bob")).to_be_visible()


def test_the_password_is_changed(page: Page, team: Team) -> None:
    page.get_by_role("button", name=team.email).click()
    page.get_by_role("link", name="Change password").click()
    expect(page.get_by_label("Current password")).to_be_focused()
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("a brand new password")
    page.get_by_label("New password again").fill("a brand new passwort")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_label("New password again")).to_be_focused()
    page.get_by_label("Current password").fill(PASSWORD)
    for label in ("New password", "New password again"):
        page.get_by_label(label, exact=True).fill("a brand new password")
    page.get_by_role("button", name="Change password").click()
    expect(message(page)).to_contain_text("The password has been changed.")
