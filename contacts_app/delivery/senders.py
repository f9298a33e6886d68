"""Send one claimed message over its channel."""

import logging
import traceback
from collections.abc import Callable
from functools import partial

from ..core.trace import mark
from .answers import answer
from .attempts import GONE, Claimed, Result
from .channels import Outcome
from .channels.kinds import Message, Senders
from .channels.registry import kind_by_contact

logger = logging.getLogger("contacts_app")


def attempt(channel: str, claimed: Claimed, senders: Senders) -> Result:
    """Send one message to a contact and return the result; fail without an address or a configured channel."""
    kind = kind_by_contact(channel)
    address = claimed.addresses[channel]
    shown = address and kind.shown(address, claimed.account_id, claimed.contact_id)
    if address is None:
        outcome = Outcome("failed", kind.no_address if claimed.exists else GONE)
    elif why := kind.not_set_up(senders.settings):
        outcome = Outcome("failed", why)
        address = None  # because the failure is not about the address
    else:
        outcome = guarded(partial(kind.send, senders, address, _message(claimed)))
        mark("sent", channel)
    return Result(claimed=claimed, channel=channel, outcome=outcome, address=shown, used=address)


def _message(claimed: Claimed) -> Message:
    """Return the message of the claim; a retry has the same id."""
    if claimed.others:
        return Message(claimed.content, f"digest-{claimed.message}")
    thread = f"{claimed.account_id}-{claimed.integration_id}-{claimed.key}" if claimed.key else None
    return Message(claimed.content, f"alert-{claimed.account_id}-{claimed.alert_id}-{claimed.contact_id}", thread)


def guarded(send: Callable[[], Outcome]) -> Outcome:
    """Call `send`, and turn an unexpected exception into an outcome that is retried, so that the thread survives."""
    try:
        return send()
    except Exception as error:
        # Log the traceback without the message of the error, which may contain an address.
        logger.error("sending failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Outcome("later", answer("delivery.console_failed", error=type(error).__name__))
