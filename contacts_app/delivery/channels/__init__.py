"""Say one thing over any channel: what is told, and what became of it."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from ...core.times import shown
from ..facts import Fact

MOST_QUOTED = 200  # characters of what the other side said
MOST_CODE = 60
# In a text without spaces, as in Chinese, what follows a link is none of it.
LINK = re.compile(r"(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{1,20}://|www\.)[!#-;=?-_a-~]*", re.IGNORECASE)
NAME = re.compile(r"[A-Z]+(?:_(?:[A-Z]+|[0-9]{1,3}))+|(?:[A-Z][a-z]+){2,}|[a-z]+(?:[_-][a-z]+)+")


class Told(NamedTuple):
    """What a contact is told: `status` is firing or resolved, `kind` is alert, test or system.

    `received_at` is in the time zone of whoever is told.
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
    """What became of an attempt.

    `state` is sent, failed or later; `answer` are words without secrets, at most 500 characters; `wait` are the
    seconds until it may be tried again, where the other side said so; `is_uncertain` if it may have arrived. `content`
    is whole, headline (nothing more was sent), refused (the text for what it says or its length, not the address) or
    doubtful (failed, perhaps for the text). `posts` is how many messages the other side was given.
    """

    state: str
    answer: str
    wait: float | None = None
    is_uncertain: bool = False
    content: str = "whole"
    posts: int = 1


def headline(told: Told) -> str:
    """Return the title on one line, with what it is before it; what the console itself tells stands as it is."""
    title = " ".join(told.title.split())
    if told.kind == "system":
        return title
    word = "Test" if told.kind == "test" else told.status.capitalize()
    return f"[{word}] {title}"


def bare(told: Told) -> Told:
    """Return what is left of it when only its headline is to be sent, without what may have been refused."""
    title = without_links(told.title)
    return Told(told.id, title, "", "", told.status, "", told.received_at, None, told.kind)


def without_links(text: str) -> str:
    """Return the text with a word in place of each link."""
    return LINK.sub("(link)", text)


def or_headline(first: Outcome, send_headline: Callable[[], Outcome]) -> Outcome:
    """Return what became of it, after another try with the headline alone if the text was refused."""
    if first.state != "failed" or first.content not in ("refused", "doubtful"):
        return first
    second = send_headline()
    posts = first.posts + second.posts
    if second.state == "sent":
        return second._replace(answer=f"Only the headline was sent. {first.answer}", content="headline", posts=posts)
    content = "whole" if second.content == "doubtful" else second.content
    return second._replace(content=content, posts=posts)


def particulars(told: Told) -> list[tuple[str, str]]:
    """Return what is known of it besides its words, each with its name."""
    found = [
        ("Severity", " ".join(told.severity.split())),
        ("Group", " ".join(told.group.split()) if told.kind == "alert" else ""),
        ("From", " ".join(told.integration.split())),
        ("Time", shown(told.received_at)),
    ]
    return [(name, value) for name, value in found if value]


def quoted(words: object, *secrets: str) -> str:
    """Return what the other side said as it may be shown: short, on one line, without secrets, numbers and keys."""
    text = _without(str(words), secrets)
    # Servers like to repeat the address that was called, the number that was told, or a key.
    text = re.sub(r"https?://\S+|[A-Za-z0-9+/=_-]{24,}|\+?[0-9]{7,}", _hidden, text)
    text = " ".join(re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", " ", text).split())
    return text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + "…"


def quoted_code(code: object, *secrets: str) -> str:
    """Return the code of an answer, which is never hidden, however long: it is what one looks up."""
    return _without(re.sub(r"[^A-Za-z0-9._-]", "", str(code)[:MOST_QUOTED]), secrets)[:MOST_CODE]


def _without(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text


def _hidden(found: re.Match[str]) -> str:
    # A key is letters and digits at random; words that are joined are the name of what is wrong.
    return found[0] if NAME.fullmatch(found[0]) else "…"
