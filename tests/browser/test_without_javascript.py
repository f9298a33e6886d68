"""Show that every address works as a plain page where JavaScript is off."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage, World, control, field, log_on, message, names, row, search_box
from tests.browser.test_accessibility import add_group
from tests.browser.test_alerts import create_integration, post_alert
from tests.browser.test_groups import box_of, offered, picker
from tests.conftest import PASSWORD, Team, wait_for


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


def test_a_number_that_is_not_known_is_saved_all_the_same(page: Page) -> None:
    page.goto("/contacts/new")
    field(page, "Name").fill("Zoe")
    field(page, "Mobile phone number").fill("14912345678")
    ok(page)
    expect(field(page, "Mobile phone number")).to_be_focused()
    box = page.get_by_role("checkbox", name="Save +86 149 1234 5678 all the same")
    expect(box).not_to_be_checked()
    expect(box).to_have_accessible_description(re.compile("not known as a mobile number"))
    box.check()
    ok(page)
    expect(message(page)).to_contain_text("Zoe has been created.")
    expect(row(page, "Zoe")).to_contain_text("+86 149 1234 5678")


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


def test_what_is_typed_and_picked_for_a_group_stays_while_filtering(page: Page, team: Team) -> None:
    page.goto("/groups/new")
    field(page, "Group name").fill("Evening")
    box_of(page, "Ann").check()
    picker(page).fill("bob")
    picker(page).press("Enter")
    expect(offered(page)).to_have_text(["Bob"])
    expect(field(page, "Group name")).to_have_value("Evening")
    box_of(page, "Bob").check()
    picker(page).fill("")
    page.get_by_role("button", name="Filter", exact=True).click()
    for name in ("Ann", "Bob", "Cid"):
        expect(box_of(page, name)).to_be_checked(checked=name != "Cid")
    assert team.sql.execute("SELECT FROM groups WHERE account_id = %s", [team.account_id]).rowcount == 0
    ok(page)
    expect(row(page, "Evening")).to_contain_text("2 contacts")
    control(page, "Evening", "Editing").click()
    box_of(page, "Ann").uncheck()
    picker(page).fill("cid")
    page.get_by_role("button", name="Filter", exact=True).click()
    box_of(page, "Cid").check()
    field(page, "Group name").fill("Late")
    ok(page)
    row(page, "Late").get_by_text("2 contacts").click()
    row(page, "Late").get_by_role("link", name="Members of Late").click()
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_text(["Bob", "Cid"])


def test_a_test_is_sent_and_its_result_shown(page: Page, world: World) -> None:
    row(page, "Ann").get_by_role("link", name="Send a test to Ann").click()
    expect(page.get_by_role("heading", name="Send a test to Ann?", level=1)).to_be_visible()
    page.get_by_role("button", name="Send test").click()
    expect(page.get_by_role("heading", name="Only a test", level=1)).to_be_visible()
    wait_for(lambda: world.mails_to("ann@example.com"), what="the mail")
    reload_until(page, "1 sent")
    expect(page.get_by_role("main").get_by_role("listitem")).to_contain_text("Sent")
    page.goto("/contacts")
    expect(row(page, "Ann")).to_contain_text("Worked")
    control(page, "Bob", "Editing").click()
    page.get_by_role("button", name="Save and send test").click()
    expect(page.get_by_role("heading", name="Only a test", level=1)).to_be_visible()
    wait_for(lambda: world.mails_to("bob@example.com"), what="the mail")


def reload_until(page: Page, text: str) -> None:
    """Load the page again, as a person does, until it shows something."""

    def is_shown() -> bool:
        page.reload()
        return text in page.get_by_role("main").inner_text()

    wait_for(is_shown, what=text)


def test_an_alert_comes_in_through_an_integration_fails_and_is_sent_again(
    page: Page, team: Team, world: World, console: str
) -> None:
    add_group(team, "Day", "Ann")
    token = create_integration(page, "Day", "Script")
    for name in ("Copy", "Copy the configuration for Alertmanager"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    world.mail.unknown.add("ann@example.com")
    post_alert(console, token, title="The disk is full")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Notifications").click()
    reload_until(page, "1 failed")
    page.get_by_role("searchbox", name="Search for notifications").fill("network")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", name="No notification found")).to_be_visible()
    page.get_by_role("link", name="Show all notifications").click()
    page.get_by_role("combobox", name="Show").select_option(label="With a failed message")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("link", name="The disk is full").click()
    world.mail.unknown.clear()
    page.get_by_role("button", name="Send again to Ann, Mailbox").click()
    expect(page.locator("#messages")).to_contain_text("1 message is sent again, to Ann (Mailbox).")
    reload_until(page, "1 sent")
    assert len(world.mails_to("ann@example.com")) == 1


def test_an_integration_is_renewed_and_deleted(page: Page, team: Team) -> None:
    add_group(team, "Day")
    token = create_integration(page, "Day", "Script")
    page.get_by_role("link", name="Renew token").click()
    page.get_by_role("button", name="OK", exact=True).click()
    expect(page.locator(".token code")).not_to_have_text(token)
    page.get_by_role("link", name="Delete integration").click()
    page.get_by_role("button", name="OK", exact=True).click()
    expect(message(page)).to_contain_text("Script has been deleted.")
