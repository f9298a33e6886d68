"""Generate the text of a test, which is the most demanding that an alert can have."""

from collections.abc import Iterator
from itertools import count

from .models import MAX_TEXT

TITLE = "Only a test “测试”"


def text(address: str | None) -> str:
    """Return a text of the maximum length, with everything that a provider or server might refuse.

    It begins with a link to `address`, so that even the shortest text message contains one where links are allowed.
    """
    link = f"{address or 'https://www.example.com'}/contacts?q=a&show=all"
    text = ""
    for line in _lines(link):
        if len(text) + len(line) > MAX_TEXT:
            return text
        text += line
    return text


def _lines(link: str) -> Iterator[str]:
    yield f"{link}\n"
    yield "Nothing is wrong: “someone” tries out whether alerts reach you. 没有故障 🔥 @all\n"
    yield "It is as long as the longest alert, so that what passes now passes later: ‘quotes’, <b>tags</b> & [x](y),\n"
    yield f"*markup* _of_ `any` ~kind~ | # > \\ {{0}} %s ${{content}} – … € ™, and a long word: {'x' * 250}\n"
    for number in count(1):
        yield f"{number}. 磁盘快满了 – “/var” on db{number}.example.com: 97 % used, since 2026-03-01 12:00:00 UTC\n"
