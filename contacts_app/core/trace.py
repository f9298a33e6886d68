"""Record when an alert passes its stations, for `make bench-delivery`: off unless TRACE_DELIVERY names a file."""

import os
import threading
import time

_path = os.environ.get("TRACE_DELIVERY")
_file = os.open(_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if _path else None


def mark(name: str, key: object = "") -> None:
    """Append a line: monotonic time, process, thread, station, key."""
    if _file is not None:
        os.write(_file, f"{time.monotonic():.6f},{os.getpid()},{threading.get_ident()},{name},{key}\n".encode())
