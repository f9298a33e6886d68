"""Receive what is sent, in a process of its own: mail as cheaply as Python can, texts and robots as the tests do.

What arrives is noted with the time of the machine's monotonic clock, which all processes share.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from contacts_app.config import PROJECT
from tests.delivery.counterparts import SMTP_FROM, Authority, DingTalk, Request, TwilioSms, environment

GREETING = b"250-localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 10240000\r\n"


class Arrival(NamedTuple):
    """A message that has arrived."""

    at: float
    receiver: str
    size: int


class Taken:
    """What has arrived since it was last forgotten."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.wanted = 0
        self.are_enough = threading.Event()

    def note(self, receiver: str, size: int) -> None:
        """Note a message, at the moment at which its sender could be answered."""
        self.arrivals.append(Arrival(time.monotonic(), receiver, size))
        if len(self.arrivals) >= self.wanted:
            self.are_enough.set()

    def wait(self, count: int, seconds: float) -> bool:
        """Wait for so many messages; return whether they came."""
        self.are_enough.clear()
        self.wanted = count
        return len(self.arrivals) >= count or self.are_enough.wait(seconds)

    def obey(self, greeting: dict[str, Any]) -> None:
        """Greet whoever started this process, then do what each line of the input says, until it ends."""
        print(json.dumps(greeting), flush=True)
        for line in sys.stdin:
            match json.loads(line):
                case ["wait", count, seconds]:
                    said: Any = self.wait(count, seconds)
                case ["report"]:
                    said = self.arrivals
                case _:
                    self.arrivals, self.wanted, said = [], sys.maxsize, None
            print(json.dumps(said), flush=True)


class Receiver:
    """A process that receives: `mail`, `texts` or `robots`; the certificate of an Authority is in `folder`."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.receivers", kind, str(folder)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        greeting: dict[str, Any] = self._said()
        self.settings: dict[str, str] = greeting["settings"]  # of the console, so that it sends to this one
        self.address: str = greeting["address"]

    def forget(self) -> None:
        """Forget what has arrived."""
        self._ask("forget")

    def wait(self, count: int, seconds: float = 300) -> list[Arrival]:
        """Return what has arrived as soon as it is so many messages, and no more; end the measuring otherwise."""
        is_all = self._ask("wait", count, seconds)
        arrivals = [Arrival(*each) for each in self._ask("report")]
        if not is_all or len(arrivals) != count:
            sys.exit(f"{len(arrivals)} messages arrived, not {count}.")
        return arrivals

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _ask(self, *words: Any) -> Any:
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> Any:
        return json.loads(self._process.stdout.readline())


class Mailbox(asyncio.Protocol):
    """A connection of a mail server that takes everything for everybody, with as little work as possible."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.came = b""
        self.sender: str | None = None
        self.receivers: list[str] = []
        self.is_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 localhost ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer all commands that are complete, in one piece as pipelining wants it."""
        self.came += data
        replies = []
        while (reply := self._content() if self.is_data else self._command()) is not None:
            replies.append(reply)
        self.transport.write(b"".join(replies))
        if replies and replies[-1].startswith(b"221"):
            self.transport.close()

    def _content(self) -> bytes | None:
        end = 0 if self.came.startswith(b".\r\n") else self.came.find(b"\r\n.\r\n") + 2
        if end == 1:
            return None
        for receiver in self.receivers:
            self.taken.note(receiver, end)
        self.came = self.came[end + 3 :]
        self.sender, self.receivers, self.is_data = None, [], False
        return b"250 2.0.0 Ok\r\n"

    def _command(self) -> bytes | None:
        line, is_line, rest = self.came.partition(b"\r\n")
        if not is_line:
            return None
        self.came = rest
        verb = line[:4].upper()
        match verb:
            case b"EHLO":
                self.sender, self.receivers = None, []
                return GREETING
            case b"MAIL" if self.sender is None:
                self.sender = address_in(line)
            case b"RCPT" if self.sender is not None:
                self.receivers.append(address_in(line))
            case b"DATA" if self.receivers:
                self.is_data = True
                return b"354 Go ahead\r\n"
            case b"MAIL" | b"RCPT" | b"DATA":
                return b"503 5.5.1 Bad sequence of commands\r\n"
            case b"RSET" | b"HELO":
                self.sender, self.receivers = None, []
            case b"NOOP":
                pass
            case b"QUIT":
                return b"221 2.0.0 Bye\r\n"
            case _:
                return b"502 5.5.2 Unknown command\r\n"
        return b"250 2.0.0 Ok\r\n"


def address_in(line: bytes) -> str:
    """Return what stands between the angle brackets of a command."""
    return line.partition(b"<")[2].partition(b">")[0].decode()


def receive_mail(taken: Taken) -> dict[str, Any]:
    """Receive mail in a thread of its own, and return the address and the settings that lead to it."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Mailbox(taken), "127.0.0.1", 0, backlog=1024))
    port = str(server.sockets[0].getsockname()[1])
    threading.Thread(target=loop.run_forever, daemon=True).start()
    settings = {"SMTP_HOST": "localhost", "SMTP_PORT": port, "SMTP_FROM": SMTP_FROM, "SMTP_SECURITY": "none"}
    return {"address": f"127.0.0.1:{port}", "settings": settings}


class Texts(TwilioSms):
    """Twilio, of which only what arrives is noted."""

    def __init__(self, authority: Authority, taken: Taken) -> None:
        self.taken = taken
        super().__init__(authority)

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a text."""
        said = super().answer(request)
        if said[0] == 201:
            self.taken.note(parse_qs(request.body.decode())["To"][0], len(request.body))
        return said


class Robots(DingTalk):
    """DingTalk, where every token is one of a robot."""

    def __init__(self, authority: Authority, taken: Taken) -> None:
        self.taken = taken
        super().__init__(authority)

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a message."""
        token = request.query["access_token"]
        if token not in self.robots:
            self.add(token)
        said = super().answer(request)
        if said[1] == {"errcode": 0, "errmsg": "ok"}:
            self.taken.note(token, len(request.body))
        return said


def main(kind: str, folder: Path) -> None:
    """Receive until the input ends."""
    taken = Taken()
    if kind == "mail":
        taken.obey(receive_mail(taken))
        return
    authority = Authority(folder / "ca.pem", folder / "localhost.pem", folder / "localhost.key")
    server = Texts(authority, taken) if kind == "texts" else Robots(authority, taken)
    settings = environment(authority.path, *([server] if isinstance(server, DingTalk) else [None, None, server]))
    taken.obey({"address": f"https://localhost:{server.port}", "settings": settings})
    server.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
