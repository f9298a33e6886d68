"""Buffer requests and responses, so that no thread of a web worker waits for a slow client.

The main thread of a worker reads from all sockets. A thread gets a request only when it is complete, and the main
thread sends what the socket does not accept of a response at once. So a slow or silent client uses memory, which is
bounded, but no thread.
"""

import errno
import os
import resource
import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from gunicorn.http import RequestParser
from gunicorn.http.errors import InvalidChunkSize, LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.http.wsgi import create
from gunicorn.workers.base import Worker

from ..core.networks import client_of
from ..core.trace import mark
from ..web.machines import ALERT_BYTES, FORM_BYTES, is_api_path
from ..web.turns import ACCOUNT
from .places import Places
from .visits import BLOCK, Answer, Body, State, Visit

HEAD_SECONDS, BODY_SECONDS = 10, 30
ANSWER_SECONDS = 30  # without progress while a response is sent
FAREWELL_SECONDS = 2  # for a client that is still sending to read the response, and for last requests at shutdown
HEAD_BYTES = 64 * 1024
HELD_BYTES = 64 * 1024 * 1024  # of incomplete requests and unsent responses, in one worker
OTHER_FILES = 64  # file descriptors reserved for other uses than client sockets
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUSES = {LimitRequestLine: 414, LimitRequestHeaders: 431, NoMoreData: 431}
LOOK_SECONDS = 0.25
SHARED = 20  # connections of a worker; below this it pauses after each so that others accept too


class FrontWorker(Worker):  # type: ignore[misc] # gunicorn has no types
    """A gunicorn worker with a pool of threads, none of which waits for a client."""

    alive: bool
    proxies = 0  # the number of reverse proxies that set X-Forwarded-For

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse gunicorn settings that this worker does not support."""
        if cfg.is_ssl:
            log.error("The console speaks no TLS. Put a reverse proxy that does before it.")
            sys.exit(4)
        if cfg.proxy_protocol != "off":  # the client address would change with each request
            log.error("The console takes no PROXY protocol. Have the proxy send X-Forwarded-For, and set PROXY_COUNT.")
            sys.exit(4)

    def refusal(self, status: int, path: str) -> bytes:
        """Return the complete response to a request that is rejected before the app."""
        raise NotImplementedError

    def run(self) -> None:
        """Serve until the worker is stopped, then finish the requests in progress."""
        self.visits: set[Visit] = set()
        self.places: Places[Visit] = Places(self.cfg.threads)
        self.answered: deque[Visit] = deque()
        self.refused: Counter[int] = Counter()
        self.next_look = self.next_report = 0.0
        self.held = 0  # buffered bytes at the last check, and all received since
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = max(1, min(self.cfg.worker_connections, files - OTHER_FILES - self.cfg.threads))
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.PIPE[0], selectors.EVENT_READ, self._wake)
        for listener in self.sockets:
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
        for _ in range(self.cfg.threads):
            # Daemon threads, so that one that waits for the database does not delay the exit.
            threading.Thread(target=self._serve, daemon=True).start()
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self.alive = False
        for listener in self.sockets:
            self.selector.unregister(listener)
            listener.close()
        now = time.monotonic()
        for visit in self.visits:
            if visit.state in (State.IDLE, State.HEAD):  # its next request may be on its way
                visit.ends = min(visit.ends, now + FAREWELL_SECONDS)
        while self.visits and time.monotonic() < now + self.cfg.graceful_timeout:
            self._turn()

    # The methods below run in the main thread.

    def _turn(self) -> None:
        """Handle the sockets that are ready and the finished responses, and check the limits when due."""
        for key, _ in self.selector.select(LOOK_SECONDS if self.visits else 1):
            key.data()
        while self.answered:
            self._guarded(self._answer, self.answered.popleft())
        now = time.monotonic()
        if now >= self.next_look or self.held > HELD_BYTES:
            self.next_look = now + LOOK_SECONDS
            self._look(now)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], BLOCK)

    def _look(self, now: float) -> None:
        """Enforce the limits for time and memory, and log the rejected requests once a minute."""
        self.notify()
        for visit in self.places.impatient(now):
            self._guarded(self._refuse, visit, 503)
        for visit in [visit for visit in self.visits if visit.ends < now]:
            if visit.state in (State.HEAD, State.BODY):
                self._guarded(self._refuse, visit, 408)
            else:
                self._close(visit)
        while (held := sum(map(Visit.holds, self.visits))) > HELD_BYTES and self._make_room(Visit.holds):
            pass
        self.held = held
        if self.refused and now >= self.next_report:
            self.next_report = now + 60
            self.log.warning("Refused: %s", ", ".join(f"{many} with {status}" for status, many in self.refused.items()))
            self.refused.clear()

    def _guarded(self, act: Callable[..., None], visit: Visit, *arguments: Any) -> None:
        """Call `act` for a connection, and close the connection if that fails."""
        try:
            act(visit, *arguments)
        except OSError:
            self._close(visit)
        except Exception as error:
            self.log.error("A connection was closed: %s", type(error).__name__)
            self._close(visit)

    def _accept(self, listener: Any) -> None:
        """Accept one connection and leave the next to another worker, which needs a moment to wake up.

        Otherwise one worker accepts all connections that a browser or a proxy opens at once, while the others idle.
        """
        if len(self.visits) >= self.most:
            self._make_room(lambda visit: 1)
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room(lambda visit: 1)
            return
        sock.setblocking(False)
        visit = Visit(sock, address, listener.getsockname())
        self.visits.add(visit)
        self._await(visit, State.HEAD, HEAD_SECONDS)
        if len(self.visits) < SHARED:
            time.sleep(0.0005)

    def _make_room(self, weight: Callable[[Visit], int]) -> bool:
        """Close the oldest connection of the address that weighs most, so that no other address is shut out.

        Requests that a thread is working on stay. Behind a proxy all have one address, so the oldest connection closes.
        """
        weights: Counter[str] = Counter()
        for visit in self.visits:
            weights[visit.host] += weight(visit)
        heaviest = max(weights, key=weights.__getitem__, default=None)
        for visit in sorted(self.visits, key=lambda visit: visit.since):
            if visit.host != heaviest or not weight(visit):
                continue
            if visit.state is State.SERVED and not self.places.withdraw(visit):
                continue
            self.refused[503] += 1
            if visit.state in (State.HEAD, State.BODY, State.SERVED):
                with suppress(OSError):
                    visit.sock.send(self.refusal(503, visit.path))
            self._close(visit)
            return True
        return False

    def _await(self, visit: Visit, state: State, seconds: float) -> None:
        """Set the state of a connection, the events it waits for, and its timeout in seconds."""
        visit.state, visit.since = state, time.monotonic()
        visit.ends = visit.since + seconds
        events = {State.SERVED: 0, State.ANSWER: selectors.EVENT_WRITE}.get(state, selectors.EVENT_READ)
        if events == visit.events:
            return
        act = partial(self._guarded, self._answer if state is State.ANSWER else self._read, visit)
        if not events:
            self.selector.unregister(visit.sock)
        elif visit.events:
            self.selector.modify(visit.sock, events, act)
        else:
            self.selector.register(visit.sock, events, act)
        visit.events = events

    def _close(self, visit: Visit) -> None:
        if visit.events:
            self.selector.unregister(visit.sock)
            visit.events = 0
        self.visits.discard(visit)
        visit.sock.close()
        visit.forget()  # breaks a reference cycle with the parser, because the garbage collector runs rarely

    def _read(self, visit: Visit) -> None:
        if visit not in self.visits:  # closed earlier in this turn, to make room
            return
        try:
            data = visit.sock.recv(BLOCK)
        except BlockingIOError:
            return
        if not data:
            self._close(visit)
        elif visit.state is not State.FAREWELL:  # after its response, further data is discarded
            visit.came += data
            self.held += len(data)
            self._take(visit)

    def _take(self, visit: Visit) -> None:
        """Queue the request for a thread once it is complete."""
        if visit.state is State.IDLE:
            self._await(visit, State.HEAD, HEAD_SECONDS)
        try:
            visit.body = body = visit.body or self._take_head(visit)
            if body is None:
                return
            end = body.end(visit.came)
        except (ParseException, NoMoreData, InvalidChunkSize) as error:
            status = STATUSES.get(type(error), 400)
            self.log.warning("%s: %s", HTTPStatus(status).phrase, type(error).__name__)
            self._refuse(visit, status)
            return
        # The app gets the beginning of a body that is too long and rejects it by its length, also before 100 Continue.
        visit.is_cut = body.is_too_long(visit.came) or (visit.expects_continue and body.size > body.most)
        if end is None and not visit.is_cut:
            if not body.is_chunked:  # blocks of one size need less memory than a growing array
                while len(visit.came) >= BLOCK:
                    visit.pieces.append(bytes(visit.came[:BLOCK]))
                    del visit.came[:BLOCK]
                    body.taken += BLOCK
            if visit.expects_continue:
                visit.expects_continue = False
                visit.sock.send(CONTINUE)
            return
        visit.pieces.append(bytes(visit.came[:end]))
        del visit.came[:end]
        mark("arrived", visit.path)
        self._await(visit, State.SERVED, float("inf"))
        self.places.add(visit)

    def _take_head(self, visit: Visit) -> Body | None:
        end = visit.came.find(b"\r\n\r\n", max(0, visit.searched - 3), HEAD_BYTES) + 4
        visit.searched = len(visit.came)
        if end < 4 and len(visit.came) < HEAD_BYTES:
            return None
        visit.pieces.append(bytes(visit.came[: end if end >= 4 else HEAD_BYTES]))
        # If no end was found, the parser reports what is too long.
        visit.request = request = next(RequestParser(self.cfg, visit.source(), visit.address))
        del visit.came[:end]
        visit.path = unquote(request.path)
        visit.is_alert = is_api_path(visit.path)
        named: dict[str, str] = {}
        for name, value in request.headers:  # repeated headers are joined as the app gets them
            named[name] = f"{named[name]},{value}" if name in named else value
        visit.expects_continue = request.version >= (1, 1) and named.get("EXPECT", "").lower() == "100-continue"
        # An alert may wait for a row lock before it is authenticated, so only its token counts, in any spelling.
        scheme, _, token = named.get("AUTHORIZATION", "").partition(" ")
        shown = scheme.lower(), token.strip(), "" if visit.is_alert else named.get("COOKIE", "")
        visit.credential = sha256("\n".join(shown).encode()).digest()
        # Unauthenticated clients count by address. Senders count by token, because a wrong token never waits.
        visit.who = visit.credential if visit.is_alert else self._address(visit, named)
        self._await(visit, State.BODY, BODY_SECONDS)
        return Body(named, ALERT_BYTES if visit.is_alert else FORM_BYTES)

    def _address(self, visit: Visit, named: dict[str, str]) -> str:
        forwarded = named.get("X-FORWARDED-FOR", "").split(",")
        return client_of(forwarded[-self.proxies].strip()) if 0 < self.proxies <= len(forwarded) else visit.host

    def _refuse(self, visit: Visit, status: int) -> None:
        self.refused[status] += 1
        visit.answer, visit.sent, visit.is_keepalive = self.refusal(status, visit.path), 0, False
        self._answer(visit)

    def _answer(self, visit: Visit) -> None:
        """Send what the socket accepts of the response; when done, continue with the data received meanwhile."""
        if visit.sent < len(visit.answer):
            with suppress(BlockingIOError):
                visit.sent += visit.sock.send(memoryview(visit.answer)[visit.sent :])
        if visit.sent < len(visit.answer):
            self.held += len(visit.answer) if visit.state is not State.ANSWER else 0
            self._await(visit, State.ANSWER, ANSWER_SECONDS)
            return
        visit.answer = b""
        if visit.is_keepalive:
            visit.forget()
            self._await(visit, State.IDLE, self.cfg.keepalive if self.alive else FAREWELL_SECONDS)
            if visit.came:
                self._take(visit)
        else:
            visit.sock.shutdown(socket.SHUT_WR)
            visit.came.clear()
            self._await(visit, State.FAREWELL, FAREWELL_SECONDS)

    # The methods below run in the pool's threads.

    def _serve(self) -> None:
        while True:
            visit = self.places.take()
            try:
                visit.answer = self._ask_app(visit)
            except Exception as error:
                self.log.error("%s: %s", HTTPStatus(500).phrase, type(error).__name__)
                visit.answer, visit.is_keepalive = self.refusal(500, visit.path), False
            if not visit.has_turn:  # over its limit once authenticated; the app has not handled it
                visit.answer, visit.has_turn = b"", True
                self.places.give_back(visit)
                self.places.add(visit)
                continue
            visit.sent = 0
            with suppress(OSError):  # the main thread gets the same error and closes it
                visit.sent = visit.sock.send(visit.answer)
            self.places.give_back(visit)
            self.answered.append(visit)
            with suppress(BlockingIOError):
                os.write(self.PIPE[1], b".")

    def _recognise(self, visit: Visit, account_id: int) -> bool:
        visit.has_turn = self.places.recognise(visit, account_id)
        return visit.has_turn

    def _ask_app(self, visit: Visit) -> bytes:
        began, answer = datetime.now(), Answer()
        response, environ = create(visit.request, answer, visit.address, visit.server, self.cfg)
        environ["wsgi.multithread"] = True
        environ[ACCOUNT] = partial(self._recognise, visit)
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        if visit.is_cut or not self.alive or not self.cfg.keepalive:
            response.force_close()
        pieces = self.wsgi(environ, response.start_response)
        try:
            for piece in pieces:
                response.write(piece)
            response.close()
        finally:
            if visit.has_turn:
                self.log.access(response, visit.request, environ, datetime.now() - began)
            if hasattr(pieces, "close"):
                pieces.close()
        visit.is_keepalive = not response.should_close()
        whole = b"".join(answer.pieces)
        answer.pieces.clear()  # frees memory now: the environ refers to it, and the garbage collector runs rarely
        return whole
