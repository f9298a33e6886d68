"""Show what only a browser can: that a mail fits every mailbox, whatever stands in it."""

from playwright.sync_api import Browser

from contacts_app.alerts import sample
from contacts_app.alerts.channels.mail import message_of
from tests.alerts.counterparts import SMTP_FROM
from tests.alerts.test_dingtalk import told
from tests.browser.test_accessibility import Schemes, complaints

URL = f"https://wiki.example.com/{'a-long-way/' * 30}?from=mail&to=page"


def test_a_mail_fits_whatever_words_it_has(browser: Browser, schemes: Schemes) -> None:
    words = f"{'W' * 300}\n{URL}\n{sample.text(None)}"
    alert = told("T" * 200, words, url="https://contacts.example.com/notifications/1", group="G" * 100)
    message = message_of(SMTP_FROM, "ann@example.com", alert, "1", None)
    page = browser.new_page()
    page.set_content(message.get_body(("html",)).get_content())
    assert complaints(page, "mail", schemes) == []
    assert page.get_by_role("link", name=URL).get_attribute("href") == URL
    page.close()
