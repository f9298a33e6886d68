"""Keep what is known of a connection: what has come of its next request, and what is left of its last answer."""

import re
import socket
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import suppress
from enum import Enum
from ipaddress import IPv6Network, ip_address
from typing import Any

from gunicorn.http.errors import InvalidChunkSize

BEGINNING_BYTES = 4096  # of a body that is too long
CHUNKS, CHUNK_LINE_BYTES = 20_000, 4096
BLOCK = 64 * 1024


class State(Enum):
    """What a connection waits for."""

    IDLE = "the next request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    SERVED = "the console"
    ANSWER = "the visitor to take the answer"
    FAREWELL = "the visitor to close"


class Visit:
    """A connection, what has come of its next request, and what is left of its last answer."""

    def __init__(self, sock: socket.socket, address: Any, server: Any) -> None:
        self.sock, self.address, self.server = sock, address, server
        self.host = one_visitors(address[0]) if isinstance(address, tuple) else ""
        self.state, self.since, self.ends, self.events = State.HEAD, 0.0, 0.0, 0
        self.came = bytearray()
        self.answer, self.sent = b"", 0
        self.keeps = False  # the connection, after the answer
        self.has_turn = True  # unless it turns out that its account has all its threads
        self.forget()

    def forget(self) -> None:
        """Begin with the next request."""
        self.request: Any = None
        self.pieces: deque[bytes] = deque()
        self.body: Body | None = None
        self.searched = 0
        self.expects_continue = self.is_cut = False
        self.path, self.is_alert = "", False
        self.credential = b""
        self.who: Hashable = None

    def holds(self) -> int:
        """Return how many bytes are kept for the visitor."""
        return len(self.came) + sum(map(len, self.pieces)) + len(self.answer)

    def source(self) -> Iterator[bytes]:
        """Give the parser what has come, as it asks."""
        while self.pieces:
            yield self.pieces.popleft()


def one_visitors(address: str) -> str:
    """Return all that whoever has this address can be expected to have: of IPv6 its network of 64 bits."""
    with suppress(ValueError):
        ip = ip_address(address)
        if ip.version == 6 and ip.ipv4_mapped is None:
            return str(IPv6Network((int(ip), 64), strict=False))
    return address


class Body:
    """Find the end of a body as it comes: of a known length, or of chunks, which nobody needs to decode for that."""

    def __init__(self, headers: dict[str, str], most: int) -> None:
        """Take headers that gunicorn's parser has let through: it refuses a body that could be read in two ways."""
        self.is_chunked = "TRANSFER-ENCODING" in headers
        self.size = 0 if self.is_chunked else int(headers.get("CONTENT-LENGTH", "0"))
        self.most, self.chunks, self.at = most, 0, self.size
        self.taken = 0  # bytes of a known length that were put aside

    def is_too_long(self, came: bytearray) -> bool:
        """Tell whether it has more bytes than the console takes, as soon as enough have come to show how it begins."""
        if self.is_chunked:
            # By as much as the app reads at once: it would take what stops within that for chunks that end too early.
            return self.size - max(0, self.at - len(came)) > self.most + BLOCK
        return self.size > self.most and len(came) >= BEGINNING_BYTES

    def end(self, came: bytearray) -> int | None:
        """Return where the body ends, None as long as it has not; raise InvalidChunkSize for what is no body."""
        if not self.is_chunked:
            return self.size - self.taken if len(came) >= self.size - self.taken else None
        while (line_end := came.find(b"\r\n", self.at, self.at + CHUNK_LINE_BYTES)) >= 0:
            line = re.fullmatch(rb"([0-9A-Fa-f]{1,8})([ \t]*;[^\r\n]*)?", came[self.at : line_end])
            is_ended = self.chunks == 0 or came[self.at - 2 : self.at] == b"\r\n"  # the chunk before
            if line is None or not is_ended or self.chunks == CHUNKS:
                raise InvalidChunkSize(b"")
            size = int(line[1], 16)
            if not size:
                trailer_end = came.find(b"\r\n\r\n", line_end, line_end + CHUNK_LINE_BYTES)
                if trailer_end >= 0:
                    return trailer_end + 4
                break
            self.size, self.chunks, self.at = self.size + size, self.chunks + 1, line_end + 2 + size + 2
        # Neither a line nor what stands around the chunks goes on without end.
        if len(came) > max(self.at, 0) + 2 * CHUNK_LINE_BYTES or len(came) > 2 * self.most:
            raise InvalidChunkSize(b"")
        return None


class Answer:
    """Collect what gunicorn would write to a socket."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Take a piece."""
        self.pieces.append(data)

    def send(self, data: bytes) -> int:
        """Leave out "100 Continue", which was sent before the body came."""
        return len(data)
