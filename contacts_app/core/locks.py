"""Open private files, and lock them with a timeout."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

import psutil

from ..config import StartError

TIMEOUT = 60.0  # seconds; starting a PostgreSQL server and replaying its write-ahead log rarely takes longer


def open_private(path: Path) -> IO[bytes]:
    """Open a file for appending that only its owner can open; create it if it does not exist."""
    file = open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 # the caller closes it
    if os.fstat(file.fileno()).st_mode & 0o077:  # created by an earlier version
        os.fchmod(file.fileno(), 0o600)
    return file


def hold(file: IO[bytes], kind: int = fcntl.LOCK_EX, timeout: float | None = None) -> None:
    """Lock `file` until it is closed; after `timeout` seconds raise StartError that names the process that holds it."""
    deadline = time.monotonic() + (TIMEOUT if timeout is None else timeout)
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StartError(f"{file.name} is locked by {_holder(file)}. Wait until it ends, or end it.") from None
        time.sleep(0.02)


def _holder(file: IO[bytes]) -> str:
    """Return a description of the process that holds the lock; /proc/locks does not list those of other containers."""
    found = os.fstat(file.fileno())
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            _, kind, _, _, pid, place, *_ = line.replace("-> ", "").split()
            if kind == "FLOCK" and place == inode and "->" not in line:
                process = psutil.Process(int(pid))
                return f"the process {pid} ({process.name()}) of the user {process.username()}"
    except (OSError, ValueError, psutil.Error):
        pass
    return "another process"
