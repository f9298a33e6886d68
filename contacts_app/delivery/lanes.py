"""Share the threads of a channel fairly among the accounts, so that a provider that hangs for one delays no other."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection

SLOW_SECONDS = 0.5  # for one claim, after which a replacement thread is started
KNOWN_SECONDS = 0.5  # for which an empty queue is not queried again
MAX_THREADS = 48  # per channel: one account fewer than this may hang at once


class Lane:
    """The thread pool of one channel: what each thread works on, and whose turn it is.

    An account may use `share` threads, and `share` + 1 threads that are not slow are kept running: while some wait for
    a provider that hangs, which occupies a socket but no database connection, others are started; they end when idle.
    Accounts without a thread come first. The last free thread is given to no account that has a slow one, so that the
    next account finds a thread.
    """

    def __init__(self, share: int, work: Callable[[float], None]) -> None:
        self.share = share
        self.work = work
        self._calls = threading.Condition()
        self._is_called = False
        self.claiming = threading.Lock()  # so that the threads of each account are known before the next claim
        self.turn = 0  # the account that was served last
        self.announced = 0  # the number of announcements
        self.seen = 0.0  # when one of the threads last finished a round
        self.threads: list[threading.Thread] = []
        self._held: dict[int, tuple[int, float]] = {}  # by thread: the account and since when
        # The queue is empty: as of which announcement, except for which accounts, and until when that is valid.
        self._quiet = (-1, frozenset[int](), 0.0)
        self._changing = threading.Lock()

    def busy(self) -> list[int]:
        """Return the accounts that other threads work for, in order."""
        with self._changing:
            return sorted({account_id for account_id, _ in self._others()})

    def full(self) -> list[int]:
        """Return the accounts that may not be given this thread."""
        since = time.monotonic() - SLOW_SECONDS
        with self._changing:
            others = self._others()
            is_last = len(self.threads) - len(others) <= 1
        counts = Counter(account_id for account_id, _ in others)
        full = {account_id for account_id, count in counts.items() if count >= self.share}
        slow = {account_id for account_id, began in others if began < since}
        return sorted(full | slow if is_last else full)

    def announce(self) -> None:
        """Wake one thread, because something was queued; it wakes the next if there is more than it can claim."""
        self.announced += 1
        self.call()

    def call(self) -> None:
        """Wake one of the threads that wait; if there is none, the next that would."""
        with self._calls:
            self._is_called = True
            self._calls.notify()

    def wait(self, seconds: float) -> None:
        """Wait until this thread is woken, or for so many seconds."""
        with self._calls:
            if not self._is_called:
                self._calls.wait(seconds)
            self._is_called = False

    def is_quiet(self, passed_over: Collection[int]) -> bool:
        """Return whether nothing is known to be due except for these accounts, which saves queries in a burst."""
        announced, accounts, until = self._quiet
        return announced == self.announced and accounts.issubset(passed_over) and time.monotonic() < until

    def note_quiet(self, passed_over: Collection[int], announced: int) -> None:
        """Record that nothing was due except for these accounts, as of this number of announcements."""
        self._quiet = (announced, frozenset(passed_over), time.monotonic() + KNOWN_SECONDS)

    def hold(self, account_id: int) -> None:
        """Record that this thread works for the account from now on."""
        with self._changing:
            self._held[threading.get_ident()] = (account_id, time.monotonic())

    def let_go(self) -> None:
        """Record that this thread has finished its work."""
        with self._changing:
            self._held.pop(threading.get_ident(), None)
            self.seen = time.monotonic()

    def tend(self) -> None:
        """Start the missing threads; each polls the queue at an interval of its own."""
        with self._changing:
            for index in range(len(self.threads), self._wanted()):
                thread = threading.Thread(target=self.work, args=(min(index, self.share - 1) + 1,))
                self.threads.append(thread)
                thread.start()

    def may_end(self) -> bool:
        """Return whether this idle thread is surplus and should end; it is then removed from the pool."""
        with self._changing:
            is_spare = len(self.threads) > self._wanted()
            if is_spare:
                self.threads.remove(threading.current_thread())
            return is_spare

    def join(self) -> None:
        """Wait until each thread has ended, once the worker is stopping."""
        with self._changing:
            threads = list(self.threads)
        for thread in threads:
            while thread.is_alive():
                self.call()
                thread.join(0.05)

    def _others(self) -> list[tuple[int, float]]:
        return [held for thread, held in self._held.items() if thread != threading.get_ident()]

    def _wanted(self) -> int:
        since = time.monotonic() - SLOW_SECONDS
        slow = sum(began < since for _, began in self._held.values())
        return min(self.share + 1 + slow, MAX_THREADS)
