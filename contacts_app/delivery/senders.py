"""Send one message over the channel it is for."""

import logging
import traceback
from collections.abc import Callable
from functools import cached_property

import requests

from ..config import Settings
from ..contacts.addresses import shown_mobile
from .attempts import GONE, NO_ADDRESS, Claimed, Result
from .channels import Outcome, configured, mail, outgoing, sms

logger = logging.getLogger("contacts_app")


class Senders:
    """What one thread sends with; connections stay open from one message to the next."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def session(self) -> requests.Session:
        """Return what calls providers and robots, made when it is needed: to read all authorities takes long."""
        return outgoing.session(self.settings)

    @cached_property
    def mailer(self) -> mail.Mailer:
        """Return what sends mail."""
        return mail.Mailer(self.settings)

    def send(self, channel: str, address: str, claimed: Claimed) -> Outcome:
        """Send one text or one mail."""
        if channel == "sms":
            return sms.send(self.session, self.settings, address, claimed.told)
        message_id = f"alert-{claimed.account_id}-{claimed.alert_id}-{claimed.contact_id}"
        if claimed.others:
            return self.mailer.send(address, claimed.told, f"digest-{claimed.message}", None)
        thread = f"{claimed.account_id}-{claimed.integration_id}-{claimed.key}" if claimed.key else None
        return self.mailer.send(address, claimed.told, message_id, thread)

    def close(self) -> None:
        """Close the connections."""
        for made in ("session", "mailer"):
            if made in self.__dict__:
                getattr(self, made).close()


def attempt(channel: str, claimed: Claimed, settings: Settings, senders: Senders) -> Result:
    """Send a text or a mail if there is a way to, and return what became of it."""
    address = claimed.mobile if channel == "sms" else claimed.email
    shown = shown_mobile(address) if address and channel == "sms" else address
    if address is None:
        outcome = Outcome("failed", NO_ADDRESS[channel] if claimed.exists else GONE)
    elif why := configured(settings, channel):
        outcome = Outcome("failed", why)
        address = None  # says nothing of the address
    else:
        outcome = guarded(lambda: senders.send(channel, address, claimed))
    return Result(claimed=claimed, channel=channel, outcome=outcome, address=shown, used=address)


def guarded(send: Callable[[], Outcome]) -> Outcome:
    """Have a defect of ours count as an attempt that is made again, not as the end of the thread."""
    try:
        return send()
    except Exception as error:
        # Where it happened, but not the error's own words: they may quote an address.
        logger.error("sending failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Outcome("later", f"The console itself failed ({type(error).__name__}). Tell your administrator.")
