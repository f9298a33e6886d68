"""Show how templates write a moment."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from contacts_app.web.templating import moment


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            '<time datetime="2026-01-02T03:04:05Z">2026-01-02 03:04 UTC</time>',
        ),
        (
            datetime(999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(0))),
            '<time datetime="0999-12-31T23:59:59Z">0999-12-31 23:59 UTC</time>',
        ),
    ],
)
def test_a_moment_is_written_in_utc_and_can_be_read_by_the_script(at: datetime, expected: str) -> None:
    assert moment(at) == expected
