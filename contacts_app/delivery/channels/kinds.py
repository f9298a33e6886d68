"""Define the interface of a kind of channel; each kind is a class in its own module, listed in registry.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

from ...config import Settings
from ..answers import Answers
from . import Content, Outcome


class Message(NamedTuple):
    """A message to one address: a retry has the same `id`, related messages have the same `thread`."""

    content: Content
    id: str
    thread: str | None = None


class Closing(Protocol):
    """An object that holds open connections."""

    def close(self) -> None:
        """Close them."""


Made = TypeVar("Made", bound=Closing)


class Senders:
    """The clients of one thread, whose connections stay open between messages."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._made: dict[Callable[[Settings], Closing], Closing] = {}

    def get(self, make: Callable[[Settings], Made]) -> Made:
        """Return the client that `make` creates, created on first use: loading the CA certificates is slow."""
        if make not in self._made:
            self._made[make] = make(self.settings)
        return cast(Made, self._made[make])

    def close(self) -> None:
        """Close the connections."""
        for made in self._made.values():
            made.close()


class Kind(ABC):
    """A kind of channel; its SQL expressions refer to a row of contacts and are part of statements built at import."""

    name: ClassVar[str]  # in the rows that name a channel
    label: ClassVar[str]  # for people
    heading: ClassVar[str]  # of its column in the list of contacts
    message: ClassVar[str]  # the word for one message; its plural adds an s
    no_address: ClassVar[Answers]  # the error if the contact no longer has such a channel
    column: ClassVar[str]  # the column of contacts with the address; NULL if the contact has no such channel
    used: ClassVar[str]  # SQL: the address as text, to check that a result is about the current address
    messages: ClassVar[str]  # SQL: the number of messages that one notification to several contacts takes

    @abstractmethod
    def clean(self, typed: str) -> str:
        """Return the normal form of an address; raise ValueError with a message for the user."""

    @abstractmethod
    def shown(self, stored: Any, account_id: int, contact_id: int) -> str:
        """Return the stored address of that contact for display, masked where it contains a secret."""

    def not_set_up(self, settings: Settings) -> Answers | None:
        """Return None if the kind is configured, otherwise which setting is missing."""
        return None


class ByContact(Kind):
    """A kind with one plain-text address and a rate limit for each contact; messages.py delivers it."""

    batch: ClassVar[int]  # messages that a worker claims at once
    limited: ClassVar[str]  # the word for an address that has reached its rate limit
    has_room_for_links: ClassVar[bool] = True

    @abstractmethod
    def limit(self, settings: Settings) -> int:
        """Return the maximum number of messages to an address within limits.WINDOW."""

    @abstractmethod
    def send(self, senders: Senders, address: str, message: Message) -> Outcome:
        """Send one message."""
