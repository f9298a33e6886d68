"""Show what has become of a notification's messages."""

from typing import Any

import sqlalchemy as sa

from ...core.db import db
from ...delivery.channels.registry import kind_of
from ...delivery.models import Notification, WorkerHeartbeat
from ...reach.reachability import NO_WORKER
from .listing import deliveries_of, pages_of


def result_of(alert: Notification, state: str = "all", page: int = 1) -> dict[str, Any]:
    """Return what the templates of a test's result and of an alert's deliveries need."""
    counts = alert.counts()  # before the messages: when none waits any more, all of them are at their end
    pages = pages_of(counts, state)
    page = min(page, max(pages, 1))  # the last page may have lost its last message
    return {
        "alert": alert,
        "state": state,
        "page": page,
        "pages": pages,
        "deliveries": deliveries_of(alert, state, page),
        "counts": counts,
        "is_waiting": counts["queued"] + counts["sending"] > 0,
        "kind_of": kind_of,
        "no_worker": no_worker(),
    }


def no_worker() -> str:
    """Return what to say while no worker delivers; empty while one does."""
    return "" if db.session.scalar(sa.select(WorkerHeartbeat.is_one_alive())) else NO_WORKER
