"""Say what the console has to know of a kind of channel: one class a kind, in its module; the registry lists them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

from ...config import Settings
from . import Outcome, Told


class Message(NamedTuple):
    """What goes to one address: `id` stays when it is sent again, `thread` is that of what belongs together."""

    told: Told
    id: str
    thread: str | None = None


class Closing(Protocol):
    """Something that holds connections."""

    def close(self) -> None:
        """Close them."""


Made = TypeVar("Made", bound=Closing)


class Senders:
    """What one thread sends with; connections stay open from one message to the next."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._made: dict[Callable[[Settings], Closing], Closing] = {}

    def get(self, make: Callable[[Settings], Made]) -> Made:
        """Return what `make` makes of the settings, once and only when needed: to read all authorities takes long."""
        if make not in self._made:
            self._made[make] = make(self.settings)
        return cast(Made, self._made[make])

    def close(self) -> None:
        """Close the connections."""
        for made in self._made.values():
            made.close()


class Kind(ABC):
    """A kind of channel. What is SQL here is about a row of contacts, and becomes a part of statements at import."""

    name: ClassVar[str]  # in the rows that name a channel
    label: ClassVar[str]  # for people
    heading: ClassVar[str]  # of its column in the list of contacts
    message: ClassVar[str]  # what one message is called, which takes an s for several
    no_address: ClassVar[str]  # what is said of a message when the contact has no such channel any more
    column: ClassVar[str]  # of contacts, with the address; NULL where the contact has no such channel
    used: ClassVar[str]  # SQL: the address as text, by which it is known whether news is about the address of now
    messages: ClassVar[str]  # SQL: how many messages go to several contacts that are told one thing

    @abstractmethod
    def clean(self, typed: str) -> str:
        """Return the normal form of an address; raise ValueError saying what is wrong with it."""

    @abstractmethod
    def shown(self, stored: Any, account_id: int, contact_id: int) -> str:
        """Return what may be seen of an address as it stands in the column of that contact."""

    def not_set_up(self, settings: Settings) -> str | None:
        """Return None if the kind is set up, otherwise a sentence that says what is missing."""
        return None


class ByContact(Kind):
    """A kind of which each contact has an address of its own, as plain text, with a limit: messages.py delivers it."""

    batch: ClassVar[int]  # messages that a worker claims at once
    limited: ClassVar[str]  # what has reached its limit
    has_room_for_links: ClassVar[bool] = True

    @abstractmethod
    def limit(self, settings: Settings) -> int:
        """Return how many messages an address is sent within limits.WINDOW."""

    @abstractmethod
    def send(self, senders: Senders, address: str, message: Message) -> Outcome:
        """Send one message."""
