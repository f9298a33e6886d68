"""Fill a database with many accounts, do what people and workers do there, and report what the server read for it."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple
from unittest.mock import patch

import psycopg
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from werkzeug.test import TestResponse

from contacts_app.cli.processes import CHORES
from contacts_app.cli.samples import SAMPLE_NAMES
from contacts_app.core.db import all_accounts, db
from contacts_app.delivery import housekeeping
from contacts_app.delivery.answers import answer
from contacts_app.delivery.channels import Outcome
from contacts_app.delivery.channels.kinds import Senders
from contacts_app.delivery.channels.registry import kind_of
from contacts_app.delivery.worker import Worker
from contacts_app.reach import notices
from tests.conftest import CSRF_SECRET, HTMX, PASSWORD, PASSWORD_HASH, cookie_signer

CONTACTS = 100  # of each account
ALERT = {"title": "Disk 1 is full"}
CHANNELS_SET_UP = {
    **{"SMTP_HOST": "127.0.0.1", "SMTP_FROM": "console@example.com", "SMS_PROVIDER": "twilio"},
    **{"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "secret", "TWILIO_FROM": "+15005550006"},
}
# Every hundredth account has messages that wait, which is what the workers find.
FILL = r"""
    INSERT INTO accounts (id, name, contact_quota, contact_count)
    SELECT a, 'Team ' || a, 100, 100 FROM generate_series({first}, {last}) AS a;
    INSERT INTO users (account_id, id, email, password_hash)
    SELECT a, a, 'user' || a || '@example.com', {password_hash} FROM generate_series({first}, {last}) AS a;
    INSERT INTO sessions (token_hash, account_id, user_id, seen_at)
    SELECT sha256(('token-' || a)::bytea), a, a, now() + interval '1 hour' FROM generate_series({first}, {last}) AS a;
    INSERT INTO contacts (account_id, id, name, mobile, email, dingtalk_url_encrypted, dingtalk_url_hash,
        receives_system_notifications, created_at, updated_at)
    SELECT a, (a - 1) * 100 + n, ({names}::text[])[1 + (7 * a + n) % {count}] || ' ' || n,
        CASE WHEN n % 20 < 17 THEN '+8613' || lpad(((a - 1) * 100 + n)::text, 9, '0') END,
        CASE WHEN n % 20 >= 17 OR n % 5 > 0 THEN 'contact' || n || '@team' || a || '.example.com' END,
        CASE WHEN n % 10 = 0 THEN decode(repeat(md5((a * 100 + n)::text), 4), 'hex') END,
        CASE WHEN n % 10 = 0 THEN sha256((a || ':' || n % 40)::bytea) END,
        n % 10 = 1, now() - n * interval '1 day', now() - n * interval '1 hour'
    FROM generate_series({first}, {last}) AS a, generate_series(1, 100) AS n;
    INSERT INTO groups (account_id, id, name)
    SELECT a, (a - 1) * 5 + g, 'Group ' || g FROM generate_series({first}, {last}) AS a, generate_series(1, 5) AS g;
    INSERT INTO memberships (account_id, group_id, contact_id)
    SELECT a, (a - 1) * 5 + n % 6, (a - 1) * 100 + n
    FROM generate_series({first}, {last}) AS a, generate_series(1, 100) AS n WHERE n % 6 > 0;
    INSERT INTO channel_states (account_id, contact_id, channel, worked_at, failing_since, answer)
    SELECT a, (a - 1) * 100 + n, channel, CASE WHEN works THEN now() END,
        CASE WHEN NOT works THEN now() - interval '1 day' END, CASE WHEN NOT works THEN 'The mailbox is full.' END
    FROM generate_series({first}, {last}) AS a, (
        SELECT n, 'sms' AS channel, true AS works FROM generate_series(1, 100) AS n WHERE n % 4 = 1 AND n % 20 < 17
        UNION ALL VALUES (2, 'email', false), (3, 'sms', false), (3, 'email', false), (18, 'email', false)
    ) AS known;
    INSERT INTO integrations (account_id, id, group_id, name, token_hash)
    SELECT a, a, (a - 1) * 5 + 1, 'Alertmanager', sha256(('integration-' || a)::bytea)
    FROM generate_series({first}, {last}) AS a;
    UPDATE integrations SET refused_count = 3, refused_since = now() - interval '1 hour', refused_at = now()
    WHERE account_id BETWEEN {first} AND {last} AND account_id % 10 = 0;
    INSERT INTO refusals (account_id, integration_id, status, sentence, body)
    SELECT a, a, 400, 'The body is empty.', '' FROM generate_series({first}, {last}) AS a, generate_series(1, 3)
    WHERE a % 10 = 0;
    INSERT INTO alerts (account_id, id, kind, source, integration_id, integration_name, addressee, title, text,
        severity, status, body_hash, received_at)
    SELECT a, (a - 1) * 3 + k, 'alert', 'Alertmanager', a, 'Alertmanager', 'Group 1', 'Disk ' || k || ' is full',
        'No space left on host-' || a, 'critical', 'firing', sha256((a || ' ' || k)::bytea),
        now() - (4 - k) * interval '1 day'
    FROM generate_series({first}, {last}) AS a, generate_series(1, 3) AS k;
    INSERT INTO deliveries (account_id, alert_id, contact_id, channel, contact_name, address, state, attempts,
        next_attempt_at, give_up_at, answer, ended_at)
    SELECT a, (a - 1) * 3 + k, (a - 1) * 100 + n, channel, 'Contact ' || n, 'somewhere',
        CASE WHEN waits THEN 'queued' WHEN k = 2 AND n = 7 THEN 'failed' ELSE 'sent' END,
        CASE WHEN waits THEN 0 ELSE 1 END,
        CASE WHEN waits THEN now() END, now() + interval '1 hour', CASE WHEN NOT waits THEN 'OK' END,
        CASE WHEN NOT waits THEN now() END
    FROM generate_series({first}, {last}) AS a, generate_series(1, 3) AS k,
        (VALUES (1, 'sms'), (1, 'email'), (7, 'sms'), (7, 'email'), (13, 'email'), (10, 'dingtalk'))
            AS sent (n, channel),
        LATERAL (SELECT a % 100 = 0 AND k = 3 AS waits) AS which;
    INSERT INTO robots (account_id, url_hash, due_at)
    SELECT a, sha256((a || ':' || n)::bytea), CASE WHEN a % 100 = 0 AND n = 10 THEN now() END
    FROM generate_series({first}, {last}) AS a, generate_series(0, 30, 10) AS n;
    INSERT INTO system_checks (account_id)
    SELECT a FROM generate_series({first}, {last}) AS a WHERE a % 100 = 0;
"""
IDENTITIES = ("accounts", "users", "contacts", "groups", "integrations", "alerts")
# What is not found by its account, and why it cannot be.
NOT_BY_ACCOUNT = {
    "sessions_pkey": "a browser has nothing but its token",
    "integration_token_is_unique": "a sender has nothing but its token",
    "user_email_is_unique": "who logs on names an address, and no account",
    "account_name_is_unique": "a command names an account",
    "deliveries_due": "a worker works for all accounts: what is due, of a channel",
    "robots_due": "a worker works for all accounts: the robot that is due",
    "system_checks_due_at": "a worker works for all accounts: the account that is due",
    "alerts_received_at": "a worker removes what is too old, whoever's it is",
    "refusals_refused_at": "a worker removes what is too old, whoever's it is",
    "integrations_refused_at": "a worker forgets refusals that are too old, whoever's they are",
    "sessions_created_at": "a log-on removes the sessions that are too old, whoever's they are",
    "logon_attempts_pkey": "guesses are counted before anybody is known",
    "logon_attempts_email_hash_at": "guesses are counted before anybody is known",
    "logon_attempts_address_at": "guesses are counted before anybody is known",
    "logon_attempts_at": "guesses are counted before anybody is known",
}
# Indexes of nothing but what waits.
OF_WORKERS = {("worker: tidy up", "deliveries_of_contacts"), ("worker: tidy up", "deliveries_waiting")}
MAX_ROWS = 1_000  # of a table that one account may have here; the server reads small tables whole, which is no harm
OF_NO_ACCOUNT = {"workers", "encryption_keys", "alembic_version"}  # few rows, however many accounts there are


def administrator(url: str) -> str:
    """Return the address by which a superuser reaches the database: of the embedded server, or as it was given."""
    return make_conninfo(url, user="postgres") if conninfo_to_dict(url).get("user") == "console" else url


def fill(connection: psycopg.Connection, first: int, last: int) -> None:
    """Write the accounts from `first` to `last`, each with 100 contacts and all around them; needs a superuser.

    Triggers and foreign keys are not asked: what is written is as they would leave it.
    """
    names = "ARRAY[" + ", ".join(sql.quote(name) for name in SAMPLE_NAMES) + "]"
    values = {"first": first, "last": last, "names": names, "count": len(SAMPLE_NAMES)}
    connection.execute("SET session_replication_role = replica")
    connection.execute(FILL.format(**values, password_hash=sql.quote(PASSWORD_HASH)))
    for table in IDENTITIES:
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        connection.execute(f"SELECT setval({sequence}, greatest(nextval({sequence}), (SELECT max(id) FROM {table})))")


@dataclass
class Team:
    """An account, by default one that `fill` has written, and somebody who is logged on to it; nothing done is kept."""

    app: Flask
    account_id: int
    token: str = ""

    @cached_property
    def client(self) -> FlaskClient:
        signer = cookie_signer(self.app)
        client = self.app.test_client()
        token = self.token or f"token-{self.account_id}"
        client.set_cookie("console", signer.dumps({"token": token, "csrf_token": CSRF_SECRET, "_permanent": True}))
        return client

    @cached_property
    def csrf_token(self) -> str:
        return str(URLSafeTimedSerializer(self.app.secret_key or "", salt="wtf-csrf-token").dumps(CSRF_SECRET))

    def contact(self, number: int) -> int:
        """Return the id of one of the contacts, from 1 to 100."""
        return (self.account_id - 1) * CONTACTS + number

    def mobile(self, number: int) -> str:
        return f"+8613{self.contact(number):09}"

    def get(self, path: str, **headers: str) -> TestResponse:
        answer = self.client.get(path, headers=headers)
        assert answer.status_code == 200, (path, answer.status)
        return answer

    def post(self, path: str, status: int, **fields: Any) -> TestResponse:
        """Post a form as htmx does from the list of contacts, and take back what was written."""
        fields = {"csrf_token": self.csrf_token} | fields
        headers = HTMX | {"HX-Current-URL": "http://localhost/contacts"}
        with patch.object(db.session, "commit", db.session.flush):
            answer = self.client.post(path, data=fields, headers=headers)
        assert answer.status_code == status, (path, answer.status, answer.text)
        return answer

    def post_alert(self, body: Any = ALERT, status: int = 202) -> None:
        """Post an alert as a system that watches does."""
        headers = {"Authorization": f"Bearer integration-{self.account_id}"}
        with patch.object(db.session, "commit", db.session.flush):
            answer = self.client.post("/api/v1/alerts", json=body, headers=headers)
        assert answer.status_code == status, answer.text

    def log_on(self) -> None:
        """Log on anew, as somebody with no session."""
        stranger = Team(self.app, 0)
        stranger.post("/logon", 204, email=f"user{self.account_id}@example.com", password=PASSWORD)


class Act(NamedTuple):
    """Something that is done again and again: a team does it, or a worker, who works for all."""

    name: str
    do: Callable[[Team], Any]


def _work(act: Callable[[Worker], Any], team: Team) -> None:
    with team.app.app_context(), all_accounts(), patch.object(db.session, "commit", db.session.flush):
        act(Worker(team.app, team.app.extensions["settings"], CHORES))


def _deliver(channel: str, team: Team) -> None:
    """Have a worker take one step, and say of what it would send that it has arrived."""
    senders = Senders(team.app.extensions["settings"])
    with patch.object(type(kind_of(channel)), "send", lambda *_: Outcome("sent", answer("twilio.sent")), create=True):
        _work(lambda worker: worker.step(channel, senders), team)


def _page(path: str) -> Callable[[Team], Any]:
    return lambda team: team.get(path.format(contact=team.contact(50), group=(team.account_id - 1) * 5 + 2))


def _ids(count: int) -> Callable[[Team], list[int]]:
    return lambda team: [team.contact(number) for number in range(1, count + 1)]


PEOPLE = (
    Act("list", _page("/contacts")),
    Act("list by last change", _page("/contacts?sort=-changed")),
    Act("search by name", _page("/contacts?q=ada")),
    Act("search by number", lambda team: team.get(f"/contacts?field=mobile&q={team.mobile(50)[3:]}")),
    Act("search by e-mail", _page("/contacts?field=email&q=contact5")),
    Act("in no group", _page("/contacts?show=ungrouped")),
    Act("cannot be reached", _page("/contacts?show=unreachable")),
    Act("never tried", _page("/contacts?show=untried")),
    Act("with a channel that fails", _page("/contacts?show=failing")),
    Act("edit: the form", _page("/contacts/{contact}/edit")),
    Act(
        "edit: a number that is taken",
        lambda team: team.post(
            f"/contacts/{team.contact(50)}/edit", 422, name="Ann", version=1, mobile=team.mobile(51)
        ),
    ),
    Act(
        "edit: save",
        lambda team: team.post(f"/contacts/{team.contact(50)}/edit", 200, name="Ann", version=1, email="a@example.com"),
    ),
    Act(
        "delete 100: the question",
        lambda team: team.get("/contacts/delete?" + "&".join(f"id={id}" for id in _ids(100)(team)), **HTMX),
    ),
    Act(
        "test 100: the question",
        lambda team: team.get("/notifications/test?" + "&".join(f"id={id}" for id in _ids(100)(team)), **HTMX),
    ),
    Act("delete 100", lambda team: team.post("/contacts/delete", 200, id=_ids(100)(team))),
    Act("groups", _page("/groups")),
    Act("search for groups", _page("/groups?q=ada")),
    Act("group: the form", _page("/groups/{group}/edit")),
    Act("group: who is in it", _page("/groups/{group}")),
    Act(
        "add 100 to a group",
        lambda team: team.post("/groups/assign", 200, id=_ids(100)(team), group=(team.account_id - 1) * 5 + 2),
    ),
    Act("notifications", _page("/notifications")),
    Act("search for notifications", _page("/notifications?q=disk")),
    Act("with a failed message", _page("/notifications?show=failed")),
    Act("with a waiting message", _page("/notifications?show=waiting")),
    Act("notification", lambda team: team.get(f"/notifications/{(team.account_id - 1) * 3 + 2}")),
    Act("log on", Team.log_on),
    Act("integration", lambda team: team.get(f"/integrations/{team.account_id}")),
    Act("an alert comes in", Team.post_alert),
    Act("an alert is refused", lambda team: team.post_alert({}, 400)),
)
WORKERS = (
    Act("worker: claim and send mail", partial(_deliver, "email")),
    Act("worker: claim and send texts", partial(_deliver, "sms")),
    Act("worker: claim a robot", partial(_deliver, "dingtalk")),
    Act("worker: system notifications", partial(_work, lambda _: notices.check_next())),
    Act("worker: tidy up", partial(_work, lambda _: housekeeping.tidy(90, CHORES))),
)


class Plan(NamedTuple):
    """How the server ran one statement, and how many of its pages (8 KiB) it looked at."""

    act: str
    statement: str
    root: dict[str, Any]

    @property
    def pages(self) -> int:
        return int(self.root["Shared Hit Blocks"]) + int(self.root["Shared Read Blocks"])

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Return each step of the plan."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])


class Explainer:
    """Collect the plan of everything that the console has run on the server, triggers and foreign keys included.

    `mode` is a plan_cache_mode: force_generic_plan shows what a statement that is repeated often may be run by.
    """

    def __init__(self, app: Flask, admin: psycopg.Connection, mode: str) -> None:
        self.app = app
        self.admin = admin
        self.plans: list[Plan] = []
        self.act = ""
        self.database = admin.info.dbname
        self.settings = SETTINGS | {"plan_cache_mode": mode}

    def __enter__(self) -> "Explainer":
        self.admin.execute("LOAD 'auto_explain'")
        for name, value in self.settings.items():
            self.admin.execute(f"ALTER DATABASE {self.database} SET {name} = '{value}'")
        with self.app.app_context(), all_accounts():
            self.engine = db.engine
        self.engine.dispose()
        sa.event.listen(self.engine, "connect", self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(self.engine, "connect", self._listen)
        for name in self.settings:
            self.admin.execute(f"ALTER DATABASE {self.database} RESET {name}")
        self.engine.dispose()

    def run(self, act: Act, teams: Iterable[Team]) -> None:
        """Do what `act` does, and note the plans."""
        self.act = act.name
        for team in teams:
            act.do(team)
        self.act = ""

    def _listen(self, connection: psycopg.Connection, _: object) -> None:
        connection.add_notice_handler(self._hear)

    def _hear(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        _, is_plan, text = (diagnostic.message_primary or "").partition("plan:\n")
        if is_plan and self.act:
            explained = json.loads(text)
            self.plans.append(Plan(self.act, explained["Query Text"], explained["Plan"]))


SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}


def rows_read(node: dict[str, Any]) -> float:
    """Return how many rows a step has looked at, those that it threw away included."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def faults(plans: Iterable[Plan], connection: psycopg.Connection) -> list[str]:
    """Say which plans read more than one account's rows: a whole table, or an index that is not searched by account.

    The indexes of NOT_BY_ACCOUNT may be used, as long as they are searched by what they begin with.
    """
    found = connection.execute("""
        SELECT index.relname, attname FROM pg_index
        JOIN pg_class AS index ON index.oid = indexrelid
        JOIN pg_attribute ON attrelid = indexrelid AND attnum = 1
    """)
    first: dict[str, str] = dict(found.fetchall())
    wrong = set()
    for plan in plans:
        for node in plan.nodes():
            relation, index = node.get("Relation Name"), node.get("Index Name")
            where = f"{plan.act}: {node['Node Type']} of {index or relation}"
            if relation in OF_NO_ACCOUNT:
                continue
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            if node["Node Type"] == "Seq Scan" and read * node["Actual Loops"] > MAX_ROWS:
                wrong.add(f"{where} in {' '.join(plan.statement.split())[:200]}")
            if index is None or index.startswith("pg_") or index in NOT_BY_ACCOUNT or (plan.act, index) in OF_WORKERS:
                continue
            key = "id" if index == "accounts_pkey" else "account_id"
            if first[index] != key or not re.search(rf"\(\(?(\w+\.)?{key} = ", node.get("Index Cond", "")):
                wrong.add(f"{where} ({node.get('Index Cond')}) in {' '.join(plan.statement.split())[:200]}")
    return sorted(wrong)
