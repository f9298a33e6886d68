"""Show that tests and alerts are sent from a browser, that each lands where it should, and what is said of it."""

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import NewPage, World, control, dialog, field, is_marked, mark, message, no_native_box, row
from tests.browser.test_accessibility import add_group
from tests.browser.test_keyboard import press_on
from tests.conftest import Team, wait_for
from tests.intake.alertmanager import hurried, running

MOBILE, SECRET = "+12025550123", "SEC0123456789abcdef"
ANN_MAIL = "ann@example.com"
OWN_MAIL = "ann@example.org"  # of tests that count: what another sent to ANN_MAIL may arrive late


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return a blank page of somebody who sees no box of the browser's own."""
    page = new_page(team)
    page.on("dialog", no_native_box)
    return page


@pytest.fixture
def new_robot(team: Team, world: World) -> Callable[..., str]:
    """Return a function that adds a robot to a group chat of this test and returns its address."""
    return lambda name="robot", **needs: world.dingtalk.add(f"{name}-{team.account_id}-0123456789abcdef", **needs)


def open_contacts(page: Page) -> None:
    page.goto("/contacts")
    mark(page)


def send_test(page: Page, name: str) -> Locator:
    """Send a test from the row of a contact or group and return the dialog with what became of it."""
    row(page, name).get_by_role("link", name=f"Send a test to {name}", exact=True).click()
    box = dialog(page, f"Send a test to {name}?")
    expect(box.get_by_role("button", name="Send test")).to_be_focused()
    box.get_by_role("button", name="Send test").click()
    return result(page, name)


def result(page: Page, name: str) -> Locator:
    """Return the dialog that shows what becomes of a test, as soon as nothing waits any more."""
    box = dialog(page, f"Test of {name}")
    expect(box).to_be_visible()
    expect(box.locator(".waiting")).to_have_count(0)
    return box


def delivery_of(place: Page | Locator, channel: str) -> Locator:
    """Return what is shown of the message that went over a channel."""
    return place.get_by_role("listitem").filter(has_text=channel)


def cell(page: Page, name: str, text: str) -> Locator:
    """Return the cell of a contact's row with an address."""
    return row(page, name).get_by_role("cell").filter(has_text=text)


def banner(page: Page) -> Locator:
    return page.get_by_role("region", name="Who would not be reached")


def save_and_test(box: Locator) -> None:
    box.get_by_role("button", name="Save and send test").click()


def post_alert(console: str, token: str, **words: str) -> None:
    """Post an alert as a script does."""
    request = urllib.request.Request(
        f"{console}/api/v1/alerts",
        json.dumps(words).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 202


def test_a_test_of_a_contact_shows_in_place_what_became_of_each_channel(
    page: Page, team: Team, world: World, new_robot: Callable[..., str]
) -> None:
    team.add("Ann", mobile=MOBILE, email=ANN_MAIL, dingtalk_url=new_robot(keywords=["alarm"]))
    open_contacts(page)
    expect(row(page, "Ann").get_by_text("Never tried")).to_have_count(3)
    box = send_test(page, "Ann")
    expect(box.get_by_role("status")).to_have_text(re.compile("1 failed.*2 sent"))
    expect(delivery_of(box, "Mobile phone number")).to_contain_text("Sent")
    expect(delivery_of(box, "Mailbox")).to_contain_text("Sent")
    expect(delivery_of(box, "DingTalk robot")).to_contain_text("Failed")
    expect(delivery_of(box, "DingTalk robot")).to_contain_text("keyword")
    expect(box.get_by_text("Close", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    expect(cell(page, "Ann", "@")).to_contain_text("Worked")
    expect(cell(page, "Ann", "localhost")).to_contain_text(re.compile("Fails since .*keyword"))
    expect(row(page, "Ann").get_by_role("link", name="Send a test to Ann")).to_be_focused()
    expect(banner(page)).to_have_count(0)
    assert world.mails_to(ANN_MAIL)
    assert [text.mobile for text in world.sms.messages] == [MOBILE]
    assert not world.dingtalk.messages
    assert is_marked(page)


@pytest.mark.parametrize(
    ("needs", "secret", "said"),
    [
        ({"keywords": ["alarm"]}, None, "The robot wants a keyword in the text, and none is set."),
        ({"secret": SECRET}, "SECanother", "signature"),
        (None, None, "DingTalk does not know the token."),
    ],
)
def test_what_dingtalk_refuses_is_explained_in_the_dialog_the_row_and_the_banner(
    page: Page,
    team: Team,
    new_robot: Callable[..., str],
    needs: dict[str, object] | None,
    secret: str | None,
    said: str,
) -> None:
    url = new_robot("other").replace("other", "gone") if needs is None else new_robot(**needs)
    team.add("Ann", dingtalk_url=url, **({"dingtalk_secret": secret} if secret else {}))
    open_contacts(page)
    expect(banner(page)).to_have_count(0)
    expect(delivery_of(send_test(page, "Ann"), "DingTalk robot")).to_contain_text(said)
    page.keyboard.press("Escape")
    expect(cell(page, "Ann", "localhost")).to_contain_text(said)
    expect(banner(page)).to_contain_text("1 contact cannot be reached right now.")
    expect(banner(page).get_by_role("listitem")).to_have_text(re.compile(f"^Ann: DingTalk robot fails: .*{said}"))
    page.get_by_role("combobox", name="Show").select_option(label="Cannot be reached")
    expect(page.get_by_text("1 found")).to_be_visible()
    expect(row(page, "Ann")).to_be_visible()


def test_a_robot_is_mended_and_tested_in_the_editing_dialog(
    page: Page, team: Team, world: World, new_robot: Callable[..., str]
) -> None:
    team.add("Ann", dingtalk_url=new_robot(secret=SECRET))
    open_contacts(page)
    expect(delivery_of(send_test(page, "Ann"), "DingTalk robot")).to_contain_text("Failed")
    page.keyboard.press("Escape")
    expect(banner(page)).to_be_visible()
    control(page, "Ann", "Editing").click()
    box = dialog(page, "Edit contacts")
    box.get_by_text("Signature or keyword of the robot").click()
    box.get_by_role("textbox", name=re.compile("Signature|secret", re.IGNORECASE)).fill(SECRET)
    save_and_test(box)
    expect(delivery_of(result(page, "Ann"), "DingTalk robot")).to_contain_text("Sent")
    page.keyboard.press("Escape")
    expect(banner(page)).to_have_count(0)
    expect(cell(page, "Ann", "localhost")).to_contain_text("Worked")
    expect(control(page, "Ann", "Editing")).to_be_focused()
    expect(message(page)).to_contain_text("Ann has been saved.")
    assert len(world.dingtalk.messages) == 1
    assert is_marked(page)


def test_a_test_that_ends_while_its_dialog_stands_is_seen_in_the_list_behind_it(
    page: Page, team: Team, world: World
) -> None:
    team.add("Ann", email=ANN_MAIL)
    open_contacts(page)
    with team.sql.transaction():
        # No worker can claim anything, so that the dialog is there before the end.
        team.sql.execute("LOCK TABLE sent_deliveries IN ACCESS EXCLUSIVE MODE")
        row(page, "Ann").get_by_role("link", name="Send a test to Ann").click()
        dialog(page).get_by_role("button", name="Send test").click()
        expect(dialog(page, "Test of Ann").get_by_role("status")).to_have_text("1 waiting")
        expect(cell(page, "Ann", ANN_MAIL)).to_contain_text("Never tried")
    result(page, "Ann")
    expect(cell(page, "Ann", ANN_MAIL)).to_contain_text("Worked")
    expect(dialog(page)).to_be_visible()


def test_a_new_contact_is_created_and_tested_at_once(page: Page, world: World) -> None:
    open_contacts(page)
    page.get_by_role("main").get_by_text("New contact", exact=True).click()
    box = dialog(page, "New contact")
    field(box, "Name").fill("Ann")
    save_and_test(box)
    expect(box).to_contain_text("mobile phone number")
    assert not world.mail.messages
    field(box, "Mailbox").fill(OWN_MAIL)
    save_and_test(box)
    expect(delivery_of(result(page, "Ann"), "Mailbox")).to_contain_text("Sent")
    dialog(page).get_by_text("Close", exact=True).click()
    expect(dialog(page)).to_have_count(0)
    expect(cell(page, "Ann", OWN_MAIL)).to_contain_text("Worked")
    expect(message(page)).to_contain_text("Ann has been created.")
    expect(page.get_by_role("main").get_by_text("New contact", exact=True)).to_be_focused()
    assert len(world.mails_to(OWN_MAIL)) == 1


def test_a_test_of_a_group_goes_to_each_of_its_members(page: Page, team: Team, world: World) -> None:
    team.add("Ann", email=ANN_MAIL)
    team.add("Bob", email="bob@example.com")
    team.add("Cid", email="cid@example.com")
    add_group(team, "Day", "Ann", "Bob")
    add_group(team, "Night")
    world.mail.unknown.add("bob@example.com")
    page.goto("/groups")
    box = send_test(page, "Day")
    expect(delivery_of(box, "Ann")).to_contain_text("Sent")
    expect(delivery_of(box, "Bob")).to_contain_text("Failed")
    expect(delivery_of(box, "Cid")).to_have_count(0)
    box.get_by_text("Close", exact=True).click()
    expect(row(page, "Day").get_by_role("link", name="Send a test to Day")).to_be_focused()
    expect(send_test(page, "Night").get_by_role("status")).to_contain_text("Nobody was notified")
    assert world.mails_to(ANN_MAIL)
    assert not world.mails_to("cid@example.com")


def test_a_group_of_which_nobody_can_be_reached_says_so_once_the_test_has_failed(
    page: Page, team: Team, world: World
) -> None:
    team.add("Ann", email=ANN_MAIL)
    add_group(team, "Day", "Ann")
    world.mail.unknown.add(ANN_MAIL)
    page.goto("/groups")
    expect(row(page, "Day")).not_to_contain_text("can be reached")
    send_test(page, "Day").get_by_text("Close", exact=True).click()
    expect(row(page, "Day")).to_contain_text("None of them can be reached right now")


def test_a_test_is_sent_with_the_keyboard_alone(page: Page, team: Team, world: World) -> None:
    team.add("Ann", email=OWN_MAIL)
    open_contacts(page)
    press_on(page, row(page, "Ann").get_by_role("link", name="Send a test to Ann"))
    expect(dialog(page).get_by_role("button", name="Send test")).to_be_focused()
    page.keyboard.press("Enter")
    box = result(page, "Ann")
    expect(delivery_of(box, "Mailbox")).to_contain_text("Sent")
    expect(box.get_by_text("Close", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog(page)).to_have_count(0)
    expect(row(page, "Ann").get_by_role("link", name="Send a test to Ann")).to_be_focused()
    assert len(world.mails_to(OWN_MAIL)) == 1


def create_integration(page: Page, group: str, name: str) -> str:
    """Give a group an integration, as a person does, and return its token."""
    page.goto("/groups")
    row(page, group).get_by_role("link", name=f"Integrations of {group}").click()
    field(page, "Name").fill(name)
    page.get_by_role("button", name="Create integration").click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    return page.locator(".token code").inner_text().strip()


def test_an_integration_shows_its_token_once_and_copies_what_its_sender_needs(page: Page, team: Team) -> None:
    add_group(team, "Day")
    page.goto("/groups")
    expect(row(page, "Day").get_by_role("link", name="Integrations of Day")).to_have_text("Add")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    token = create_integration(page, "Day", "Frankfurt")
    assert len(token) >= 32
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
    expect(message(page)).to_have_text("Copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == token
    page.get_by_role("button", name="Copy the configuration for Alertmanager").click()
    expect(page.get_by_role("button", name="Copied the configuration for Alertmanager")).to_be_visible()
    assert token in page.evaluate("() => navigator.clipboard.readText()")
    page.get_by_role("link", name="Integrations of Day").click()
    page.get_by_role("link", name="Frankfurt").click()
    expect(page.get_by_role("main")).to_contain_text("YOUR-TOKEN")
    assert token not in page.content()
    page.goto("/groups")
    expect(row(page, "Day").get_by_role("link", name="Integrations of Day")).to_have_text("1 integration")


def test_deleting_a_group_names_the_integrations_that_use_it(page: Page, team: Team) -> None:
    add_group(team, "Day")
    create_integration(page, "Day", "Frankfurt")
    page.goto("/groups")
    control(page, "Day", "Delete").click()
    expect(dialog(page, "Delete this group?")).to_contain_text(
        "An integration uses it and is deleted as well: Frankfurt"
    )
    dialog(page).get_by_role("button", name="OK", exact=True).click()
    expect(page.get_by_role("heading", name="No contact groups yet")).to_be_visible()


def test_deleting_a_contact_names_its_groups(page: Page, team: Team) -> None:
    team.add("Ann")
    team.add("Bob")
    add_group(team, "Day", "Ann")
    add_group(team, "Night", "Ann", "Bob")
    open_contacts(page)
    control(page, "Ann", "Delete").click()
    expect(dialog(page)).to_contain_text("The group Day is left with nobody.")
    expect(dialog(page)).to_contain_text("The group Night loses this contact.")


def notifications(page: Page) -> Locator:
    """Return the titles that the list of notifications shows."""
    return page.get_by_role("rowheader").locator("bdi")


def wait_until_sent(team: Team) -> None:
    """Wait until what became of every message is recorded, which is after it has arrived."""
    waiting = "SELECT FROM deliveries WHERE account_id = %s AND ended_at IS NULL"
    wait_for(lambda: not team.sql.execute(waiting, [team.account_id]).rowcount, what="the end of every message")


def test_alertmanager_notifies_every_member_with_the_configuration_of_the_page(
    page: Page, team: Team, world: World, new_robot: Callable[..., str], tmp_path: Path
) -> None:
    team.add("Ann", mobile=MOBILE, email=ANN_MAIL, dingtalk_url=new_robot(secret=SECRET), dingtalk_secret=SECRET)
    add_group(team, "Day", "Ann")
    create_integration(page, "Day", "Frankfurt")
    configuration = page.get_by_label("Configuration for Alertmanager", exact=True).inner_text()
    arrived = (world.mail.messages, world.sms.messages, world.dingtalk.messages)
    with running(hurried(configuration), tmp_path) as alertmanager:
        labels, annotations = {"severity": "critical"}, {"summary": "The disk of db1 is full"}
        alertmanager.fire("DiskFull", labels, annotations)
        wait_for(lambda: all(len(messages) == 1 for messages in arrived), what="the alert")
        alertmanager.resolve("DiskFull", labels, annotations)
        wait_for(lambda: all(len(messages) == 2 for messages in arrived), what="its end")
    wait_until_sent(team)
    subjects = world.mails_to(ANN_MAIL)
    assert "DiskFull" in subjects[0]
    assert "esolved" in subjects[1]
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Notifications").click()
    rows = page.get_by_role("row").filter(has=page.get_by_role("rowheader"))
    expect(rows).to_have_count(2)
    for shown, status in zip((rows.nth(0), rows.nth(1)), ("Resolved", "Firing"), strict=True):
        expect(shown).to_contain_text(status)
        expect(shown).to_contain_text("DiskFull")
        expect(shown).to_contain_text("Day")
        expect(shown).to_contain_text("3 sent")
    rows.nth(1).get_by_role("link", name="DiskFull").click()
    expect(page.get_by_role("main")).to_contain_text("The disk of db1 is full")
    expect(page.get_by_role("definition").filter(has_text="critical")).to_be_visible()
    for channel in ("Mobile phone number", "Mailbox", "DingTalk robot"):
        expect(delivery_of(page, channel)).to_contain_text("Sent")


def test_notifications_are_listed_searched_and_narrowed(page: Page, team: Team, world: World, console: str) -> None:
    team.add("Ann", email=ANN_MAIL)
    add_group(team, "Day", "Ann")
    page.goto("/notifications")
    expect(page.get_by_role("heading", name="No notifications yet")).to_be_visible()
    token = create_integration(page, "Day", "Script")
    post_alert(console, token, title="The disk is full")
    wait_until_sent(team)
    world.mail.unknown.add(ANN_MAIL)
    post_alert(console, token, title="The network is slow", status="resolved")
    wait_until_sent(team)
    page.goto("/notifications")
    mark(page)
    expect(notifications(page)).to_have_text(["The network is slow", "The disk is full"])
    box = page.get_by_role("searchbox", name="Search for notifications")
    box.press_sequentially("DISK")
    expect(notifications(page)).to_have_text(["The disk is full"])
    expect(page).to_have_url(re.compile("q=DISK$"))
    box.fill("nothing")
    expect(page.get_by_role("heading", name="No notification found")).to_be_visible()
    box.fill("")
    page.get_by_role("combobox", name="Show").select_option(label="With a failed message")
    expect(notifications(page)).to_have_text(["The network is slow"])
    expect(page.get_by_role("row").nth(1)).to_contain_text("1 failed")
    assert is_marked(page)


def test_the_page_of_an_alert_follows_it_to_its_end_and_sends_again(
    page: Page, team: Team, world: World, console: str
) -> None:
    team.add("Ann", email=ANN_MAIL)
    add_group(team, "Day", "Ann")
    token = create_integration(page, "Day", "Script")
    world.mail.busy.add(ANN_MAIL)
    post_alert(console, token, title="The disk is full", text="On db1.")
    page.goto("/notifications")
    page.get_by_role("link", name="The disk is full").click()
    expect(page.get_by_role("heading", name="The disk is full", level=1)).to_be_visible()
    mark(page)
    expect(delivery_of(page, "Mailbox")).to_contain_text("Trying again")
    world.mail.unknown.add(ANN_MAIL)
    world.mail.busy.clear()
    # The next attempt is seconds away, and nobody waits for it here.
    hurry = "UPDATE deliveries SET next_attempt_at = now() WHERE account_id = %s AND state = 'queued'"
    failed = "SELECT FROM deliveries WHERE account_id = %s AND state = 'failed'"
    wait_for(
        lambda: team.sql.execute(hurry, [team.account_id]) and team.sql.execute(failed, [team.account_id]).rowcount
    )
    expect(delivery_of(page, "Mailbox")).to_contain_text("Failed")
    world.mail.unknown.clear()
    page.get_by_role("button", name="Send again to Ann, Mailbox").click()
    expect(message(page).filter(has_text="1 message is sent again, to Ann (Mailbox).")).to_be_visible()
    expect(delivery_of(page, "Mailbox")).to_contain_text("Sent")
    expect(page.get_by_role("main").get_by_role("status")).to_have_text("1 sent")
    expect(page.get_by_role("button", name="Send again")).to_have_count(0)
    assert len(world.mails_to(ANN_MAIL)) == 1
    assert is_marked(page)


def test_times_are_those_of_the_clock_on_the_wall(new_page: NewPage, team: Team) -> None:
    team.add("Ann", email=ANN_MAIL)
    team.sql.execute(
        """INSERT INTO channel_states (account_id, contact_id, channel, worked_at)
           SELECT account_id, id, 'email', '2026-01-31 20:30Z' FROM contacts WHERE account_id = %s""",
        [team.account_id],
    )
    page = new_page(team, timezone_id="Asia/Shanghai")
    page.goto("/contacts")
    expect(cell(page, "Ann", ANN_MAIL)).to_contain_text("Worked 2026-02-01 04:30")
    # A row that is swapped in has them, too.
    control(page, "Ann", "Editing").click()
    dialog(page).get_by_role("button", name="OK", exact=True).click()
    expect(message(page)).to_contain_text("Ann has been saved.")
    expect(cell(page, "Ann", ANN_MAIL)).to_contain_text("Worked 2026-02-01 04:30")
