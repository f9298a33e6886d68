"""Show what only a browser can: that a mail fits every mailbox, whatever stands in it."""

import os
from itertools import product
from typing import Literal

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser

from contacts_app.delivery import sample
from contacts_app.delivery.channels.mail_message import message_of
from tests.browser.conftest import NARROW, WIDE
from tests.browser.test_accessibility import AXE, TAGS, WIDER
from tests.delivery.counterparts import SMTP_FROM, parsed
from tests.delivery.test_dingtalk import content

WCAG = [tag for tag in TAGS if tag.startswith("wcag")]  # a mail has no landmarks
URL = f"https://wiki.example.com/{'a-long-way/' * 30}?from=mail&to=page"


def test_a_mail_fits_whatever_words_it_has(browser: Browser) -> None:
    words = f"{'W' * 300}\n{URL}\n{sample.text(None)}"
    alert = content("T" * 200, words, url="https://contacts.example.com/notifications/1", group="G" * 100)
    message = parsed(message_of(SMTP_FROM, "ann@example.com", alert, "1", None))
    page = browser.new_page()
    page.set_content(message.get_body(("html",)).get_content())
    page.evaluate(AXE_SCRIPT)
    page.evaluate("document.documentElement.style.background = 'Canvas'")  # axe takes every other ground for white
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for width, scheme in product((WIDE, NARROW), schemes):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/mail-{width}-{scheme}.png", full_page=True)
        assert not page.evaluate(WIDER), f"{width}: scrolls sideways"
        assert page.evaluate(AXE, WCAG) == []
    assert page.get_by_role("link", name=URL).get_attribute("href") == URL
    page.close()
