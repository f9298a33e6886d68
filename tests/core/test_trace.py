import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

MARKED = "from contacts_app.core.trace import mark; mark('made', 7)"


@pytest.mark.long
def test_a_mark_is_a_line_of_the_file_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    begin = time.monotonic()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", MARKED], env=os.environ | {"TRACE_DELIVERY": str(path)}, check=True)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert [line[3:] for line in lines] == 2 * [["made", "7"]]
    assert begin < float(lines[0][0]) < float(lines[1][0]) < time.monotonic()


def test_without_a_name_nothing_is_written() -> None:
    subprocess.run([sys.executable, "-c", f"import os; os.write = None; {MARKED}"], check=True)
