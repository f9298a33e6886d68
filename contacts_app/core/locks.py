"""Lock files that only their owner can open, and wait for nobody's lock without end."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

import psutil

from ..config import StartError

PATIENCE = 60.0  # seconds: to start a server anew, and to replay its log, takes less in most cases


def open_private(path: Path) -> IO[bytes]:
    """Open a file, made when there is none, that nobody else can open from now on."""
    file = open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 # whoever asked closes it
    if os.fstat(file.fileno()).st_mode & 0o077:  # as earlier versions made it
        os.fchmod(file.fileno(), 0o600)
    return file


def hold(file: IO[bytes], kind: int = fcntl.LOCK_EX, patience: float | None = None) -> None:
    """Lock `file` until it is closed; raise StartError that says who has it after `patience` seconds."""
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StartError(f"{file.name} is locked by {_holder(file)}. Wait for its end or end it.") from None
        time.sleep(0.02)


def _holder(file: IO[bytes]) -> str:
    """Return which process has the lock, as far as the system tells: one of another container it does not."""
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
