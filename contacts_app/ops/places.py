"""Share the threads of a web worker among all who ask, so that requests of one that wait never take all of them."""

import threading
from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

ALERT_PATIENCE = 2  # seconds that an alert waits for a thread
PATIENCE = 30  # seconds that any other request does

MOST_KNOWN = 10_000


class Asking(Protocol):
    """A request that needs a thread: whose it is, whether it brings an alert, and since when it waits.

    Whose it is nobody knows before the app has looked at what the request shows, its `credential`.
    """

    who: Hashable
    credential: bytes
    is_alert: bool
    since: float


Request = TypeVar("Request", bound=Asking)


class Places(Generic[Request]):
    """Give each of `threads` threads its next request, in turns among those who ask.

    The requests of one asker hold all threads but one at most. So do alerts, whoever sends them, and those of one
    sender leave one of these places to another, too. Where nothing would be left, one thread is enough for any of this.
    """

    def __init__(self, threads: int) -> None:
        self.of_one = self.of_alerts = max(1, threads - 1)
        self.of_alerts_of_one = max(1, threads - 2)
        self.known: dict[bytes, Hashable] = {}  # whose what is shown is
        self._waiting: dict[tuple[Hashable, bool], deque[Request]] = {}
        self._running: set[Request] = set()
        self.held: Counter[Hashable] = Counter()  # threads, by who holds them
        self._held_by_alerts: Counter[Hashable] = Counter()
        self._change = threading.Condition()

    def add(self, request: Request) -> None:
        """Have a request wait for a thread."""
        with self._change:
            self._add(request)
            self._change.notify()

    def _add(self, request: Request) -> None:
        request.who = self.known.get(request.credential, request.who)
        self._waiting.setdefault((request.who, request.is_alert), deque()).append(request)

    def take(self) -> Request:
        """Return the request that is this thread's next, as soon as there is one; `give_back` must follow."""
        with self._change:
            while (request := self._next()) is None:
                self._change.wait()
            self._running.add(request)
            self._hold(request, 1)
            return request

    def recognise(self, request: Request, who: Hashable) -> bool:
        """Note whose a request is that a thread works for, and with it all that show the same.

        Tell whether it may go on, or has to wait for its turn again: who shows something new with each request has no
        more threads than others. Alerts go on in any case; they leave a thread to the pages anyway.
        """
        with self._change:
            if self.known.get(request.credential) == who == request.who:
                return True
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[request.credential] = who
            for running in [each for each in self._running if each.credential == request.credential]:
                self._hold(running, -1)
                running.who = who
                self._hold(running, 1)
            for waiting in [each for each in self._all() if each.credential == request.credential]:
                self._remove(waiting)
                self._add(waiting)
            self._change.notify_all()  # those whom it was counted with before may be let in now
            return request.is_alert or self.held[who] <= self.of_one

    def give_back(self, request: Request) -> None:
        """Have the place of a request that has been answered taken by the next."""
        with self._change:
            self._running.remove(request)
            self._hold(request, -1)
            # What was not let in before may be now, and whoever gave this back takes only one.
            self._change.notify()

    def _hold(self, request: Request, number: int) -> None:
        for held in (self.held, self._held_by_alerts)[: 1 + request.is_alert]:
            held[request.who] += number
            if not held[request.who]:
                del held[request.who]

    def withdraw(self, request: Request) -> bool:
        """Take away a request that waits; tell whether it still did."""
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
        """Take away and return what has waited for too long."""
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
                    self._waiting[key] = requests  # at the end: it is the others' turn
                return request
        return None

    def _is_let_in(self, who: Hashable, is_alert: bool) -> bool:
        if self.held[who] >= self.of_one:
            return False
        alerts = self._held_by_alerts
        return not is_alert or (alerts.total() < self.of_alerts and alerts[who] < self.of_alerts_of_one)
