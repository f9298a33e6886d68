"""Name what users may do. Every view declares the permission that it requires, or that it is public."""

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from .models import Visitor

View = TypeVar("View", bound=Callable[..., Any])


class Permission(Enum):
    """What a user may be allowed to do."""

    USE_CONSOLE = "use the console"  # all of it: every user of an account may, until there are roles


class Access(Enum):
    """What a view declares instead of a permission."""

    PUBLIC = "no log-on"


def requires(permission: Permission) -> Callable[[View], View]:
    """Decorate a view that requires a permission."""

    def mark(view: View) -> View:
        view.access = permission  # type: ignore[attr-defined]
        return view

    return mark


def public(view: View) -> View:
    """Decorate a view that needs no log-on."""
    view.access = Access.PUBLIC  # type: ignore[attr-defined]
    return view


def access_of(view: Callable[..., Any]) -> Permission | Access | None:
    """Return the declared access of a view; None if it declares nothing, so that nobody may use it."""
    access: Permission | Access | None = getattr(view, "access", None)
    return access


def may(visitor: Visitor, access: Permission | Access | None) -> bool:
    """Return whether a user may use a view; all users of an account have every permission, until there are roles."""
    return access is not None
