"""Show that Delete and Batch delete ask with the contacts' names, and that the focus goes on to the next row."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    NewPage,
    batch_delete,
    control,
    dialog,
    is_marked,
    mark,
    message,
    names,
    no_native_box,
    row,
)
from tests.conftest import Team


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return the list of Ann, Bob, Cid and Dan."""
    for name in ("Ann", "Bob", "Cid", "Dan"):
        team.add(name)
    page = new_page(team)
    page.on("dialog", no_native_box)
    page.goto("/contacts")
    mark(page)
    return page


def open_delete(page: Page, *chosen: str) -> Locator:
    """Open the message that asks whether to delete the contacts: one by Delete, several by Batch delete."""
    if len(chosen) == 1:
        control(page, chosen[0], "Delete").click()
    else:
        for name in chosen:
            control(page, name, "Select").check()
        batch_delete(page).click()
    box = dialog(page)
    expect(box.get_by_role("listitem").first).to_have_text(chosen[0])
    return box


def click_ok(box: Locator) -> None:
    box.get_by_role("button", name="OK", exact=True).click()


def left(team: Team) -> list[str]:
    return [contact["name"] for contact in team.contacts()]


@pytest.mark.parametrize(
    ("chosen", "rest", "next_one"),
    [
        (["Bob"], ["Ann", "Cid", "Dan"], "Cid"),
        (["Dan"], ["Ann", "Bob", "Cid"], "Cid"),
        (["Ann", "Bob"], ["Cid", "Dan"], "Cid"),
        (["Bob", "Dan"], ["Ann", "Cid"], "Cid"),
    ],
)
def test_ok_deletes_in_place_and_the_focus_goes_on_to_the_next_row(
    page: Page, team: Team, chosen: list[str], rest: list[str], next_one: str
) -> None:
    box = open_delete(page, *chosen)
    expect(box.get_by_role("listitem")).to_have_text(chosen)
    click_ok(box)
    expect(names(page)).to_have_text(rest)
    sentence = "Bob has been deleted." if chosen == ["Bob"] else "deleted."
    expect(message(page)).to_contain_text(sentence if len(chosen) == 1 else "2 contacts have been deleted.")
    expect(page.get_by_text(f"{len(rest)} of 100")).to_be_visible()
    expect(control(page, next_one, "Delete" if len(chosen) == 1 else "Select")).to_be_focused()
    assert left(team) == rest
    assert is_marked(page)


def test_the_focus_goes_to_new_contact_where_no_row_is_left(page: Page, team: Team) -> None:
    page.get_by_role("checkbox", name="Select all contacts").check()
    expect(batch_delete(page)).to_have_accessible_name("Batch delete (4)")
    batch_delete(page).click()
    click_ok(dialog(page))
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()
    expect(page.get_by_role("main").get_by_text("New contact", exact=True)).to_be_focused()
    expect(batch_delete(page)).to_be_disabled()
    assert left(team) == []


@pytest.mark.parametrize("chosen", [["Bob"], ["Bob", "Cid"]])
@pytest.mark.parametrize("by", ["Escape", "Cancel"])
def test_cancel_and_escape_delete_nothing_and_give_the_focus_back(
    page: Page, team: Team, chosen: list[str], by: str
) -> None:
    box = open_delete(page, *chosen)
    expect(box.get_by_text("Cancel", exact=True)).to_be_focused()
    if by == "Escape":
        page.keyboard.press("Escape")
    else:
        box.get_by_text("Cancel", exact=True).click()
    expect(dialog(page)).to_have_count(0)
    expect(control(page, "Bob", "Delete") if len(chosen) == 1 else batch_delete(page)).to_be_focused()
    assert left(team) == ["Ann", "Bob", "Cid", "Dan"]
    for name in ("Bob", "Cid"):
        expect(control(page, name, "Select")).to_be_checked(checked=len(chosen) == 2)


def test_the_message_names_up_to_ten_contacts_and_how_many_more(page: Page, team: Team) -> None:
    for number in range(8):
        team.add(f"More {number}")
    page.reload()
    page.get_by_role("checkbox", name="Select all contacts").check()
    batch_delete(page).click()
    expected = ["Ann", "Bob", "Cid", "Dan", *(f"More {number}" for number in range(6)), "and 2 more"]
    expect(dialog(page, "Delete 12 contacts?").get_by_role("listitem")).to_have_text(expected)


def test_batch_delete_is_disabled_with_none_selected_and_says_how_many_are(page: Page) -> None:
    button, every = batch_delete(page), page.get_by_role("checkbox", name="Select all contacts")
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_name("Batch delete")
    every.check()
    expect(button).to_have_accessible_name("Batch delete (4)")
    control(page, "Ann", "Select").uncheck()
    expect(button).to_have_accessible_name("Batch delete (3)")
    assert every.evaluate("box => box.indeterminate && !box.checked")
    control(page, "Ann", "Select").check()
    expect(every).to_be_checked()
    every.uncheck()
    expect(button).to_be_disabled()


def test_a_contact_that_is_gone_already_is_counted_and_no_error(page: Page, team: Team) -> None:
    box = open_delete(page, "Ann", "Bob", "Cid")
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s AND name = 'Bob'", [team.account_id])
    click_ok(box)
    expect(names(page)).to_have_text(["Dan"])
    expect(message(page)).to_contain_text("2 contacts have been deleted. 1 was gone already.")
    expect(page.get_by_text("1 of 100")).to_be_visible()
    expect(control(page, "Dan", "Select")).to_be_focused()


def test_a_contact_that_is_gone_before_ok_leaves_the_table(page: Page, team: Team) -> None:
    box = open_delete(page, "Bob")
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s AND name = 'Bob'", [team.account_id])
    click_ok(box)
    expect(names(page)).to_have_text(["Ann", "Cid", "Dan"])
    expect(message(page)).to_contain_text("gone already")
    expect(control(page, "Cid", "Delete")).to_be_focused()


@pytest.mark.parametrize("label", ["Editing", "Delete"])
def test_opening_a_contact_that_is_gone_says_so_and_shows_no_dialog(page: Page, team: Team, label: str) -> None:
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s AND name = 'Bob'", [team.account_id])
    control(page, "Bob", label).click()
    expect(message(page)).to_contain_text("somebody has deleted it meanwhile")
    expect(dialog(page)).to_have_count(0)
    expect(row(page, "Ann")).to_be_visible()
