"""Take requests in whole and hand answers out by itself, so that no thread of a web worker waits for a visitor.

The main thread of a worker reads from all sockets. A thread gets a request only when its last byte is there, and what a
visitor does not take of an answer is sent by the main thread as it is taken. So a visitor who is slow or silent costs
memory, which is bounded, and nobody's time.
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

from ..web.machines import is_api_path
from ..web.turns import ACCOUNT
from .places import Places
from .visits import BLOCK, Answer, Body, State, Visit, one_visitors

HEAD_SECONDS, BODY_SECONDS = 10, 30
ANSWER_SECONDS = 30  # in which a visitor takes nothing of an answer
FAREWELL_SECONDS = 2  # for a visitor who is still sending to see the answer, and for the last requests at the end
HEAD_BYTES = 64 * 1024
FORM_BYTES, ALERT_BYTES = 1024 * 1024, 4 * 1024 * 1024  # the largest body that the console takes of each
HELD_BYTES = 64 * 1024 * 1024  # of requests that are not whole and answers that are not taken, in one worker
OTHER_FILES = 64  # that a worker may have open beside its visitors' sockets
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUSES = {LimitRequestLine: 414, LimitRequestHeaders: 431, NoMoreData: 431}
LOOK_SECONDS = 0.25
SHARED = 20  # connections of a worker, up to which it leaves the next to another


class FrontWorker(Worker):  # type: ignore[misc] # gunicorn has no types
    """A worker of gunicorn with a pool of threads, none of which waits for a visitor."""

    alive: bool
    proxies = 0  # that stand before the console and name the visitor in X-Forwarded-For

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what this worker does not do."""
        if cfg.is_ssl:
            log.error("The console speaks no TLS. Put a reverse proxy that does before it.")
            sys.exit(4)
        if cfg.proxy_protocol != "off":  # each request would bring an address of its own
            log.error("The console takes no PROXY protocol. Have the proxy send X-Forwarded-For, and set PROXY_COUNT.")
            sys.exit(4)

    def refusal(self, status: int, path: str) -> bytes:
        """Return the whole answer to what never reaches the app."""
        raise NotImplementedError

    def run(self) -> None:
        """Serve until somebody asks for the end, then finish what is under way."""
        self.visits: set[Visit] = set()
        self.places: Places[Visit] = Places(self.cfg.threads)
        self.answered: deque[Visit] = deque()
        self.refused: Counter[int] = Counter()
        self.next_look = self.next_report = 0.0
        self.held = 0  # bytes at the last look, and all that have come since
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = max(1, min(self.cfg.worker_connections, files - OTHER_FILES - self.cfg.threads))
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.PIPE[0], selectors.EVENT_READ, self._wake)
        for listener in self.sockets:
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))
        for _ in range(self.cfg.threads):
            # They end with the process: who waits for the database even then is not waited for.
            threading.Thread(target=self._serve, daemon=True).start()
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self.alive = False
        for listener in self.sockets:
            self.selector.unregister(listener)
            listener.close()
        now = time.monotonic()
        for visit in self.visits:
            if visit.state in (State.IDLE, State.HEAD):  # may be sending its next request already
                visit.ends = min(visit.ends, now + FAREWELL_SECONDS)
        while self.visits and time.monotonic() < now + self.cfg.graceful_timeout:
            self._turn()

    # What follows runs in the main thread.

    def _turn(self) -> None:
        """Do what can be done at once."""
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
        """See what has taken too long or too much."""
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
        """Do something for a visitor, and end the visit where that fails."""
        try:
            act(visit, *arguments)
        except OSError:
            self._close(visit)
        except Exception as error:
            self.log.error("A connection was closed: %s", type(error).__name__)
            self._close(visit)

    def _accept(self, listener: Any) -> None:
        """Take a connection and leave the next to another worker, which needs a moment to wake up.

        Else one takes all that come at once, a browser's or a proxy's, keeps them, and the others idle.
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

        What a thread works for stays. Behind a proxy all come from one address, and whoever has waited longest goes.
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
        """Have a visit wait for what its next state says, for so long."""
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
        visit.forget()  # the parser and the visit know each other: only the collector, which seldom comes, would see it

    def _read(self, visit: Visit) -> None:
        if visit not in self.visits:  # closed in this turn, to make room
            return
        try:
            data = visit.sock.recv(BLOCK)
        except BlockingIOError:
            return
        if not data:
            self._close(visit)
        elif visit.state is not State.FAREWELL:  # then it has its answer, whatever it still says
            visit.came += data
            self.held += len(data)
            self._take(visit)

    def _take(self, visit: Visit) -> None:
        """Hand the request to the threads once it is whole."""
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
        # Of a body that is too long the app gets what has come; it refuses it by its length. Who asks first is told so.
        visit.is_cut = body.is_too_long(visit.came) or (visit.expects_continue and body.size > body.most)
        if end is None and not visit.is_cut:
            if not body.is_chunked:  # blocks of one size are kept in less room than an array that grows
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
        self._await(visit, State.SERVED, float("inf"))
        self.places.add(visit)

    def _take_head(self, visit: Visit) -> Body | None:
        end = visit.came.find(b"\r\n\r\n", max(0, visit.searched - 3), HEAD_BYTES) + 4
        visit.searched = len(visit.came)
        if end < 4 and len(visit.came) < HEAD_BYTES:
            return None
        visit.pieces.append(bytes(visit.came[: end if end >= 4 else HEAD_BYTES]))
        # Without an end the parser finds what is too long.
        visit.request = request = next(RequestParser(self.cfg, visit.source(), visit.address))
        del visit.came[:end]
        visit.path = unquote(request.path)
        visit.is_alert = is_api_path(visit.path)
        named: dict[str, str] = {}
        for name, value in request.headers:  # as the app sees them
            named[name] = f"{named[name]},{value}" if name in named else value
        visit.expects_continue = request.version >= (1, 1) and named.get("EXPECT", "").lower() == "100-continue"
        # An alert may wait for a row before the app knows whose it is: only its token counts, however that is written.
        scheme, _, token = named.get("AUTHORIZATION", "").partition(" ")
        shown = scheme.lower(), token.strip(), "" if visit.is_alert else named.get("COOKIE", "")
        visit.credential = sha256("\n".join(shown).encode()).digest()
        # Who shows nothing yet goes by the address; a sender by the token, as nothing waits for one that is wrong.
        visit.who = visit.credential if visit.is_alert else self._address(visit, named)
        self._await(visit, State.BODY, BODY_SECONDS)
        return Body(named, ALERT_BYTES if visit.is_alert else FORM_BYTES)

    def _address(self, visit: Visit, named: dict[str, str]) -> str:
        forwarded = named.get("X-FORWARDED-FOR", "").split(",")
        return one_visitors(forwarded[-self.proxies].strip()) if 0 < self.proxies <= len(forwarded) else visit.host

    def _refuse(self, visit: Visit, status: int) -> None:
        self.refused[status] += 1
        visit.answer, visit.sent, visit.keeps = self.refusal(status, visit.path), 0, False
        self._answer(visit)

    def _answer(self, visit: Visit) -> None:
        """Send what the visitor takes of the answer; after it go on with what has come meanwhile."""
        if visit.sent < len(visit.answer):
            with suppress(BlockingIOError):
                visit.sent += visit.sock.send(memoryview(visit.answer)[visit.sent :])
        if visit.sent < len(visit.answer):
            self.held += len(visit.answer) if visit.state is not State.ANSWER else 0
            self._await(visit, State.ANSWER, ANSWER_SECONDS)
            return
        visit.answer = b""
        if visit.keeps:
            visit.forget()
            self._await(visit, State.IDLE, self.cfg.keepalive if self.alive else FAREWELL_SECONDS)
            if visit.came:
                self._take(visit)
        else:
            visit.sock.shutdown(socket.SHUT_WR)
            visit.came.clear()
            self._await(visit, State.FAREWELL, FAREWELL_SECONDS)

    # What follows runs in the threads.

    def _serve(self) -> None:
        while True:
            visit = self.places.take()
            try:
                visit.answer = self._ask_app(visit)
            except Exception as error:
                self.log.error("%s: %s", HTTPStatus(500).phrase, type(error).__name__)
                visit.answer, visit.keeps = self.refusal(500, visit.path), False
            if not visit.has_turn:  # nothing has been done or read for it yet
                visit.answer, visit.has_turn = b"", True
                self.places.give_back(visit)
                self.places.add(visit)
                continue
            visit.sent = 0
            with suppress(OSError):  # the main thread sees why
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
        visit.keeps = not response.should_close()
        whole = b"".join(answer.pieces)
        answer.pieces.clear()  # the environment knows it, which the collector, which seldom comes, may have to find
        return whole
