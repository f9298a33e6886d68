"""Create integrations."""

from collections.abc import Mapping

from ..contacts.editing import NAME_IS_NOT_CLEAN
from ..core.changes import Refusal, translate
from ..core.db import db
from .models import Integration

REFUSALS: Mapping[str, Refusal] = {"integration_name_is_clean": NAME_IS_NOT_CLEAN}  # by the name of the constraint


def create(account_id: int, group_id: int, name: str) -> tuple[Integration, str]:
    """Add an integration to a group; return it and its token. Raise Refused if a constraint is violated."""
    integration = Integration(account_id=account_id, group_id=group_id, name=name)
    token = integration.renew_token()
    with translate(REFUSALS):
        db.session.add(integration)
        db.session.flush()
    return integration, token
