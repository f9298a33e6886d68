"""Serve a reference as contacts_app/ops/gunicorn_conf.py serves the console, with nothing of the console in memory."""

import gc
import os
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker


class worker_class(ThreadWorker):  # gunicorn's name for it
    """Leave the next connection to another worker, as the console's does."""

    def accept(self, listener: Any) -> None:
        """Take a connection and wait a moment."""
        super().accept(listener)
        time.sleep(0.0005)


bind = f"127.0.0.1:{os.environ['PORT']}"
workers = int(os.environ["WORKERS"])
threads = int(os.environ["THREADS"])
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
