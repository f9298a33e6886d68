"""Show that every page and dialog can be read by a screen reader, on a wide and a narrow screen, light and dark."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from flask import Flask
from playwright.sync_api import Page, expect
from werkzeug.serving import make_server

from contacts_app import create_app, migrations
from contacts_app.accounts.permissions import Permission, access_of
from contacts_app.accounts.setup import setup_token
from contacts_app.core.db import all_accounts
from tests.api.test_alerts import add_integration as new_token
from tests.api.test_alerts import post
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
from tests.conftest import ROBOT, Team
from tests.intake.test_facts import UNIFIED
from tests.intake.test_formats import alert, grafana, group
from tests.pages.groups.test_views import add_group as add_group_of

LONG = "Zoe-with-a-name-of-sixty-four-characters-and-not-one-space-in-it"
TAGS = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
Schemes = dict[int, tuple[Literal["light", "dark"], ...]]
AXE = "tags => axe.run({runOnly: tags, resultTypes: ['violations']}).then(({violations}) => violations)"
# A box or a switch is as large as its label, which takes the click as well.
SMALL = """() => [...(document.querySelector('dialog:modal') ?? document)
    .querySelectorAll('a:not(.skip, .field-errors a), button, input:not([type=hidden]), select')]
    .filter(element => element.checkVisibility({visibilityProperty: true}))
    .map(element => element.closest('label') ?? element)
    .map(element => [element.outerHTML.slice(0, 120), element.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.width < 24 || box.height < 24))
    .map(([element, box]) => `${Math.round(box.width)} x ${Math.round(box.height)}: ${element}`)"""
# What is wider than the screen, and tables that are wider than their room.
WIDER = """() => document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth
    || [...document.querySelectorAll('table')].some(table => table.offsetWidth > table.parentElement.clientWidth)"""


@pytest.fixture
def contacts(team: Team) -> Team:
    """Return a team with contacts that fill their columns."""
    team.add("Ann", mobile="+8613800138000", email="ann@example.com", dingtalk_url=ROBOT + "0123456789abcdef")
    team.add(LONG, email=f"{'a' * 64}@{'example-' * 7}example.com", receives_system_notifications=True)
    team.add("王小明", mobile="+12025550123")
    return team


def click_ok(page: Page) -> None:
    dialog(page).get_by_role("button", name="OK", exact=True).click()


def show_list(page: Page, team: Team) -> None:
    page.goto("/contacts")
    expect(names(page)).to_have_count(3)


def show_empty(page: Page, team: Team) -> None:
    team.sql.execute("DELETE FROM contacts WHERE account_id = %s", [team.account_id])
    page.goto("/contacts")
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()


def show_nothing_found(page: Page, team: Team) -> None:
    page.goto("/contacts")
    search_box(page).fill("nobody")
    expect(page.get_by_role("heading", name="No contact found")).to_be_visible()


def show_selected_and_message(page: Page, team: Team) -> None:
    show_list(page, team)
    control(page, "Ann", "Editing").click()
    click_ok(page)
    expect(message(page)).to_contain_text("Ann has been saved.")
    control(page, "Ann", "Select").check()
    expect(batch_delete(page)).to_be_enabled()


def show_new(page: Page, team: Team) -> None:
    show_list(page, team)
    page.get_by_role("main").get_by_text("New contact", exact=True).click()
    expect(dialog(page, "New contact")).to_be_visible()


def show_discard(page: Page, team: Team) -> None:
    show_new(page, team)
    field(dialog(page, "New contact"), "Name").fill("Typed")
    page.keyboard.press("Escape")
    expect(page.get_by_role("alertdialog", name="Discard your changes?")).to_be_visible()


def show_errors(page: Page, team: Team) -> None:
    show_list(page, team)
    control(page, "Ann", "Editing").click()
    for label, value in (("Name", ""), ("Mobile phone number", "12"), ("Mailbox", "x@")):
        field(dialog(page), label).fill(value)
    field(dialog(page), "DingTalk robot").fill("http://example.com")
    click_ok(page)
    expect(dialog(page)).to_contain_text("Enter a name.")


def show_doubts(page: Page, team: Team) -> None:
    show_list(page, team)
    control(page, "Ann", "Editing").click()
    field(dialog(page), "Mobile phone number").fill("14912345678")
    field(dialog(page), "Mailbox").fill("ann@intranet")
    click_ok(page)
    expect(dialog(page).get_by_role("checkbox", name="all the same")).to_have_count(2)


def show_conflict(page: Page, team: Team) -> None:
    show_list(page, team)
    control(page, "Ann", "Editing").click()
    field(dialog(page), "Mailbox").fill("mine@example.com")
    dialog(page).get_by_role("switch").check()
    team.sql.execute(
        """UPDATE contacts SET version = version + 2, email = 'a@example.com', mobile = '+8613800138001'
           WHERE account_id = %s AND name = 'Ann'""",
        [team.account_id],
    )
    click_ok(page)
    expect(dialog(page)).to_contain_text("Saved meanwhile")
    expect(dialog(page)).to_contain_text("You did not change Mobile phone number: this field shows what they saved.")


def show_delete(page: Page, team: Team) -> None:
    show_list(page, team)
    page.get_by_role("checkbox", name="Select all contacts").check()
    batch_delete(page).click()
    expect(dialog(page)).to_be_visible()


def show_full(page: Page, team: Team) -> None:
    team.sql.execute("UPDATE accounts SET contact_quota = 3 WHERE id = %s", [team.account_id])
    show_new(page, team)


def show_error_in_dialog(page: Page, team: Team) -> None:
    show_new(page, team)
    page.context.set_offline(True)
    click_ok(page)
    expect(dialog(page).get_by_role("alert").filter(has_text="try again")).to_be_visible()


def add_group(team: Team, name: str, *members: str) -> None:
    """Write a group past the console."""
    team.sql.execute(
        """WITH made AS (INSERT INTO groups (account_id, name) VALUES (%s, %s) RETURNING account_id, id)
           INSERT INTO memberships (account_id, group_id, contact_id)
           SELECT made.account_id, made.id, contacts.id FROM made JOIN contacts USING (account_id)
           WHERE contacts.name = ANY(%s)""",
        [team.account_id, name, list(members)],
    )


def add_groups(team: Team) -> None:
    """Write a group of three, one of one, one of nobody, and one whose name fills its column."""
    add_group(team, "Operations", "Ann", LONG, "王小明")
    add_group(team, "数据库值班", "Ann")
    add_group(team, "Nobody’s")
    add_group(team, LONG, "Ann")


def show_groups(page: Page, team: Team) -> None:
    add_groups(team)
    page.goto("/groups")
    row(page, "Operations").get_by_text("3 contacts").click()
    expect(row(page, "Operations").get_by_role("listitem")).to_have_count(3)
    control(page, "Operations", "Select").check()


def show_groups_empty(page: Page, team: Team) -> None:
    page.goto("/groups")
    expect(page.get_by_role("heading", name="No contact groups yet")).to_be_visible()


def show_groups_not_found(page: Page, team: Team) -> None:
    page.goto("/groups?q=nobody")
    expect(page.get_by_role("heading", name="No group found")).to_be_visible()


def show_new_group(page: Page, team: Team) -> None:
    add_groups(team)
    page.goto("/groups")
    page.get_by_role("main").get_by_text("Create contact group", exact=True).click()
    dialog(page, "Create contact group").get_by_role("checkbox", name="Ann").check()


def show_group_error(page: Page, team: Team) -> None:
    show_new_group(page, team)
    field(dialog(page), "Group name").fill("OPERATIONS")
    click_ok(page)
    expect(dialog(page)).to_contain_text("There is a group of this name already.")


def show_edit_group(page: Page, team: Team) -> None:
    add_groups(team)
    page.goto("/groups")
    control(page, "Operations", "Editing").click()
    expect(dialog(page, "Edit contact group").get_by_role("checkbox", checked=True)).to_have_count(3)


def show_delete_group(page: Page, team: Team) -> None:
    add_groups(team)
    page.goto("/groups")
    control(page, "Operations", "Delete").click()
    expect(dialog(page, "Delete this group?")).to_be_visible()


def show_contacts_in_groups(page: Page, team: Team) -> None:
    add_groups(team)
    show_list(page, team)
    expect(row(page, "Ann")).to_contain_text("Operations")


def show_assign(page: Page, team: Team) -> None:
    show_contacts_in_groups(page, team)
    page.get_by_role("checkbox", name="Select all contacts").check()
    page.get_by_role("button", name="Groups", exact=True).click()
    expect(dialog(page, "Groups of 3 contacts")).to_be_visible()


def show_assign_nothing(page: Page, team: Team) -> None:
    show_list(page, team)
    control(page, "Ann", "Select").check()
    page.get_by_role("button", name="Groups", exact=True).click()
    expect(dialog(page, "Groups of Ann")).to_be_visible()


def show_delete_members(page: Page, team: Team) -> None:
    add_groups(team)
    show_list(page, team)
    control(page, "Ann", "Delete").click()
    expect(dialog(page)).to_contain_text("left with nobody")


def show_edit_member(page: Page, team: Team) -> None:
    add_groups(team)
    show_list(page, team)
    control(page, "Ann", "Editing").click()
    expect(dialog(page)).to_contain_text("In the groups")


def show_ungrouped(page: Page, team: Team) -> None:
    add_groups(team)
    show_list(page, team)
    page.get_by_role("combobox", name="Show").select_option(label="In no group")
    expect(page.get_by_role("heading", name="No contact found")).to_be_visible()


HEALTH = """INSERT INTO channel_states (account_id, contact_id, channel, worked_at, failing_since, answer)
    SELECT account_id, id, channel, worked_at::timestamptz, failing_since::timestamptz, answer FROM contacts
    JOIN (VALUES
        ('Ann', 'sms', '2026-01-31 20:30Z', NULL, NULL),
        ('Ann', 'dingtalk', '2026-01-30 20:30Z', '2026-01-31 20:30Z', %(answer)s),
        (%(long)s, 'email', NULL, '2026-01-31 20:30Z', 'The mail server refused the mailbox: no such user here.')
    ) AS known (name, channel, worked_at, failing_since, answer) USING (name) WHERE account_id = %(account_id)s"""
ANSWER = "The signature does not match: the secret in the contact is not the robot's. Enter it again."


def add_health(team: Team) -> None:
    """Have a channel of a contact work, one fail and one not be tried, and a contact that cannot be reached."""
    # A system notification that arrives would show that the channel works.
    team.sql.execute(
        "UPDATE contacts SET receives_system_notifications = false WHERE account_id = %s", [team.account_id]
    )
    team.sql.execute(HEALTH, {"account_id": team.account_id, "long": LONG, "answer": ANSWER})


def show_health(page: Page, team: Team) -> None:
    add_health(team)
    show_list(page, team)
    for said in ("Worked", "Fails since", "Never tried"):
        expect(row(page, "Ann")).to_contain_text(said)
    expect(page.get_by_role("region", name="Who would not be reached")).to_be_visible()


def show_robot_security(page: Page, team: Team) -> None:
    show_new(page, team)
    dialog(page).get_by_text("Signature or keyword of the robot").click()
    expect(dialog(page).get_by_text("its secret, which starts with SEC")).to_be_visible()


def add_alert(team: Team, kind: str, title: str, **columns: Any) -> int:
    """Write an alert past the console and return its id."""
    columns = {"source": "alertmanager", "severity": "", "status": "firing", "text": "", "addressee": "Day"} | columns
    columns |= {"account_id": team.account_id, "kind": kind, "title": title}
    marks = ", ".join(["%s"] * len(columns))
    query = f"INSERT INTO alerts ({', '.join(columns)}) VALUES ({marks}) RETURNING id"
    inserted = team.sql.execute(query, list(columns.values())).fetchone()
    return int(inserted[0])


def add_alerts(team: Team) -> int:
    """Write alerts of every kind, and return the id of one with a message in every state.

    A worker sends at once what waits for longer than it ever has anything wait: it takes it for a jump of the clock.
    """
    text = f"https://prometheus.example.com/graph?{'g0.expr=up&' * 20}\nOn db1 and db2."
    alert = add_alert(team, "alert", "DiskFull: The disk of db1 is full", severity="critical", text=text)
    team.sql.execute(
        """INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, address, state, attempts,
                                   next_attempt_at, answer, ended_at)
           SELECT account_id, %(alert)s, contacts.id, channel, name, address, state, attempts,
                  CASE WHEN state = 'queued' THEN now() + interval '13 minutes' END, answer,
                  CASE WHEN state <> 'queued' THEN timestamptz '2026-01-31 20:30Z' END
           FROM contacts JOIN (VALUES
               ('Ann', 'sms', '+86 138 0013 8000', 'sent', 1, 'Twilio took the text.'),
               ('Ann', 'email', 'ann@example.com', 'queued', 2, 'The mail server is busy: 451 Come back later'),
               ('Ann', 'dingtalk', 'oapi.dingtalk.com …cdef', 'failed', 1, %(answer)s),
               (%(long)s, 'email', %(mail)s, 'queued', 0, NULL),
               ('王小明', 'sms', '+1 202-555-0123', 'sent', 3, 'Twilio took the text.')
           ) AS sent (name, channel, address, state, attempts, answer) USING (name)
           WHERE account_id = %(account_id)s""",
        {
            "account_id": team.account_id,
            "alert": alert,
            "answer": ANSWER,
            "long": LONG,
            "mail": f"{'a' * 64}@{'example-' * 7}example.com",
        },
    )
    add_alert(team, "alert", LONG, status="resolved", source="grafana", addressee=LONG)
    add_alert(team, "test", "This is a test", source="console", addressee="王小明")
    add_alert(team, "system", "A channel of the team has begun to fail", source="console")
    return alert


def show_notifications(page: Page, team: Team) -> None:
    add_alerts(team)
    page.goto("/notifications")
    expect(page.get_by_role("row")).to_have_count(5)


def show_notifications_not_found(page: Page, team: Team) -> None:
    page.goto("/notifications?q=nothing")
    expect(page.get_by_role("heading", name="No notification found")).to_be_visible()


def show_notification(page: Page, team: Team) -> None:
    page.goto(f"/notifications/{add_alerts(team)}")
    expect(page.get_by_role("listitem").filter(has_text="Trying again")).to_be_visible()


def show_stopped(page: Page, team: Team) -> None:
    """Show a notification of which a part was stopped, a part was overtaken, and a part waits for its limit."""
    alert = add_alerts(team)
    team.sql.execute(
        """UPDATE deliveries SET
            state = CASE
                WHEN channel = 'dingtalk' THEN 'cancelled' WHEN contact_name = 'Ann' THEN 'overtaken' ELSE state END,
            next_attempt_at = CASE WHEN contact_name <> 'Ann' THEN next_attempt_at END,
            ended_at = CASE WHEN contact_name = 'Ann' OR ended_at IS NOT NULL THEN timestamptz '2026-01-31 20:30Z' END,
            is_held = contact_name <> 'Ann',
            cancelled_by = CASE WHEN channel = 'dingtalk' THEN %s END, overtaken_by = %s
           WHERE alert_id = %s""",
        [f"{'a' * 64}@{'example-' * 7}example.com", alert + 1, alert],
    )
    team.sql.execute("UPDATE alerts SET integration_id = 1, integration_name = %s WHERE id = %s", [LONG, alert])
    page.goto(f"/notifications/{alert}")
    for words in ("1 cancelled", "2 overtaken", ": this mailbox has reached its limit"):
        expect(page.get_by_role("main")).to_contain_text(words)


def show_stop(page: Page, team: Team) -> None:
    show_stopped(page, team)
    page.get_by_role("link", name="Stop all waiting messages from").click()
    expect(page.get_by_role("button", name="Stop sending")).to_be_visible()


def show_test(page: Page, team: Team) -> None:
    show_list(page, team)
    row(page, "Ann").get_by_role("link", name="Send a test to Ann").click()
    expect(dialog(page, "Send a test to Ann?")).to_be_visible()


def show_test_of_selected(page: Page, team: Team) -> None:
    show_list(page, team)
    expect(page.get_by_role("link", name="3 in no group")).to_be_visible()
    page.get_by_role("checkbox", name="Select all contacts").check()
    page.get_by_role("button", name="Test", exact=True).click()
    expect(dialog(page, "Send a test to 3 contacts?")).to_contain_text("5 messages are sent")


def show_test_of_nobody(page: Page, team: Team) -> None:
    add_groups(team)
    page.goto("/groups")
    row(page, "Nobody’s").get_by_role("link", name="Send a test to Nobody’s").click()
    dialog(page).get_by_role("button", name="Send test").click()
    expect(dialog(page, "Test of Nobody’s")).to_contain_text("Nobody was notified")


def show_result(page: Page, team: Team) -> None:
    page.goto(f"/notifications/{add_alerts(team)}/result")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)


def add_integration(page: Page, team: Team) -> None:
    """Create an integration of the first group, as a person does."""
    add_groups(team)
    page.goto("/groups")
    row(page, "Operations").get_by_role("link", name="Integrations of Operations").click()
    field(page, "Name").fill("Alertmanager Frankfurt")
    page.get_by_role("button", name="Create integration").click()


def show_integration(page: Page, team: Team) -> None:
    add_integration(page, team)
    expect(page.get_by_role("heading", name="Token")).to_be_visible()


def show_integrations(page: Page, team: Team) -> None:
    add_integration(page, team)
    page.get_by_role("link", name="Integrations of Operations").click()
    page.get_by_role("button", name="Create integration").click()
    expect(field(page, "Name")).to_have_accessible_description(re.compile("Enter a name"))


def add_refusals(team: Team) -> str:
    """Have a sender refused three times, and return the address of its integration."""
    team.sql.execute("DELETE FROM groups WHERE account_id = %s", [team.account_id])
    token = new_token(team, add_group_of(team, "Night"), "Prometheus Frankfurt")
    post(team.app, token, {"title": "Disk is full", "password": "hunter2-hunter2"})
    post(team.app, token, group(alert("web1", description="x" * 3000), version="3"))
    post(team.app, token, b"title=Disk", Content_Type="text/plain")
    identity = team.sql.execute("SELECT id FROM integrations WHERE account_id = %s", [team.account_id]).fetchone()
    assert identity
    return f"/integrations/{identity[0]}"


def show_refused(page: Page, team: Team) -> None:
    address = add_refusals(team)
    page.goto("/contacts")
    page.get_by_role("link", name="Prometheus Frankfurt was refused 3 times").click()
    expect(page).to_have_url(re.compile(f"{address}#refused$"))
    page.locator(".refused summary").nth(1).click()
    expect(page.get_by_text('"version": "3"')).to_be_visible()


def show_refused_on_top(page: Page, team: Team) -> None:
    add_refusals(team)
    page.goto("/contacts")
    expect(page.get_by_text("was refused 3 times")).to_be_visible()


def show_refused_in_list(page: Page, team: Team) -> None:
    page.goto(add_refusals(team))
    page.get_by_role("link", name="Integrations of Night").click()
    expect(page.get_by_text("Refused 3 times")).to_be_visible()


def show_links(page: Page, team: Team) -> None:
    token = new_token(team, add_group_of(team, "Night"), "Grafana")
    first = UNIFIED | {"annotations": UNIFIED["annotations"] | {"impact": LONG, "wiki": f"https://wiki.example/{LONG}"}}
    answer = post(team.app, token, grafana(first, UNIFIED | alert("web2", Error="no route to host")))
    page.goto(f"/notifications/{answer.json['id']}")
    expect(page.get_by_role("heading", name="Values and links")).to_be_visible()


def show_renew(page: Page, team: Team) -> None:
    add_integration(page, team)
    page.get_by_role("link", name="Renew token").click()
    expect(page.get_by_role("heading", name="Renew the token", level=1)).to_be_visible()


def let_wait(team: Team) -> None:
    """Have messages wait that came in through the team's integration."""
    query = "UPDATE alerts SET integration_id = (SELECT max(id) FROM integrations WHERE account_id = %s) WHERE id = %s"
    team.sql.execute(query, [team.account_id, add_alerts(team)])


def show_delete_integration(page: Page, team: Team) -> None:
    add_integration(page, team)
    let_wait(team)
    page.get_by_role("link", name="Delete integration").click()
    expect(page.get_by_role("heading", name="Delete Alertmanager Frankfurt?", level=1)).to_be_visible()
    expect(page.get_by_role("checkbox", name="Also stop the")).to_be_visible()


def show_delete_used_group(page: Page, team: Team) -> None:
    add_integration(page, team)
    let_wait(team)
    page.goto("/groups")
    control(page, "Operations", "Delete").click()
    expect(dialog(page)).to_contain_text("An integration uses it")
    expect(dialog(page).get_by_role("checkbox", name="Also stop the")).to_be_visible()


def show_unreachable_group(page: Page, team: Team) -> None:
    add_health(team)
    add_group(team, "Night", LONG)
    page.goto("/groups")
    expect(row(page, "Night")).to_contain_text("None of them can be reached right now")


def show_partly_unreachable_group(page: Page, team: Team) -> None:
    add_health(team)
    add_group(team, "Night", LONG, "Ann")
    page.goto("/groups")
    expect(row(page, "Night")).to_contain_text("1 of 2 cannot be reached")
    expect(page.get_by_role("region", name="Who would not be reached")).to_be_visible()
    row(page, "Night").get_by_text("2 contacts").click()
    expect(row(page, "Night").get_by_role("listitem").first).to_contain_text("Cannot be reached: Mailbox fails")


def show_group_page(page: Page, team: Team) -> None:
    show_partly_unreachable_group(page, team)
    page.goto(page.get_by_role("link", name="Integrations of Night").get_attribute("href").replace("/integrations", ""))
    expect(page.get_by_text("1 of 2 cannot be reached right now.")).to_be_visible()


def show_picker_with_marks(page: Page, team: Team) -> None:
    add_health(team)
    page.goto("/groups/new")
    expect(page.get_by_text("Cannot be reached: Mailbox fails")).to_be_visible()


def show_keys(page: Page, team: Team) -> None:
    show_list(page, team)
    page.keyboard.press("?")
    expect(dialog(page, "Keys")).to_be_visible()


def show_user_menu(page: Page, team: Team) -> None:
    show_list(page, team)
    page.get_by_role("banner").get_by_role("button").last.click()
    expect(page.get_by_role("button", name="Log off")).to_be_visible()


def show_page(address: str, heading: str) -> Callable[[Page, Team], None]:
    def show(page: Page, team: Team) -> None:
        page.goto(address.format(id=team.contacts()[0]["id"]))
        expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()

    return show


def show_log_on(page: Page, team: Team) -> None:
    page.context.clear_cookies()
    page.goto("/logon")
    field(page, "E-mail").fill("x")
    page.get_by_role("button", name="Log on").click()
    expect(page.get_by_text("Enter your password.")).to_be_visible()


SHOWN: dict[str, Callable[[Page, Team], None]] = {
    "list": show_list,
    "selected and message": show_selected_and_message,
    "empty": show_empty,
    "nothing found": show_nothing_found,
    "new": show_new,
    "discard": show_discard,
    "errors": show_errors,
    "doubts": show_doubts,
    "conflict": show_conflict,
    "delete": show_delete,
    "full": show_full,
    "error in dialog": show_error_in_dialog,
    "keys": show_keys,
    "user menu": show_user_menu,
    "log-on": show_log_on,
    "error page": show_page("/nowhere", "This page does not exist"),
    "edit page": show_page("/contacts/{id}/edit", "Edit contacts"),
    "delete page": show_page("/contacts/delete?id={id}", "Delete this contact?"),
    "groups": show_groups,
    "no groups": show_groups_empty,
    "no group found": show_groups_not_found,
    "new group": show_new_group,
    "group error": show_group_error,
    "edit group": show_edit_group,
    "delete group": show_delete_group,
    "contacts in groups": show_contacts_in_groups,
    "assign": show_assign,
    "assign without groups": show_assign_nothing,
    "delete member": show_delete_members,
    "edit member": show_edit_member,
    "in no group": show_ungrouped,
    "health": show_health,
    "robot security": show_robot_security,
    "notifications": show_notifications,
    "no notification found": show_notifications_not_found,
    "notification": show_notification,
    "stopped notification": show_stopped,
    "stop": show_stop,
    "test": show_test,
    "test page": show_page("/notifications/test?contact={id}", "Send a test to Ann?"),
    "test of nobody": show_test_of_nobody,
    "test of selected": show_test_of_selected,
    "result": show_result,
    "integrations": show_integrations,
    "integration": show_integration,
    "refused": show_refused,
    "refused on top": show_refused_on_top,
    "refused in list": show_refused_in_list,
    "values and links": show_links,
    "renew": show_renew,
    "delete integration": show_delete_integration,
    "delete used group": show_delete_used_group,
    "unreachable group": show_unreachable_group,
    "partly unreachable group": show_partly_unreachable_group,
    "group page": show_group_page,
    "picker with marks": show_picker_with_marks,
    "assign page": show_page("/groups/assign?id={id}", "Groups of Ann"),
}


@pytest.fixture(scope="session")
def schemes(request: pytest.FixtureRequest) -> Schemes:
    """Return the colours to look at a page in, by its width: with --chaos, and for pictures, both in both."""
    if request.config.getoption("chaos") or "SCREENSHOTS" in os.environ:
        return dict.fromkeys((WIDE, NARROW), ("light", "dark"))
    return {WIDE: ("light",), NARROW: ("dark",)}


def complaints(page: Page, name: str, schemes: Schemes) -> list[str]:
    """Return what axe finds, what is wider than the screen and what is too small, in some looks at the page.

    With SCREENSHOTS naming a folder, a picture of each look is left there.
    """
    page.evaluate(AXE_SCRIPT)
    found: list[str] = []
    for width in schemes:
        page.set_viewport_size({"width": width, "height": 800})
        if page.evaluate(WIDER):
            found.append(f"{width}: scrolls sideways, or has a table that is too wide")
        found += [f"{width}: too small: {small}" for small in page.evaluate(SMALL)]
        for scheme in schemes[width]:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if folder := os.environ.get("SCREENSHOTS"):
                page.screenshot(path=f"{folder}/{name}-{width}-{scheme}.png", caret="initial", full_page=True)
            violations: list[dict[str, Any]] = page.evaluate(AXE, TAGS)
            found += [
                f"{width} {scheme}: {violation['help']}: {[node['html'][:200] for node in violation['nodes']]}"
                for violation in violations
            ]
    return found


@pytest.mark.parametrize("shown", SHOWN)
def test_axe_finds_nothing_and_everything_fits(new_page: NewPage, contacts: Team, schemes: Schemes, shown: str) -> None:
    page = new_page(contacts, reduced_motion="reduce")
    SHOWN[shown](page, contacts)
    assert not (found := complaints(page, shown, schemes)), "\n".join(found)


def pages(team: Team) -> list[str]:
    """Return the address of every page of a user that opens without an id or a query."""
    rules = [rule for rule in team.app.url_map.iter_rules() if "GET" in (rule.methods or ()) and not rule.arguments]
    mine = {rule.rule for rule in rules if isinstance(access_of(team.app.view_functions[rule.endpoint]), Permission)}
    return sorted(address for address in mine if team.get(address).status_code == 200)


def test_axe_finds_nothing_on_any_page_that_opens_by_its_address(
    new_page: NewPage, contacts: Team, schemes: Schemes
) -> None:
    page = new_page(contacts, reduced_motion="reduce")
    addresses = pages(contacts)
    assert {"/contacts", "/contacts/new", "/groups/new", "/notifications", "/password"} < set(addresses)
    found: list[str] = []
    for address in addresses:
        page.goto(address)
        name = address.strip("/").replace("/", "-")
        found += [f"{address} {complaint}" for complaint in complaints(page, name, schemes)]
    assert not found, "\n".join(found)


@pytest.fixture
def empty_console(new_database: Callable[[], str], data_dir: Path) -> Iterator[str]:
    """Return the set-up link of a console that has no account yet, no channel set up and no worker."""
    app: Flask = create_app({"DATABASE_URL": new_database(), "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40})
    with app.app_context(), all_accounts():
        migrations.upgrade()
        token = setup_token()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/setup?token={token}"
    server.shutdown()
    thread.join()


def test_the_set_up_page_is_accessible_and_leads_to_a_list_that_says_what_is_not_set_up(
    new_page: NewPage, empty_console: str, schemes: Schemes
) -> None:
    page = new_page(reduced_motion="reduce")
    page.goto(empty_console)
    expect(page.get_by_label("Account")).to_be_focused()
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_label("Account")).to_have_accessible_description(re.compile("Enter a name"))
    assert not (found := complaints(page, "set-up", schemes)), "\n".join(found)
    page.get_by_label("Account").fill("Operations")
    page.get_by_label("E-mail").fill("ann@example.com")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("heading", name="No contacts yet")).to_be_visible()
    page.goto(empty_console)
    expect(page).to_have_url(re.compile("/contacts$"))
    for name in ("Ann", "Bob"):
        page.get_by_role("main").get_by_text("New contact", exact=True).click()
        field(dialog(page), "Name").fill(name)
        field(dialog(page), "Mailbox").fill(f"{name}@example.com")
        click_ok(page)
        expect(row(page, name)).to_contain_text("Not set up")
    for said in ("no delivery worker runs", "2 contacts cannot be reached right now"):
        expect(page.get_by_role("region", name="Who would not be reached")).to_contain_text(said)
    assert not (found := complaints(page, "nothing set up", schemes)), "\n".join(found)


LIVE = "[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log], output"


def test_there_is_one_live_region_outside_dialogs_whatever_it_says(page: Page, contacts: Team) -> None:
    show_list(page, contacts)
    region = page.locator(LIVE)
    expect(region).to_have_count(1)
    region.evaluate("region => { region.mark = 'same region' }")
    search_box(page).fill("ann")
    expect(region).to_contain_text("1 contact found")
    control(page, "Ann", "Editing").click()
    click_ok(page)
    expect(dialog(page)).to_have_count(0)
    expect(region).to_have_count(1)  # what was in the dialog goes a moment after it has closed
    expect(region).to_contain_text("Ann has been saved.")
    page.context.set_offline(True)
    control(page, "Ann", "Editing").click()
    expect(message(page)).to_contain_text("try again")
    expect(region).to_have_count(1)
    assert region.evaluate("region => region.mark") == "same region"


def test_a_message_is_put_in_place_again_once_no_dialog_hides_it_from_a_screen_reader(
    page: Page, contacts: Team
) -> None:
    show_list(page, contacts)
    message(page).evaluate("""region => {
        window.hidden = [];
        const look = () => window.hidden.push(document.querySelector('dialog:modal') !== null);
        new MutationObserver(look).observe(region, {childList: true});
    }""")
    control(page, "Ann", "Editing").click()
    click_ok(page)
    expect(message(page)).to_contain_text("Ann has been saved.")
    expect(dialog(page)).to_have_count(0)
    page.wait_for_function("() => window.hidden.at(-1) === false")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_table_is_a_table_for_a_screen_reader(new_page: NewPage, contacts: Team, width: int) -> None:
    page = new_page(contacts, width=width)
    show_list(page, contacts)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]

    def named(role: str) -> list[str]:
        return [node["name"]["value"] for node in tree if not node["ignored"] and node["role"]["value"] == role]

    assert len(named("table")) == 1
    assert len(named("row")) == 4
    assert named("rowheader") == ["Ann", LONG, "王小明"]
    headers = ["Name", "Cell phone number", "Email", "DingTalk robot", "System notifications", "Operation"]
    assert [name for name in named("columnheader") if "Select" not in name] == headers
    assert len(named("cell")) + len(named("gridcell")) == 3 * 6


def test_every_error_is_tied_to_its_field(page: Page, contacts: Team) -> None:
    show_errors(page, contacts)
    box = dialog(page)
    for label, said in {
        "Name": "Enter a name.",
        "Mobile phone number": "This is too short for a mobile phone number",
        "Mailbox": "This is not a complete e-mail address.",
        "DingTalk robot": r"https://oapi\.dingtalk\.com/robot/send\?access_token=",
    }.items():
        expect(field(box, label)).to_have_attribute("aria-invalid", "true")
        expect(field(box, label)).to_have_accessible_description(re.compile(said))
    expect(field(box, "DingTalk robot")).to_have_accessible_description(re.compile("signature or a keyword"))


def test_every_page_has_a_title_of_its_own_and_one_main_heading(page: Page, contacts: Team) -> None:
    titles = set()
    addresses = (*pages(contacts), f"/contacts/{contacts.contacts()[0]['id']}/edit", "/nowhere")
    for address in addresses:
        page.goto(address)
        titles.add(page.title())
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        expect(page.get_by_role("main")).to_have_count(1)
    assert len(titles) == len(addresses)


@pytest.mark.parametrize("width", [1024, 1120, 1121, 1280])
def test_a_row_takes_two_lines_where_there_is_room_for_its_columns(new_page: NewPage, team: Team, width: int) -> None:
    page = new_page(team, width=width)
    addresses = {"email": "contact37@example.com", "dingtalk_url": ROBOT + "0123456789abcdef"}
    team.add("Network operations 2", mobile="+8613800138000", **addresses)
    add_group(team, "Databases", "Network operations 2")
    team.sql.execute(
        """INSERT INTO channel_states (account_id, contact_id, channel, worked_at)
           SELECT account_id, id, channel, now() FROM contacts, unnest(ARRAY['sms', 'email', 'dingtalk']) AS channel
           WHERE account_id = %s""",
        [team.account_id],
    )
    for address in ("/contacts", "/groups"):
        page.goto(address)
        assert page.locator("tbody tr").evaluate("row => row.offsetHeight") <= 56
        assert not page.evaluate(WIDER)


def test_a_navigation_with_more_pages_fits_a_narrow_screen(new_page: NewPage, contacts: Team) -> None:
    page = new_page(contacts, width=NARROW)
    show_list(page, contacts)
    page.locator(".sidenav ul").evaluate("list => { list.innerHTML += list.innerHTML }")
    assert not page.evaluate(WIDER)


def test_an_address_takes_one_line_on_a_narrow_screen(new_page: NewPage, team: Team) -> None:
    page = new_page(team, width=NARROW)
    team.add("Ann", email="contact37@example.com")
    page.goto("/contacts")
    line = """cell => {
        const range = document.createRange();
        range.selectNode(cell.firstChild);
        return range.getClientRects().length;
    }"""
    assert page.get_by_role("cell", name="contact37@example.com").evaluate(line) == 1
    page.goto("/groups")
    page.get_by_role("main").get_by_text("Create contact group", exact=True).click()
    address = dialog(page).get_by_text("contact37@example.com")
    assert address.evaluate("small => small.scrollWidth <= small.clientWidth")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_narrow_screen_shows_the_headings_beside_the_values(new_page: NewPage, team: Team, width: int) -> None:
    page = new_page(team, width=width)
    add_group_of(team, "Ops", team.add("Ann", mobile="+8613800138000", email="ann@example.com"))
    shown = """cells => cells.map(cell => getComputedStyle(cell, "::before").content.split('"')[1] ?? "")"""
    labels = {"/contacts": ["Cell phone number", "Email", "", "System notifications"], "/groups": ["", "Integrations"]}
    for address, expected in labels.items():
        page.goto(address)
        cells = page.locator("tbody td:not(.select, .operation)")
        assert cells.evaluate_all(shown) == (expected if width == NARROW else [""] * len(expected))
        assert page.evaluate("() => getComputedStyle(document.querySelector('thead .check'), '::after').content") == (
            '"Select all"' if width == NARROW else "none"
        )


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_opening_a_group_moves_nothing_above_its_members(new_page: NewPage, contacts: Team, width: int) -> None:
    page = new_page(contacts, width=width)
    add_groups(contacts)
    page.goto("/groups")
    opened = row(page, "Operations")
    places = (
        opened.locator("label, th a, summary") if width == NARROW else opened.locator("label, th a, summary, td > a")
    )

    def tops() -> list[float]:
        return [place.bounding_box()["y"] for place in places.all()]

    before = tops()
    opened.get_by_text("3 contacts").click()
    expect(opened.get_by_role("listitem")).to_have_count(3)
    assert (len(before), tops()) == (3 if width == NARROW else 7, before)


@pytest.mark.parametrize("width", [769, 1024, 1120, 1121, 1279])
def test_the_list_fits_where_its_columns_begin_to_wrap(new_page: NewPage, contacts: Team, width: int) -> None:
    """At the bounds of the style sheet, with every column as wide as it gets."""
    page = new_page(contacts, width=width)
    add_groups(contacts)
    show_health(page, contacts)
    assert not page.evaluate(WIDER)
    assert page.evaluate(SMALL) == []
