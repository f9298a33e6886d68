"""List the kinds of channels, and look one up by its name; an unknown name is an error, but pages can show it."""

from .dingtalk import DINGTALK
from .kinds import ByContact, Kind
from .mail import EMAIL
from .sms import SMS

# In the order of the user interface.
KINDS: dict[str, Kind] = {kind.name: kind for kind in (SMS, EMAIL, DINGTALK)}


class UnknownKind(LookupError):
    """The registry has no kind of channel with this name."""


def kind_of(name: str) -> Kind:
    """Return the kind of this name; raise UnknownKind."""
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKind(f"There is no channel of the kind {name!r}.") from None


def label_of(name: str) -> str:
    """Return the label of a kind, to show it; of an unknown kind, its name.

    During an upgrade, a later version that knows the kind may already write to the same database.
    """
    return KINDS[name].label if name in KINDS else name


def kind_by_contact(name: str) -> ByContact:
    """Return the kind of this name, which must be delivered contact by contact; raise UnknownKind."""
    kind = kind_of(name)
    if not isinstance(kind, ByContact):
        raise UnknownKind(f"Channels of the kind {name!r} are not delivered contact by contact.")
    return kind


def kinds_by_contact() -> list[ByContact]:
    """Return the kinds that are delivered contact by contact."""
    return [kind for kind in KINDS.values() if isinstance(kind, ByContact)]
