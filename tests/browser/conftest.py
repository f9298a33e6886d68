"""Give tests a browser: one Chromium for the run, a context of its own for each page that a test opens."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, Request, Route, expect, sync_playwright

from contacts_app import create_app, migrations
from contacts_app.core.db import all_accounts
from tests.conftest import Team, answers, free_port, wait_for
from tests.delivery.counterparts import Authority, DingTalk, MailServer, TwilioSms, environment

WIDE, NARROW = 1280, 375
SECONDS = 15
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--metrics-recording-only",
)
NewPage = Callable[..., Page]
expect.set_options(timeout=SECONDS * 1000)


def find_chromium(downloaded: str) -> str:
    """Return the path of the browser; without one the tests fail, because skipping would hide it."""
    names = ("chromium-headless-shell", "chromium", "google-chrome", "chromium-browser")
    found = next(filter(None, map(shutil.which, (*names, downloaded))), None)
    if not found:
        pytest.fail(f"There is no browser: put one of {', '.join(names)} on the PATH.", False)
    return found


def can_sandbox() -> bool:
    """Return whether Chromium starts with its sandbox: not as root, nor without user namespaces (a chroot)."""
    return os.geteuid() != 0 and subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the browser of this run of the tests."""
    with sync_playwright() as playwright:
        path = find_chromium(playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=path, args=QUIET, chromium_sandbox=can_sandbox())
        yield browser
        browser.close()


@dataclass
class World:
    """What the console of the browser's tests sends to: real servers on 127.0.0.1."""

    authority: Authority
    dingtalk: DingTalk
    mail: MailServer
    sms: TwilioSms

    def forget(self) -> None:
        """Forget what was sent, and take every mail again."""
        for server in (self.dingtalk, self.mail, self.sms):
            server.messages.clear()
        self.mail.unknown.clear()
        self.mail.busy.clear()

    def mails_to(self, address: str) -> list[str]:
        """Return the subjects of what a mailbox got, oldest first."""
        return [str(mail.message["Subject"]) for mail in self.mail.messages if mail.recipient == address]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return the servers that the console of the browser's tests sends to."""
    authority = Authority.make(tmp_path_factory.mktemp("authority"))
    world = World(authority, DingTalk(authority), MailServer(authority), TwilioSms(authority))
    yield world
    for server in (world.dingtalk, world.mail, world.sms):
        server.close()


@pytest.fixture(scope="session")
def database_url(new_database: Callable[[], str]) -> str:
    """Return the address of a database of these tests' own, because a worker delivers what waits in it."""
    return new_database()


@pytest.fixture(scope="session")
def settings(database_url: str, data_dir: Path, world: World) -> dict[str, str]:
    """Return the environment of a console that has every channel set up."""
    sending = environment(world.authority.path, world.dingtalk, world.mail, world.sms)
    return sending | {"DATABASE_URL": database_url, "DATA_DIR": str(data_dir), "SECRET_KEY": "k" * 40}


@pytest.fixture(scope="session")
def app(settings: dict[str, str]) -> Flask:
    """Return the console on its migrated database."""
    app = create_app(settings)
    with app.app_context(), all_accounts():
        migrations.upgrade()
    return app


@contextmanager
def running(settings: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a module of Python with the settings, and end it at last."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=os.environ | settings, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def console(app: Flask, settings: dict[str, str]) -> Iterator[str]:
    """Return the address of the console as production serves it, with a worker that delivers what waits."""
    port = free_port()
    address = {"PORT": str(port), "HOST": "127.0.0.1"}
    gunicorn = ("gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app")
    with (
        running(settings | address, *gunicorn) as server,
        running(settings, "flask", "--app", "wsgi", "deliver") as worker,
        psycopg.connect(settings["DATABASE_URL"], autocommit=True) as connection,
    ):
        wait_for(lambda: answers(port) or server.poll() is not None, what="gunicorn")
        is_seen = "SELECT FROM workers"
        wait_for(lambda: connection.execute(is_seen).rowcount or worker.poll() is not None, what="the worker")
        yield f"http://127.0.0.1:{port}"


class Contexts:
    """The browser's contexts, which one test hands on to the next: a new one costs more than what most tests do in it.

    Pages, cookies, storage, permissions and the network are new each time; a test that changes more closes its context.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.free: dict[str, list[BrowserContext]] = {}
        self.taken: dict[BrowserContext, str] = {}
        self.complaints: list[str] = []

    def take(self, **options: Any) -> BrowserContext:
        """Return a context with these options, logged on as nobody."""
        key = repr(sorted(options.items()))
        free = self.free.setdefault(key, [])
        context = free.pop() if free else self._make(**options)
        self.taken[context] = key
        return context

    def _make(self, **options: Any) -> BrowserContext:
        context = self.browser.new_context(**options)
        # A page that stays open keeps the browser from ending and starting all that serves the context.
        context.new_page().goto("/healthz")
        context.set_default_timeout(SECONDS * 1000)
        context.on("close", self._forget)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on(
            "console",
            lambda message: self.complaints.append(message.text) if "Content Security Policy" in message.text else None,
        )
        return context

    def _forget(self, context: BrowserContext) -> None:
        self.taken.pop(context, None)

    def hand_back(self) -> list[str]:
        """End what is open, and return what the browser has complained about."""
        for context, key in list(self.taken.items()):
            for page in context.pages[1:]:
                page.close()
            context.set_offline(False)
            context.clear_cookies()
            context.clear_permissions()
            self.free[key].append(context)
        self.taken.clear()
        complaints, self.complaints = self.complaints, []
        return complaints


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Contexts:
    """Return the contexts of this run of the tests."""
    return Contexts(browser)


@pytest.fixture
def new_page(contexts: Contexts, console: str, world: World) -> Iterator[NewPage]:
    """Return a function that opens a blank page, logged on as a user of the team that it is given.

    A violation of the Content-Security-Policy or an uncaught error in any of the pages fails the test.
    """

    def make(team: Team | None = None, width: int = WIDE, **options: Any) -> Page:
        address = options.setdefault("base_url", console)
        context = contexts.take(viewport={"width": width, "height": 800}, **options)
        page = context.new_page()
        # Only a page can reach the storage that the one before it has left.
        devtools = context.new_cdp_session(page)
        devtools.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
        devtools.detach()
        if team:
            context.add_cookies([{"name": "console", "value": team.cookie, "url": address}])
        return page

    yield make
    complaints = contexts.hand_back()
    world.forget()
    assert complaints == []


@pytest.fixture
def page(new_page: NewPage, team: Team) -> Page:
    """Return a blank page, logged on as the user of `team`."""
    return new_page(team)


class Held:
    """Keep under way the requests that `matches` picks, until the test lets them go."""

    def __init__(self, page: Page, matches: Callable[[Request], bool]) -> None:
        self.page = page
        self.matches = matches
        self.routes: list[Route] = []
        page.route("**/contacts**", self._take)

    def _take(self, route: Route) -> None:
        if self.matches(route.request):
            self.routes.append(route)
        else:
            route.fallback()

    def wait(self) -> None:
        """Wait until a request is under way."""
        until(self.page, lambda: self.routes)

    def release(self) -> None:
        """Send on what was held, and let through what comes from now on."""
        self.matches = lambda request: False
        for route in self.routes:
            route.continue_()


def until(page: Page, condition: Callable[[], Any]) -> None:
    """Let the browser go on until `condition` is true; fail if it never is."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(20)  # not by the page's own clock, which a test may have stopped


def is_post(request: Request) -> bool:
    return request.method == "POST"


def mark(page: Page) -> None:
    """Leave a mark in the page that is gone when it is loaded again."""
    page.evaluate("() => { window.mark = 'same page' }")


def is_marked(page: Page) -> bool:
    return bool(page.evaluate("() => window.mark === 'same page'"))


def dialog(page: Page, title: str | None = None) -> Locator:
    """Return the open dialog with the title."""
    return page.get_by_role("dialog", name=title, exact=True) if title else page.locator("dialog[open]")


def names(page: Page) -> Locator:
    """Return the names that the table shows."""
    return page.locator("#contacts-table tbody th > a > bdi")


def row(page: Page, name: str) -> Locator:
    """Return the row of a contact or a group."""
    return page.get_by_role("row").filter(has=page.locator("th > a > bdi").get_by_text(name, exact=True))


def control(page: Page, name: str, label: str) -> Locator:
    """Return Editing or Delete of a contact or a group, or the box that selects it."""
    return row(page, name).get_by_role("checkbox" if label == "Select" else "link", name=label)


def field(place: Page | Locator, label: str) -> Locator:
    """Return the text field with the label."""
    return place.get_by_role("textbox", name=label, exact=True)


def batch_delete(page: Page) -> Locator:
    return page.get_by_role("button", name="Batch delete")


def search_box(page: Page) -> Locator:
    return page.get_by_role("searchbox", name="Search for contacts")


def message(page: Page) -> Locator:
    """Return the live region."""
    return page.get_by_role("status")


def log_on(page: Page, team: Team, password: str) -> None:
    """Fill in the log-on page."""
    field(page, "E-mail").fill(team.email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log on").click()


def no_native_box(dialog: Dialog) -> None:
    raise AssertionError(f"the browser's own box appeared: {dialog.message}")
