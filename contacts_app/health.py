"""Tell whoever balances the load whether this console can do its work."""

import sqlalchemy as sa
from flask import Blueprint
from flask.typing import ResponseReturnValue

from .accounts.views import public
from .config import StartError
from .db import db

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@public
def healthz() -> ResponseReturnValue:
    """Answer 200 with the database reachable and 503 without."""
    try:
        db.session.execute(sa.text("SELECT 1"))
    except (sa.exc.SQLAlchemyError, StartError):  # the embedded one does not start
        return "unavailable\n", 503, {"Content-Type": "text/plain"}
    return "ok\n", 200, {"Content-Type": "text/plain"}
