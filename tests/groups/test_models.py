"""Show that groups keep their members right while several people, and a delete, are at work at once."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from werkzeug.test import TestResponse

from contacts_app.core.db import all_accounts, db
from contacts_app.groups.models import Group, groups_of, left_by
from contacts_app.pages.contacts.listing import Query, search
from tests.conftest import Team, wait_for
from tests.contacts.test_models import add_numbered, at_once, pressing_ok, statuses
from tests.pages.groups.test_views import add_group, groups, opened_form


@contextmanager
def in_the_way(team: Team, url: str, statement: str, *values: Any) -> Iterator[Callable[..., Future[TestResponse]]]:
    """Run `statement` and commit it only when the console, at the work that is begun inside, waits for it."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as threads:
        other.execute(statement, values)
        yield lambda *request: threads.submit(team.post, *request)
        wait_for(
            lambda: team.sql.execute(waiting, [other.info.backend_pid]).fetchone(), what="the console to be in the way"
        )
        other.commit()


@pytest.mark.parametrize("way", ["new", "edit", "assign"])
def test_a_contact_that_is_deleted_while_it_is_added_is_left_out(team: Team, database_url: str, way: str) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops")
    path, data = {
        "new": ("/groups/new", {"name": "Night", "member": [ann, bob]}),
        "edit": (f"/groups/{group}/edit", {"name": "Night", "version": 1, "member": [ann, bob]}),
        "assign": ("/groups/assign", {"id": [ann, bob], "group": group, "action": "add"}),
    }[way]
    with in_the_way(team, database_url, "DELETE FROM contacts WHERE id = %s", ann) as post:
        answer = post(path, data)
    assert answer.result().status_code == 303
    assert groups(team)["Ops" if way == "assign" else "Night"] == {bob}


def test_the_second_of_two_edits_at_once_is_shown_the_first(team: Team, database_url: str) -> None:
    ann = team.add("Ann")
    group = add_group(team, "Ops")
    first = "UPDATE groups SET name = 'First', version = version + 1 WHERE id = %s"
    with in_the_way(team, database_url, first, group) as post:
        answer = post(f"/groups/{group}/edit", {"name": "Second", "version": 1, "member": ann})
    assert answer.result().status_code == 409
    assert "Saved meanwhile: <strong>First</strong>" in answer.result().text
    assert "its members are <strong>nobody</strong>" in answer.result().text
    assert groups(team) == {"First": set()}


def test_of_people_who_put_others_into_a_group_at_once_all_are_heard(team: Team) -> None:
    ids = add_numbered(team, 5)
    group = add_group(team, "Ops", ids[0])
    path = f"/groups/{group}/edit"
    form = opened_form(team, path)
    edits = [pressing_ok(team, path, **form | {"member": [ids[0], added]}) for added in ids[1:]]
    assert statuses(at_once(edits)) == [303] * 4
    assert groups(team) == {"Ops": set(ids)}


@pytest.mark.parametrize("action", ["add", "remove"])
def test_contacts_are_assigned_although_somebody_saves_the_group_meanwhile(
    team: Team, database_url: str, action: str
) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", *([ann, bob] if action == "remove" else [bob]))
    first = "UPDATE groups SET name = 'First', version = version + 1 WHERE id = %s"
    with in_the_way(team, database_url, first, group) as post:
        answer = post("/groups/assign", {"id": ann, "group": group, "action": action})
    assert answer.result().status_code == 303
    assert groups(team) == {"First": {ann, bob} if action == "add" else {bob}}


@pytest.mark.parametrize("way", ["edit", "assign"])
def test_a_group_that_is_deleted_while_it_is_changed_is_not_found(team: Team, database_url: str, way: str) -> None:
    ann = team.add("Ann")
    group = add_group(team, "Ops")
    path = "/groups/assign" if way == "assign" else f"/groups/{group}/edit"
    data = {"name": "Night", "version": 1, "member": ann, "id": ann, "group": group, "action": "add"}
    with in_the_way(team, database_url, "DELETE FROM groups WHERE id = %s", group) as post:
        answer = post(path, data)
    assert answer.result().status_code == 404
    assert groups(team) == {}


def test_two_groups_of_one_name_at_once_are_reported_beside_the_field(team: Team, database_url: str) -> None:
    first = "INSERT INTO groups (account_id, name) VALUES (%s, 'OPS')"
    with in_the_way(team, database_url, first, team.account_id) as post:
        answer = post("/groups/new", {"name": "Ops"})
    assert answer.result().status_code == 422
    assert "There is a group of this name already." in answer.result().text
    assert groups(team) == {"OPS": set()}


def test_an_edit_waits_for_a_delete_of_contacts_before_it_takes_what_the_delete_needs(
    team: Team, database_url: str
) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    group = add_group(team, "Ops", ann, bob)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as threads:
        other.execute("SELECT 1 FROM contacts WHERE id = %s FOR UPDATE", [bob])
        answer = threads.submit(team.post, f"/groups/{group}/edit", {"name": "Ops", "version": 1, "member": bob})
        wait_for(lambda: team.sql.execute(waiting, [other.info.backend_pid]).fetchone(), what="the edit to wait")
        other.execute("DELETE FROM contacts WHERE id = ANY(%s)", [[ann, bob]])
        other.commit()
    assert answer.result().status_code == 303
    assert groups(team) == {"Ops": set()}


def test_groups_are_found_by_contact_and_only_of_the_account(team: Team, other_team: Team) -> None:
    ann, bob, cid = team.add("Ann"), team.add("Bob"), team.add("Cid")
    pair, alone = add_group(team, "pair", ann, bob), add_group(team, "Alone", ann)
    with team.app.app_context(), all_accounts():
        assert [tuple(group) for group in groups_of(team.account_id, ann)] == [(alone, "Alone"), (pair, "pair")]
        assert groups_of(team.account_id, cid) == groups_of(other_team.account_id, ann) == []
        rows = search(team.account_id, Query()).rows
        listed = {row.id: json.loads(row.groups) if row.groups else [] for row in rows}
        assert listed == {ann: [[alone, "Alone"], [pair, "pair"]], bob: [[pair, "pair"]], cid: []}
        assert list(left_by(team.account_id, [ann])) == [("Alone", True), ("pair", False)]
        assert list(left_by(team.account_id, [ann, bob])) == [("Alone", True), ("pair", True)]
        assert list(left_by(team.account_id, [cid])) == []
        assert list(left_by(other_team.account_id, [ann])) == []


def test_members_are_counted_once_and_stand_in_the_order_of_the_list(team: Team) -> None:
    ids = [team.add(name) for name in ("bob", "Ann", "ｃid")]
    group = add_group(team, "Ops", *ids[:2])
    with team.app.app_context(), all_accounts():
        found = Group.of(team.account_id, group)
        assert (found.add_members(ids), found.remove_members(ids[:1])) == (1, 1)
        assert [name for _, name in found.members()] == ["Ann", "ｃid"]
        version = found.version
        assert (found.remove_members(ids[:1]), found.add_members(ids[1:])) == (0, 0)
        assert found.version == version, "who edits the group meanwhile need not look again"
        db.session.rollback()
    assert groups(team) == {"Ops": set(ids[:2])}


def test_a_group_takes_more_ids_than_a_statement_takes_parameters(team: Team) -> None:
    ann, bob = team.add("Ann"), team.add("Bob")
    number = add_group(team, "Ops", bob)
    with team.app.app_context(), all_accounts():
        group = Group.of(team.account_id, number)
        group.set_members({ann, *range(2**40, 2**40 + 70_000)})
        db.session.commit()
    assert groups(team) == {"Ops": {ann}}
