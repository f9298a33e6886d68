"""Send HTTPS requests to public servers only, for at most ten seconds, with errors that people can understand.

Users enter the URL of a robot, so a request must not reach the operator's own network (SSRF).
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import certifi
from urllib3 import BaseHTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from ...config import Network, Settings
from ..answers import Answers, answer

SECONDS = 10.0
MAX_BYTES = 64 * 1024
HEADERS = {"User-Agent": "alert-contacts-console", "Accept": "*/*", "Accept-Encoding": "identity"}
FORM = "application/x-www-form-urlencoded"
ANYWHERE: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class CannotReach(Exception):
    """There is no response, for the reason in `answer`; `is_uncertain` if the request may have reached the server."""

    def __init__(self, answer: Answers, is_uncertain: bool = False) -> None:
        super().__init__(answer)
        self.answer = answer
        self.is_uncertain = is_uncertain


class Response(NamedTuple):
    """The response of a server."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Attempt:
    """The state of the current request of a session, which sends one at a time."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self.networks = networks
        self.until = 0.0
        self.is_sent = False

    def begin(self) -> None:
        """Start the clock."""
        self.until = time.monotonic() + SECONDS
        self.is_sent = False

    def left(self) -> float:
        """Return the seconds until the deadline; raise TimeoutError after it."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def trusted(settings: Settings) -> ssl.SSLContext:
    """Return a TLS context that trusts the public certificate authorities and those in CA_BUNDLE."""
    context = ssl.create_default_context(cafile=certifi.where())
    if settings.ca_bundle:
        context.load_verify_locations(settings.ca_bundle)
    return context


class Session:
    """The connections of one thread, which stay open between requests.

    It is urllib3's pool and nothing around it, because `requests` takes more than half of the time of a request.
    """

    def __init__(self, settings: Settings) -> None:
        self.attempt = Attempt(settings.outgoing_networks)
        context = trusted(settings)
        # All reads and writes of a connection use this class, also those of the headers.
        context.sslsocket_class = limited_tls(self.attempt)
        self._pools = PoolManager(ssl_context=context, cert_reqs="CERT_REQUIRED")
        self._pools.pool_classes_by_scheme = {"https": _pool_class(self.attempt)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pools.clear()

    def open(self, url: Url, body: bytes, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a POST request, and return the response before its body is read."""
        pool = self._pools.connection_from_host(url.host, url.port, "https")
        return pool.urlopen(
            "POST",
            url.request_uri,
            body,
            headers={**HEADERS, **headers},
            retries=False,
            redirect=False,
            timeout=SECONDS,
            preload_content=False,
        )


def post(
    session: Session, url: str, data: bytes | Mapping[str, str], content_type: str = FORM, authorization: str = ""
) -> Response:
    """Send a POST request with bytes or the fields of a form; raise CannotReach without a response."""
    host = _host(url)
    attempt = session.attempt
    attempt.begin()
    body = data if isinstance(data, bytes) else urlencode(data).encode()
    headers = {"Content-Type": content_type} | ({"Authorization": authorization} if authorization else {})
    try:
        parts = parse_url(url)
        if parts.scheme != "https":
            raise CannotReach(answer("outgoing.not_https", host=host))
        with session.open(parts, body, headers) as response:
            if 300 <= response.status < 400:
                raise CannotReach(answer("outgoing.redirect", host=host))
            received = response.read(MAX_BYTES + 1)
            if len(received) > MAX_BYTES:
                raise CannotReach(answer("outgoing.too_large", host=host), is_uncertain=True)
            return Response(response.status, received, response.headers)
    except (HTTPError, OSError, ValueError):
        # The error is not quoted, because it contains the URL with the token; a timeout is recognised by the clock.
        if time.monotonic() >= attempt.until:
            why = no_answer(host)
        elif attempt.is_sent:
            why = answer("outgoing.unreadable_answer", host=host)
        else:
            why = answer("outgoing.unreadable_address", host=host)
        raise CannotReach(why, attempt.is_sent) from None


def no_answer(host: str) -> Answers:
    """Return that the host did not answer in time."""
    return answer("outgoing.no_answer", host=host, seconds=round(SECONDS))


def is_allowed(text: str, networks: tuple[Network, ...] = ()) -> bool:
    """Return whether the address, or the IPv4 address embedded in it, is public or in one of `networks`."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        address = inner or address
    if any(address in network for network in networks):
        return True
    is_unicast = isinstance(address, ipaddress.IPv4Address) or address in IPV6_UNICAST
    return is_unicast and address.is_global and not address.is_multicast


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "The server"
    except ValueError:
        return "The server"


def limited(connection: socket.socket, attempt: Attempt) -> socket.socket:
    """Return the connection with all its reads and writes limited to the time that is left for the attempt."""

    class Socket(socket.socket):
        def recv_into(self, *args: Any) -> int:
            self.settimeout(attempt.left())
            return super().recv_into(*args)

        def sendall(self, *args: Any) -> None:
            self.settimeout(attempt.left())
            super().sendall(*args)

    return Socket(fileno=connection.detach())


def limited_tls(attempt: Attempt) -> type[ssl.SSLSocket]:
    """Return a class for connections over TLS with such limits."""

    class Socket(ssl.SSLSocket):
        def read(self, *args: Any) -> Any:
            self.settimeout(attempt.left())
            return super().read(*args)

        def send(self, *args: Any) -> int:
            self.settimeout(attempt.left())
            return super().send(*args)

    return Socket


def _pool_class(attempt: Attempt) -> type[HTTPSConnectionPool]:
    class Connection(HTTPSConnection):
        def connect(self) -> None:
            try:
                super().connect()
            except ssl.SSLCertVerificationError:
                raise CannotReach(answer("outgoing.not_trusted", host=self.host)) from None
            except TimeoutError:
                raise CannotReach(no_answer(self.host)) from None
            except (OSError, HTTPError):
                raise CannotReach(answer("outgoing.not_secure", host=self.host)) from None

        # urllib3 has no public way to be given a socket: it looks the name up again, after the check of its addresses.
        def _new_conn(self) -> socket.socket:
            return connect(self.host, self.port or 443, attempt)

        def request(self, *args: Any, **kwargs: Any) -> None:
            attempt.is_sent = True
            super().request(*args, **kwargs)

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


def connect(host: str, port: int, attempt: Attempt) -> socket.socket:
    """Return a connection to the address that was checked, so that DNS rebinding cannot change it."""
    addresses = _resolve(host, port, attempt)
    allowed = [address for address in addresses if is_allowed(str(address[0]), attempt.networks)]
    if not allowed:
        raise CannotReach(answer("outgoing.not_public", host=host, address=str(addresses[0][0])))
    why = answer("outgoing.unreachable", host=host)
    for index, address in enumerate(allowed):
        # Each address gets a share of the time, so that one that does not respond leaves some for the next.
        seconds = attempt.left() / (len(allowed) - index)
        try:
            connection = socket.create_connection((str(address[0]), port), seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except ConnectionRefusedError:
            why = answer("outgoing.connection_refused", host=host)
        except TimeoutError:
            why = no_answer(host)
        except OSError:
            continue
    raise CannotReach(why)


def _resolve(host: str, port: int, attempt: Attempt) -> list[tuple[Any, ...]]:
    """Resolve the host name, in a thread because getaddrinfo has no timeout."""
    found: list[tuple[Any, ...]] = []

    def look_up() -> None:
        with suppress(OSError, UnicodeError):
            found[:] = [entry[4] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(attempt.left())
    if not found:
        raise CannotReach(answer("outgoing.unknown_host", host=host))
    return found
