"""Show that everything can be done with the keyboard alone, and that one always sees where one is."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import (
    NARROW,
    WIDE,
    NewPage,
    batch_delete,
    control,
    dialog,
    field,
    message,
    names,
    row,
    search_box,
)
from tests.conftest import PASSWORD, Team


def tab_to(page: Page, target: Locator, key: str = "Tab") -> None:
    """Press Tab until `target` has the focus."""
    expect(target).to_be_visible()
    for _ in range(80):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} does not lead to {target}")


def press_on(page: Page, target: Locator, key: str = "Enter") -> None:
    """Go to `target` by Tab and press `key` on it."""
    tab_to(page, target)
    page.keyboard.press(key)


def type_in(page: Page, target: Locator, text: str) -> None:
    """Go to a field by Tab, which selects what it holds, and type over it."""
    tab_to(page, target)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def new_contact(page: Page) -> Locator:
    return page.get_by_role("main").get_by_text("New contact", exact=True)


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return the list of Ann and Bob."""
    for name in ("Ann", "Bob"):
        team.add(name)
    page = new_page(team)
    page.goto("/contacts")
    return page


def test_the_manual_can_be_walked_by_keyboard(new_page: NewPage, team: Team) -> None:
    page = new_page()
    page.goto("/")
    expect(field(page, "E-mail")).to_be_focused()
    page.keyboard.type(team.email)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")

    press_on(page, page.get_by_role("navigation", name="Main").get_by_role("link", name="Contacts"))
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()
    for number, name in enumerate(("Ann", "Bob", "Cid")):
        press_on(page, new_contact(page))
        box = dialog(page, "New contact")
        expect(field(box, "Name")).to_be_focused()
        page.keyboard.type(name)
        type_in(page, field(box, "Mobile phone number"), f"138 0013 80{number}7")
        type_in(page, field(box, "Mailbox"), f"{name}@example.com")
        press_on(page, box.get_by_role("switch", name="Receive system notifications"), "Space")
        press_on(page, box.get_by_role("button", name="OK", exact=True))
        expect(row(page, name)).to_contain_text("Yes")
        expect(new_contact(page)).to_be_focused()

    tab_to(page, page.get_by_role("combobox", name="Search in"))
    page.keyboard.press("ArrowDown")
    type_in(page, search_box(page), "8017")
    press_on(page, page.get_by_role("button", name="Search", exact=True))
    expect(names(page)).to_have_text(["Bob"])

    press_on(page, control(page, "Bob", "Editing"))
    box = dialog(page, "Edit contacts")
    expect(field(box, "Name")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Bert")
    page.keyboard.press("Enter")
    expect(names(page)).to_have_text(["Bert"])
    expect(control(page, "Bert", "Editing")).to_be_focused()

    press_on(page, control(page, "Bert", "Delete"))
    box = dialog(page, "Delete this contact?")
    expect(box.get_by_text("Cancel", exact=True)).to_be_focused()
    tab_to(page, box.get_by_role("button", name="OK", exact=True), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(message(page)).to_contain_text("Bert has been deleted.")

    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(search_box(page)).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Delete")
    expect(names(page)).to_have_text(["Ann", "Cid"])
    for name in ("Ann", "Cid"):
        press_on(page, control(page, name, "Select"), "Space")
    tab_to(page, batch_delete(page), "Shift+Tab")
    page.keyboard.press("Enter")
    box = dialog(page, "Delete 2 contacts?")
    tab_to(page, box.get_by_role("button", name="OK", exact=True), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()


def test_the_user_menu_works_by_keyboard(page: Page, team: Team) -> None:
    button = page.get_by_role("button", name=team.email)
    press_on(page, button)
    press_on(page, page.get_by_role("link", name="Change password"))
    expect(page.get_by_label("Current password")).to_be_focused()
    page.goto("/contacts")
    press_on(page, button)
    expect(page.get_by_role("button", name="Log off")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Log off")).to_be_hidden()
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    press_on(page, page.get_by_role("button", name="Log off"))
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()


def test_what_is_called_a_button_takes_the_space_bar_too(page: Page) -> None:
    for opener, closer in ((new_contact(page), "Cancel"), (control(page, "Ann", "Delete"), "Cancel")):
        if opener.get_attribute("role") == "button":
            press_on(page, opener, "Space")
        else:
            press_on(page, opener)
        box = dialog(page)
        expect(box).to_be_visible()
        cancel = box.get_by_text(closer, exact=True)
        tab_to(page, cancel)
        page.keyboard.press("Space" if cancel.get_attribute("role") == "button" else "Enter")
        expect(box).to_have_count(0)


def test_the_skip_link_leads_past_the_navigation(page: Page) -> None:
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the content")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Contact", exact=True)).to_be_focused()


def test_the_three_keys_do_what_their_list_says(page: Page) -> None:
    page.keyboard.press("/")
    expect(search_box(page)).to_be_focused()
    expect(search_box(page)).to_have_value("")
    page.keyboard.press("Tab")
    page.keyboard.press("n")
    expect(field(dialog(page, "New contact"), "Name")).to_be_focused()
    expect(field(dialog(page, "New contact"), "Name")).to_have_value("")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    keys = dialog(page, "Keys")
    for key in ("/", "n", "?", "Esc"):
        expect(keys.get_by_role("term").filter(has_text=re.compile(f"^{re.escape(key)}$"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()


def test_the_keys_are_letters_where_one_types(page: Page) -> None:
    search_box(page).focus()
    page.keyboard.type("n/?")
    expect(search_box(page)).to_have_value("n/?")
    expect(dialog(page)).to_have_count(0)
    search_box(page).fill("")
    expect(names(page)).to_have_count(2)
    page.keyboard.press("Tab")
    page.keyboard.press("n")
    expect(field(dialog(page, "New contact"), "Name")).to_be_focused()
    page.keyboard.type("n/?")
    expect(field(dialog(page, "New contact"), "Name")).to_have_value("n/?")
    tab_to(page, dialog(page).get_by_role("switch"))
    for key in ("/", "?", "n"):
        page.keyboard.press(key)
    expect(dialog(page)).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Discard").click()
    expect(dialog(page)).to_have_count(0)
    page.get_by_role("combobox", name="Search in").focus()
    page.keyboard.press("n")
    expect(page.get_by_role("combobox", name="Search in")).to_be_focused()
    expect(dialog(page)).to_have_count(0)


def test_keys_of_the_browser_are_left_alone(page: Page) -> None:
    press = """flag => ['n', '/', '?'].some(key => !document.body.dispatchEvent(
        new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true, ...flag})))"""
    for flag in ("ctrlKey", "altKey", "metaKey"):
        assert not page.evaluate(press, {flag: True})
    expect(dialog(page)).to_have_count(0)
    assert page.evaluate(press, {})


def test_the_single_keys_can_be_turned_off_for_good(page: Page) -> None:
    def press_all() -> None:
        tab_to(page, page.get_by_role("link", name="Contact", exact=True))
        for key in ("n", "?", "/"):
            page.keyboard.press(key)

    button = page.get_by_role("button", name="Keys", exact=True)
    press_on(page, button)
    switch = dialog(page, "Keys").get_by_role("switch")
    expect(switch).to_be_checked()
    press_on(page, switch, "Space")
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    for _ in range(2):
        press_all()
        expect(page.get_by_role("link", name="Contact", exact=True)).to_be_focused()
        expect(dialog(page)).to_have_count(0)
        page.reload()
    press_on(page, button)
    expect(switch).not_to_be_checked()
    press_on(page, switch, "Space")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(search_box(page)).to_be_focused()


LOOK_AT_FOCUS = """() => {
    const element = document.activeElement;
    if (element === document.body) return null;
    const style = getComputedStyle(element);
    const name = element.getAttribute('aria-label') || element.textContent.trim() || element.id || element.outerHTML;
    const ring = (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1) || style.boxShadow !== 'none';
    const { left, top, width, height } = element.getBoundingClientRect();
    const seen = document.elementFromPoint(left + width / 2, top + height / 2);
    const clear = seen && (element.contains(seen) || seen.contains(element) && seen.matches('label, a, button'));
    return [name, ring ? '' : 'has no ring', clear ? '' : 'is covered or out of view'];
}"""


@pytest.mark.parametrize("place", ["list", "dialog", "keys", "user menu", "log-on"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_focus_is_always_seen(new_page: NewPage, team: Team, place: str, width: int) -> None:
    for number in range(12):
        team.add(f"Contact {number}")
    page = new_page(None if place == "log-on" else team, width=width, reduced_motion="reduce")
    page.goto("/contacts")
    if place == "dialog":
        new_contact(page).click()
        expect(dialog(page)).to_be_visible()
    elif place == "keys":
        page.keyboard.press("?")
        expect(dialog(page)).to_be_visible()
    elif place == "user menu":
        page.get_by_role("banner").get_by_role("button").last.click()
    bad, seen = [], 0
    for key in ("Tab", "Shift+Tab"):
        for _ in range(60 if place == "list" else 12):
            page.keyboard.press(key)
            if found := page.evaluate(LOOK_AT_FOCUS):
                seen += 1
                bad += [found] if any(found[1:]) else []
    assert bad == []
    assert seen
