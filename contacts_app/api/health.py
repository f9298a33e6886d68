"""Answer the health checks of load balancers."""

import logging

import psycopg
import sqlalchemy as sa
from flask import Blueprint
from flask.typing import ResponseReturnValue

from .. import migrations
from ..accounts.permissions import public
from ..config import StartError, current_settings
from ..core.db import db
from ..core.postgres import required_settings, unmet_settings

blueprint = Blueprint("health", __name__)
logger = logging.getLogger("contacts_app")


@blueprint.get("/healthz")
@public
def healthz() -> ResponseReturnValue:
    """Answer 200 if the database works as the pages need it, else 503."""
    try:
        reason = _reason()
    except (
        sa.exc.SQLAlchemyError,
        psycopg.Error,
        StartError,
    ) as error:  # StartError: the embedded server does not start
        reason = str(error) if isinstance(error, StartError) else type(error).__name__
    if reason is None:
        return "ok\n", 200, {"Content-Type": "text/plain"}
    logger.error("Not healthy: %s", reason)
    return "unavailable\n", 503, {"Content-Type": "text/plain"}


def _reason() -> str | None:
    """Return why the pages cannot work although the database answers; None if they can."""
    revision = db.session.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if revision is None or revision < migrations.newest():  # a newer one is normal during a rolling upgrade
        return "the schema is older than the console; run migrate."
    raw = db.session.connection().connection.dbapi_connection
    assert isinstance(raw, psycopg.Connection)
    if unmet := unmet_settings(raw, required_settings(current_settings().database_url)):
        return f"the session has lost its settings, as with transaction pooling: {', '.join(unmet)}."
    return None
