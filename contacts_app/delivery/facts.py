"""Define what a notification holds beside its text: values, errors, and links to dashboards and runbooks."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import idna

MAX_URL = 2000
RUNBOOK = "Runbook"
ORIGINS = ("Panel", "Dashboard", "Source")  # where an alert came from, best first
_NO_ADDRESS = re.compile(r"[\x00-\x20\x7f-\xa0\\<>\"\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Link(NamedTuple):
    """A URL, http or https, and its label."""

    name: str
    url: str


class Fact(NamedTuple):
    """Values and links of one alert; `alert` distinguishes it from the others, and is empty if it is the only one."""

    alert: str
    texts: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]

    @property
    def main_links(self) -> list[Link]:
        """Return the links for a message: the runbook, and the best link to the origin of the alert."""
        first = {link.name: link for link in reversed(self.links)}
        origin = next((first[name] for name in ORIGINS if name in first), None)
        return [link for link in (first.get(RUNBOOK), origin) if link]

    def shortened(self) -> "Fact":
        """Return the most important texts and links only."""
        return self._replace(texts=self.texts[:2], links=tuple(self.main_links))

    def texts_beside(self, words: str) -> list[tuple[str, str]]:
        """Return the texts whose value is not part of `words` already."""
        return [(name, value) for name, value in self.texts if value not in words]


def from_json(found: Sequence[Sequence[Any]] | None) -> tuple[Fact, ...]:
    """Return the facts that were stored as JSON."""
    return tuple(
        Fact(
            alert,
            tuple((name, value) for name, value in texts),
            tuple(Link(name, url) for name, url in links if safe_link(url)),
        )
        for alert, texts, links in found or ()
    )


def safe_link(value: str) -> str | None:
    """Return a URL that is safe as a link: http or https, with a host, without user info; None for all others."""
    value = value.strip()
    if not re.match("https?://", value, re.IGNORECASE) or len(value) > MAX_URL or _NO_ADDRESS.search(value):
        return None
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = idna.encode(host, uts46=True).decode()
    except ValueError:  # IDNAError is a ValueError
        return None
    if parts.username is not None or not re.fullmatch(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9.])?|[0-9a-f]*:[0-9a-f:.]+", host):
        return None
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    rest = (quote(part, safe="/%:=&?~+!$,;'@()*[]-._#") for part in parts[2:])
    return urlunsplit((parts.scheme, netloc, *rest))
