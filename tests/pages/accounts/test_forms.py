"""Show that the forms of set-up, log-on and password say what they need, beside the field that lacks it."""

from typing import Any

import pytest
from flask import Flask
from flask_wtf import FlaskForm

from contacts_app.accounts.credentials import check_password
from contacts_app.pages.accounts.forms import LogonForm, PasswordForm, SetupForm

GOOD_SETUP = {"account": "Operations", "email": "ann@example.com", "password": "correct horse"}


def errors(app: Flask, form: type[FlaskForm], values: dict[str, Any]) -> dict[str, list[str]]:
    """Return what `form` says of `values`, by field."""
    with app.test_request_context("/", method="POST", data=values):
        filled = form(meta={"csrf": False})
        filled.validate()
        return {name: list(map(str, messages)) for name, messages in filled.errors.items()}


@pytest.mark.parametrize(
    "password", ["a" * 12, "correct horse", "            ", "密码密码密码密码密码密码", "x" * 1024]
)
def test_a_password_needs_length_and_nothing_else(password: str) -> None:
    check_password(password)


@pytest.mark.parametrize("password", ["", "a" * 11, "密码密码密码"])
def test_a_short_password_is_refused_with_the_length_it_needs(password: str) -> None:
    with pytest.raises(ValueError, match="at least 12 characters"):
        check_password(password)


def test_a_password_too_long_is_not_called_too_short() -> None:
    with pytest.raises(ValueError, match="at most 1,024 are possible"):
        check_password("x" * 1025)


@pytest.mark.parametrize("character", ["\0", "\n", "\x7f", "\x9f", "\ud800"])
def test_a_password_with_a_control_character_is_refused(character: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        check_password("correct horse" + character)


def test_a_whole_set_up_form_is_accepted(app: Flask) -> None:
    assert errors(app, SetupForm, GOOD_SETUP) == {}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("account", "", "Enter a name for the account."),
        ("account", " \u200b ", "1 to 64 characters"),
        ("account", "x" * 65, "This has 65 characters; at most 64 are possible."),
        ("account", "a\0b", "cannot be shown"),
        ("email", "", "Enter your e-mail address."),
        ("email", "ann", "not a complete e-mail address"),
        ("email", "ann@", "not a complete e-mail address"),
        ("email", "ann@" + "a" * 250 + ".com", "at most 253 characters after the @; this mailbox has 254."),
        ("password", "short", "at least 12 characters"),
    ],
)
def test_a_bad_set_up_is_explained_beside_its_field(app: Flask, field: str, value: str, message: str) -> None:
    found = errors(app, SetupForm, GOOD_SETUP | {field: value})
    assert list(found) == [field]
    assert message in " ".join(found[field])


@pytest.mark.parametrize("account", ["O", "x" * 64, "  Operations  ", "运维", "DBA & Söhne"])
def test_an_account_may_have_any_name_of_1_to_64_characters(app: Flask, account: str) -> None:
    assert errors(app, SetupForm, GOOD_SETUP | {"account": account}) == {}


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  Ann@EXAMPLE.com ", "Ann@example.com"),
        ("ann@münchen.example", "ann@münchen.example"),
        ("ann@example.com",) * 2,
    ],
)
def test_an_email_is_taken_in_its_normal_form(app: Flask, typed: str, kept: str) -> None:
    with app.test_request_context("/", method="POST", data={"email": typed, "password": "x"}):
        form = LogonForm(meta={"csrf": False})
        assert form.validate(), form.errors
        assert form.email.normal == kept


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"email": "", "password": "x"}, "email", "Enter your e-mail address."),
        ({"email": "ann@example.com", "password": ""}, "password", "Enter your password."),
        ({"email": "ann", "password": "x"}, "email", "not a complete e-mail address"),
    ],
)
def test_a_log_on_needs_both_fields(app: Flask, values: dict[str, str], field: str, message: str) -> None:
    found = errors(app, LogonForm, values)
    assert list(found) == [field]
    assert message in found[field][0]


def test_a_log_on_does_not_say_what_passwords_look_like(app: Flask) -> None:
    assert errors(app, LogonForm, {"email": "ann@example.com", "password": "short"}) == {}


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        ({"current": ""}, "current", "Enter your current password."),
        ({"new": "short", "again": "short"}, "new", "at least 12 characters"),
        ({"again": "something else"}, "again", "not the same"),
    ],
)
def test_a_bad_change_of_password_is_explained_beside_its_field(
    app: Flask, values: dict[str, str], field: str, message: str
) -> None:
    good = {"current": "x", "new": "a better password", "again": "a better password"}
    assert errors(app, PasswordForm, good) == {}
    found = errors(app, PasswordForm, good | values)
    assert list(found) == [field]
    assert message in found[field][0]
