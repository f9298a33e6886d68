"""Show that the lists fit between a telephone and a desk: as a table, with what can be done with a row on one line."""

import pytest
from flask import Flask

from contacts_app.cli import samples
from contacts_app.core.db import all_accounts, db
from tests.browser.conftest import NewPage
from tests.browser.test_accessibility import LONG, WIDER
from tests.conftest import ROBOT, Team

WIDTHS = (769, 800, 900, 1000, 1023, 1024, 1280)  # up to 768 a row is a card
# Of each row the tops of its operations, and the lowest height.
OPERATIONS = """() => [...document.querySelectorAll('tbody .operation')].map(cell => [
    [...cell.children].map(link => link.offsetTop), Math.min(...[...cell.children].map(link => link.offsetHeight))])"""


@pytest.mark.parametrize("path", ["/contacts", "/groups"])
def test_the_operations_of_a_row_are_on_one_line_where_the_list_is_a_table(
    app: Flask, team: Team, new_page: NewPage, path: str
) -> None:
    with app.app_context(), all_accounts():
        samples.fill(team.account_id, 37)
        db.session.commit()
    email = f"{'a' * 64}@{'example-' * 7}example.com"
    team.add(LONG, mobile="+8613800138000", email=email, dingtalk_url=ROBOT + "0123")
    page = new_page(team)
    page.goto(path)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        rows = page.evaluate(OPERATIONS)
        assert len(rows) >= len(samples.SAMPLE_GROUPS)
        assert [tops for tops, _ in rows if len(tops) != 3 or len({*tops}) > 1] == [], width
        assert min(height for _, height in rows) >= 24, width
        assert not page.evaluate(WIDER), width
