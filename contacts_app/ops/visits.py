"""Hold the state of a connection: the buffered next request and the unsent rest of the last response."""

import re
import socket
from collections import deque
from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Any

from gunicorn.http.errors import InvalidChunkSize

from ..core.networks import client_of

BEGINNING_BYTES = 4096  # of a body that is too long, read before it is rejected
CHUNKS, CHUNK_LINE_BYTES = 20_000, 4096
BLOCK = 64 * 1024


class State(Enum):
    """The state of a connection."""

    IDLE = "waiting for the next request"
    HEAD = "reading the head of a request"
    BODY = "reading the body of a request"
    SERVED = "waiting for the application"
    ANSWER = "sending the response"
    FAREWELL = "waiting for the client to close"


class Visit:
    """A connection with its buffered next request and the unsent rest of its last response."""

    def __init__(self, sock: socket.socket, address: Any, server: Any) -> None:
        self.sock, self.address, self.server = sock, address, server
        self.host = client_of(address[0]) if isinstance(address, tuple) else ""
        self.state, self.since, self.ends, self.events = State.HEAD, 0.0, 0.0, 0
        self.came = bytearray()
        self.answer, self.sent = b"", 0
        self.is_keepalive = False  # whether the connection stays open after the response
        self.has_turn = True  # False once its account turns out to be at its limit of threads
        self.forget()

    def forget(self) -> None:
        """Reset the state for the next request."""
        self.request: Any = None
        self.pieces: deque[bytes] = deque()
        self.body: Body | None = None
        self.searched = 0
        self.expects_continue = self.is_cut = False
        self.path, self.is_alert = "", False
        self.credential = b""
        self.who: Hashable = None

    def holds(self) -> int:
        """Return the number of buffered bytes."""
        return len(self.came) + sum(map(len, self.pieces)) + len(self.answer)

    def source(self) -> Iterator[bytes]:
        """Yield the received data to the parser."""
        while self.pieces:
            yield self.pieces.popleft()


class Body:
    """Find the end of a request body as it arrives, of a known length or chunked, without decoding the chunks."""

    def __init__(self, headers: dict[str, str], most: int) -> None:
        """Expect headers that gunicorn's parser has accepted: it rejects ambiguous body lengths."""
        self.is_chunked = "TRANSFER-ENCODING" in headers
        self.size = 0 if self.is_chunked else int(headers.get("CONTENT-LENGTH", "0"))
        self.most, self.chunks, self.at = most, 0, self.size
        self.taken = 0  # bytes of a known length that were moved to the pieces

    def is_too_long(self, came: bytearray) -> bool:
        """Return whether the body exceeds the limit, once enough of its beginning has been received."""
        if self.is_chunked:
            # Exceed the limit by one read of the app, which would report a shorter rest as a truncated chunk.
            return self.size - max(0, self.at - len(came)) > self.most + BLOCK
        return self.size > self.most and len(came) >= BEGINNING_BYTES

    def end(self, came: bytearray) -> int | None:
        """Return the offset of the end of the body, None if it is incomplete; raise InvalidChunkSize if malformed."""
        if not self.is_chunked:
            return self.size - self.taken if len(came) >= self.size - self.taken else None
        while (line_end := came.find(b"\r\n", self.at, self.at + CHUNK_LINE_BYTES)) >= 0:
            line = re.fullmatch(rb"([0-9A-Fa-f]{1,8})([ \t]*;[^\r\n]*)?", came[self.at : line_end])
            is_ended = self.chunks == 0 or came[self.at - 2 : self.at] == b"\r\n"  # the previous chunk
            if line is None or not is_ended or self.chunks == CHUNKS:
                raise InvalidChunkSize(b"")
            size = int(line[1], 16)
            if not size:
                trailer_end = came.find(b"\r\n\r\n", line_end, line_end + CHUNK_LINE_BYTES)
                if trailer_end >= 0:
                    return trailer_end + 4
                break
            self.size, self.chunks, self.at = self.size + size, self.chunks + 1, line_end + 2 + size + 2
        # Limit the length of a chunk line and the total overhead of the chunks.
        if len(came) > max(self.at, 0) + 2 * CHUNK_LINE_BYTES or len(came) > 2 * self.most:
            raise InvalidChunkSize(b"")
        return None


class Answer:
    """Collect the response that gunicorn would write to a socket."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Append a piece of the response."""
        self.pieces.append(data)

    def send(self, data: bytes) -> int:
        """Discard "100 Continue", which was sent before the body was read."""
        return len(data)
