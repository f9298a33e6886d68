"""Show that contacts are found, sorted, paged and deleted as asked, and that no race breaks a rule."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import errors
from werkzeug.test import TestResponse

from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.pages.contacts.forms import read_query
from contacts_app.pages.contacts.listing import FIELDS, SORTS, Page, search
from contacts_app.web.arguments import PAGE_SIZE
from contacts_app.web.fields import clean_text as clean_text_of
from tests.conftest import Team, wait_for
from tests.pages.contacts.test_views import opened_form

repeatable = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
T = TypeVar("T")
# Characters that two forms, two cases or LIKE make special.
LETTERS = "aAbBéÉzｚＡａ１1①%_\\'\"*?[]() 　張三ßЖжアｱーｰ\u0301😀"
clean_text = partial(clean_text_of, most=64)
names = st.text(st.sampled_from(LETTERS), min_size=1, max_size=8).map(clean_text).filter(bool)


def listed(team: Team, **address: str) -> Page:
    """Return the page of the list that the address's query asks for."""
    with team.app.app_context(), all_accounts():
        return search(team.account_id, read_query(address))


def found(team: Team, text: str, field: str = "name") -> set[str]:
    return {row.name for row in listed(team, q=text, field=field).rows}


def add_numbered(team: Team, count: int, name: str = "'Ann ' || lpad(number::text, 4, '0')") -> list[int]:
    """Write contacts number 1 to `count` at once and return their ids."""
    rows = team.sql.execute(
        "INSERT INTO contacts (account_id, name, email)"
        f" SELECT %s, {name}, 'ann' || number || '@example.com'"
        " FROM generate_series(1, %s::int) AS number RETURNING id",
        [team.account_id, count],
    )
    return [row[0] for row in rows]


def normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


# Search


@pytest.mark.parametrize("text", ["Ann Lee", "ann lee", "ANN", "nn l", "Lee", "ＡＮＮ", "ａｎｎ　ｌｅｅ", " Ann ", "e"])
def test_a_name_is_found_by_any_part_in_any_case_and_width(team: Team, text: str) -> None:
    team.add("Ann Lee")
    team.add("Bob")
    assert found(team, text) == {"Ann Lee"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("張偉１２３", "偉12"),
        ("ＡＢＣ警報", "abc"),
        ("ｱﾗｰﾄ", "アラート"),
        ("アラート", "ｱﾗｰ"),
        ("Zo\u00eb", "zoe\u0308"),
        ("ÉMILE", "émi"),
        ("ЖЕНЯ", "жен"),
        ("Straße", "STRAßE"),
        ("Ann\u00a0Lee", "ann lee"),
    ],
)
def test_names_are_compared_in_one_form(team: Team, name: str, text: str) -> None:
    team.add(clean_text(name))
    team.add("Someone else")
    assert found(team, text) == {clean_text(name)}


@pytest.mark.parametrize(
    "text", ["%", "_", "\\", "100%", "a_b", "\\d", "%_\\", "'", "''", "--", "(", "[a-z]", ".*", "^a", "$"]
)
def test_no_character_of_a_search_is_special(team: Team, text: str) -> None:
    team.add("plain ab 100 d z")
    team.add(f"has {text} in it")
    assert found(team, text) == {f"has {text} in it"}


@repeatable
@given(all_names=st.lists(names, min_size=1, max_size=6), data=st.data())
def test_a_search_finds_exactly_the_names_that_contain_it(
    team: Team, all_names: list[str], data: st.DataObject
) -> None:
    of_name = data.draw(st.sampled_from(all_names))
    start = data.draw(st.integers(0, len(of_name) - 1))
    text = data.draw(st.just(of_name[start : data.draw(st.integers(start + 1, len(of_name)))]) | names)
    text = clean_text(data.draw(st.sampled_from([text, text.upper(), text.lower()])))
    assume(text)
    with team.app.app_context(), all_accounts():
        columns = [
            {"account_id": team.account_id, "name": name, "email": f"a{number}@example.com"}
            for number, name in enumerate(all_names)
        ]
        db.session.execute(sa.insert(Contact), columns)
        page = search(team.account_id, read_query({"q": text}))
        db.session.rollback()
    assert sorted(row.name for row in page.rows) == sorted(name for name in all_names if normal(text) in normal(name))
    assert page.total == len(page.rows)


@pytest.mark.parametrize("text", ["ann", "ANN", "Ann@Example.COM", "n@e", "@", ".com", "例子", "ann@example.com"])
def test_an_email_is_found_by_any_part_in_any_case(team: Team, text: str) -> None:
    team.add("Ann", email="ann@Example.com" if "例" not in text else "ann@例子.测试")
    team.add("Bob", mobile="+8613800138000")
    assert found(team, text, "email") == {"Ann"}


@pytest.mark.parametrize("text", ["%", "_", "ann_", "a%e", "\\", "ann example"])
def test_no_character_of_a_search_for_an_email_is_special(team: Team, text: str) -> None:
    team.add("Ann", email="annx@example.com")
    assert found(team, text, "email") == set()


@pytest.mark.parametrize(
    "text",
    [
        "0013 80",
        "+86 138",
        "138-0013",
        "0086 138",
        "0086138",
        "(0086) 138 0013",
        "138",
        "8000",
        "13800138000",
        "138 0013 8000",
        "+86-138-0013-8000",
        "(0086)13800138000",
        "+8613800138000",
        "86138",
        "１３８００",
        "+８６ １３８",
        "\u200b138\u00a00013",
        "00",
        "tel. 138",
    ],
    ids=ascii,
)
def test_a_number_is_found_by_its_digits_in_any_spelling(team: Team, text: str) -> None:
    team.add("Ann", mobile="+8613800138000")
    team.add("Bob", mobile="+12025550123")
    team.add("Cy")
    assert found(team, text, "mobile") == {"Ann"}


@pytest.mark.parametrize(
    "text", ["139", "0013 81", "+1 138", "0085 138", "138000138000", "8000138", "nobody", "+", "-", "%"]
)
def test_a_number_is_not_found_by_other_digits_or_none(team: Team, text: str) -> None:
    team.add("Ann", mobile="+8613800138000")
    assert found(team, text, "mobile") == set()


@repeatable
@given(digits=st.from_regex(r"\A1(38|39)[01]{8}\Z"), data=st.data())
def test_any_part_of_a_number_however_spaced_finds_it(team: Team, digits: str, data: st.DataObject) -> None:
    whole = "86" + digits
    start = data.draw(st.integers(0, len(whole) - 1))
    part = whole[start : data.draw(st.integers(start + 1, len(whole)))]
    gaps = data.draw(st.lists(st.sampled_from(["", "", " ", "-", ".", " (", ") "]), min_size=13, max_size=13))
    text = "".join(digit + gap for digit, gap in zip(part, gaps, strict=False))
    others = {f"+86138{number:08}" for number in (0, 1, 11, 101, 1_010_101, 10_011_001, 11_111_111)} - {f"+{whole}"}
    with team.app.app_context(), all_accounts():
        columns = [
            {"account_id": team.account_id, "name": mobile, "mobile": mobile} for mobile in {f"+{whole}", *others}
        ]
        db.session.execute(sa.insert(Contact), columns)
        names = {row.name for row in search(team.account_id, read_query({"q": text, "field": "mobile"})).rows}
        db.session.rollback()
    expected = {mobile for mobile in {f"+{whole}", *others} if part in mobile}
    assert names == expected if not re.match("00[1-9]", part) else names >= expected


def test_a_search_looks_in_its_field_only(team: Team) -> None:
    team.add("138", email="a@example.com")
    team.add("b@example.com", mobile="+8613800138000")
    assert found(team, "138", "name") == {"138"}
    assert found(team, "138", "mobile") == {"b@example.com"}
    assert found(team, "example", "name") == {"b@example.com"}
    assert found(team, "example", "email") == {"138"}


@pytest.mark.parametrize("field", FIELDS)
def test_a_search_without_a_text_finds_everything(team: Team, field: str) -> None:
    team.add("Ann")
    team.add("Bob", mobile="+8613800138000")
    assert found(team, "", field) == found(team, "  ", field) == {"Ann", "Bob"}


@pytest.mark.parametrize("field", FIELDS)
def test_a_search_stays_in_its_account(team: Team, other_team: Team, field: str) -> None:
    other_team.add("Ann 138", mobile="+8613800138000", email="ann138@example.com")
    assert found(team, "138", field) == found(team, "", field) == set()


# Order and pages


def test_names_are_sorted_whatever_their_case_and_width(team: Team) -> None:
    for name in ("bob", "Ｂob 2", "Ann", "Cy", "張三", "ann 2"):
        team.add(name)
    order = ["Ann", "ann 2", "bob", "Ｂob 2", "Cy", "張三"]
    assert [row.name for row in listed(team).rows] == order
    assert [row.name for row in listed(team, sort="-name").rows] == order[::-1]


def test_contacts_are_sorted_by_creation_and_by_change(team: Team) -> None:
    for name, created, changed in (("B", 1, 5), ("A", 2, 4), ("C", 3, 6)):
        stamps = {"created_at": f"2026-01-0{created}", "updated_at": f"2026-01-0{changed}"}
        team.add(name, **stamps)
    orders = {sort: "".join(row.name for row in listed(team, sort=sort).rows) for sort in SORTS}
    assert orders == {
        "name": "ABC",
        "-name": "CBA",
        "created": "BAC",
        "-created": "CAB",
        "changed": "ABC",
        "-changed": "CBA",
    }


def test_a_change_is_the_latest_change(team: Team) -> None:
    first, _ = team.add("A"), team.add("B")
    created = team.contact(first)["created_at"]
    answer = team.post(f"/contacts/{first}/edit", {"name": "A2", "mobile": "13800138000", "version": 1})
    assert answer.status_code == 303
    assert [row.name for row in listed(team, sort="-changed").rows] == ["A2", "B"]
    assert team.contact(first)["created_at"] == created < team.contact(first)["updated_at"]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_a_hundred_and_each_contact_once(new_team: Callable[..., Team], sort: str) -> None:
    team = new_team(quota=300)
    # One name and one time for all: the order must be settled between equals, too.
    ids = add_numbered(team, 205, name="'Ann'")
    pages = [listed(team, sort=sort, page=str(number)) for number in (1, 2, 3, 4)]
    assert [len(page.rows) for page in pages] == [PAGE_SIZE, PAGE_SIZE, 5, 0]
    assert [page.total for page in pages] == [205, 205, 205, 0]
    assert sorted(row.id for page in pages for row in page.rows) == sorted(ids)


def test_a_search_has_pages_of_its_own(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=300)
    add_numbered(team, 250)
    assert len(listed(team, q="Ann 01").rows) == 100
    assert [len(listed(team, q="Ann 0", page=str(number)).rows) for number in (1, 2, 3)] == [100, 100, 50]
    assert listed(team, q="Ann 02", page="1").total == 51


# Delete


def delete(team: Team, ids: Iterable[int]) -> Sequence[str]:
    with team.app.app_context(), all_accounts():
        names = Contact.delete(team.account_id, list(ids))
        db.session.commit()
        return names


def test_delete_returns_the_names_of_what_has_gone(team: Team) -> None:
    ann, bob, cy = (team.add(name) for name in ("Ann", "Bob", "Cy"))
    assert sorted(delete(team, [ann, cy])) == ["Ann", "Cy"]
    assert list(delete(team, [ann, bob])) == ["Bob"]
    assert list(delete(team, [ann, bob, cy])) == []
    assert team.contacts() == []


def test_delete_leaves_another_accounts_contacts(team: Team, other_team: Team) -> None:
    theirs = other_team.add("Bob")
    assert list(delete(team, [theirs])) == []
    assert other_team.contact(theirs)


def test_a_delete_that_is_not_committed_has_not_happened(team: Team) -> None:
    ids = [team.add(name) for name in ("Ann", "Bob")]
    with team.app.app_context(), all_accounts():
        assert len(Contact.delete(team.account_id, ids)) == 2
    assert len(team.contacts()) == 2


def test_deleting_frees_the_number_the_address_and_the_place(new_team: Callable[..., Team]) -> None:
    team = new_team(quota=1)
    first = team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    data = {"name": "Bob", "mobile": "138 0013 8000", "email": "ANN@example.com"}
    assert team.post("/contacts/new", data).status_code == 422
    delete(team, [first])
    assert team.post("/contacts/new", data).status_code == 303


# Races: each person has a client, a thread and a connection of their own, and what they do is committed.


def at_once(acts: Sequence[Callable[[], T]]) -> list[T]:
    """Start all acts at the same moment and return what they return, in their order."""
    barrier = Barrier(len(acts))

    def act(one: Callable[[], T]) -> T:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(act, acts))


def colleague(team: Team) -> Team:
    """Return the same team with a browser of its own."""
    client = team.app.test_client()
    client.set_cookie("console", team.cookie)
    return replace(team, client=client)


def pressing_ok(team: Team, path: str, **data: Any) -> Callable[[], TestResponse]:
    person = colleague(team)
    return lambda: person.post(path, data)


def statuses(answers: Iterable[TestResponse]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def usage(team: Team) -> int:
    return team.sql.execute("SELECT contact_count FROM accounts WHERE id = %s", [team.account_id]).fetchone()[0]


def test_twenty_people_at_95_of_100_end_at_exactly_100(team: Team) -> None:
    add_numbered(team, 95)
    answers = at_once(
        [pressing_ok(team, "/contacts/new", name=f"New {n}", mobile=f"138001380{n:02}") for n in range(20)]
    )
    assert statuses(answers) == [303] * 5 + [422] * 15
    assert usage(team) == len(team.contacts()) == 100
    for answer in answers:
        if answer.status_code == 422:
            assert "The account has as many contacts as it can have." in answer.text
    assert sum(contact["name"].startswith("New") for contact in team.contacts()) == 5


@pytest.mark.parametrize(
    ("field", "spellings", "expected"),
    [
        ("mobile", ["138 0013 8000", "+86-138-0013-8000", "(0086)13800138000"], "has this number already."),
        ("email", ["ann@example.com", "ANN@example.com", "Ann@EXAMPLE.com"], "has this mailbox already."),
    ],
)
def test_what_many_enter_at_once_is_saved_once(team: Team, field: str, spellings: list[str], expected: str) -> None:
    answers = at_once(
        [pressing_ok(team, "/contacts/new", **{"name": f"Ann {n}", field: spellings[n % 3]}) for n in range(12)]
    )
    assert statuses(answers) == [303] + [422] * 11
    (holder,) = team.contacts()
    for answer in answers:
        if answer.status_code == 422:
            assert expected in answer.text
            assert f'href="/contacts/{holder["id"]}/edit"' in answer.text
    assert usage(team) == 1


def test_what_many_change_to_the_same_number_at_once_is_saved_once(team: Team) -> None:
    ids = [team.add(f"Ann {n}") for n in range(8)]
    answers = at_once(
        [pressing_ok(team, f"/contacts/{i}/edit", name="Ann", mobile="13800138000", version=1) for i in ids]
    )
    assert statuses(answers) == [303] + [422] * 7
    assert [contact["mobile"] for contact in team.contacts()].count("+8613800138000") == 1


def test_the_same_number_in_two_accounts_at_once_is_no_clash(team: Team, other_team: Team) -> None:
    answers = at_once(
        [pressing_ok(each, "/contacts/new", name="Ann", mobile="13800138000") for each in (team, other_team)]
    )
    assert statuses(answers) == [303, 303]


def test_overlapping_deletes_together_delete_each_contact_once(team: Team) -> None:
    for _ in range(5):
        ids = add_numbered(team, 90)
        deletes = [ids[:60], ids[:29:-1], ids[10:80], ids[::-1][5:]]
        gone = at_once([partial(delete, team, part) for part in deletes])
        assert sorted(name for names in gone for name in names) == [f"Ann {number:04}" for number in range(1, 91)]
        assert usage(team) == len(team.contacts()) == 0


def test_what_two_people_delete_at_once_is_reported_to_both(team: Team) -> None:
    ids = add_numbered(team, 40)
    people = [pressing_ok(team, "/contacts/delete", id=part) for part in (ids[:30], ids[:9:-1])]
    assert statuses(at_once(people)) == [303, 303]
    shown = " ".join(re.findall(r"\d+ contacts have been deleted\. \d+ were gone", team.get("/contacts").text))
    assert usage(team) == len(team.contacts()) == 0, shown


def test_of_many_edits_at_once_one_is_saved_and_the_others_see_it(team: Team) -> None:
    contact = team.add("Ann", mobile="+8613800138000")
    path = f"/contacts/{contact}/edit"
    answers = at_once([pressing_ok(team, path, name=f"Ann {n}", mobile="13800138000", version=1) for n in range(8)])
    assert statuses(answers) == [303] + [409] * 7
    saved = team.contact(contact)
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 303)
    assert (saved["name"], saved["version"]) == (f"Ann {winner}", 2)
    for answer in answers:
        assert answer.status_code == 303 or f"Saved meanwhile: <strong>Ann {winner}</strong>" in answer.text


def test_of_edits_of_different_fields_at_once_all_are_saved(team: Team) -> None:
    for _ in range(5):
        contact = team.add("Ann", mobile="+8613800138000", email="ann@example.com")
        path = f"/contacts/{contact}/edit"
        form = opened_form(team, path)
        edits = ({"name": "Anna"}, {"mobile": "13800138001"}, {"email": ""}, {"receives_system_notifications": "y"})
        assert statuses(at_once([pressing_ok(team, path, **form | edit) for edit in edits])) == [303] * 4
        saved = team.contact(contact)
        assert (saved["name"], saved["mobile"], saved["email"], saved["version"]) == ("Anna", "+8613800138001", None, 5)
        assert saved["receives_system_notifications"]
        delete(team, [contact])


def test_an_edit_and_a_delete_at_once_are_both_answered(team: Team) -> None:
    for number in range(6):
        contact = team.add("Ann", mobile=f"+861380013800{number}")
        edit, gone = at_once(
            [
                pressing_ok(team, f"/contacts/{contact}/edit", name="Bob", mobile=f"1380013800{number}", version=1),
                pressing_ok(team, "/contacts/delete", id=contact),
            ]
        )
        assert gone.status_code == 303
        assert edit.status_code in (303, 404)
        assert team.contact(contact) is None
    assert usage(team) == 0


@pytest.mark.long
def test_whatever_a_team_does_at_once_the_count_is_right(team: Team) -> None:
    ids = add_numbered(team, 80)

    def work(number: int) -> list[int]:
        person = colleague(team)
        answers = []
        for step in range(5):
            mine = [ids[(number * 7 + step * 11 + offset) % 80] for offset in range(6)]
            new = {"name": f"New {number}", "email": f"new{step}@example.com"}
            edited = {"name": f"Ann {number}", "email": f"edited{mine[0]}@example.com", "version": 1}
            answers.append(person.post("/contacts/new", new))
            answers.append(person.post(f"/contacts/{mine[0]}/edit", edited))
            answers.append(person.post("/contacts/delete", {"id": mine[1:]}))
            answers.append(person.get("/contacts"))
        return [answer.status_code for answer in answers]

    done = at_once([partial(work, number) for number in range(8)])
    assert {status for each in done for status in each} <= {200, 303, 404, 409, 422}
    assert usage(team) == len(team.contacts())


def test_two_people_who_swap_numbers_crosswise_are_both_answered(team: Team, database_url: str) -> None:
    ann, bob = team.add("Ann", mobile="+8613800138000"), team.add("Bob", mobile="+8613800138001")
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as threads:
        other.execute("UPDATE contacts SET mobile = '+8613800138002' WHERE id = %s", [bob])
        data = {"name": "Ann", "mobile": "13800138001", "version": 1}
        answer = threads.submit(pressing_ok(team, f"/contacts/{ann}/edit", **data))
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND transactionid IS NOT NULL"
        wait_for(lambda: team.sql.execute(waiting).fetchone(), what="the console to wait for the other")
        # Now each waits for the other, and PostgreSQL ends one of the two.
        try:
            other.execute("UPDATE contacts SET name = 'Anna' WHERE id = %s", [ann])
            other.commit()
        except errors.DeadlockDetected:
            other.rollback()
        status = answer.result().status_code
    assert status in (303, 409, 422)
    assert (team.contact(ann)["mobile"] == "+8613800138001") == (status == 303)


def test_a_contact_that_is_deleted_right_after_it_was_saved_was_saved(team: Team) -> None:
    contact = team.add("Ann")

    def delete_it(session: Any) -> None:
        team.sql.execute("DELETE FROM contacts WHERE id = %s", [contact])

    with team.app.app_context(), all_accounts():
        sa.event.listen(db.session, "after_commit", delete_it)
    try:
        answer = team.post(f"/contacts/{contact}/edit", {"name": "Bob", "mobile": "13800138000", "version": 1})
    finally:
        sa.event.remove(db.session, "after_commit", delete_it)
    assert answer.status_code == 303
