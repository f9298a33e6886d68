"""Show that New contact and Editing work in a dialog: focus, errors, conflicts, and one save for a double click."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Held, NewPage, control, dialog, field, is_marked, is_post, mark, message, names, row
from tests.conftest import ROBOT, Team

OPENERS: dict[str, Callable[[Page], Locator]] = {
    "New contact": lambda page: page.get_by_role("main").get_by_text("New contact", exact=True),
    "Edit contacts": lambda page: control(page, "Bob", "Editing"),
}
in_both_dialogs = pytest.mark.parametrize("title", OPENERS)


def open_dialog(page: Page, title: str, address: str = "/contacts") -> Locator:
    """Open the dialog from a list, and return it."""
    page.goto(address)
    mark(page)
    OPENERS[title](page).click()
    box = dialog(page, title)
    expect(box).to_be_visible()
    return box


def click_ok(box: Locator) -> None:
    box.get_by_role("button", name="OK", exact=True).click()


@pytest.fixture
def three(team: Team) -> Team:
    """Return a team with Ann, Bob and Cid."""
    for name in ("Ann", "Bob", "Cid"):
        team.add(name, mobile=f"+861380013800{name.encode()[0] % 10}", email=f"{name}@example.com".lower())
    return team


@in_both_dialogs
def test_a_dialog_is_native_and_modal_with_its_first_field_focused(page: Page, three: Team, title: str) -> None:
    box = open_dialog(page, title)
    assert box.evaluate("box => box.localName === 'dialog' && box.matches(':modal')")
    expect(field(box, "Name")).to_be_focused()
    assert is_marked(page)


@in_both_dialogs
def test_tab_never_leaves_an_open_dialog(page: Page, three: Team, title: str) -> None:
    open_dialog(page, title)
    reached = set()
    for key in ["Tab"] * 12 + ["Shift+Tab"] * 12:
        page.keyboard.press(key)
        # The body stands for the browser's own controls, which come after the last field.
        where = "() => document.activeElement.closest('dialog')?.id ?? document.activeElement.localName"
        reached.add(page.evaluate(where))
    assert reached <= {"dialog", "body"}
    assert "dialog" in reached


@pytest.mark.parametrize("by", ["Escape", "Cancel"])
@in_both_dialogs
def test_escape_and_cancel_close_and_give_the_focus_back(page: Page, three: Team, title: str, by: str) -> None:
    box = open_dialog(page, title)
    field(box, "Name").fill("Zoe")
    if by == "Escape":
        page.keyboard.press("Escape")
        question(page).get_by_role("button", name="Discard").click()
    else:
        box.get_by_text("Cancel", exact=True).click()
    expect(box).to_be_hidden()
    expect(OPENERS[title](page)).to_be_focused()
    assert is_marked(page)
    assert [contact["name"] for contact in three.contacts()] == ["Ann", "Bob", "Cid"]
    OPENERS[title](page).click()
    expect(field(box, "Name")).to_have_value("" if title == "New contact" else "Bob")


@in_both_dialogs
def test_a_click_outside_keeps_the_half_filled_form(page: Page, three: Team, title: str) -> None:
    box = open_dialog(page, title)
    field(box, "Name").fill("Half")
    page.mouse.click(5, 400)
    page.mouse.click(1270, 790)
    expect(box).to_be_visible()
    expect(field(box, "Name")).to_have_value("Half")


def test_ok_shows_the_new_contact_in_place_and_keeps_search_and_sort(page: Page, three: Team) -> None:
    address = "/contacts?q=n&sort=-name"
    box = open_dialog(page, "New contact", address)
    expect(names(page)).to_have_text(["Ann"])
    field(box, "Name").fill("Nina")
    field(box, "Mailbox").fill("nina@example.com")
    click_ok(box)
    expect(box).to_be_hidden()
    expect(names(page)).to_have_text(["Nina", "Ann"])
    expect(page.get_by_text("4 of 100")).to_be_visible()
    expect(message(page)).to_contain_text("Nina has been created.")
    expect(OPENERS["New contact"](page)).to_be_focused()
    expect(page).to_have_url(re.compile(re.escape(address) + "$"))
    expect(page.get_by_role("searchbox")).to_have_value("n")
    assert is_marked(page)


def test_ok_shows_the_changed_contact_in_place_and_gives_the_focus_back(page: Page, three: Team) -> None:
    box = open_dialog(page, "Edit contacts", "/contacts?sort=-name")
    field(box, "Name").fill("Bo")
    field(box, "Mobile phone number").fill("")
    click_ok(box)
    expect(box).to_be_hidden()
    expect(names(page)).to_have_text(["Cid", "Bo", "Ann"])
    expect(row(page, "Bo")).not_to_contain_text("+86")
    expect(message(page)).to_contain_text("Bo has been saved.")
    expect(control(page, "Bo", "Editing")).to_be_focused()
    assert is_marked(page)


def test_the_focus_stays_on_editing_where_the_row_moves(page: Page, three: Team) -> None:
    box = open_dialog(page, "Edit contacts")
    field(box, "Name").fill("Zoe")
    click_ok(box)
    expect(names(page)).to_have_text(["Ann", "Cid", "Zoe"])
    expect(control(page, "Zoe", "Editing")).to_be_focused()


def test_the_focus_is_not_lost_where_the_row_leaves_the_search(page: Page, three: Team) -> None:
    box = open_dialog(page, "Edit contacts", "/contacts?q=@example.com&field=email")
    field(box, "Mailbox").fill("bob@example.org")
    click_ok(box)
    expect(names(page)).to_have_text(["Ann", "Cid"])
    expect(control(page, "Cid", "Editing")).to_be_focused()


def test_the_focus_is_not_lost_after_the_first_contact(page: Page, team: Team) -> None:
    page.goto("/contacts")
    page.get_by_role("main").get_by_text("Create a contact").click()
    box = dialog(page, "New contact")
    field(box, "Name").fill("Ann")
    field(box, "Mailbox").fill("ann@example.com")
    click_ok(box)
    expect(names(page)).to_have_text(["Ann"])
    expect(OPENERS["New contact"](page)).to_be_focused()


@pytest.mark.parametrize(
    ("title", "first_bad", "typed"),
    [
        ("New contact", "Name", {"Name": " ", "Mobile phone number": "123", "Mailbox": "x"}),
        ("Edit contacts", "Mobile phone number", {"Name": "Zoe", "Mobile phone number": "12 three", "Mailbox": "x@"}),
        (
            "New contact",
            "Mailbox",
            {"Name": "Zoe", "Mobile phone number": "139 1234 5678", "Mailbox": "ann@example.com"},
        ),
        (
            "Edit contacts",
            "DingTalk robot",
            {"Name": "Zoe", "Mailbox": "zoe@example.com", "DingTalk robot": "http://example.com/"},
        ),
    ],
)
def test_a_bad_form_stays_as_typed_with_its_first_bad_field_focused(
    page: Page, three: Team, title: str, first_bad: str, typed: dict[str, str]
) -> None:
    before = three.contacts()
    box = open_dialog(page, title)
    for label, value in typed.items():
        field(box, label).fill(value)
    box.get_by_role("switch").check()
    click_ok(box)
    bad = field(box, first_bad)
    expect(bad).to_have_attribute("aria-invalid", "true")
    expect(bad).to_be_focused()
    expect(bad).to_have_accessible_description(re.compile(r"\w+ .*\."))
    for label, value in typed.items():
        expect(field(box, label)).to_have_value(value)
    expect(box.get_by_role("switch")).to_be_checked()
    assert three.contacts() == before
    assert is_marked(page)
    # Corrected, it saves.
    for label, value in {"Name": "Zoe", "Mobile phone number": "", "Mailbox": "z@example.com"}.items():
        field(box, label).fill(value)
    field(box, "DingTalk robot").fill("")
    click_ok(box)
    expect(box).to_be_hidden()
    expect(row(page, "Zoe")).to_contain_text("z@example.com")


def test_the_second_of_two_people_sees_what_the_first_has_saved(new_page: NewPage, three: Team) -> None:
    pages = [new_page(three), new_page(three)]
    first, second = boxes = [open_dialog(page, "Edit contacts") for page in pages]
    for box, name in zip(boxes, ("Bert", "Bill"), strict=True):
        field(box, "Name").fill(name)
    click_ok(first)
    expect(first).to_be_hidden()
    click_ok(second)
    expect(second).to_contain_text("Somebody else has saved this contact meanwhile.")
    expect(second.get_by_role("alert").filter(has_text="Somebody else")).to_be_visible()
    expect(field(second, "Name")).to_have_value("Bill")
    expect(field(second, "Name")).to_have_accessible_description(re.compile("Bert"))
    assert "Bert" in [contact["name"] for contact in three.contacts()]
    click_ok(second)
    expect(second).to_be_hidden()
    expect(names(pages[1])).to_have_text(["Ann", "Bill", "Cid"])
    assert "Bert" not in [contact["name"] for contact in three.contacts()]


def test_a_double_click_on_ok_saves_once(page: Page, team: Team) -> None:
    box = open_dialog(page, "New contact")
    field(box, "Name").fill("Robot")
    field(box, "DingTalk robot").fill(ROBOT + "0123456789abcdef")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if is_post(request) else None)
    held = Held(page, is_post)
    box.get_by_role("button", name="OK", exact=True).dblclick()
    held.wait()
    box.get_by_role("textbox", name="Name").press("Enter")
    held.release()
    expect(box).to_be_hidden()
    expect(names(page)).to_have_text(["Robot"])
    assert len(sent) == 1
    assert len(team.contacts()) == 1


def test_the_link_to_the_holder_of_a_number_opens_that_contact(page: Page, three: Team) -> None:
    box = open_dialog(page, "New contact")
    field(box, "Name").fill("Zoe")
    field(box, "Mailbox").fill("BOB@example.com")
    click_ok(box)
    box.get_by_role("link", name="Bob").click()
    box = dialog(page, "Edit contacts")
    expect(field(box, "Mailbox")).to_have_value("bob@example.com")
    expect(field(box, "Name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(OPENERS["New contact"](page)).to_be_focused()


def test_new_contact_says_that_the_account_is_full_before_a_form_is_filled_in(
    new_page: NewPage, new_team: Callable[..., Team]
) -> None:
    team = new_team(quota=1)
    team.add("Ann")
    page = new_page(team)
    box = open_dialog(page, "New contact")
    expect(box).to_contain_text("1 of 1 contacts")
    expect(box.get_by_role("textbox")).to_have_count(0)
    box.get_by_text("OK", exact=True).click()
    expect(box).to_be_hidden()
    expect(OPENERS["New contact"](page)).to_be_focused()


def test_an_account_that_fills_up_meanwhile_keeps_the_form(new_page: NewPage, new_team: Callable[..., Team]) -> None:
    team = new_team(quota=1)
    page = new_page(team)
    box = open_dialog(page, "New contact")
    field(box, "Name").fill("Zoe")
    field(box, "Mailbox").fill("zoe@example.com")
    identity = team.add("Ann")
    click_ok(box)
    expect(box.get_by_role("alert").filter(has_text="as many contacts as it can have")).to_be_visible()
    expect(field(box, "Name")).to_have_value("Zoe")
    assert len(team.contacts()) == 1
    team.post("/contacts/delete", {"id": identity})
    click_ok(box)
    expect(names(page)).to_have_text(["Zoe"])


def test_a_late_dialog_never_replaces_a_form_that_was_opened_after_it(page: Page, three: Team) -> None:
    page.goto("/contacts")
    held = Held(page, lambda request: request.url.endswith("/edit"))
    control(page, "Ann", "Editing").click()
    held.wait()
    OPENERS["New contact"](page).click()
    field(dialog(page, "New contact"), "Name").fill("Half")
    held.release()
    # A request that is made after the late one has its answer after it.
    page.evaluate("() => fetch('/contacts?q=later').then(answer => answer.text())")
    expect(field(dialog(page), "Name")).to_have_value("Half")
    expect(dialog(page, "New contact")).to_be_visible()


def question(page: Page) -> Locator:
    return page.get_by_role("alertdialog", name="Discard your changes?")


@pytest.mark.parametrize("width", [1280, 375])
def test_escape_asks_before_what_was_typed_is_thrown_away(new_page: NewPage, three: Team, width: int) -> None:
    page = new_page(three, width=width)
    box = open_dialog(page, "Edit contacts")
    page.keyboard.press("Escape")  # nothing has changed
    expect(box).to_be_hidden()
    box = open_dialog(page, "Edit contacts")
    name = field(box, "Name")
    name.fill("Typed")
    for _ in range(3):  # however often, and with nothing else pressed between
        page.keyboard.press("Escape")
        expect(question(page).get_by_role("button", name="Keep editing")).to_be_focused()
        page.keyboard.press("Escape")
        expect(question(page)).to_be_hidden()
        expect(name).to_be_focused()
    expect(name).to_have_value("Typed")
    # A form that comes back to be mended is as changed as it was.
    field(box, "Mailbox").fill("x@")
    click_ok(box)
    expect(field(box, "Mailbox")).to_be_focused()
    page.keyboard.press("Escape")
    question(page).get_by_role("button", name="Keep editing").click()
    expect(field(box, "Mailbox")).to_have_value("x@")
    page.keyboard.press("Escape")
    question(page).get_by_role("button", name="Discard").click()
    expect(box).to_be_hidden()
    expect(question(page)).to_be_hidden()
    assert "Typed" not in [contact["name"] for contact in three.contacts()]
    # What was put back as it was has not changed, Cancel needs no question, and neither does what was saved.
    box = open_dialog(page, "Edit contacts")
    before = field(box, "Name").input_value()
    field(box, "Name").fill("Typed")
    field(box, "Name").fill(before)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    box = open_dialog(page, "Edit contacts")
    field(box, "Name").fill("Typed")
    box.get_by_text("Cancel", exact=True).click()
    expect(box).to_be_hidden()
    box = open_dialog(page, "Edit contacts")
    field(box, "Name").fill("Saved")
    click_ok(box)
    expect(box).to_be_hidden()
    expect(question(page)).to_be_hidden()


def test_escape_asks_before_picked_members_are_thrown_away(page: Page, three: Team) -> None:
    page.goto("/groups")
    page.get_by_role("main").get_by_text("Create contact group", exact=True).click()
    box = dialog(page, "Create contact group")
    box.get_by_role("searchbox").fill("Ann")  # a filter is no change
    expect(box.get_by_role("checkbox")).to_have_count(1)
    box.get_by_role("checkbox", name="Ann").check()
    page.keyboard.press("Escape")
    expect(question(page)).to_be_visible()
    page.keyboard.press("Escape")
    box.get_by_role("checkbox", name="Ann").uncheck()
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
