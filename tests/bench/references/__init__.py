"""What the console is measured against. Each reads DATABASE_URL, SECRET_KEY, ACCOUNT and TEMPLATES as it is loaded."""


def shown_mobile(mobile: str) -> str:
    """Return a Chinese number in E.164 as the console shows it."""
    return f"{mobile[:3]} {mobile[3:6]} {mobile[6:10]} {mobile[10:]}"
