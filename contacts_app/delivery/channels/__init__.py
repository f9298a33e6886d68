"""Define what all channels share: the content of a message and the outcome of sending it."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from ...core.times import shown
from ..answers import Answers, answer
from ..facts import Fact

MAX_QUOTED = 200  # characters of a provider's response
MAX_CODE = 60
# Only ASCII is part of a link: in a text without spaces, such as Chinese, the next character ends it.
LINK = re.compile(r"(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{1,20}://|www\.)[!#-;=?-_a-~]*", re.IGNORECASE)
NAME = re.compile(r"[A-Z]+(?:_(?:[A-Z]+|[0-9]{1,3}))+|(?:[A-Z][a-z]+){2,}|[a-z]+(?:[_-][a-z]+)+")


class Content(NamedTuple):
    """The content of a message: `status` is firing or resolved, `kind` is alert, test or system.

    `received_at` is in the time zone of the settings.
    """

    id: int
    title: str
    text: str
    severity: str
    status: str
    group: str
    received_at: datetime
    url: str | None
    kind: str
    integration: str = ""
    facts: tuple[Fact, ...] = ()


class Outcome(NamedTuple):
    """The outcome of an attempt.

    `state` is sent, failed or later (retry); `answer` says why, without secrets; `wait` is the seconds until the next
    attempt if the provider limits the rate; `is_uncertain` if the message may have arrived.
    `text_state` is whole, headline (only the headline was sent), refused (for the content or length of the text, not
    for the address) or doubtful (failed, perhaps for the text). `posts` is the number of messages the provider was
    sent.
    """

    state: str
    answer: Answers
    wait: float | None = None
    is_uncertain: bool = False
    text_state: str = "whole"
    posts: int = 1


def headline(content: Content) -> str:
    """Return the title on one line after [Firing], [Resolved] or [Test]; that of a system message has no prefix."""
    title = " ".join(content.title.split())
    if content.kind == "system":
        return title
    word = "Test" if content.kind == "test" else content.status.capitalize()
    return f"[{word}] {title}"


def bare(content: Content) -> Content:
    """Return the message reduced to its headline and without links, for a provider that refused the text."""
    title = without_links(content.title)
    return Content(content.id, title, "", "", content.status, "", content.received_at, None, content.kind)


def without_links(text: str) -> str:
    """Return the text with each link replaced by a word."""
    return LINK.sub("(link)", text)


def or_headline(first: Outcome, send_headline: Callable[[], Outcome]) -> Outcome:
    """Return the first outcome, or send only the headline and return that outcome if the text was refused."""
    if first.state != "failed" or first.text_state not in ("refused", "doubtful"):
        return first
    second = send_headline()
    posts = first.posts + second.posts
    if second.state == "sent":
        return second._replace(
            answer=answer("delivery.headline_only") + first.answer, text_state="headline", posts=posts
        )
    text_state = "whole" if second.text_state == "doubtful" else second.text_state
    return second._replace(text_state=text_state, posts=posts)


def particulars(content: Content) -> list[tuple[str, str]]:
    """Return the metadata of a message as pairs of label and value; empty values are left out."""
    found = [
        ("Severity", " ".join(content.severity.split())),
        ("Group", " ".join(content.group.split()) if content.kind == "alert" else ""),
        ("From", " ".join(content.integration.split())),
        ("Time", shown(content.received_at)),
    ]
    return [(name, value) for name, value in found if value]


def quoted(words: object, *secrets: str) -> str:
    """Return a provider's response for display: short, on one line, without secrets, URLs, keys and long numbers."""
    text = _without(str(words), secrets)
    # Responses often repeat the URL of the request, the recipient's number, or a key.
    text = re.sub(r"https?://\S+|[A-Za-z0-9+/=_-]{24,}|\+?[0-9]{7,}", _hidden, text)
    text = " ".join(re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", " ", text).split())
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 1] + "…"


def quoted_code(code: object, *secrets: str) -> str:
    """Return a provider's error code for display; it is never masked as a key, because people look it up."""
    return _without(re.sub(r"[^A-Za-z0-9._-]", "", str(code)[:MAX_QUOTED]), secrets)[:MAX_CODE]


def _without(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text


def _hidden(found: re.Match[str]) -> str:
    # A key is random letters and digits; joined words are the name of an error.
    return found[0] if NAME.fullmatch(found[0]) else "…"
