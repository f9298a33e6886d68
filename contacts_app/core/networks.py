"""Tell clients apart by their IP address."""

import ipaddress


def client_of(address: str) -> str:
    """Return the key of a client: its IPv4 address, or the /64 network that an IPv6 customer gets; else the text."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed  # a dual-stack socket reports IPv4 addresses so
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
