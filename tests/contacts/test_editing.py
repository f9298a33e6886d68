"""Show that contacts are created and changed as asked, and that what cannot be is raised by its name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from contacts_app.contacts.editing import REFUSALS, create, update
from contacts_app.contacts.models import Contact
from contacts_app.core.changes import Conflict, Refused
from contacts_app.core.db import all_accounts, db
from contacts_app.groups.editing import REFUSALS as GROUP_REFUSALS
from tests.conftest import ROBOT, Team


@contextmanager
def editing(team: Team) -> Iterator[None]:
    """Work as the console does, without a request, and commit at the end."""
    with team.app.app_context(), all_accounts():
        yield
        db.session.commit()


def test_a_contact_is_created_and_changed_without_a_request(team: Team) -> None:
    values = {
        "name": "Ann",
        "mobile": "+8613800138000",
        "dingtalk_url": f"{ROBOT}abc",
        "dingtalk_secret": "SEC12345678",
    }
    with editing(team):
        contact = create(team.account_id, values)
        identity = contact.id
    assert team.contact(identity).items() >= (values | {"version": 1}).items()
    with editing(team):
        update(Contact.of(team.account_id, identity), 1, {"name": "Anna", "dingtalk_secret": None})
    changed = {"name": "Anna", "dingtalk_secret": None, "version": 2}
    assert team.contact(identity).items() >= (values | changed).items()


@pytest.mark.parametrize("version", [None, 0, 2])
def test_a_contact_that_is_at_another_version_is_not_changed(team: Team, version: int | None) -> None:
    identity = team.add("Ann")
    with editing(team), pytest.raises(Conflict):
        update(Contact.of(team.account_id, identity), version, {"name": "Anna"})
    assert team.contact(identity)["name"] == "Ann"


@pytest.mark.parametrize(
    "theirs", ["UPDATE contacts SET version = 2 WHERE id = %s", "DELETE FROM contacts WHERE id = %s"]
)
def test_a_contact_that_somebody_changes_or_deletes_after_it_was_read_is_a_conflict(team: Team, theirs: str) -> None:
    identity = team.add("Ann")
    with team.app.app_context(), all_accounts():
        contact = Contact.of(team.account_id, identity)
        team.sql.execute(theirs, [identity])
        with pytest.raises(Conflict):
            update(contact, 1, {"name": "Anna"})
    assert [contact["name"] for contact in team.contacts()] == (["Ann"] if "UPDATE" in theirs else [])


@pytest.mark.parametrize(
    ("values", "field", "code"),
    [
        ({"mobile": "+8613800138000"}, "mobile", "contact_mobile_is_unique"),
        ({"email": "ANN@example.com"}, "email", "contact_email_is_unique"),
        ({"email": None}, "mobile", "contact_has_a_channel"),
        ({"dingtalk_keyword": "alert"}, "dingtalk_url", "contact_robot_is_whole"),
        ({"name": " Bob "}, "name", "contact_name_is_clean"),
    ],
)
def test_what_the_schema_refuses_names_its_field_and_its_constraint(
    team: Team, values: dict[str, Any], field: str, code: str
) -> None:
    team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    good = {"name": "Bob", "email": "bob@example.com"}
    bob = team.add(**good)
    with team.app.app_context(), all_accounts():
        with pytest.raises(Refused) as caught:
            create(team.account_id, {"name": "Cy", "email": "cy@example.com"} | values)
        assert (caught.value.field, caught.value.code) == (field, code)
        assert caught.value.message == REFUSALS[code].message
        db.session.rollback()
        with pytest.raises(Refused) as caught:
            update(Contact.of(team.account_id, bob), 1, good | values)
        assert (caught.value.field, caught.value.code) == (field, code)
    assert [contact["name"] for contact in team.contacts()] == ["Ann", "Bob"]


def test_a_full_account_refuses_a_contact_and_blames_no_field(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=1)
    team.add("Ann")
    with team.app.app_context(), all_accounts(), pytest.raises(Refused) as caught:
        create(team.account_id, {"name": "Bob", "email": "bob@example.com"})
    assert (caught.value.field, caught.value.code) == (None, "account_is_within_quota")


def test_a_constraint_that_no_person_can_violate_stays_an_error_of_the_database(team: Team) -> None:
    with team.app.app_context(), all_accounts(), pytest.raises(sa.exc.IntegrityError, match="contact_mobile_is_e164"):
        create(team.account_id, {"name": "Ann", "mobile": "123"})
    assert team.contacts() == []


def test_what_is_refused_is_a_constraint_of_the_schema(team: Team) -> None:
    query = "SELECT conname FROM pg_constraint UNION SELECT indexname FROM pg_indexes"
    names = {name for (name,) in team.sql.execute(query)}
    assert {*REFUSALS, *GROUP_REFUSALS} <= names
