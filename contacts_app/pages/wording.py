"""Texts that several pages share."""

from collections.abc import Sequence

from ..delivery.answers import sentence
from ..delivery.limits import LIMIT_OF_TESTS

NAMES_SHOWN = 10  # in a confirmation for several rows
CONTACT_GONE = "This contact does not exist, or somebody has deleted it meanwhile."
GROUP_GONE = "This group does not exist, or somebody has deleted it meanwhile."


def too_many_tests(wait: int) -> str:
    """Return the sentence for a test that may be sent again in `wait` seconds."""
    return f"{sentence(LIMIT_OF_TESTS)} Try again in {wait} second{'' if wait == 1 else 's'}."


def saved_message(name: str, is_new: bool) -> str:
    """Return the message that a contact or group has been saved."""
    return f"{name} has been created." if is_new else f"{name} has been saved."


def deletion_message(names: Sequence[str], asked: int, several: str) -> str:
    """Return the message how many of the `asked` rows were deleted and how many had been deleted by others.

    `several` is the sentence for more or less than one, with a place for `count`.
    """
    deleted = f"{names[0]} has been deleted." if len(names) == 1 else several.format(count=len(names))
    gone = asked - len(names)
    if not gone:
        return deleted
    were_gone = "1 was gone already." if gone == 1 else f"{gone} were gone already."
    return f"{deleted} {were_gone}" if names else f"Nothing to delete: {were_gone}"
