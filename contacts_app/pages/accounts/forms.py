"""Forms for set-up, log-on and passwords."""

from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import EqualTo, InputRequired, ValidationError

from ...accounts.credentials import NO_ACCOUNT_NAME, SHORTEST_PASSWORD, check_password, clean_account, known_email
from ...web.fields import EmailField, NormalField


class NewPasswordField(PasswordField):
    """A new password."""

    hint = f"At least {SHORTEST_PASSWORD} characters."

    def pre_validate(self, form: object) -> None:
        """Require that the new password meets the password policy."""
        try:
            check_password(self.data or "")
        except ValueError as error:
            raise ValidationError(str(error)) from None


class LogonForm(FlaskForm):
    """The log-on page."""

    email = EmailField("E-mail", known_email, validators=[InputRequired("Enter your e-mail address.")])
    password = PasswordField("Password", validators=[InputRequired("Enter your password.")])


class SetupForm(FlaskForm):
    """The set-up page behind the one-time link."""

    account = NormalField("Account", clean_account, validators=[InputRequired("Enter a name for the account.")])
    email = EmailField("E-mail", validators=[InputRequired("Enter your e-mail address.")])
    password = NewPasswordField("Password")

    def validate_account(self, field: NormalField) -> None:
        """Require a character other than spaces."""
        if not field.normal:
            raise ValidationError(NO_ACCOUNT_NAME)


class PasswordForm(FlaskForm):
    """The page that changes the user's own password."""

    current = PasswordField("Current password", validators=[InputRequired("Enter your current password.")])
    new = NewPasswordField("New password")
    again = PasswordField("New password again", validators=[EqualTo("new", "The two new passwords are not the same.")])
