"""Say what became of a delivery: stored as codes with parameters, and turned into sentences when it is shown."""

import json
from collections.abc import Mapping
from typing import NamedTuple

MOST = 500  # characters of what is stored
# Each entry is one sentence, or several that belong together. Only what the other side said, names, numbers and times
# are parameters.
SENTENCES = {
    "quoted": "%(text)s",
}
Parameters = tuple[tuple[str, str | int], ...]


class Answer(NamedTuple):
    """A code of SENTENCES with its parameters, none of which holds a secret."""

    code: str
    parameters: Parameters


Answers = tuple[Answer, ...]


def answer(code: str, /, **parameters: str | int) -> Answers:
    """Return one answer; several are added, and shown one after the other."""
    return (Answer(code, tuple(parameters.items())),)


def dump(answers: Answers) -> str:
    """Return the answers as they are stored: JSON of at most MOST characters, for which long texts are shortened."""
    stored = ""
    for most in range(MOST, -1, -10):
        found = [{"code": one.code, **_shortened(one.parameters, most)} for one in answers]
        plain = found if len(found) > 1 else found[0]
        # Sorted and without spaces, because equal answers are recognised by their text.
        stored = json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if len(stored) <= MOST:
            break
    return stored


def words(answers: Answers, sentences: Mapping[str, str] = SENTENCES) -> str:
    """Return the answers as sentences."""
    return " ".join(sentences[one.code] % dict(one.parameters) for one in answers)


def sentence(stored: str | None, sentences: Mapping[str, str] = SENTENCES) -> str:
    """Return the sentences of what `dump` stored; anything else is quoted, such as rows of earlier versions."""
    if stored is None:
        return ""
    try:
        found = json.loads(stored)
        return " ".join(sentences[one["code"]] % one for one in (found if isinstance(found, list) else [found]))
    except (ValueError, TypeError, KeyError):
        return stored


def _shortened(parameters: Parameters, most: int) -> dict[str, str | int]:
    return {
        name: f"{value[:most]}…" if isinstance(value, str) and len(value) > most else value
        for name, value in parameters
    }
