"""Share the threads of a web worker fairly, so that slow requests of one client never occupy all of them."""

import threading
from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

ALERT_PATIENCE = 2  # seconds that an alert may wait for a thread
PATIENCE = 30  # seconds that any other request may wait

MAX_KNOWN = 10_000


class Asking(Protocol):
    """A request that needs a thread: its client, whether it posts an alert, and since when it waits.

    The account is unknown until the app has authenticated the `credential` of the request.
    """

    who: Hashable
    credential: bytes
    is_alert: bool
    since: float


Request = TypeVar("Request", bound=Asking)


class Places(Generic[Request]):
    """Schedule requests on `threads` threads, round-robin among clients.

    One client may use all threads but one, and so may all alerts together; the alerts of one sender may use one fewer.
    Each limit is at least one thread.
    """

    def __init__(self, threads: int) -> None:
        self.of_one = self.of_alerts = max(1, threads - 1)
        self.of_alerts_of_one = max(1, threads - 2)
        self.known: dict[bytes, Hashable] = {}  # the account of each credential
        self._waiting: dict[tuple[Hashable, bool], deque[Request]] = {}
        self._running: set[Request] = set()
        self.held: Counter[Hashable] = Counter()  # threads, by client
        self._held_by_alerts: Counter[Hashable] = Counter()
        self._change = threading.Condition()

    def add(self, request: Request) -> None:
        """Add a request to the queue for a thread."""
        with self._change:
            self._add(request)
            self._change.notify()

    def _add(self, request: Request) -> None:
        request.who = self.known.get(request.credential, request.who)
        self._waiting.setdefault((request.who, request.is_alert), deque()).append(request)

    def take(self) -> Request:
        """Wait for the next request for this thread and return it; the caller must call `give_back` afterwards."""
        with self._change:
            while (request := self._next()) is None:
                self._change.wait()
            self._running.add(request)
            self._hold(request, 1)
            return request

    def recognise(self, request: Request, who: Hashable) -> bool:
        """Assign a running request, and all with the same credential, to its client `who`.

        Return whether it may continue, or must wait for its turn again: so new credentials with each request do not get
        a client more threads. Alerts always continue, because their own limit leaves a thread to the pages.
        """
        with self._change:
            if self.known.get(request.credential) == who == request.who:
                return True
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            self.known[request.credential] = who
            for running in [each for each in self._running if each.credential == request.credential]:
                self._hold(running, -1)
                running.who = who
                self._hold(running, 1)
            for waiting in [each for each in self._all() if each.credential == request.credential]:
                self._remove(waiting)
                self._add(waiting)
            self._change.notify_all()  # requests of the former client may run now
            return request.is_alert or self.held[who] <= self.of_one

    def give_back(self, request: Request) -> None:
        """Release the thread of a request that has been answered, for the next request."""
        with self._change:
            self._running.remove(request)
            self._hold(request, -1)
            # A request over a limit may run now, and the thread that called this takes only one request.
            self._change.notify()

    def _hold(self, request: Request, number: int) -> None:
        for held in (self.held, self._held_by_alerts)[: 1 + request.is_alert]:
            held[request.who] += number
            if not held[request.who]:
                del held[request.who]

    def withdraw(self, request: Request) -> bool:
        """Remove a waiting request from the queue; return whether it was still waiting."""
        with self._change:
            return self._remove(request)

    def _remove(self, request: Request) -> bool:
        requests = self._waiting.get((request.who, request.is_alert), deque())
        if request not in requests:
            return False
        requests.remove(request)
        if not requests:
            del self._waiting[request.who, request.is_alert]
        return True

    def _all(self) -> list[Request]:
        return [request for requests in self._waiting.values() for request in requests]

    def impatient(self, now: float) -> list[Request]:
        """Remove and return the requests that have waited too long; `now` is in monotonic seconds."""
        with self._change:
            waiting = self._all()
            found = [each for each in waiting if each.since + (ALERT_PATIENCE if each.is_alert else PATIENCE) < now]
            return [request for request in found if self._remove(request)]

    def _next(self) -> Request | None:
        for key, requests in self._waiting.items():
            if self._is_let_in(*key):
                request = requests.popleft()
                del self._waiting[key]
                if requests:
                    self._waiting[key] = requests  # to the end of the queue, for the round-robin
                return request
        return None

    def _is_let_in(self, who: Hashable, is_alert: bool) -> bool:
        if self.held[who] >= self.of_one:
            return False
        alerts = self._held_by_alerts
        return not is_alert or (alerts.total() < self.of_alerts and alerts[who] < self.of_alerts_of_one)
