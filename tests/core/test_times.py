"""Show that a time says of which zone it is."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from contacts_app.core.times import shown

NOON = datetime(2026, 7, 1, 12, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", "2026-07-01 12:00:05 UTC"),
        ("Asia/Shanghai", "2026-07-01 20:00:05 UTC+08:00"),
        ("America/St_Johns", "2026-07-01 09:30:05 UTC-02:30"),
        ("Europe/London", "2026-07-01 13:00:05 UTC+01:00"),
        ("Pacific/Kiritimati", "2026-07-02 02:00:05 UTC+14:00"),
    ],
)
def test_a_time_is_shown_with_its_offset(zone: str, expected: str) -> None:
    assert shown(NOON.astimezone(ZoneInfo(zone))) == expected


def test_summer_and_winter_differ() -> None:
    assert shown(datetime(2026, 1, 1, 12, tzinfo=ZoneInfo("Europe/London")), "%H:%M") == "12:00 UTC"
