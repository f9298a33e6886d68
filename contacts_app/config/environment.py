"""Parse and validate single settings from the environment, by type."""

import ipaddress
import re
from collections.abc import Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class StartError(Exception):
    """The console cannot start; the message says in one line why and what to do about it."""


class Environment:
    """Read single settings, treating empty as not set; raise StartError with the name of an invalid one."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables

    def text(self, name: str, default: str = "") -> str:
        """Return the text of a setting, stripped."""
        return self.variables.get(name, "").strip() or default

    def texts(self, name: str) -> list[str]:
        """Return the parts of a comma-separated setting."""
        return [part.strip() for part in self.text(name).split(",") if part.strip()]

    def required(self, name: str, because: str) -> str:
        """Return the text of a setting that must be set because another one is."""
        if not self.text(name):
            raise StartError(f"{name} must be set, because {because} is.")
        return self.text(name)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        value = self.text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise StartError(f"{name} must be a number from {low} to {high}, not {value!r}.")
        return int(value)

    def switch(self, name: str) -> bool:
        """Return a Boolean setting; false by default."""
        value = self.text(name, "0").lower()
        if value not in ("0", "1", "false", "true", "no", "yes", "off", "on"):
            raise StartError(f"{name} must be 1 or 0, not {value!r}.")
        return value in ("1", "true", "yes", "on")

    def host(self, name: str, default: str = "") -> str:
        """Return an IP address, without brackets, or a host name."""
        value = self.text(name, default)
        if not _is_host(value):
            raise StartError(f"{name} must be an address or a host name, not {value!r}.")
        return value.strip("[]")

    def hosts(self, name: str, port: str = "") -> tuple[str, ...]:
        """Return host names in lower case, each followed by a match of the pattern `port`."""
        found = tuple(part.lower() for part in self.texts(name))
        for host in found:
            if not re.fullmatch(rf"(\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]){port}", host):
                raise StartError(
                    f"{name} must be host names with commas between them, such as contacts.example.com, not {host!r}."
                )
        return found

    def web_address(self, name: str, default: str = "") -> str:
        """Return an http:// or https:// URL without a trailing slash."""
        value = self.text(name, default).rstrip("/")
        if value and not re.fullmatch(r"https?://[A-Za-z0-9_.-]+(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?", value):
            raise StartError(f"{name} must look like https://contacts.example.com, not {value!r}.")
        return value

    def networks(self, name: str) -> tuple[Network, ...]:
        """Return networks in CIDR notation."""
        try:
            return tuple(ipaddress.ip_network(part) for part in self.texts(name))
        except ValueError:
            raise StartError(
                f"{name} must be networks with commas between them, such as 10.20.0.0/16, not {self.text(name)!r}."
            ) from None


def _is_host(value: str) -> bool:
    try:
        ipaddress.ip_address(value.removeprefix("[").removesuffix("]"))
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", value))
    return True
