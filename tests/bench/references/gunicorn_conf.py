"""Serve a reference as contacts_app/gunicorn_conf.py serves the console, with nothing of the console in memory."""

import gc
import os
from typing import Any

bind = f"127.0.0.1:{os.environ['PORT']}"
workers = int(os.environ["WORKERS"])
threads = int(os.environ["THREADS"])
worker_class = "gthread"
preload_app = True
no_control_socket = True
accesslog = "-"
access_log_format = "%(t)s %(m)s %(U)s %(s)s %(B)s bytes %(M)s ms"
loglevel = "warning"
graceful_timeout = 20


def post_worker_init(worker: Any) -> None:
    """Keep the collector from walking over what was loaded and never goes away."""
    gc.freeze()
    gc.set_threshold(50_000)
