"""Show that each code that is stored has a sentence, with just the parameters that are given with it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import contacts_app
from contacts_app.delivery import answers
from contacts_app.intake import sentences

TABLES = [answers.SENTENCES, sentences.SENTENCES]
SENTENCES = answers.SENTENCES | sentences.SENTENCES
MODULES = sorted(Path(contacts_app.__file__).parent.rglob("*.py"))
CODE = re.compile(rf"(?:{'|'.join({code.partition('.')[0] for code in SENTENCES if '.' in code})})\.[a-z_0-9]+")


def has_parameters(code: str, *given: set[str]) -> bool:
    """Return whether the code has a sentence, which takes one of the sets of parameters."""
    return code in SENTENCES and set(re.findall(r"%\((\w+)\)s", SENTENCES[code])) in given


def pattern(code: ast.JoinedStr) -> str:
    """Return a regular expression of what an f-string can become."""
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z]+" for part in code.values)


def used(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the codes in the text of a module, and whether each has a sentence with the parameters that are given.

    A code that stands elsewhere than in a call is for a call with a variable.
    """
    tree, inside, variable = ast.parse(text), set[int](), list[set[str]]()
    names = {"answer", "Refused"} if "self.answer = answer(" in text or "intake.formats" in text else {"answer"}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
            code, given = call.args[0], {keyword.arg or "**" for keyword in call.keywords}
            if isinstance(code, ast.Constant):
                inside.add(id(code))
                yield str(code.value), has_parameters(str(code.value), given)
            elif isinstance(code, ast.JoinedStr):
                inside.update(map(id, code.values))
                found = [name for name in SENTENCES if re.fullmatch(pattern(code), name)]
                yield from ((name, has_parameters(name, given)) for name in found or [pattern(code)])
            else:
                variable.append(given)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in inside and CODE.fullmatch(str(node.value)):
            yield str(node.value), has_parameters(str(node.value), *variable)


def used_anywhere() -> Iterator[tuple[str, bool]]:
    for path in MODULES:
        if path.name not in ("answers.py", "sentences.py"):
            yield from used(path.read_text())


def test_each_code_has_a_sentence_with_just_the_parameters_that_are_given() -> None:
    assert [code for code, is_right in used_anywhere() if not is_right] == []


def test_each_sentence_is_used() -> None:
    # Rows of earlier versions are migrated to the one that quotes.
    assert set(SENTENCES) - {code for code, _ in used_anywhere()} == {"quoted"}


def test_no_code_has_two_sentences() -> None:
    assert len(SENTENCES) == sum(map(len, TABLES))


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
        'answer(f"field.{wanted}_was_{found}", field="x")',
        'answer(f"field.{wanted}_is_{found}")',
    ],
)
def test_a_code_without_its_sentence_or_parameters_is_found(text: str) -> None:
    assert not all(is_right for _, is_right in used(text))
