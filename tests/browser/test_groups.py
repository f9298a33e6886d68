"""Show that groups are made, found, changed and deleted in place, and that contacts join and leave them."""

import re
from itertools import combinations

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import (
    NARROW,
    NewPage,
    batch_delete,
    control,
    dialog,
    field,
    is_marked,
    mark,
    message,
    names,
    no_native_box,
    row,
)
from tests.browser.test_keyboard import press_on, tab_to, type_in
from tests.conftest import Team

NAMES = ("Ann", "Bob", "Cid", "Dan")


@pytest.fixture
def contacts(team: Team) -> Team:
    """Return a team of Ann, Bob, Cid and Dan; Ann and Bob are Day, Ann is Night."""
    ids = {name: team.add(name, email=f"{name.lower()}@example.com") for name in NAMES}
    for group, members in {"Day": ["Ann", "Bob"], "Night": ["Ann"]}.items():
        inserted = team.sql.execute(
            "INSERT INTO groups (account_id, name) VALUES (%s, %s) RETURNING id", [team.account_id, group]
        ).fetchone()
        for member in members:
            team.sql.execute("INSERT INTO memberships VALUES (%s, %s, %s)", [team.account_id, inserted[0], ids[member]])
    return team


@pytest.fixture
def page(new_page: NewPage, contacts: Team) -> Page:
    """Return the list of groups."""
    page = new_page(contacts)
    page.on("dialog", no_native_box)
    page.goto("/groups")
    mark(page)
    return page


def saved(team: Team) -> dict[str, list[str]]:
    """Return the members of each group as they stand in the tables."""
    found = team.sql.execute(
        """SELECT groups.name, coalesce(array_agg(contacts.name ORDER BY contacts.name)
                                        FILTER (WHERE contacts.id IS NOT NULL), '{}')
           FROM groups LEFT JOIN memberships ON (memberships.account_id, group_id) = (groups.account_id, groups.id)
           LEFT JOIN contacts ON (contacts.account_id, contacts.id) = (memberships.account_id, contact_id)
           WHERE groups.account_id = %s GROUP BY groups.name ORDER BY groups.name""",
        [team.account_id],
    )
    return dict(found.fetchall())


def groups(page: Page) -> Locator:
    """Return the names that the table of groups shows."""
    return page.locator("#groups-table tbody th > a > bdi")


def new_group(page: Page) -> Locator:
    return page.get_by_role("main").get_by_text("Create contact group", exact=True)


def groups_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Groups", exact=True)


def picker(place: Page | Locator) -> Locator:
    """Return the box that filters the contacts to pick from."""
    return place.get_by_role("searchbox", name="Filter contacts by name")


def box_of(place: Page | Locator, name: str) -> Locator:
    """Return the box that picks a contact."""
    return place.locator(".picker").get_by_role("checkbox", name=name)


def offered(place: Page | Locator) -> Locator:
    """Return the contacts that can be picked."""
    return place.locator(".picker-row bdi")


def click_ok(place: Page | Locator) -> None:
    place.get_by_role("button", name="OK", exact=True).click()


def open_new(page: Page) -> Locator:
    new_group(page).click()
    box = dialog(page, "Create contact group")
    expect(field(box, "Group name")).to_be_focused()
    return box


def assign(page: Page, group: str, button: str, *chosen: str) -> Locator:
    """Select contacts in their list and put them into a group, or take them from it."""
    for name in chosen:
        control(page, name, "Select").check()
    groups_button(page).click()
    box = dialog(page, f"Groups of {len(chosen)} contacts" if len(chosen) > 1 else f"Groups of {chosen[0]}")
    box.get_by_role("combobox", name="Contact group").select_option(label=group)
    box.get_by_role("button", name=button).click()
    expect(dialog(page)).to_have_count(0)
    return box


def test_the_tabs_lead_from_contacts_to_groups_and_back(page: Page) -> None:
    tabs = page.get_by_role("navigation", name="Contact Management")
    page.goto("/contacts")
    expect(tabs.get_by_role("link", name="Contact", exact=True)).to_have_attribute("aria-current", "page")
    tabs.get_by_role("link", name="Contact group").click()
    expect(page).to_have_url(re.compile("/groups$"))
    expect(tabs.get_by_role("link", name="Contact group")).to_have_attribute("aria-current", "page")
    expect(groups(page)).to_have_text(["Day", "Night"])
    tabs.get_by_role("link", name="Contact", exact=True).click()
    expect(names(page)).to_have_text(list(NAMES))


def test_a_group_is_created_in_place(page: Page, contacts: Team) -> None:
    box = open_new(page)
    field(box, "Group name").fill("Evening")
    for name in ("Bob", "Cid"):
        box_of(box, name).check()
    expect(box.get_by_role("status")).to_have_text("2 picked")
    click_ok(box)
    expect(groups(page)).to_have_text(["Day", "Evening", "Night"])
    expect(row(page, "Evening")).to_contain_text("2 contacts")
    expect(message(page)).to_contain_text("Evening has been created.")
    expect(new_group(page)).to_be_focused()
    assert saved(contacts)["Evening"] == ["Bob", "Cid"]
    assert is_marked(page)


def test_what_was_picked_stays_picked_while_filtering(page: Page, contacts: Team) -> None:
    box = open_new(page)
    field(box, "Group name").fill("Evening")
    box_of(box, "Ann").check()
    picker(box).press_sequentially("CI")
    expect(offered(box)).to_have_text(["Cid"])
    box_of(box, "Cid").check()
    expect(box.get_by_role("status")).to_have_text("2 picked · 1 found")
    picker(box).fill("nobody")
    expect(box).to_contain_text("No contact has this in the name.")
    picker(box).fill("")
    expect(offered(box)).to_have_text(list(NAMES))
    for name in NAMES:
        expect(box_of(box, name)).to_be_checked(checked=name in ("Ann", "Cid"))
    box_of(box, "Ann").uncheck()
    picker(box).fill("dan")
    expect(offered(box)).to_have_text(["Dan"])
    expect(field(box, "Group name")).to_have_value("Evening")
    click_ok(box)
    expect(row(page, "Evening")).to_contain_text("1 contact")
    assert saved(contacts)["Evening"] == ["Cid"]


def test_what_is_picked_while_the_filter_is_under_way_stays_picked(page: Page, contacts: Team) -> None:
    box = open_new(page)
    field(box, "Group name").fill("Evening")
    box_of(box, "Bob").check()
    with page.expect_request("**/groups/members"):
        held: list[Route] = []
        page.route("**/groups/members", lambda route: held.append(route))
        picker(box).fill("ann")
    box_of(box, "Ann").check()
    box_of(box, "Bob").uncheck()
    box_of(box, "Cid").check()
    held[0].continue_()
    expect(offered(box)).to_have_text(["Ann"])
    expect(box_of(box, "Ann")).to_be_checked()
    expect(box.get_by_role("status")).to_have_text("2 picked · 1 found")
    click_ok(box)
    expect(row(page, "Evening")).to_contain_text("2 contacts")
    assert saved(contacts)["Evening"] == ["Ann", "Cid"]


def test_enter_in_the_filter_filters_and_does_not_save(page: Page, contacts: Team) -> None:
    box = open_new(page)
    field(box, "Group name").fill("Evening")
    picker(box).fill("bob")
    picker(box).press("Enter")
    expect(offered(box)).to_have_text(["Bob"])
    expect(picker(box)).to_be_focused()
    expect(box).to_be_visible()
    assert "Evening" not in saved(contacts)
    assert is_marked(page)


@pytest.mark.parametrize(("name", "said"), [("", "Enter a name."), ("DAY", "There is a group of this name already.")])
def test_a_name_that_is_refused_is_explained_beside_it_and_the_picks_stay(
    page: Page, contacts: Team, name: str, said: str
) -> None:
    box = open_new(page)
    field(box, "Group name").fill(name)
    box_of(box, "Cid").check()
    click_ok(box)
    expect(field(box, "Group name")).to_have_accessible_description(re.compile(said))
    expect(field(box, "Group name")).to_be_focused()
    expect(field(box, "Group name")).to_have_value(name)
    expect(box_of(box, "Cid")).to_be_checked()
    expect(box.get_by_role("status")).to_have_text("1 picked")
    assert saved(contacts) == {"Day": ["Ann", "Bob"], "Night": ["Ann"]}


def test_a_group_is_edited_in_place(page: Page, contacts: Team) -> None:
    control(page, "Day", "Editing").click()
    box = dialog(page, "Edit contact group")
    expect(field(box, "Group name")).to_have_value("Day")
    for name in NAMES:
        expect(box_of(box, name)).to_be_checked(checked=name in ("Ann", "Bob"))
    field(box, "Group name").fill("Weekdays")
    box_of(box, "Ann").uncheck()
    box_of(box, "Dan").check()
    click_ok(box)
    expect(groups(page)).to_have_text(["Night", "Weekdays"])
    expect(message(page)).to_contain_text("Weekdays has been saved.")
    expect(control(page, "Weekdays", "Editing")).to_be_focused()
    assert saved(contacts) == {"Night": ["Ann"], "Weekdays": ["Bob", "Dan"]}
    assert is_marked(page)


def test_what_somebody_else_saved_meanwhile_is_shown_before_it_is_replaced(page: Page, contacts: Team) -> None:
    control(page, "Day", "Editing").click()
    box = dialog(page)
    field(box, "Group name").fill("Weekdays")
    contacts.sql.execute(
        "UPDATE groups SET name = 'Morning', version = version + 1 WHERE account_id = %s AND name = 'Day'",
        [contacts.account_id],
    )
    click_ok(box)
    expect(box.get_by_role("alert").filter(has_text="Somebody else has saved this group meanwhile.")).to_be_visible()
    expect(field(box, "Group name")).to_have_accessible_description("Saved meanwhile: Morning")
    assert "Morning" in saved(contacts)
    click_ok(box)
    expect(groups(page)).to_have_text(["Night", "Weekdays"])


@pytest.mark.parametrize("by", ["Escape", "Cancel"])
@pytest.mark.parametrize("label", ["Editing", "Delete"])
def test_cancel_and_escape_change_nothing_and_give_the_focus_back(
    page: Page, contacts: Team, label: str, by: str
) -> None:
    control(page, "Day", label).click()
    expect(dialog(page)).to_be_visible()
    if by == "Escape":
        page.keyboard.press("Escape")
    else:
        dialog(page).get_by_text("Cancel", exact=True).click()
    expect(dialog(page)).to_have_count(0)
    expect(control(page, "Day", label)).to_be_focused()
    assert saved(contacts) == {"Day": ["Ann", "Bob"], "Night": ["Ann"]}


def test_a_group_is_deleted_and_its_contacts_stay(page: Page, contacts: Team) -> None:
    control(page, "Day", "Delete").click()
    box = dialog(page, "Delete this group?")
    expect(box.get_by_role("listitem")).to_have_text(["Day"])
    expect(box.get_by_text("Cancel", exact=True)).to_be_focused()
    click_ok(box)
    expect(groups(page)).to_have_text(["Night"])
    expect(message(page)).to_contain_text("Day has been deleted.")
    expect(control(page, "Night", "Delete")).to_be_focused()
    assert saved(contacts) == {"Night": ["Ann"]}
    assert len(contacts.contacts()) == len(NAMES)


def test_selected_groups_are_deleted_together(page: Page, contacts: Team) -> None:
    expect(batch_delete(page)).to_be_disabled()
    page.get_by_role("checkbox", name="Select all groups").check()
    expect(batch_delete(page)).to_have_accessible_name("Batch delete (2)")
    batch_delete(page).click()
    box = dialog(page, "Delete 2 groups?")
    expect(box.get_by_role("listitem")).to_have_text(["Day", "Night"])
    click_ok(box)
    expect(page.get_by_role("heading", name="No contact groups yet")).to_be_visible()
    expect(message(page)).to_contain_text("2 groups have been deleted.")
    expect(new_group(page)).to_be_focused()
    assert saved(contacts) == {}


@pytest.mark.parametrize(
    ("typed", "found"), [("NIG", ["Night"]), ("bob", ["Day"]), ("ann", ["Day", "Night"]), ("cid", [])]
)
def test_groups_are_found_by_their_name_and_their_members_while_typing(
    page: Page, typed: str, found: list[str]
) -> None:
    page.get_by_role("searchbox", name="Search for groups").press_sequentially(typed)
    expect(page).to_have_url(re.compile(rf"/groups\?q={typed}$"))
    expect(groups(page)).to_have_text(found)
    said = {0: "No groups found.", 1: "1 group found."}.get(len(found), f"{len(found)} groups found.")
    expect(message(page)).to_have_text(said)
    expect(page.get_by_role("heading", name="No group found")).to_have_count(0 if found else 1)
    assert is_marked(page)


def test_a_row_opens_and_shows_its_members(page: Page) -> None:
    opener = row(page, "Day").get_by_text("2 contacts")
    expect(row(page, "Day").get_by_role("listitem")).to_have_count(0)
    opener.click()
    expect(row(page, "Day").get_by_role("listitem")).to_have_text(["Ann", "Bob"])
    expect(row(page, "Night").get_by_role("listitem")).to_have_count(0)
    opener.click()
    expect(row(page, "Day").get_by_role("listitem").first).to_be_hidden()
    assert is_marked(page)


def test_an_open_row_shows_who_is_a_member_after_a_change(page: Page) -> None:
    row(page, "Day").get_by_text("2 contacts").click()
    expect(row(page, "Day").get_by_role("listitem")).to_have_text(["Ann", "Bob"])
    control(page, "Day", "Editing").click()
    box_of(dialog(page), "Cid").check()
    click_ok(dialog(page))
    expect(dialog(page)).to_have_count(0)
    if not row(page, "Day").get_by_role("listitem").first.is_visible():
        row(page, "Day").get_by_text("3 contacts").click()
    expect(row(page, "Day").get_by_role("listitem")).to_have_text(["Ann", "Bob", "Cid"])


def test_selected_contacts_are_put_into_a_group_and_taken_from_it(page: Page, contacts: Team) -> None:
    page.goto("/contacts")
    mark(page)
    expect(groups_button(page)).to_be_disabled()
    assign(page, "Night", "Add to it", "Ann", "Bob", "Cid")
    expect(message(page)).to_contain_text("2 contacts have been added to Night.")
    expect(row(page, "Cid")).to_contain_text("Night")
    assert saved(contacts)["Night"] == ["Ann", "Bob", "Cid"]
    expect(page.locator("body")).not_to_be_focused()
    page.get_by_role("checkbox", name="Select all contacts").check()
    page.get_by_role("checkbox", name="Select all contacts").uncheck()
    assign(page, "Night", "Take from it", "Ann")
    expect(message(page)).to_contain_text("1 contact has been taken from Night.")
    expect(row(page, "Ann")).not_to_contain_text("Night")
    assert saved(contacts)["Night"] == ["Bob", "Cid"]
    assert is_marked(page)


def test_the_focus_returns_to_the_groups_button_when_nothing_is_done(page: Page) -> None:
    page.goto("/contacts")
    control(page, "Ann", "Select").check()
    groups_button(page).click()
    expect(dialog(page, "Groups of Ann")).to_be_visible()
    page.keyboard.press("Escape")
    expect(groups_button(page)).to_be_focused()
    expect(control(page, "Ann", "Select")).to_be_checked()


def test_the_groups_of_a_contact_are_in_its_row_and_its_dialog(page: Page) -> None:
    page.goto("/contacts")
    expect(row(page, "Ann").locator(".in-groups bdi")).to_have_text(["Day", "Night"])
    expect(row(page, "Cid").locator(".in-groups")).to_have_count(0)
    for name, said in (("Ann", "In the groups Day, Night."), ("Cid", "In no group: no alert reaches this contact.")):
        control(page, name, "Editing").click()
        expect(dialog(page)).to_contain_text(said)
        page.keyboard.press("Escape")
        expect(dialog(page)).to_have_count(0)


def test_what_a_row_names_is_a_link_that_leaves_the_way_of_tab_as_it_was(page: Page) -> None:
    page.goto("/contacts")
    ann = row(page, "Ann")
    ann.get_by_role("link", name="Ann", exact=True).click()
    expect(field(dialog(page, "Edit contacts"), "Name")).to_have_value("Ann")
    page.keyboard.press("Escape")
    # Editing opens the same, so that Tab goes from the box to the groups.
    control(page, "Ann", "Select").focus()
    for link in ("Day", "Night", "Editing Ann"):
        page.keyboard.press("Tab")
        expect(ann.get_by_role("link", name=link, exact=True)).to_be_focused()
    ann.get_by_role("link", name="Night", exact=True).click()
    expect(page.get_by_role("heading", name="Members of Night", level=1)).to_be_visible()
    page.goto("/groups")
    row(page, "Day").get_by_role("link", name="Day", exact=True).click()
    expect(page.get_by_role("heading", name="Members of Day", level=1)).to_be_visible()


def test_deleting_a_contact_names_the_groups_it_leaves_and_who_is_left_with_nobody(page: Page) -> None:
    page.goto("/contacts")
    control(page, "Ann", "Delete").click()
    expect(dialog(page)).to_contain_text("The group Day loses this contact.")
    expect(dialog(page)).to_contain_text("The group Night is left with nobody.")
    page.keyboard.press("Escape")
    control(page, "Cid", "Delete").click()
    expect(dialog(page).get_by_role("listitem")).to_have_text(["Cid"])
    expect(dialog(page)).not_to_contain_text("The group")
    page.keyboard.press("Escape")
    for name in ("Ann", "Bob"):
        control(page, name, "Select").check()
    batch_delete(page).click()
    for name in ("Day", "Night"):
        expect(dialog(page)).to_contain_text(f"The group {name} is left with nobody.")


def test_the_contacts_in_no_group_can_be_shown_alone(page: Page) -> None:
    page.goto("/contacts")
    mark(page)
    page.get_by_role("combobox", name="Show").select_option(label="In no group")
    expect(names(page)).to_have_text(["Cid", "Dan"])
    expect(page.get_by_text("2 found")).to_be_visible()
    assert is_marked(page)
    page.reload()
    expect(names(page)).to_have_text(["Cid", "Dan"])
    assign(page, "Day", "Add to it", "Cid")
    expect(names(page)).to_have_text(["Dan"])
    expect(control(page, "Dan", "Select")).to_be_focused()


def test_a_group_is_created_with_the_keyboard_alone(page: Page, contacts: Team) -> None:
    page.keyboard.press("n")
    box = dialog(page, "Create contact group")
    expect(field(box, "Group name")).to_be_focused()
    page.keyboard.type("Evening")
    type_in(page, picker(box), "cid")
    expect(offered(box)).to_have_text(["Cid"])
    press_on(page, box_of(box, "Cid"), "Space")
    press_on(page, box.get_by_role("button", name="OK", exact=True))
    expect(groups(page)).to_have_text(["Day", "Evening", "Night"])
    expect(dialog(page)).to_have_count(0)
    assert saved(contacts)["Evening"] == ["Cid"]
    tab_to(page, row(page, "Evening").locator("summary"))
    page.keyboard.press("Enter")
    expect(row(page, "Evening").get_by_role("listitem")).to_have_text(["Cid"])


def test_everything_works_without_javascript(new_page: NewPage, contacts: Team) -> None:
    page = new_page(contacts, java_script_enabled=False)
    page.goto("/groups")
    new_group(page).click()
    expect(page.get_by_role("heading", name="Create contact group", level=1)).to_be_visible()
    field(page, "Group name").fill("day")
    for name in ("Bob", "Cid"):
        box_of(page, name).check()
    click_ok(page)
    expect(page.get_by_role("main")).to_contain_text("There is a group of this name already.")
    expect(box_of(page, "Cid")).to_be_checked()
    field(page, "Group name").fill("Evening")
    click_ok(page)
    expect(groups(page)).to_have_text(["Day", "Evening", "Night"])
    expect(message(page)).to_contain_text("Evening has been created.")
    assert saved(contacts)["Evening"] == ["Bob", "Cid"]
    row(page, "Evening").get_by_text("2 contacts").click()
    page.get_by_role("link", name="Members of Evening").click()
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_text(["Bob", "Cid"])
    page.goto("/contacts")
    control(page, "Dan", "Select").check()
    groups_button(page).click()
    page.get_by_role("combobox", name="Contact group").select_option(label="Evening")
    page.get_by_role("button", name="Add to it").click()
    expect(row(page, "Dan")).to_contain_text("Evening")
    page.goto("/groups")
    control(page, "Evening", "Delete").click()
    click_ok(page)
    expect(groups(page)).to_have_text(["Day", "Night"])


@pytest.mark.parametrize("address", ["/contacts", "/groups"])
@pytest.mark.parametrize("selected", [False, True])
def test_the_fixed_buttons_of_a_narrow_screen_cover_nothing(
    new_page: NewPage, contacts: Team, address: str, selected: bool
) -> None:
    page = new_page(contacts, width=NARROW, reduced_motion="reduce")
    page.goto(address)
    if selected:
        page.get_by_role("checkbox", name=re.compile("^Select all")).check()
        expect(batch_delete(page)).to_be_enabled()
    fixed = page.locator("[data-new], [data-batch]:enabled")
    page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    last = page.get_by_role("row").last.get_by_role("link", name="Delete")
    boxes = [place.bounding_box() for place in (*fixed.all(), last)]
    assert len(boxes) == 2 + (selected and (3 if address == "/contacts" else 1))
    for one, two in combinations(boxes, 2):
        assert (
            one["x"] + one["width"] <= two["x"]
            or two["x"] + two["width"] <= one["x"]
            or one["y"] + one["height"] <= two["y"]
            or two["y"] + two["height"] <= one["y"]
        ), (one, two)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= NARROW for box in boxes)
