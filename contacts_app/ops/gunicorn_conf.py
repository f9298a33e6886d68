"""Configure gunicorn: `gunicorn --config python:contacts_app.ops.gunicorn_conf wsgi:app`."""

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
from .serve import warn_about_role

_settings = load(os.environ)


class logger_class(Logger):  # type: ignore[misc] # gunicorn's name for it; gunicorn has no types
    """Log paths percent-encoded, because a decoded line break would allow log injection."""

    def atoms(self, *arguments: Any) -> dict[str, Any]:
        """Return the fields of a line of the access log."""
        atoms: dict[str, Any] = super().atoms(*arguments)
        return atoms | {"U": quote(atoms["U"], encoding="latin-1")}


class worker_class(FrontWorker):
    """Reject requests that do not reach the app with a sentence and the console's security headers."""

    proxies = _settings.proxy_count

    def refusal(self, status: int, path: str) -> bytes:
        """Return the complete response, as JSON below the API and as plain text elsewhere."""
        sentence = ". ".join(BUSY) if status == 503 else TEXTS[status][1]
        is_program = is_api_path(path)
        body = (json.dumps({"error": sentence}) if is_program else sentence).encode() + b"\n"
        fields = {
            "Connection": "close",
            "Content-Type": "application/json" if is_program else "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
        }
        if status == 503:
            fields["Retry-After"] = str(RETRY_SECONDS)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (fields | headers(_settings.https)).items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
workers = _settings.workers
threads = _settings.threads
# Load the app once before the fork; core/db.py gives each worker its own connections.
preload_app = True
no_control_socket = True
# Only PROXY_COUNT decides which proxies are trusted for the client address.
forwarded_allow_ips = ""
# The path without its query, because searches and tokens must not be logged.
accesslog = "-"
access_log_format = "%(t)s %(m)s %(U)s %(s)s %(B)s bytes %(M)s ms"
loglevel = "warning"
graceful_timeout = 20


def on_starting(server: Any) -> None:
    """Refuse to start with an unsuitable database, and run the embedded one as long as the server."""
    try:
        with server.app.wsgi().app_context(), suppress(psycopg.OperationalError):  # it may come up later
            if _settings.database_url is None:
                embedded.ensure(_settings.data_dir)
            check_server()
            warn_about_role()
    except StartError as error:
        print(f"alert-contacts: {error}", file=sys.stderr)
        sys.exit(4)


def post_worker_init(worker: Any) -> None:
    """Exclude the objects loaded at start from garbage collection, because they live as long as the worker."""
    gc.freeze()
    gc.set_threshold(50_000)
