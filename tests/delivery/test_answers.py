"""Show that what became of a delivery is stored as codes, and read as sentences whoever has written it."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import contacts_app
from contacts_app.delivery.answers import MAX_STORED, SENTENCES, answer, dump, sentence, words

MODULES = sorted(Path(contacts_app.__file__).parent.rglob("*.py"))
CODE = re.compile(rf"(?:{'|'.join({code.partition('.')[0] for code in SENTENCES if '.' in code})})\.[a-z_0-9]+")

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


def used(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the codes in the text of a module, and whether each has a sentence with the parameters that are given.

    A code that stands elsewhere than in a call of `answer` is for a call with a variable.
    """
    tree, inside, variable = ast.parse(text), set[int](), list[set[str]]()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "answer":
            code, names = call.args[0], {keyword.arg or "**" for keyword in call.keywords}
            if isinstance(code, ast.Constant):
                inside.add(id(code))
                yield str(code.value), code.value in SENTENCES and parameters(str(code.value)) == names
            else:
                variable.append(names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in inside and CODE.fullmatch(str(node.value)):
            yield str(node.value), node.value in SENTENCES and parameters(str(node.value)) in variable


def used_anywhere() -> Iterator[tuple[str, bool]]:
    for path in MODULES:
        if path.name != "answers.py":
            yield from used(path.read_text())


def test_each_code_has_a_sentence_with_just_the_parameters_that_are_given() -> None:
    assert [code for code, is_right in used_anywhere() if not is_right] == []


def test_each_sentence_is_used() -> None:
    # Rows of earlier versions are migrated to the first.
    assert set(SENTENCES) - {code for code, _ in used_anywhere()} == {"quoted"}


@pytest.mark.parametrize("code", SENTENCES)
def test_each_sentence_takes_its_parameters_and_keeps_short_whatever_they_are(code: str) -> None:
    plain = answer(code, **dict.fromkeys(parameters(code), "7"))
    assert words(plain) == re.sub(r"%\(\w+\)s", "7", SENTENCES[code])
    assert sentence(dump(plain)) == words(plain)
    long = answer(code, **dict.fromkeys(parameters(code), "\0" * 600))
    assert len(dump(long * 4)) <= MAX_STORED
    assert sentence(dump(long * 4)).startswith(SENTENCES[code].partition("%(")[0])


@pytest.mark.parametrize(
    "text",
    [
        'answer("sms.not_set_down")',
        'answer("twilio.refused")',
        'answer("twilio.refused", said="x", status=1)',
        'answer("twilio.refused", **found)',
        'FAILED = {1: "twilio.trail"}\nanswer(FAILED[1], error=1)',
        'FAILED = {1: "twilio.trial"}\nanswer(FAILED[1], status=1)',
        'FAILED = {1: "twilio.trial"}',
    ],
)
def test_a_code_without_its_sentence_or_parameters_is_found(text: str) -> None:
    assert not all(is_right for _, is_right in used(text))
