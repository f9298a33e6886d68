"""Keep visitors with a slow line, or with bad manners, from holding a thread of the web server.

A worker of gunicorn (gthread) gives each connection to a thread when its first byte is there, and the thread waits
for the rest: as many visitors as there are threads, each sending a byte a second, shut everybody else out. Here the
worker's own loop waits, for all connections at once, and a thread gets a request that has come in whole.
"""

import re
import socket
import struct
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.gthread import TConn, ThreadWorker

REQUEST_SECONDS = 20  # in which the head of a request and its form come in
HEAD_BYTES = FORM_BYTES = 64 * 1024  # what is larger is read by a thread, after the app has seen whom it is from
STALL_SECONDS = 10  # that a thread waits for the next bytes of something large
LINGER_SECONDS, LINGER_BYTES = 2, 64 * 1024  # of a visitor who still sends after the answer
ANSWER_SECONDS = 60  # in which a visitor takes an answer
EXPECTS_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


class _Refusal:
    """Stand for the parser of a request whose head has no end."""

    def __init__(self, unreader: Any) -> None:
        self.unreader = unreader

    def __next__(self) -> None:
        raise LimitRequestHeaders("more than HEAD_BYTES")


class Line(socket.socket):
    """A socket that keeps what the visitor does not take yet, instead of having a thread wait."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(fileno=other.detach())
        self.unsent = bytearray()

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send what can be sent at once, and keep the rest."""
        self.unsent += data
        self.send_more()

    def send_more(self) -> None:
        """Send what can be sent at once."""
        with suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.send(self.unsent, socket.MSG_DONTWAIT)]


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """A connection that collects a request without waiting for it."""

    def __init__(self, worker: "Worker", *arguments: Any) -> None:
        super().__init__(worker.cfg, *arguments)
        self.worker = worker
        self.parser: Any = None
        self.received = bytearray()
        self.wanted: int | None = None  # bytes until a thread can go on, once the head is there
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", STALL_SECONDS, 0))

    def has_come_in(self) -> bool:
        """Take what is there, and tell whether a thread can go on without waiting."""
        if self.cfg.is_ssl:
            return True
        self.init()
        self.sock.setblocking(False)
        self._take(self.parser.unreader.take_buffered())
        try:
            while not self._is_enough():
                if not (part := self.sock.recv(65536)):
                    break  # nothing more will come; what that means, the thread says
                self._take(part)
        except BlockingIOError:
            return False
        except OSError:
            pass  # the thread meets it as well
        self.parser.unreader.unread(bytes(self.received))
        self.received.clear()
        self.wanted = None
        return True

    def _take(self, part: bytes) -> None:
        before = len(self.received)
        self.received += part
        if self.wanted is not None:
            return
        end = self.received.find(b"\r\n\r\n", max(before - 3, 0))
        if end < 0 and len(self.received) > HEAD_BYTES:
            self.wanted, self.parser = 0, _Refusal(self.parser.unreader)
        elif end >= 0:
            head = self.received[: end + 2]
            length = LENGTH.search(head)
            size = int(length[1]) if length else 0
            self.wanted = end + 4 + (size if size <= FORM_BYTES else 0)
            if len(self.received) < self.wanted and EXPECTS_CONTINUE.search(head):
                with suppress(OSError):
                    self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _is_enough(self) -> bool:
        return self.wanted is not None and len(self.received) >= self.wanted

    def close(self, graceful: bool = False) -> None:
        """Close the connection, in the loop's own time where the visitor has to hear the end of the answer."""
        if graceful and not self.cfg.is_ssl:
            self.worker.linger(self)
        else:
            super().close()


class Worker(ThreadWorker):  # type: ignore[misc]
    """Answer with threads, and wait for requests and for the end of connections without."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lingering: deque[Connection] = deque()
        self.answering: deque[Connection] = deque()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was faster, or the visitor has gone
        self.nr_conns += 1
        self.enqueue_req(Connection(self, Line(client), address, listener.getsockname()))

    def enqueue_req(self, conn: Connection) -> None:
        """Give the connection to a thread once its request has come in; if it never does, close it."""
        if conn.has_come_in():
            super().enqueue_req(conn)
            return
        conn.timeout = time.monotonic() + REQUEST_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Take more of a request."""
        if conn.has_come_in():
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Go on with the connection when the visitor has the answer."""
        if conn.cfg.is_ssl or not conn.sock.unsent:
            super().finish_request(conn, fs)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + ANSWER_SECONDS
        self.answering.append(conn)
        self.poller.register(conn.sock, EVENT_WRITE, partial(self._on_answering_socket_writable, conn, fs))

    def _on_answering_socket_writable(self, conn: Connection, fs: Future[Any], client: Line) -> None:
        try:
            client.send_more()
        except OSError:  # nobody waits for it any more
            self.answering.remove(conn)
            self._end(conn)
            return
        if not client.unsent:
            self.answering.remove(conn)
            self.poller.unregister(client)
            self.finish_request(conn, fs)

    def linger(self, conn: Connection) -> None:
        """Close a connection once the visitor has, so that what is still on its way to us does not undo the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            conn.close()
            return
        conn.timeout, conn.wanted = time.monotonic() + LINGER_SECONDS, LINGER_BYTES
        self.nr_conns += 1
        self.lingering.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self._on_lingering_socket_readable, conn))

    def _on_lingering_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        part = b""
        with suppress(ConnectionError):
            part = client.recv(LINGER_BYTES)
        conn.wanted = (conn.wanted or 0) - len(part)
        if not part or conn.wanted <= 0:
            self.lingering.remove(conn)
            self._end(conn)

    def _end(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close what has taken too long."""
        super().murder_pending()
        for connections in (self.lingering, self.answering):
            while connections and connections[0].timeout <= time.monotonic():
                self._end(connections.popleft())

    def _cap_keepalive(self, deadline: float) -> None:
        """Do not let half a request keep a worker that is asked to stop."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Wait for no rest of a body that the app did not want."""
        return keepalive and bool(conn.parser.finish_body(deadline=time.monotonic() + 0.005))
