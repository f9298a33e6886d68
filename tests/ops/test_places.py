"""Show that the threads of a worker are shared: who asks for much, or waits for something, leaves one to the others."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import pytest

from contacts_app.ops.places import ALERT_PATIENCE, PATIENCE, Places
from tests.conftest import wait_for


@dataclass(eq=False)
class Asked:
    who: Hashable
    is_alert: bool = False
    credential: bytes = b""
    since: float = 0.0


def begun(places: Places[Asked], threads: int) -> list[Asked]:
    """Start as many threads, which never finish what they take, and return the list of what they take."""
    taken: list[Asked] = []

    def take() -> None:
        taken.append(places.take())

    for _ in range(threads):
        threading.Thread(target=take, daemon=True).start()
    return taken


@pytest.mark.parametrize(
    ("threads", "pages", "alerts", "alerts_of_one"), [(1, 1, 1, 1), (2, 1, 1, 1), (4, 3, 3, 2), (8, 7, 7, 6)]
)
def test_one_asker_and_alerts_leave_a_thread(threads: int, pages: int, alerts: int, alerts_of_one: int) -> None:
    for asked, expected in (
        ([Asked("one") for _ in range(20)], pages),
        ([Asked(number, is_alert=True) for number in range(20)], alerts),
        ([Asked("one", is_alert=True) for _ in range(20)], alerts_of_one),
        ([Asked("one", is_alert=bool(number % 2)) for number in range(20)], pages),
    ):
        places: Places[Asked] = Places(threads)
        for request in asked:
            places.add(request)
        taken = begun(places, threads)
        wait_for(lambda: len(taken) == expected)  # noqa: B023
        if threads > 1:
            places.add(other := Asked("another"))
            wait_for(lambda: other in taken)  # noqa: B023
            assert len(taken) == expected + 1


def test_askers_take_turns_and_what_is_given_back_is_taken() -> None:
    places: Places[Asked] = Places(2)
    for who in ("one", "one", "one", "two", "three", "two"):
        places.add(Asked(who))
    order = []
    for _ in range(6):
        order.append(places.take())
        places.give_back(order[-1])
    assert [request.who for request in order] == ["one", "two", "three", "one", "two", "one"]
    assert not places.held


def test_once_it_is_known_whose_a_session_is_all_its_requests_count_as_the_accounts() -> None:
    places: Places[Asked] = Places(4)
    first, *others = [Asked("an address", credential=b"session") for _ in range(6)]
    places.add(first)
    assert places.take() is first
    for request in others[:4]:
        places.add(request)
    places.recognise(first, 7)
    assert {request.who for request in (first, *others[:4])} == {7}
    places.add(others[4])
    assert others[4].who == 7
    taken = begun(places, 3)
    wait_for(lambda: len(taken) == 2)  # and the first
    places.add(stranger := Asked("an address"))
    wait_for(lambda: stranger in taken)
    places.give_back(first)
    begun(places, 1)
    wait_for(lambda: places.held == {7: 2 + 1, "an address": 1})


def test_once_it_is_known_whose_a_request_is_whoever_shares_its_address_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also by a thread that waits already, behind a proxy or the door of an office."""
    places: Places[Asked] = Places(2)
    places.add(first := Asked("an address", credential=b"session"))
    assert places.take() is first
    places.add(second := Asked("an address"))
    waits: list[threading.Thread] = []
    wait = threading.Condition.wait

    def noting(self: threading.Condition, timeout: float | None = None) -> bool:
        waits.append(threading.current_thread())
        return wait(self, timeout)

    monkeypatch.setattr(threading.Condition, "wait", noting)
    taken = begun(places, 1)
    wait_for(lambda: waits)
    places.recognise(first, 7)
    wait_for(lambda: taken == [second], seconds=5)


def test_who_shows_something_new_each_time_waits_for_a_thread_of_the_account_and_does_not_get_the_last() -> None:
    places: Places[Asked] = Places(2)
    for who in ("here", "there"):
        places.add(Asked(who, credential=who.encode()))
    first, second = places.take(), places.take()
    assert places.recognise(first, 7)
    assert not places.recognise(second, 7)
    places.give_back(second)
    places.add(second)
    places.add(stranger := Asked("elsewhere"))
    assert places.take() is stranger
    places.give_back(stranger)
    places.give_back(first)
    assert places.take() is second
    assert places.recognise(second, 7)
    places.add(alert := Asked("by itself", credential=b"a token", is_alert=True))
    assert places.take() is alert
    assert places.recognise(alert, 7)  # not all who send one try again


def test_who_has_waited_for_too_long_is_named_once_and_gone() -> None:
    places: Places[Asked] = Places(1)
    page, alert = Asked("one", since=100.0), Asked("one", is_alert=True, since=100.0)
    places.add(page)
    places.add(alert)
    assert places.impatient(100.0 + ALERT_PATIENCE) == []
    assert places.impatient(100.1 + ALERT_PATIENCE) == [alert]
    assert not places.withdraw(alert)
    assert places.impatient(100.1 + PATIENCE) == [page]
    assert places.impatient(1e9) == []
