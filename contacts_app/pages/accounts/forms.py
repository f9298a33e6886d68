"""Ask who comes in, and say what a password may be."""

from functools import partial

from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import EqualTo, InputRequired, ValidationError

from ...accounts.models import LONGEST_PASSWORD
from ...web.fields import UNREADABLE, EmailField, NormalField, check_length, clean_email, clean_text

SHORTEST_PASSWORD = 12
known_email = partial(clean_email, is_new=False)
clean_account = partial(clean_text, most=64, what="The name of an account")


def check_password(value: str) -> None:
    """Raise ValueError with a sentence if `value` is no password to choose."""
    check_length(value, LONGEST_PASSWORD, "A password")
    if UNREADABLE.search(value):
        raise ValueError("A password cannot contain control characters.")
    if len(value) < SHORTEST_PASSWORD:
        raise ValueError(f"A password has at least {SHORTEST_PASSWORD} characters; a few words are a good one.")


class NewPasswordField(PasswordField):
    """A password that somebody chooses."""

    def pre_validate(self, form: object) -> None:
        """Require what a password needs."""
        try:
            check_password(self.data or "")
        except ValueError as error:
            raise ValidationError(str(error)) from None


class LogonForm(FlaskForm):
    """The log-on page."""

    email = EmailField("E-mail", known_email, validators=[InputRequired("Enter your e-mail address.")])
    password = PasswordField("Password", validators=[InputRequired("Enter your password.")])


class SetupForm(FlaskForm):
    """The page that the one-time set-up link opens."""

    account = NormalField("Account", clean_account, validators=[InputRequired("Enter a name for the account.")])
    email = EmailField("E-mail", validators=[InputRequired("Enter your e-mail address.")])
    password = NewPasswordField("Password")

    def validate_account(self, field: NormalField) -> None:
        """Require a character beside spaces."""
        if not field.normal:
            raise ValidationError("The name of an account has 1 to 64 characters.")


class PasswordForm(FlaskForm):
    """The page that changes one's password."""

    current = PasswordField("Current password", validators=[InputRequired("Enter your current password.")])
    new = NewPasswordField("New password")
    again = PasswordField("New password again", validators=[EqualTo("new", "The two new passwords are not the same.")])
