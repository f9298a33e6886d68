"""Kill a worker, a backend and the whole database in the middle of a batch delete: all of it happens, or nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.chaos.site import Person, Site
from tests.conftest import Measured, wait_for
from tests.ops.test_embedded import kill, new_folder, postmasters

folder = pytest.fixture(new_folder, scope="module")
CONTACTS = 100
# Seconds after the request has been sent; None is the moment between the delete and its commit, held open by a lock.
MOMENTS = (0.0, 0.005, 0.015, 0.03, None)
SLOW = """
    CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER zz_wait_for_test AFTER DELETE ON contacts DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait_for_test()"""


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    site.sql(SLOW)  # its lock is free but for MOMENTS' last
    yield site
    site.stop()


def _kill_worker(site: Site) -> None:
    kill(site.console.gunicorn()[1:])  # all of them: one of these has the request


def _kill_backend(site: Site) -> None:
    busy = "SELECT pid FROM pg_stat_activity WHERE application_name = 'alert-contacts'"
    kill([psutil.Process(pid) for (pid,) in site.sql(busy) if psutil.pid_exists(pid)])


def _kill_postmaster(site: Site) -> None:
    kill(postmasters(site.console.data_dir))


VICTIMS: dict[Callable[[Site], None], str] = {
    _kill_worker: "all gunicorn workers",
    _kill_backend: "all of PostgreSQL's backends",
    _kill_postmaster: "PostgreSQL's postmaster",
}


@pytest.mark.parametrize("harm", VICTIMS)
def test_a_batch_delete_is_whole_or_did_not_happen(
    site: Site, harm: Callable[[Site], None], measured: Measured
) -> None:
    account = site.add_account()
    person, remaining, pauses = site.person(account), [], []
    for moment in MOMENTS:
        site.sql("DELETE FROM contacts WHERE account_id = %s", account)
        site.fill(account, CONTACTS)
        ids = site.ids(account)
        assert person.get("/contacts").status == 200
        deleting, answers = person.again(), list[Any]()
        request = threading.Thread(
            target=lambda d=deleting, i=ids, a=answers: a.append(d.post("/contacts/delete", id=i))
        )
        if moment is None:
            with psycopg.connect(site.url) as holder:
                holder.execute("SELECT pg_advisory_xact_lock(77)")
                request.start()
                waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                wait_for(partial(site.sql, waiting), what="a delete that is about to commit")
                harm(site)
                began = time.monotonic()
                holder.close()
        else:
            request.start()
            time.sleep(moment)
            harm(site)
            began = time.monotonic()
        pauses.append(site.wait_for_good_answer(Person(site.port, "", person.cookie), began))
        request.join(60)
        count = len(site.ids(account))
        remaining.append(count)
        assert count in (0, CONTACTS)
        assert answers[0].status != 303 or count == 0, "what was confirmed has happened"
        # The database of a worker that was killed has its commit already.
        assert moment is not None or harm is _kill_worker or count == CONTACTS, "what was not committed has not"
    done = f"{VICTIMS[harm]} killed (`kill -9`) during a batch delete of {CONTACTS}, at {len(MOMENTS)} moments"
    left = ", ".join(map(str, remaining))
    measured("faults", done, f"contacts that remain: {left}; next good answer within {max(pauses):.2f} s")
