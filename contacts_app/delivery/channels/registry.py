"""List the kinds of channels, and find one by its name. An unknown name is an error, never another kind."""

from .dingtalk import DINGTALK
from .kinds import ByContact, Kind
from .mail import EMAIL
from .sms import SMS

# In the order in which people see them.
KINDS: dict[str, Kind] = {kind.name: kind for kind in (SMS, EMAIL, DINGTALK)}


class UnknownKind(LookupError):
    """Something names a kind of channel that the registry does not have."""


def kind_of(name: str) -> Kind:
    """Return the kind of this name; raise UnknownKind."""
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKind(f"There is no channel of the kind {name!r}.") from None


def kind_by_contact(name: str) -> ByContact:
    """Return the kind of this name, of which each contact has an address of its own; raise UnknownKind."""
    kind = kind_of(name)
    if not isinstance(kind, ByContact):
        raise UnknownKind(f"Channels of the kind {name!r} are not delivered contact by contact.")
    return kind


def kinds_by_contact() -> list[ByContact]:
    """Return the kinds of which each contact has an address of its own."""
    return [kind for kind in KINDS.values() if isinstance(kind, ByContact)]
