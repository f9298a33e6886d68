"""Send one message over the channel it is for."""

import logging
import traceback
from collections.abc import Callable
from functools import partial

from .attempts import GONE, Claimed, Result
from .channels import Outcome
from .channels.kinds import Message, Senders
from .channels.registry import kind_by_contact

logger = logging.getLogger("contacts_app")


def attempt(channel: str, claimed: Claimed, senders: Senders) -> Result:
    """Send one message to a contact if there is a way to, and return what became of it."""
    kind = kind_by_contact(channel)
    address = claimed.addresses[channel]
    shown = address and kind.shown(address, claimed.account_id, claimed.contact_id)
    if address is None:
        outcome = Outcome("failed", kind.no_address if claimed.exists else GONE)
    elif why := kind.not_set_up(senders.settings):
        outcome = Outcome("failed", why)
        address = None  # says nothing of the address
    else:
        outcome = guarded(partial(kind.send, senders, address, _message(claimed)))
    return Result(claimed=claimed, channel=channel, outcome=outcome, address=shown, used=address)


def _message(claimed: Claimed) -> Message:
    """Return what the claim sends, which keeps its id when it is sent again."""
    if claimed.others:
        return Message(claimed.told, f"digest-{claimed.message}")
    thread = f"{claimed.account_id}-{claimed.integration_id}-{claimed.key}" if claimed.key else None
    return Message(claimed.told, f"alert-{claimed.account_id}-{claimed.alert_id}-{claimed.contact_id}", thread)


def guarded(send: Callable[[], Outcome]) -> Outcome:
    """Have a defect of ours count as an attempt that is made again, not as the end of the thread."""
    try:
        return send()
    except Exception as error:
        # Where it happened, but not the error's own words: they may quote an address.
        logger.error("sending failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Outcome("later", f"The console itself failed ({type(error).__name__}). Tell your administrator.")
