"""Tell the server whose request it is, so that it can share its threads among the accounts."""

from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import ServiceUnavailable

from .errors import RETRY_SECONDS

ACCOUNT = "console.account"  # where the app finds, in the environment, a function to tell whose request it is


def note_account(environ: Mapping[str, Any], account_id: int) -> None:
    """Tell the server, if it asks for that, whose the request is; as early as the app knows it.

    Raise ServiceUnavailable where the account has all its threads, which nobody could know when this one was given: the
    server does not send that answer, but asks again when it is the account's turn.
    """
    if ACCOUNT in environ and not environ[ACCOUNT](account_id):
        raise ServiceUnavailable(retry_after=RETRY_SECONDS)
