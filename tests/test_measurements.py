"""Write what was measured into a document of two parts, and read it again."""

import re
import sys
from pathlib import Path

import pytest

from tests.bench.document import Finding, stamp, write, write_findings

DOCUMENT = """# Two parts

<!-- bench:begin one -->
old
<!-- bench:end one -->

Between.

<!-- chaos:begin two -->
<!-- chaos:end two -->
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT)
    return path


def test_what_stands_between_the_marks_is_replaced(document: Path) -> None:
    for text in ("first", "| a | \\1 |"):
        write("one", text, document)
        head, empty, shown, *rest = document.read_text().partition("begin one -->\n")[2].splitlines()
        command = rf"`python .*{re.escape(Path(sys.orig_argv[-1]).name)}\S*`"
        assert re.fullmatch(
            rf"{stamp()[:10]} \d\d:\d\d UTC, .+, \d+ cores \(.+\), \d+ GiB, Python \S+: {command}", head
        )
        assert (empty, shown) == ("", text)
        assert "\n".join(rest) + "\n" == DOCUMENT.partition("old\n")[2]


@pytest.mark.parametrize("name", ["three", "on", ".*"])
def test_a_part_that_is_not_there_is_an_error(document: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has no part"):
        write(name, "text", document)
    with pytest.raises(ValueError, match="has no part"):
        write_findings([Finding(name, "tests/test_a.py::test_a", "a", "b")], document)
    assert document.read_text() == DOCUMENT


def test_a_part_that_is_there_twice_is_an_error(document: Path) -> None:
    document.write_text(2 * DOCUMENT)
    with pytest.raises(ValueError, match="or several"):
        write("one", "text", document)


def test_a_test_replaces_its_own_rows_only(document: Path) -> None:
    def rows() -> list[tuple[str, str]]:
        return re.findall(r"^\| ([^|]+) \| (.*) \| \d{4}-.* cores \| `\S+` \|$", document.read_text(), re.MULTILINE)

    b, a = "tests/test_b.py::test_b[1-x]", "tests/test_a.py::test_a"
    write_findings(
        [Finding("two", b, "b", "1"), Finding("two", b, "again", "2"), Finding("two", a, "a", "3")], document
    )
    assert rows() == [("a", "3"), ("b", "1"), ("again", "2")]
    write_findings([Finding("two", b, "b", "x|y\nz")], document)
    assert rows() == [("a", "3"), ("b", "x\\|y z")]
    write_findings([], document)
    assert rows() == [("a", "3"), ("b", "x\\|y z")]
    assert "\nold\n" in document.read_text()
