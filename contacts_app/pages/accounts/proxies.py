"""Log a warning when a log-on shows wrong reverse proxy settings, which have no other visible effect."""

import logging
from functools import lru_cache

from flask import request

from ...config import current_settings

FORWARDED = ("X-Forwarded-For", "X-Real-IP", "Forwarded")
ONE_ADDRESS = (
    "so the log-on may count all visitors as one address, and a few wrong passwords of one refuse the others."
    " Set PROXY_COUNT to the number of reverse proxies before the console."
)
logger = logging.getLogger("contacts_app")


def warn_of_settings() -> None:
    """Log a warning, once for each process and reason, if client addresses are wrong or cookies are not Secure."""
    settings = current_settings()
    given = [name for name in FORWARDED if name in request.headers]
    if settings.proxy_count == 0 and given:
        warn_once(f"A log-on came with {given[0]} while PROXY_COUNT is 0, {ONE_ADDRESS}")
    hops = [hop for hop in request.headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
    if len(hops) < settings.proxy_count:
        warn_once(f"A log-on came with fewer addresses in X-Forwarded-For than PROXY_COUNT says, {ONE_ADDRESS}")
    if "https" in (request.scheme, request.headers.get("X-Forwarded-Proto")) and not settings.https:
        warn_once("A log-on came over HTTPS while HTTPS is 0, so cookies are sent without Secure. Set HTTPS to 1.")


@lru_cache  # remembers the logged lines, which are few
def warn_once(line: str) -> None:
    """Log a line unless this process has already logged it."""
    logger.warning(line)
