"""Report the expected errors of commands in one line."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import sqlalchemy as sa

from ..config import StartError
from ..core.db import all_accounts, violated_constraint

P = ParamSpec("P")
R = TypeVar("R")
TAKEN = {
    "account_name_is_unique": "--account: there is an account of this name already.",
    "user_email_is_unique": "--email: there is a user with this address already.",
    "contact_email_is_an_address": "a mailbox is longer than mail servers take. Shorten it in the console first.",
}


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Run a command with access to all accounts, and exit with one line instead of a traceback on expected errors."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with all_accounts():
                return command(*args, **kwargs)
        except StartError as error:
            sys.exit(f"alert-contacts: {error}")
        except sa.exc.IntegrityError as error:
            sentence = TAKEN.get(violated_constraint(error) or "")
            if sentence is None:
                raise
            sys.exit(f"alert-contacts: {sentence}")
        except sa.exc.OperationalError as error:
            sys.exit(f"alert-contacts: the database cannot be used: {str(error.orig).splitlines()[0]}")

    return run
