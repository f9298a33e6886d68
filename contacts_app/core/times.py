"""Write a time in messages, for people who think in one time zone."""

from datetime import datetime


def shown(at: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time as the clocks of its own zone show it, with that zone: 2026-03-01 20:30:00 UTC+08:00."""
    offset = at.strftime("%z")
    return f"{at:{form}} UTC" + (f"{offset[:3]}:{offset[3:5]}" if offset != "+0000" else "")
