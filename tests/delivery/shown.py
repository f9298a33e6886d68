"""Read the outcome of an attempt as people do."""

from typing import NamedTuple

from contacts_app.delivery.answers import MAX_STORED, dump, sentence
from contacts_app.delivery.channels import Outcome


class Shown(NamedTuple):
    """An outcome with the sentence of its answer."""

    state: str
    answer: str
    wait: float | None
    is_uncertain: bool
    text_state: str
    posts: int


def shown(outcome: Outcome) -> Shown:
    """Return the outcome with the sentence of what is stored of its answer."""
    stored = dump(outcome.answer)
    assert len(stored) <= MAX_STORED
    assert sentence(stored) not in ("", stored), "each code has a sentence"
    state, _, wait, is_uncertain, text_state, posts = outcome
    return Shown(state, sentence(stored), wait, is_uncertain, text_state, posts)
