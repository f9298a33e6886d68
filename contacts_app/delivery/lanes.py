"""Share the threads of a channel among the accounts, so that what hangs for one delays no other."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection

SLOW_SECONDS = 0.5  # at work on one claim, after which another thread is started in its place
KNOWN_SECONDS = 0.5  # for which it need not be asked again whether anything is due
MOST_THREADS = 48  # of a channel: so many accounts but one may hang at once


class Lane:
    """The threads of one channel, what each works on, and whose turn it is.

    An account may hold `share` threads, and one more than that are kept that are not slow: while some wait for a
    counterpart that hangs, which takes a socket and no connection to the database, others are started, and end when
    they idle. Who holds none comes before those that do; and the last free thread is for none of those that have a
    slow one, so that there is one for whoever comes next.
    """

    def __init__(self, share: int, work: Callable[[float], None]) -> None:
        self.share = share
        self.work = work
        self.wake = threading.Event()
        self.claiming = threading.Lock()  # what an account holds is known before the next claim
        self.turn = 0  # the account that was served last
        self.announced = 0  # how often something was
        self.seen = 0.0  # when one of the threads last came round
        self.threads: list[threading.Thread] = []
        self._held: dict[int, tuple[int, float]] = {}  # by thread: the account and since when
        self._quiet = (-1, frozenset[int](), 0.0)  # what was announced, but for which accounts, until when
        self._changing = threading.Lock()

    def busy(self) -> list[int]:
        """Return the accounts that other threads work for."""
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
        """Have the threads look for what was queued."""
        self.announced += 1
        self.wake.set()

    def is_quiet(self, passed_over: Collection[int]) -> bool:
        """Tell whether it is known that nothing is due but for these accounts: each claim of a flood wakes all."""
        announced, accounts, until = self._quiet
        return announced == self.announced and accounts.issubset(passed_over) and time.monotonic() < until

    def note_quiet(self, passed_over: Collection[int], announced: int) -> None:
        """Note that nothing but for these accounts was due, asked when so much had been announced."""
        self._quiet = (announced, frozenset(passed_over), time.monotonic() + KNOWN_SECONDS)

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

    def _others(self) -> list[tuple[int, float]]:
        return [held for thread, held in self._held.items() if thread != threading.get_ident()]

    def _wanted(self) -> int:
        since = time.monotonic() - SLOW_SECONDS
        slow = sum(began < since for _, began in self._held.values())
        return min(self.share + 1 + slow, MOST_THREADS)
