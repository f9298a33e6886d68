"""Share the threads of a channel among the accounts, so that what hangs for one delays no other."""

import threading
import time
from collections import Counter
from collections.abc import Callable

SLOW_SECONDS = 0.5  # at work on one claim, after which another thread is started in its place
MOST_THREADS = 48  # of a channel: with four for each account, eleven accounts may hang at once


class Lane:
    """The threads of one channel, what each works on, and whose turn it is.

    An account may hold `share` threads, and one more than that are kept that are not slow: while some wait for a
    counterpart that hangs, which takes a socket and no connection to the database, others are started, and end when
    they idle.
    """

    def __init__(self, share: int, work: Callable[[float], None]) -> None:
        self.share = share
        self.work = work
        self.wake = threading.Event()
        self.claiming = threading.Lock()  # what an account holds is known before the next claim
        self.turn = 0  # the account that was served last
        self.seen = 0.0  # when one of the threads last came round
        self.threads: list[threading.Thread] = []
        self._held: dict[int, tuple[int, float]] = {}  # by thread: the account and since when
        self._changing = threading.Lock()

    def busy(self) -> list[int]:
        """Return the accounts that hold a thread."""
        with self._changing:
            return sorted({account_id for account_id, _ in self._held.values()})

    def full(self) -> list[int]:
        """Return the accounts that may hold no more threads."""
        with self._changing:
            counts = Counter(account_id for account_id, _ in self._held.values())
        return sorted(account_id for account_id, count in counts.items() if count >= self.share)

    def hold(self, account_id: int) -> None:
        """Note that this thread works for the account from now on."""
        with self._changing:
            self._held[threading.get_ident()] = (account_id, time.monotonic())

    def let_go(self) -> None:
        """Note that this thread came round."""
        with self._changing:
            self._held.pop(threading.get_ident(), None)
            self.seen = time.monotonic()

    def tend(self) -> None:
        """Start the threads that are missing; each looks for work again after another number of seconds."""
        with self._changing:
            for index in range(len(self.threads), self._wanted()):
                thread = threading.Thread(target=self.work, args=(min(index, self.share - 1) + 1,))
                self.threads.append(thread)
                thread.start()

    def may_end(self) -> bool:
        """Tell whether this thread, which has nothing to do, is one too many; then it is counted no more."""
        with self._changing:
            is_spare = len(self.threads) > self._wanted()
            if is_spare:
                self.threads.remove(threading.current_thread())
            return is_spare

    def join(self) -> None:
        """Wait until each thread has ended."""
        self.wake.set()
        with self._changing:
            threads = list(self.threads)
        for thread in threads:
            thread.join()

    def _wanted(self) -> int:
        since = time.monotonic() - SLOW_SECONDS
        slow = sum(began < since for _, began in self._held.values())
        return min(self.share + 1 + slow, MOST_THREADS)
