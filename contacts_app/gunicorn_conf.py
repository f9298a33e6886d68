"""Set up gunicorn: `gunicorn --config python:contacts_app.gunicorn_conf wsgi:app`."""

import gc
import os
from typing import Any
from urllib.parse import quote

from gunicorn.glogging import Logger

from . import embedded
from .config import load

_settings = load(os.environ)


class logger_class(Logger):  # type: ignore[misc] # gunicorn's name for it; gunicorn has no types
    """Log paths as they were sent: a decoded line break would let a visitor write lines of their own."""

    def atoms(self, *arguments: Any) -> dict[str, Any]:
        """Return what a line of the log is made of."""
        atoms: dict[str, Any] = super().atoms(*arguments)
        return atoms | {"U": quote(atoms["U"], encoding="latin-1")}


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = "gthread"
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
    """Have the embedded database run for as long as the server, not only while a worker lives."""
    if _settings.database_url is None:
        embedded.ensure(_settings.data_dir)


def post_worker_init(worker: Any) -> None:
    """Keep the collector from walking over what was loaded and never goes away."""
    gc.freeze()
    gc.set_threshold(50_000)
