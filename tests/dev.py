"""Run the console for development: `make dev`, or `python -m tests.dev`.

The console reloads when a file changes, a worker delivers, and stand-ins on this machine receive what it sends: a mail
server, Twilio and DingTalk. A page lists what they received. The data is in build/dev, away from that of `make run`; on
the first start an account of samples is created there. Ctrl-C stops everything.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa

from contacts_app import create_app
from contacts_app.accounts.models import Account
from contacts_app.config import PROJECT, StartError
from contacts_app.contacts.models import Contact
from contacts_app.core.db import all_accounts, db
from contacts_app.ops import serve
from tests.delivery.counterparts import (
    Authority,
    DingTalk,
    Mail,
    MailServer,
    Robot,
    RobotMessage,
    TwilioSms,
    environment,
)

USER, PASSWORD = "demo1@example.com", "demo-of-development"
REFUSED = "contact2@example.com"  # of a sample that cannot be reached
WATCHED = ("contacts_app/**/*.py", "templates/**/*.html", "static/*", "wsgi.py")
LOOK_SECONDS = 0.5
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Received</title><style>body {{ font: 1rem sans-serif; margin: 2rem }} td {{ vertical-align: top; padding: .25rem
1rem .25rem 0 }} pre {{ margin: 0; white-space: pre-wrap }}</style><h1>Received: {count}</h1><table>{rows}</table>"""


class Received(NamedTuple):
    """One message that a stand-in received."""

    at: float
    channel: str
    to: str
    text: str


class AnyRobot(dict[str, Robot]):
    """Know every robot, whatever its token, so that one can be made up in the console."""

    def get(self, token: str, default: Any = None) -> Any:
        return self.setdefault(token, Robot())


class World:
    """The stand-ins and the page that shows what they received."""

    def __init__(self, folder: Path, robot_port: int, page_port: int) -> None:
        authority = Authority.make(folder)
        self.dingtalk = DingTalk(authority, robot_port)  # always the same port: contacts hold the address
        self.dingtalk.robots = AnyRobot()
        self.mail = MailServer(authority)
        self.mail.unknown.add(REFUSED)
        self.sms = TwilioSms(authority)
        self.settings = environment(authority.path, self.dingtalk, self.mail, self.sms)
        world = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = world.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", page_port), Page)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def received(self) -> list[Received]:
        """Return what was received, newest first."""
        found = [Received(text.at, "SMS", text.mobile, text.text) for text in self.sms.messages]
        found += [Received(mail.at, "e-mail", mail.recipient, _words(mail)) for mail in self.mail.messages]
        found += [Received(at, "DingTalk", token, f"{title}\n{text}") for at, token, title, text in self._posts()]
        return sorted(found, reverse=True)

    def _posts(self) -> Iterator[tuple[float, str, str, str]]:
        post: RobotMessage
        for post in self.dingtalk.messages:
            yield post.at, f"robot {post.token[:8]}…", post.title, post.text

    def page(self) -> str:
        """Return the page that lists it."""
        cells = (
            (datetime.fromtimestamp(one.at).strftime("%H:%M:%S"), one.channel, one.to, one.text)
            for one in self.received()
        )
        rows = "".join(
            "<tr>" + "".join(f"<td><pre>{escape(cell)}</pre></td>" for cell in row) + "</tr>" for row in cells
        )
        return PAGE.format(count=rows.count("<tr>"), rows=rows)

    def close(self) -> None:
        """Stop all of them."""
        self.server.shutdown()
        self.server.server_close()
        for one in (self.dingtalk, self.mail, self.sms):
            one.close()


def _words(mail: Mail) -> str:
    part = mail.message.get_body(("plain",))
    return f"{mail.message['Subject']}\n{part.get_content() if part else ''}"


def changes(patterns: Iterable[str] = WATCHED, top: Path = PROJECT) -> dict[Path, int]:
    """Return when each of the watched files was last changed."""
    found = {}
    for path in (path for pattern in patterns for path in top.glob(pattern)):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # an editor replaces it at this moment
            continue
    return found


def start() -> list[serve.Child]:
    """Start the web server and the worker."""
    gunicorn = ("gunicorn", "--config", "python:contacts_app.ops.gunicorn_conf", "wsgi:app")
    return [
        serve.Child("web server", *gunicorn),
        serve.Child("delivery worker", "flask", "--app", "wsgi", "deliver"),
    ]


def stop(children: Iterable[serve.Child]) -> None:
    """Stop them, and wait until they are gone."""
    for child in children:
        child.stop()
    for child in children:
        child.wait()


def prepare(world: World) -> None:
    """Start the database, and create the samples if there is no account yet; their robots are those of the stand-in."""
    app = create_app()
    with app.app_context(), all_accounts():
        serve.prepare()
        serve.apply_settings()
        if not Account.any_exists():
            run = app.test_cli_runner().invoke
            for arguments in (["demo"], ["set-password", "--email", USER, "--password-stdin"]):
                result = run(args=arguments, input=f"{PASSWORD}\n")
                if result.exit_code:
                    raise StartError(result.output)
            for contact in db.session.scalars(sa.select(Contact)):
                if contact.dingtalk_url:
                    token = dict(parse_qsl(urlsplit(contact.dingtalk_url).query))["access_token"]
                    contact.dingtalk_url = world.dingtalk.add(token)
            db.session.commit()
        db.session.remove()
        db.engine.dispose()


@contextmanager
def signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    yield stopping


def main() -> None:
    """Run until Ctrl-C."""
    port = int(os.environ.setdefault("PORT", "8000"))
    # Whatever an environment file of a real console has set: never its database, folder or keys.
    for name in ("DATABASE_URL", "ENCRYPTION_KEYS", "SECRET_KEY"):
        os.environ.pop(name, None)
    folder = Path(os.environ.get("DEV_DIR", PROJECT / "build/dev")).absolute()
    os.environ["DATA_DIR"] = str(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stopping = stack.enter_context(signals())
        try:
            world = World(folder, port + 1, port + 2)
        except OSError as error:
            raise StartError(
                f"PORT: the ports {port + 1} and {port + 2} are needed as well: {error.strerror}."
            ) from None
        stack.callback(world.close)
        os.environ |= world.settings
        prepare(world)
        known, children = changes(), start()
        stack.callback(lambda: stop(children))
        print(f"The console is starting:   http://127.0.0.1:{port}/  ({USER}, password {PASSWORD})")
        print(f"What the stand-ins receive: http://127.0.0.1:{port + 2}/", flush=True)
        shown = time.time()
        while not stopping.wait(LOOK_SECONDS):
            new = [one for one in world.received() if one.at > shown]
            for one in reversed(new):
                print(f"received: {one.channel} to {one.to}: {one.text.splitlines()[0]}", flush=True)
                shown = one.at
            if (found := changes()) != known:
                print("reloading", flush=True)
                known = found
                stop(children)
                children[:] = start()
            for child in children:
                child.keep_alive()


if __name__ == "__main__":
    try:
        main()
    except StartError as error:
        sys.exit(f"dev: {error}")
