"""Put the system notifications into words: when they are sent, and from their codes when they are shown."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..config import current_settings
from ..core.times import shown
from ..delivery.answers import sentence
from ..delivery.channels.registry import label_of

# As in delivery/answers.py: whole lines, of which only names, numbers, times and other sentences are parameters.
SENTENCES = {
    "notice.failing": "A channel of the team has begun to fail",
    "notice.failing_several": "%(count)s channels of the team fail",
    "notice.working": "A channel of the team works again",
    "notice.working_several": "%(count)s channels of the team work again",
    "notice.quota": "The contact quota is nearly used up",
    "notice.group": "A contact group has no reachable members",
    "notice.group_several": "%(count)s contact groups have no reachable members",
    "notice.channel_fails": "%(name)s: %(channel)s, since %(since)s: %(why)s",
    "notice.channel_works": "%(name)s: %(channel)s",
    "notice.contacts": "The account has %(count)s of %(quota)s contacts.",
    "notice.nobody_reachable": "%(name)s: none of its members can be reached",
    "notice.nobody": "%(name)s: it has no members",
    "notice.more": "and %(count)s more",
    "notice.still_failing": "Still failing:",
    "notice.no_other_fails": "No other channel fails.",
}
Line = Mapping[str, Any]  # a code with its parameters, as it is stored in the column `codes` of a notification


def words(line: Line) -> str:
    """Return the line in words; raise what an unknown code or a missing parameter raises."""
    values = dict(line)
    if "channel" in line:
        values["channel"] = label_of(line["channel"])
    if "since" in line:
        since = datetime.fromisoformat(line["since"]).astimezone(current_settings().timezone)
        values["since"] = shown(since, "%Y-%m-%d %H:%M")
    if "why" in line:
        values["why"] = sentence(line["why"])
    return SENTENCES[line["code"]] % values


def in_words(lines: Sequence[Line] | None, sent: str) -> str:
    """Return the lines in words, or as they were sent if they have no codes of this version."""
    try:
        return "\n".join(map(words, lines)) if lines else sent
    except (ValueError, TypeError, KeyError):
        return sent
