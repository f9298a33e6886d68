"""Show that what became of a delivery is stored as codes, and read as sentences whoever has written it."""

import json
import re

import pytest

from contacts_app.delivery.answers import MAX_STORED, SENTENCES, answer, dump, sentence, words

HOSTILE = [
    '"' * 1000,
    "\\" * 1000,
    "\0" * 1000,
    "\n" * 1000,
    "字" * 1000,
    "🔥" * 1000,
    '","code":"quoted' * 50,
    "%(x)s %",
]


def test_an_answer_is_stored_as_its_code_and_parameters_and_shown_as_a_sentence() -> None:
    stored = dump(answer("quoted", text="Twilio took the text."))
    assert stored == '{"code":"quoted","text":"Twilio took the text."}'
    assert sentence(stored) == words(answer("quoted", text="Twilio took the text.")) == "Twilio took the text."


def test_answers_that_are_added_are_shown_one_after_the_other() -> None:
    both = answer("quoted", text="It failed.") + answer("quoted", text="It is given up.")
    assert json.loads(dump(both)) == [
        {"code": "quoted", "text": "It failed."},
        {"code": "quoted", "text": "It is given up."},
    ]
    assert sentence(dump(both)) == words(both) == "It failed. It is given up."


@pytest.mark.parametrize(
    "stored",
    [
        "The mailbox is full.",  # an earlier version, or a worker of it
        '{"code":"of.a.later.version","said":"550"}',
        '{"code":"quoted"}',
        '{"code":["quoted"],"text":"x"}',
        '{"said":"550"}',
        '["quoted"]',
        "[[]]",
        "null",
        "550",
        '"550"',
        "{",
        "",
    ],
)
def test_what_is_no_known_code_is_quoted(stored: str) -> None:
    assert sentence(stored) == stored


def test_nothing_stored_is_nothing_shown() -> None:
    assert sentence(None) == ""


@pytest.mark.parametrize("said", HOSTILE, ids=ascii)
@pytest.mark.parametrize("count", [1, 4])
def test_what_is_stored_is_short_and_json_whatever_the_other_side_said(said: str, count: int) -> None:
    stored = dump(answer("quoted", text=said) * count)
    assert len(stored) <= MAX_STORED
    found = json.loads(stored)
    for one in found if count > 1 else [found]:
        assert (one["code"], one["text"].removesuffix("…")) == ("quoted", said[: len(one["text"].removesuffix("…"))])
        assert one["text"] == said or len(stored) > MAX_STORED - 60 * count, "no more is cut than has to be"
    assert sentence(stored)


def parameters(code: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)s", SENTENCES[code]))


@pytest.mark.parametrize("code", SENTENCES)
def test_each_sentence_takes_its_parameters_and_keeps_short_whatever_they_are(code: str) -> None:
    plain = answer(code, **dict.fromkeys(parameters(code), "7"))
    assert words(plain) == re.sub(r"%\(\w+\)s", "7", SENTENCES[code])
    assert sentence(dump(plain)) == words(plain)
    long = answer(code, **dict.fromkeys(parameters(code), "\0" * 600))
    assert len(dump(long * 4)) <= MAX_STORED
    assert sentence(dump(long * 4)).startswith(SENTENCES[code].partition("%(")[0])
