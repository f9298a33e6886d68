"""Format times in messages, with their offset from UTC."""

from datetime import datetime


def shown(at: datetime, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Format an aware time in its own zone, followed by the offset: 2026-03-01 20:30:00 UTC+08:00."""
    offset = at.strftime("%z")
    return f"{at:{form}} UTC" + (f"{offset[:3]}:{offset[3:5]}" if offset != "+0000" else "")
