"""Show that integrations are created as asked, and that what cannot be is raised by its name."""

import pytest

from contacts_app.core.changes import Refused
from contacts_app.core.db import all_accounts, db
from contacts_app.core.encryption import digest
from contacts_app.intake.editing import REFUSALS, create
from tests.conftest import Team
from tests.pages.groups.test_views import add_group


def test_an_integration_is_created_without_a_request_and_its_token_is_not_stored(team: Team) -> None:
    group = add_group(team, "Ops")
    with team.app.app_context(), all_accounts():
        integration, token = create(team.account_id, group, "Grafana")
        assert integration.id
        db.session.commit()
    rows = team.sql.execute(
        "SELECT group_id, name, token_hash FROM integrations WHERE account_id = %s", [team.account_id]
    ).fetchall()
    assert rows == [(group, "Grafana", digest(token))]


def test_what_the_schema_refuses_names_its_field_and_its_constraint(team: Team) -> None:
    group = add_group(team, "Ops")
    assert list(REFUSALS) == ["integration_name_is_clean"]
    with team.app.app_context(), all_accounts():
        with pytest.raises(Refused) as caught:
            create(team.account_id, group, " Grafana")
        assert (caught.value.field, caught.value.code) == ("name", "integration_name_is_clean")
        db.session.rollback()
    assert team.sql.execute("SELECT 1 FROM integrations WHERE account_id = %s", [team.account_id]).fetchall() == []
