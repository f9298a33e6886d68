"""Report the account of a request to the server, which shares its threads fairly among the accounts."""

from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import ServiceUnavailable

from .errors import RETRY_SECONDS

ACCOUNT = "console.account"  # the key in the WSGI environment of the server's function that takes the account


def note_account(environ: Mapping[str, Any], account_id: int) -> None:
    """Report the account of a request to the server, if it wants to know, as soon as the app knows it.

    Raise ServiceUnavailable if the account uses all its threads already, which the server could not know when it gave
    this one away. The server does not send that answer: it queues the request until it is the account's turn.
    """
    if ACCOUNT in environ and not environ[ACCOUNT](account_id):
        raise ServiceUnavailable(retry_after=RETRY_SECONDS)
