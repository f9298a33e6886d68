"""A fourth kind of channel, as somebody may add one: test_kinds.py adds it to a copy of the console."""

from typing import ClassVar

from contacts_app.config import Settings
from contacts_app.delivery.answers import answer
from contacts_app.delivery.channels import Outcome
from contacts_app.delivery.channels.kinds import ByContact, Message, Senders


class Pager(ByContact):
    """Pagers, of which those that end in 0 are switched off."""

    name = "pager"
    label = "Pager"
    heading = "Pager number"
    message = "page"
    no_address = answer("pager.no_address")
    column = used = "pager"
    messages = "count(pager)"
    batch = 5
    limited = "pager"
    received: ClassVar[list[tuple[str, Message]]] = []

    def clean(self, typed: str) -> str:
        """Return the number."""
        return typed.strip()

    def shown(self, stored: str, account_id: int, contact_id: int) -> str:
        """Return the number as what it is."""
        return f"Pager {stored}"

    def limit(self, settings: Settings) -> int:
        """Return a limit that is soon reached."""
        return 3

    def send(self, senders: Senders, address: str, message: Message) -> Outcome:
        """Note the message."""
        if address.endswith("0"):
            return Outcome("failed", answer("pager.off"))
        self.received.append((address, message))
        return Outcome("sent", answer("pager.sent"))


PAGER = Pager()
