"""Show that groups are created and changed as asked, and that what cannot be is raised by its name."""

import pytest

from contacts_app.core.changes import Conflict, Refused
from contacts_app.core.db import all_accounts, db
from contacts_app.groups.editing import create, update
from contacts_app.groups.models import Group
from tests.conftest import Team
from tests.pages.groups.test_views import add_group, groups


def test_a_group_is_created_and_changed_without_a_request(team: Team, other_team: Team) -> None:
    ann, bob, stranger = team.add("Ann"), team.add("Bob"), other_team.add("Cy")
    with team.app.app_context(), all_accounts():
        group = create(team.account_id, "Ops", [ann, stranger])
        identity, version = group.id, group.version
        db.session.commit()
        assert groups(team) == {"Ops": {ann}}
        update(Group.of(team.account_id, identity), version, "Night", [bob])
        db.session.commit()
    assert groups(team) == {"Night": {bob}}


@pytest.mark.parametrize("version", [None, 0, 2])
def test_a_group_that_is_at_another_version_is_not_changed(team: Team, version: int | None) -> None:
    ann = team.add("Ann")
    identity = add_group(team, "Ops", ann)
    with team.app.app_context(), all_accounts():
        with pytest.raises(Conflict):
            update(Group.of(team.account_id, identity), version, "Night", [])
        db.session.commit()
    assert groups(team) == {"Ops": {ann}}


@pytest.mark.parametrize("name", ["Ops", "Night"])
@pytest.mark.parametrize("theirs", ["UPDATE groups SET version = 2 WHERE id = %s", "DELETE FROM groups WHERE id = %s"])
def test_a_group_that_somebody_changes_or_deletes_after_it_was_read_is_a_conflict(
    team: Team, theirs: str, name: str
) -> None:
    identity = add_group(team, "Ops")
    with team.app.app_context(), all_accounts():
        group = Group.of(team.account_id, identity)
        team.sql.execute(theirs, [identity])
        with pytest.raises(Conflict):
            update(group, 1, name, [team.add("Ann")])
    assert groups(team) == ({"Ops": set()} if "UPDATE" in theirs else {})


@pytest.mark.parametrize(("name", "code"), [("OPS", "group_name_is_unique"), (" Night", "group_name_is_clean")])
def test_what_the_schema_refuses_names_its_field_and_its_constraint(team: Team, name: str, code: str) -> None:
    add_group(team, "Ops")
    night = add_group(team, "Night")
    with team.app.app_context(), all_accounts():
        with pytest.raises(Refused) as caught:
            create(team.account_id, name, [])
        assert (caught.value.field, caught.value.code) == ("name", code)
        db.session.rollback()
        with pytest.raises(Refused) as caught:
            update(Group.of(team.account_id, night), 1, name, [])
        assert (caught.value.field, caught.value.code) == ("name", code)
    assert groups(team) == {"Ops": set(), "Night": set()}
