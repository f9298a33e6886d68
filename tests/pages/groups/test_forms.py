"""Show that the form of a group takes the names people give, and says beside the field what it cannot take."""

import pytest
from flask import Flask
from werkzeug.exceptions import BadRequest

from contacts_app.pages.groups.forms import GroupForm, read_members


def submitted(app: Flask, **fields: str) -> GroupForm:
    """Return the form as it is after the console has checked what a person sent."""
    with app.test_request_context("/groups/new", method="POST", data=fields):
        form = GroupForm(meta={"csrf": False})
        form.validate()
        return form


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("Ops", "Ops"),
        ("  Ops 1 ", "Ops 1"),
        ("夜班", "夜班"),
        ("Zoë", "Zoë"),
        ("字" * 64, "字" * 64),
        ("🚒", "🚒"),
        ("\u200bOps\ufeff", "Ops"),
        ("Ｏｐｓ", "Ｏｐｓ"),
    ],
    ids=ascii,
)
def test_a_name_is_kept_trimmed_and_in_its_normal_form(app: Flask, typed: str, kept: str) -> None:
    form = submitted(app, name=typed)
    assert (form.errors, form.name.normal, form.name.data) == ({}, kept, typed)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", "Enter a name."),
        ("   ", "Enter a name."),
        ("x" * 65, "at most 64 are possible"),
        ("a\nb", "cannot be shown"),
        ("a\x00b", "cannot be shown"),
        ("a\u202eb", "cannot be shown"),
    ],
    ids=ascii,
)
def test_a_name_that_cannot_be_is_reported_beside_its_field(app: Flask, typed: str, expected: str) -> None:
    form = submitted(app, name=typed)
    assert list(form.errors) == ["name"]
    assert expected in form.errors["name"][0]


def test_picked_contacts_are_read_once_each_and_in_their_order() -> None:
    assert read_members([]) == []
    assert read_members(["7", "3", "7", "9" * 18]) == [7, 3, int("9" * 18)]


@pytest.mark.parametrize("bad", ["", "0", "-1", "07", "1.5", " 1", "1\n", "١", "1e3", "9" * 19, "None"], ids=ascii)
def test_a_picked_contact_that_is_no_number_is_refused(bad: str) -> None:
    with pytest.raises(BadRequest, match="Reload the page and pick again"):
        read_members(["1", bad])
