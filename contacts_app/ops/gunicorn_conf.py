"""Set up gunicorn: `gunicorn --config python:contacts_app.ops.gunicorn_conf wsgi:app`."""

import gc
import json
import os
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import psycopg
from gunicorn.glogging import Logger

from ..config import StartError, load
from ..core.db import check_server
from ..web.errors import BUSY, RETRY_SECONDS, TEXTS
from ..web.machines import is_api_path
from ..web.security import headers
from . import embedded
from .front import FrontWorker
from .serve import tell_of_role

_settings = load(os.environ)


class logger_class(Logger):  # type: ignore[misc] # gunicorn's name for it; gunicorn has no types
    """Log paths as they were sent: a decoded line break would let a visitor write lines of their own."""

    def atoms(self, *arguments: Any) -> dict[str, Any]:
        """Return what a line of the log is made of."""
        atoms: dict[str, Any] = super().atoms(*arguments)
        return atoms | {"U": quote(atoms["U"], encoding="latin-1")}


class worker_class(FrontWorker):
    """Refuse what never reaches the app with a sentence and the console's headers."""

    proxies = _settings.proxy_count

    def refusal(self, status: int, path: str) -> bytes:
        """Return the whole answer, in the shape that whoever asks at `path` reads."""
        sentence = ". ".join(BUSY) if status == 503 else TEXTS[status][1]
        is_program = is_api_path(path)
        body = (json.dumps({"error": sentence}) if is_program else sentence).encode() + b"\n"
        told = {
            "Connection": "close",
            "Content-Type": "application/json" if is_program else "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
        }
        if status == 503:
            told["Retry-After"] = str(RETRY_SECONDS)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (told | headers(_settings.https)).items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.workers
threads = _settings.threads
# Loaded once before the fork; db.py gives every worker connections of its own.
preload_app = True
no_control_socket = True
# Whom to believe about the visitor's address is PROXY_COUNT's to say.
forwarded_allow_ips = ""
# The path without its query: searches and tokens are not for the log.
accesslog = "-"
access_log_format = "%(t)s %(m)s %(U)s %(s)s %(B)s bytes %(M)s ms"
loglevel = "warning"
graceful_timeout = 20


def on_starting(server: Any) -> None:
    """Refuse a database that cannot be worked with, and have the embedded one run as long as the server."""
    try:
        with server.app.wsgi().app_context(), suppress(psycopg.OperationalError):  # one that is away may come
            if _settings.database_url is None:
                embedded.ensure(_settings.data_dir)
            check_server()
            tell_of_role()
    except StartError as error:
        print(f"alert-contacts: {error}", file=sys.stderr)
        sys.exit(4)


def post_worker_init(worker: Any) -> None:
    """Keep the collector from walking over what was loaded and never goes away."""
    gc.freeze()
    gc.set_threshold(50_000)
