"""Show that the page of the manual can be followed word for word in a browser."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    NARROW,
    WIDE,
    NewPage,
    control,
    dialog,
    field,
    log_on,
    message,
    names,
    row,
    search_box,
)
from tests.conftest import PASSWORD, ROBOT, Team


def click_ok(page: Page, title: str) -> None:
    dialog(page, title).get_by_role("button", name="OK", exact=True).click()


def search(page: Page, choice: str, text: str, found: list[str]) -> None:
    """Select an entry of the drop-down list next to the search box, enter a text and click the search icon."""
    page.get_by_role("combobox", name="Search in").select_option(label=choice)
    search_box(page).fill(text)
    page.get_by_role("search").get_by_role("button", name="Search", exact=True).click()
    expect(names(page)).to_have_text(found)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_manual_is_true_from_the_first_step_to_the_last(new_page: NewPage, team: Team, width: int) -> None:
    page = new_page(width=width)

    # 1. Log on to the console.
    page.goto("/")
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()
    log_on(page, team, PASSWORD)

    # 2. In the left-side navigation pane of the console, choose Alerts > Contacts.
    navigation = page.get_by_role("navigation", name="Main")
    expect(navigation).to_contain_text("Alerts")
    expect(navigation.get_by_role("list", name="Alerts")).to_be_visible()
    navigation.get_by_role("link", name="Contacts", exact=True).click()
    expect(page.get_by_role("heading", name="Contact Management", exact=True)).to_be_visible()

    # 3. On the Contact tab, click New contact in the upper-right corner.
    expect(page.get_by_role("link", name="Contact", exact=True)).to_have_attribute("aria-current", "page")
    new_contact = page.get_by_role("main").get_by_text("New contact", exact=True)
    place = new_contact.bounding_box()
    assert place
    assert place["x"] + place["width"] > width - 40
    # On a phone it floats at the lower right instead, in reach of a thumb.
    assert width == NARROW or place["y"] < 200
    new_contact.click()

    # 4. In the New contact dialog box, enter ... You must set at least one of the three parameters.
    box = dialog(page, "New contact")
    expect(box).to_be_visible()
    field(box, "Name").fill("Ann")
    click_ok(page, "New contact")
    said = expect(field(box, "Mobile phone number"))
    said.to_have_accessible_description(re.compile("mobile phone number.*mailbox.*DingTalk robot", re.IGNORECASE))
    expect(box).to_contain_text(re.compile("webhook URL.*group.*Bots.*Custom.*signature or a keyword"))
    field(box, "Mobile phone number").fill("138 0013 8000")
    field(box, "Mailbox").fill("ann@example.com")
    field(box, "DingTalk robot").fill(ROBOT + "0123456789abcdef")
    box.get_by_role("switch", name="Receive system notifications").check()
    click_ok(page, "New contact")
    expect(box).to_be_hidden()
    for shown in ("+86 138 0013 8000", "ann@example.com", "oapi.dingtalk.com …cdef", "Yes"):
        expect(row(page, "Ann")).to_contain_text(shown)

    # Each mobile number or email address can be used for only one contact. A maximum of 100 contacts.
    expect(page.get_by_text("1 of 100")).to_be_visible()
    new_contact.click()
    field(box, "Name").fill("Bob")
    field(box, "Mobile phone number").fill("+86-138-0013-8000")
    field(box, "Mailbox").fill("Ann@Example.com")
    click_ok(page, "New contact")
    taken = re.compile("Ann has this .* already.*only one contact")
    expect(field(box, "Mobile phone number")).to_have_accessible_description(taken)
    expect(field(box, "Mailbox")).to_have_accessible_description(taken)
    field(box, "Mobile phone number").fill("+1 202 555 0123")
    field(box, "Mailbox").fill("bob@example.com")
    click_ok(page, "New contact")
    expect(names(page)).to_have_text(["Ann", "Bob"])
    expect(page.get_by_text("2 of 100")).to_be_visible()

    # To search for contacts, select Name, Cell phone number, or Email ... and then click the search icon.
    for choice, complete, partial in (
        ("Name", "Ann", "an"),
        ("Cell phone number", "13800138000", "0013 80"),
        ("Email", "ann@example.com", "ANN@"),
    ):
        search(page, choice, complete, ["Ann"])
        search(page, choice, partial, ["Ann"])
    search(page, "Name", "", ["Ann", "Bob"])

    # To edit a contact, click Editing in the Operation column, edit the information in the dialog, click OK.
    if width == WIDE:
        expect(page.get_by_role("columnheader", name="Operation")).to_be_visible()
    expect(control(page, "Ann", "Editing")).to_have_text("Editing")
    control(page, "Ann", "Editing").click()
    box = dialog(page, "Edit contacts")
    expect(field(box, "Name")).to_have_value("Ann")
    field(box, "Name").fill("Anna")
    click_ok(page, "Edit contacts")
    expect(names(page)).to_have_text(["Anna", "Bob"])

    # To delete a contact, click Delete in the Operation column. In the message that appears, click OK.
    expect(control(page, "Anna", "Delete")).to_have_text("Delete")
    control(page, "Anna", "Delete").click()
    expect(dialog(page)).to_contain_text("Anna")
    click_ok(page, "Delete this contact?")
    expect(names(page)).to_have_text(["Bob"])

    # To delete multiple contacts, select the contacts, and click Batch delete. In the message, click OK.
    team.add("Cid")
    team.add("Dan")
    page.reload()
    for name in ("Bob", "Dan"):
        control(page, name, "Select").check()
    page.get_by_role("button", name="Batch delete").click()
    click_ok(page, "Delete 2 contacts?")
    expect(names(page)).to_have_text(["Cid"])
    expect(message(page)).to_contain_text("2 contacts have been deleted.")
