"""Measure the pages of one account with 20,000 contacts: `make bench-growth`; an argument says how many contacts."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path

import sqlalchemy as sa
from werkzeug.test import TestResponse

from contacts_app import create_app
from contacts_app.accounts.models import Session, User
from contacts_app.config import PROJECT
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery.queueing import send_test
from contacts_app.groups.models import Group
from contacts_app.web.arguments import PAGE_SIZE
from tests.bench import document
from tests.growth import CHANNELS_SET_UP, Team
from tests.ops.test_embedded import FLASK, environment, kill, migrated, processes

CONTACTS, ROUNDS = 20_000, 10
SLOW = 1000  # milliseconds, from which a page is no longer usable


def run(folder: Path, contacts: int) -> None:
    """Fill an account, open its pages, print a table and write it into docs/measurements.md."""
    data_dir = migrated(folder)
    made = subprocess.run(
        [*FLASK, "demo", "--contacts", str(contacts)],
        cwd=PROJECT,
        env=environment(data_dir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    app = create_app({"DATA_DIR": str(data_dir)} | CHANNELS_SET_UP)
    with app.app_context(), all_accounts():
        user = db.session.scalars(sa.select(User)).one()
        team = Team(app, user.account_id, Session.begin(user))
        groups = db.session.scalars(sa.select(Group.id).order_by(Group.id)).all()
        everybody = Group(account_id=user.account_id, name="Everybody")
        db.session.add(everybody)
        db.session.flush()
        ids = db.session.scalars(sa.select(Contact.id).order_by(Contact.id)).all()
        everybody.add_members(ids)
        alert_id = send_test(user.account_id, "Everybody", ids).id
        all_id = everybody.id
        db.session.commit()
        db.session.execute(sa.text("ANALYZE"))
        db.session.commit()
    chosen = "&".join(f"id={id}" for id in ids[:PAGE_SIZE])
    last = ceil(contacts / PAGE_SIZE)
    pages: dict[str, Callable[[], TestResponse]] = {
        "list, first page": lambda: team.get("/contacts"),
        "list, last page": lambda: team.get(f"/contacts?page={last}"),
        "list by last change": lambda: team.get("/contacts?sort=-changed"),
        "list by creation, last page": lambda: team.get(f"/contacts?sort=created&page={last}"),
        "search by name": lambda: team.get("/contacts?q=ada"),
        "search by name, as a letter is typed": lambda: team.get("/contacts?q=a", **{"HX-Request": "true"}),
        "search by number": lambda: team.get("/contacts?field=mobile&q=5550123"),
        "search by e-mail": lambda: team.get("/contacts?field=email&q=contact77"),
        "in no group": lambda: team.get("/contacts?show=ungrouped"),
        "cannot be reached": lambda: team.get("/contacts?show=unreachable"),
        "delete a page: the question": lambda: team.get(f"/contacts/delete?{chosen}"),
        "delete a page": lambda: team.post("/contacts/delete", 200, id=list(ids[:PAGE_SIZE])),
        "add a page to a group: the question": lambda: team.get(f"/groups/assign?{chosen}"),
        "add a page to a group": lambda: team.post("/groups/assign", 200, id=list(ids[-PAGE_SIZE:]), group=groups[0]),
        "groups": lambda: team.get("/groups"),
        "groups, searched by member": lambda: team.get("/groups?q=ada"),
        "new group: the picker": lambda: team.get("/groups/new"),
        "group of 4,000: the picker": lambda: team.get(f"/groups/{groups[0]}/edit"),
        "group of all: the picker": lambda: team.get(f"/groups/{all_id}/edit"),
        "group of all: save": lambda: team.post(
            f"/groups/{all_id}/edit", 204, name="Everybody", version=everybody_version(team, all_id), member=list(ids)
        ),
        "group of all: who is in it": lambda: team.get(f"/groups/{all_id}"),
        "notifications": lambda: team.get("/notifications"),
        "notification to all": lambda: team.get(f"/notifications/{alert_id}"),
    }
    lines = [f"One account of {contacts:,} contacts, medians of {ROUNDS}.\n\n| | ms | KB |\n| --- | --- | --- |"]
    for name, open_page in pages.items():
        took = []
        for _ in range(ROUNDS + 1):
            begin = time.perf_counter()
            answer = open_page()
            took.append(1000 * (time.perf_counter() - begin))
        middle = statistics.median(took[1:])
        mark = " (slow)" if middle > SLOW else ""
        lines.append(f"| {name} | {middle:.0f}{mark} | {len(answer.data) / 1000:.0f} |")
    print(text := "\n".join(lines))
    document.write("account", text)
    with app.app_context(), all_accounts():
        db.engine.dispose()


def everybody_version(team: Team, group_id: int) -> int:
    """Return the version that the form of the group holds now."""
    with team.app.app_context(), all_accounts():
        group = Group.of(team.account_id, group_id)
        assert group
        return group.version


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="contacts-account-")).resolve()
    try:
        run(place, int(sys.argv[1]) if len(sys.argv) > 1 else CONTACTS)
    finally:
        kill(processes(place / "data"))
        shutil.rmtree(place)
