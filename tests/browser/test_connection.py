"""Show that a lost connection, a busy console and an ended session are reported, and that what was typed is kept."""

import re
from collections.abc import Callable

import psycopg
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from contacts_app.accounts.models import Session
from tests.browser.conftest import (
    Held,
    NewPage,
    control,
    dialog,
    field,
    is_marked,
    is_post,
    log_on,
    mark,
    message,
    names,
    search_box,
)
from tests.conftest import PASSWORD, Team, wait_for

PROXY_PAGE = "<html><body><h1>502 Bad Gateway</h1>nginx</body></html>"


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return the list of Ann and Bob."""
    for name in ("Ann", "Bob"):
        team.add(name)
    page = new_page(team)
    page.goto("/contacts")
    mark(page)
    return page


def offline(page: Page) -> Callable[[], None]:
    """Cut the connection; return what mends it."""
    page.context.set_offline(True)
    return lambda: page.context.set_offline(False)


def behind_a_proxy_without_console(page: Page) -> Callable[[], None]:
    """Have everything answered by a proxy that does not reach the console; return what mends it."""

    def answer(route: Route) -> None:
        route.fulfill(status=502, content_type="text/html", body=PROXY_PAGE)

    page.route("**/*", answer)
    return lambda: page.unroute("**/*", answer)


break_it = pytest.mark.parametrize("broken", [offline, behind_a_proxy_without_console])


def fill_in(page: Page, title: str = "New contact") -> Locator:
    """Open New contact and fill it in, but for OK."""
    page.get_by_role("main").get_by_text("New contact", exact=True).click()
    box = dialog(page, title)
    field(box, "Name").fill("Zoe")
    field(box, "Mailbox").fill("zoe@example.com")
    return box


def click_ok(box: Locator) -> None:
    box.get_by_role("button", name="OK", exact=True).click()


@break_it
def test_a_form_that_cannot_be_sent_is_kept_and_saves_afterwards(
    page: Page, broken: Callable[[Page], Callable[[], None]]
) -> None:
    box = fill_in(page)
    mend = broken(page)
    click_ok(box)
    expect(box.get_by_role("alert").filter(has_text="try again")).to_be_visible()
    expect(box).not_to_contain_text("Bad Gateway")
    for label, value in {"Name": "Zoe", "Mailbox": "zoe@example.com"}.items():
        expect(field(box, label)).to_have_value(value)
    mend()
    click_ok(box)
    expect(box).to_be_hidden()
    expect(names(page)).to_have_text(["Ann", "Bob", "Zoe"])
    assert is_marked(page)


@break_it
def test_a_search_that_cannot_be_sent_leaves_the_list_and_works_afterwards(
    page: Page, broken: Callable[[Page], Callable[[], None]]
) -> None:
    mend = broken(page)
    search_box(page).fill("bo")
    expect(message(page)).to_contain_text("try again")
    expect(names(page)).to_have_text(["Ann", "Bob"])
    expect(search_box(page)).to_have_value("bo")
    mend()
    search_box(page).press("Enter")
    expect(names(page)).to_have_text(["Bob"])
    expect(message(page)).not_to_contain_text("try again")


@break_it
def test_a_dialog_that_cannot_be_fetched_is_reported_and_opens_afterwards(
    page: Page, broken: Callable[[Page], Callable[[], None]]
) -> None:
    mend = broken(page)
    control(page, "Ann", "Editing").click()
    expect(message(page)).to_contain_text("try again")
    expect(dialog(page)).to_have_count(0)
    mend()
    control(page, "Ann", "Editing").click()
    expect(field(dialog(page, "Edit contacts"), "Name")).to_have_value("Ann")


def test_a_database_that_fails_is_reported_inside_the_open_dialog(page: Page, team: Team, database_url: str) -> None:
    box = fill_in(page)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM accounts WHERE id = %s FOR UPDATE", [team.account_id])
        click_ok(box)
        end = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE %s = ANY (pg_blocking_pids(pid)) AND datname = current_database()"""
        wait_for(lambda: team.sql.execute(end, [holder.info.backend_pid]).fetchall(), what="the save to wait")
    expect(box.get_by_role("alert")).to_contain_text("The database cannot be reached")
    expect(field(box, "Name")).to_have_value("Zoe")
    assert len(team.contacts()) == 2
    click_ok(box)
    expect(names(page)).to_have_text(["Ann", "Bob", "Zoe"])


def end_session(team: Team) -> None:
    team.sql.execute(f"DELETE FROM {Session.__tablename__} WHERE account_id = %s", [team.account_id])


@pytest.mark.parametrize("act", ["search", "Editing", "OK"])
def test_an_ended_session_leads_to_the_log_on_page_and_back(page: Page, team: Team, act: str) -> None:
    search_box(page).fill("ann")
    expect(names(page)).to_have_text(["Ann"])
    box = fill_in(page) if act == "OK" else None
    end_session(team)
    if box:
        click_ok(box)
    elif act == "search":
        search_box(page).press("Enter")
    else:
        control(page, "Ann", "Editing").click()
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()
    expect(page.get_by_role("navigation", name="Main")).to_have_count(0)
    log_on(page, team, PASSWORD)
    expect(page).to_have_url(re.compile(r"/contacts\?q=ann$"))
    expect(names(page)).to_have_text(["Ann"])


def test_a_page_asked_for_without_a_session_is_shown_after_the_log_on(page: Page, team: Team) -> None:
    end_session(team)
    page.goto("/contacts?q=bob&sort=-name")
    expect(page.get_by_role("heading", name="Log on")).to_be_visible()
    log_on(page, team, PASSWORD)
    expect(page).to_have_url(re.compile(r"/contacts\?q=bob&sort=-name$"))


SIGNS = """() => Object.fromEntries(document.getAnimations().map(sign => {
    const { delay } = sign.effect.getComputedTiming();
    sign.pause();
    const style = getComputedStyle(sign.effect.target, sign.effect.pseudoElement);
    const opacity = (time) => { sign.currentTime = time; return Number(style.opacity); };
    return [sign.animationName || sign.transitionProperty, [delay, opacity(999), opacity(delay + 5000)]];
}))"""


@pytest.mark.parametrize(("slow", "sign"), [("search", "opacity"), ("Editing", "opacity"), ("OK", "appear")])
def test_what_is_slow_shows_that_it_works_after_a_second_and_not_before(page: Page, slow: str, sign: str) -> None:
    box = fill_in(page) if slow == "OK" else None
    # The time of animations stands still, or one may be over before it is looked at.
    devtools = page.context.new_cdp_session(page)
    devtools.send("Animation.enable")
    devtools.send("Animation.setPlaybackRate", {"playbackRate": 0})
    held = Held(page, is_post if box else lambda request: "/contacts" in request.url)
    if box:
        click_ok(box)
    elif slow == "search":
        search_box(page).press("Enter")
    else:
        control(page, "Ann", "Editing").click()
    held.wait()
    delay, before, after = page.evaluate(SIGNS)[sign]
    assert (delay, before, after) == (1000, 0, 1)
    devtools.send("Animation.setPlaybackRate", {"playbackRate": 1})
    held.release()
    expect(page.locator(".htmx-request")).to_have_count(0)
    expect(page.locator("#progress")).to_have_css("opacity", "0")
