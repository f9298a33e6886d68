"""Create accounts and users, and set passwords."""

import sys
from collections.abc import Callable

import click
import sqlalchemy as sa

from ..accounts.credentials import check_password, clean_account, known_email
from ..accounts.models import Account, User
from ..config import current_settings
from ..core.db import db
from ..ops import serve
from ..web.fields import clean_email
from .errors import plainly


def _cleaned(clean: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, str], str]:
    def callback(context: click.Context, parameter: click.Parameter, value: str) -> str:
        try:
            cleaned = clean(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        return cleaned

    return callback


account_option = click.option(
    "--account", "account_name", required=True, callback=_cleaned(clean_account), help="The account's name."
)
email_option = click.option("--email", required=True, callback=_cleaned(clean_email), help="The user's e-mail address.")
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)


def _password(from_stdin: bool) -> str:
    value = (
        sys.stdin.readline().rstrip("\r\n")
        if from_stdin
        else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    )
    try:
        check_password(value)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return str(value)


def _account(name: str) -> Account:
    account: Account | None = db.session.scalar(sa.select(Account).where(Account.name == name))
    if account is None:
        raise click.UsageError(f"There is no account named {name!r}.")
    return account


@click.command("create-account")
@account_option
@email_option
@password_option
@plainly
def create_account(account_name: str, email: str, password_stdin: bool) -> None:
    """Create an account and its first user."""
    password = _password(password_stdin)
    serve.prepare()
    Account.create(account_name, current_settings().contact_quota).add_user(email, password)
    db.session.commit()
    click.echo(f"Created the account {account_name} with the user {email}.")


@click.command("create-user")
@account_option
@email_option
@password_option
@plainly
def create_user(account_name: str, email: str, password_stdin: bool) -> None:
    """Create a user in an account that exists."""
    password = _password(password_stdin)
    serve.prepare()
    _account(account_name).add_user(email, password)
    db.session.commit()
    click.echo(f"Created the user {email} in the account {account_name}.")


@click.command("set-password")
@click.option("--email", required=True, callback=_cleaned(known_email), help="The user's e-mail address.")
@password_option
@plainly
def set_password(email: str, password_stdin: bool) -> None:
    """Set a user's password, which ends all their sessions."""
    password = _password(password_stdin)
    serve.prepare()
    user = User.by_email(email)
    if user is None:
        raise click.UsageError(f"There is no user with the address {email}.")
    user.set_password(password)
    user.end_sessions()
    db.session.commit()
    click.echo(f"Set the password of {email}.")
