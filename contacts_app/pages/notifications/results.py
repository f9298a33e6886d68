"""Build the template context for the delivery results of a notification."""

from typing import Any

import sqlalchemy as sa

from ...core.db import db
from ...delivery.channels.registry import KINDS
from ...delivery.models import Notification, WorkerHeartbeat
from ...reach.reachability import NO_WORKER
from .listing import DELIVERY_STATES, deliveries_of, pages_of


def result_of(notification: Notification, state: str = "all", page: int = 1) -> dict[str, Any]:
    """Return the template context for the result of a test and for the deliveries of a notification."""
    # Read before the deliveries: if none is pending here, all deliveries read later are final.
    counts = notification.counts()
    pages = pages_of(counts, state)
    page = min(page, max(pages, 1))  # a page may have become empty since the link was shown
    return {
        "notification": notification,
        "state": state,
        "states": {name: words for name, (words, _) in DELIVERY_STATES.items()},
        "page": page,
        "pages": pages,
        "deliveries": deliveries_of(notification, state, page),
        "counts": counts,
        "is_waiting": counts["queued"] + counts["sending"] > 0,
        "kinds": KINDS,
        "no_worker": no_worker(),
    }


def no_worker() -> str:
    """Return the warning that no worker is running, or an empty string if one is."""
    return "" if db.session.scalar(sa.select(WorkerHeartbeat.is_one_alive())) else NO_WORKER
