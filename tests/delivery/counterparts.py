"""Stand in for DingTalk, Alibaba Cloud SMS, Twilio and a mail server: real servers on 127.0.0.1, with TLS."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, message_from_string
from email.message import EmailMessage, Message
from email.policy import default
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SMTP_USER, SMTP_PASSWORD, SMTP_FROM = "console", "smtp-password-of-the-test", "console@alerts.example.com"
ALIYUN_KEY, ALIYUN_SECRET = "LTAItestkey", "aliyun-secret-of-the-test"
ALIYUN_SIGN, ALIYUN_TEMPLATE = "控制台", "SMS_1234"
TWILIO_SID, TWILIO_TOKEN, TWILIO_FROM = "AC0123456789abcdef", "twilio-token-of-the-test", "+15005550006"


@dataclass
class Authority:
    """A certificate authority of one test run, and the certificate that it gave localhost."""

    path: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        """Write authority, certificate and key into `folder`."""
        made = cls(folder / "ca.pem", folder / "localhost.pem", folder / "localhost.key")
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        ca = _certificate(ca_name, ca_name, ca_key, ca_key, x509.BasicConstraints(True, 0))
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        ca = ca.add_extension(usage, True)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        leaf = _certificate(name, ca_name, key, ca_key, x509.BasicConstraints(False, None))
        leaf = leaf.add_extension(x509.SubjectAlternativeName(names), False)
        pem = serialization.Encoding.PEM
        made.path.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
        made.certificate.write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
        pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        made.key.write_bytes(key.private_bytes(pem, pkcs8, clear))
        return made

    def context(self) -> ssl.SSLContext:
        """Return what a server shows its certificate with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Request(NamedTuple):
    """What a server was sent."""

    path: str
    query: dict[str, str]
    headers: Message
    body: bytes


class Https:
    """A server that answers what `answer` returns, or misbehaves.

    `behaviour` is None, garbage, hang, drip, drip-headers, redirect, close, 500 or large. `replies` are answers that
    are given first, as (HTTP status, JSON). The time of the server is off by `offset` seconds. A text with one of
    `words` is refused.

    What is sent to one of `hanging`, a number or a robot's token, is answered when `release` is called; `hung` counts
    it.
    """

    def __init__(self, authority: Authority, port: int = 0) -> None:
        self.messages: list[Any] = []
        self.behaviour: str | None = None
        self.replies: deque[tuple[int, Any]] = deque()
        self.offset = 0.0
        self.words: set[str] = set()
        self.requests = 0
        self.hanging: set[str] = set()
        self.hung = 0
        self._released = threading.Event()
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self._server = _Server(self, authority.context(), port)
        self.port: int = self._server.server_address[1]
        self.open_connections = self._server.open
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def now(self) -> float:
        """Return the time as this server has it."""
        return time.time() + self.offset

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return status and JSON."""
        raise NotImplementedError

    def hang(self, receiver: str) -> None:
        """Wait if the receiver is one of those that hang."""
        released = self._released
        if receiver in self.hanging:
            with self.lock:
                self.hung += 1
            released.wait(120)

    def release(self) -> None:
        """Have nobody hang any more."""
        self.hanging.clear()
        self._released.set()
        self._released, self.hung = threading.Event(), 0

    def close(self) -> None:
        """Stop, and cut the connections that are open."""
        self.closed.set()
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()
        self._thread.join()


@dataclass
class Robot:
    """A robot of a group chat."""

    secret: str | None = None
    keywords: tuple[str, ...] = ()
    sent_at: deque[float] = field(default_factory=deque)
    blocked_until: float = 0.0
    uuids: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class RobotMessage:
    """What a group chat shows."""

    at: float
    token: str
    title: str
    text: str
    mobiles: tuple[str, ...]
    uuid: str


class DingTalk(Https):
    """DingTalk's robots: `limit` messages in `window` seconds, then blocked for `block` seconds."""

    limit, window, block = 20, 60.0, 600.0

    def __init__(self, authority: Authority, port: int = 0) -> None:
        self.robots: dict[str, Robot] = {}
        self.duplicates = 0
        super().__init__(authority, port)

    def add(self, token: str, secret: str | None = None, keywords: Iterable[str] = ()) -> str:
        """Add a robot and return its address."""
        self.robots[token] = Robot(secret, tuple(keywords))
        return f"https://localhost:{self.port}/robot/send?access_token={token}"

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a message, or say what is wrong with it."""
        if request.path != "/robot/send":
            return 404, {}
        self.hang(request.query.get("access_token", ""))
        code, message = 460101, "message too long"
        if len(request.body) <= 20_000:
            code, message = self._take(request.query, json.loads(request.body))
        return 200, {"errcode": code, "errmsg": message}

    def _take(self, query: dict[str, str], body: Any) -> tuple[int, str]:
        robot = self.robots.get(query.get("access_token", ""))
        if robot is None:
            return 300005, "token is not exist"
        content = body.get(body.get("msgtype"), {})
        text, title = content.get("text", ""), content.get("title", "")
        if body.get("msgtype") == "markdown" and not (text and title):
            return 400402, "miss param : markdown->title"
        if robot.keywords and not any(keyword in text for keyword in robot.keywords):
            return 310000, "keywords not in content, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
        if robot.secret and (wrong := self._wrong_signature(robot.secret, query)):
            return 310000, f"{wrong}, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
        if any(word in text + title for word in self.words):
            return 430102, "the text contains something that is not appropriate"
        now = time.time()
        with self.lock:
            while robot.sent_at and robot.sent_at[0] <= now - self.window:
                robot.sent_at.popleft()
            if len(robot.sent_at) >= self.limit:
                robot.blocked_until = max(robot.blocked_until, now + self.block)
            if robot.blocked_until > now:
                return 130101, "send too fast, exceed 20 times per minute"
            robot.sent_at.append(now)
            uuid = body.get("msgUuid") or ""
            if uuid and uuid in robot.uuids:
                self.duplicates += 1
                return 0, "ok"
            robot.uuids.add(uuid)
            mobiles = tuple(number for number in body["at"].get("atMobiles", ()) if f"@{number}" in text)
            self.messages.append(RobotMessage(now, query["access_token"], title, text, mobiles, uuid))
        return 0, "ok"

    def _wrong_signature(self, secret: str, query: dict[str, str]) -> str | None:
        timestamp = query.get("timestamp", "")
        if not timestamp or "sign" not in query:
            return "sign not match"
        if not timestamp.isdigit() or abs(int(timestamp) / 1000 - self.now()) > 3600:
            return "invalid timestamp"
        digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
        return None if query["sign"] == base64.b64encode(digest).decode() else "sign not match"


@dataclass(frozen=True)
class TextMessage:
    """What a telephone shows."""

    at: float
    mobile: str
    text: str


class AliyunSms(Https):
    """Alibaba Cloud SMS, whose template's variable takes `most` characters and no link."""

    most = 35

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a text, or say what is wrong with it."""
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        code = self._wrong(form)
        if code:
            message = "该账号下找不到对应模板" if "TEMPLATE" in code else f"refused {form.get('PhoneNumbers')}"
            return 400, {"Code": code, "Message": message, "RequestId": "R"}
        self.hang(form["PhoneNumbers"])
        text = json.loads(form["TemplateParam"])["content"]
        if len(text) > self.most:
            return 200, {"Code": "isv.PARAM_LENGTH_LIMIT", "Message": "变量长度受限", "RequestId": "R"}
        if "://" in text:
            return 200, {"Code": "isv.PARAM_NOT_SUPPORT_URL", "Message": "不支持url为变量", "RequestId": "R"}
        if any(word in text for word in self.words):
            return 200, {"Code": "isv.BLACK_KEY_CONTROL_LIMIT", "Message": "黑名单管控", "RequestId": "R"}
        self.messages.append(TextMessage(time.time(), form["PhoneNumbers"], text))
        return 200, {"Code": "OK", "Message": "OK", "BizId": "1", "RequestId": "R"}

    def _wrong(self, form: dict[str, str]) -> str | None:
        given = form.pop("Signature", "")
        # Each name and value is encoded, and the whole once more.
        query = "&".join(f"{quote(name, '~')}={quote(form[name], '~')}" for name in sorted(form))
        signed = f"POST&%2F&{quote(query, '~')}".encode()
        expected = base64.b64encode(hmac.new(f"{ALIYUN_SECRET}&".encode(), signed, hashlib.sha1).digest()).decode()
        stamp = datetime.strptime(form["Timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        checks = {
            "InvalidAccessKeyId.NotFound": form["AccessKeyId"] == ALIYUN_KEY,
            "SignatureDoesNotMatch": given == expected and form["SignatureMethod"] == "HMAC-SHA1",
            "InvalidTimeStamp.Expired": abs(stamp.timestamp() - self.now()) < 900,
            "InvalidAction.NotFound": (form["Action"], form["Version"]) == ("SendSms", "2017-05-25"),
            "isv.SMS_SIGNATURE_ILLEGAL": form["SignName"] == ALIYUN_SIGN,
            "isv.SMS_TEMPLATE_ILLEGAL": form["TemplateCode"] == ALIYUN_TEMPLATE,
            "isv.MOBILE_NUMBER_ILLEGAL": form["PhoneNumbers"].isdigit(),
        }
        return next((code for code, is_right in checks.items() if not is_right), None)


class TwilioSms(Https):
    """Twilio."""

    def answer(self, request: Request) -> tuple[int, Any]:
        """Take a text, or say what is wrong with it."""
        expected = base64.b64encode(f"{TWILIO_SID}:{TWILIO_TOKEN}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return 401, {"code": 20003, "message": "Authenticate", "status": 401}
        if request.path != f"/2010-04-01/Accounts/{TWILIO_SID}/Messages.json":
            return 404, {"code": 20404, "message": "The requested resource was not found", "status": 404}
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if TWILIO_FROM not in (form.get("From"), form.get("MessagingServiceSid")) or not form.get("Body"):
            return 400, {"code": 21603, "message": "A 'From' phone number is required.", "status": 400}
        if not form.get("To", "").startswith("+"):
            message = f"The 'To' number {form.get('To')} is not a valid phone number."
            return 400, {"code": 21211, "message": message, "status": 400}
        if len(form["Body"]) > 1600:
            message = "The concatenated message body exceeds the 1600 character limit"
            return 400, {"code": 21617, "message": message, "status": 400}
        if any(word in form["Body"] for word in self.words):
            return 400, {"code": 30007, "message": "Message filtered", "status": 400}
        self.hang(form["To"])
        self.messages.append(TextMessage(time.time(), form["To"], form["Body"]))
        return 201, {"sid": "SM0123456789abcdef", "status": "queued", "error_code": None}


@dataclass(frozen=True)
class Mail:
    """What a mailbox shows; `message` is its content, parsed."""

    at: float
    recipient: str
    message: EmailMessage


class MailServer:
    """A mail server that speaks as `security` says (starttls, tls or none).

    It refuses the recipients in `unknown` (550), in `busy` (451) and in `foreign` (for which it does not relay).
    `behaviour` is None, drop (the connection, when a recipient is named) or drop-data (when the message has been sent).
    A message with one of `words` is answered `refusal`, one of more than `most_bytes` is too big.
    A recipient in `hanging` is answered when `release` is called; `hung` counts them.
    """

    def __init__(
        self,
        authority: Authority,
        security: str = "starttls",
        port: int = 0,
        smtputf8: bool = True,
        pipelining: bool = True,
    ) -> None:
        self.pipelining = pipelining
        self.messages: list[Mail] = []
        self.unknown: set[str] = set()
        self.busy: set[str] = set()
        self.foreign: set[str] = set()
        self.hanging: set[str] = set()
        self.hung = 0
        self._released = asyncio.Event()
        self.behaviour: str | None = None
        self.words: set[str] = set()
        self.refusal = "554 5.7.1 Message rejected because of its content"
        self.most_bytes = 1_000_000
        self.security = security
        self.connections = 0
        self._options: dict[str, Any] = {"enable_SMTPUTF8": smtputf8, "hostname": "localhost", "loop": None}
        if security == "starttls":
            self._options |= {"tls_context": authority.context(), "require_starttls": True}
            self._options |= {"authenticator": _authenticate, "auth_required": True}
        if security == "tls":
            # aiosmtpd knows only of the encryption that it began itself.
            self._options |= {"authenticator": _authenticate, "auth_require_tls": False}
        self._protocols: set[SMTP] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        context = authority.context() if security == "tls" else None
        starting = self._loop.create_server(self._connection, "127.0.0.1", port, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Say what the server can do."""
        session.host_name = hostname
        return [*responses[:-1], *(["250-PIPELINING"] if self.pipelining else []), responses[-1]]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient or not."""
        if self.behaviour == "drop":
            _abort(server)
        if address in self.foreign:
            return f"554 5.7.1 <{address}>: Relay access denied"
        if address in self.hanging:
            self.hung += 1
            await self._released.wait()
        if address in self.unknown:
            return f"550 5.1.1 <{address}>: no such mailbox"
        if address in self.busy:
            return "451 4.3.0 Come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a message."""
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        if len(content) > self.most_bytes:
            return "552 5.3.4 Message size exceeds fixed limit"
        said = [str(message["Subject"]), *(part.get_content() for part in message.iter_parts())]
        if any(word in text for word in self.words for text in said):
            return self.refusal
        for recipient in envelope.rcpt_tos:
            self.messages.append(Mail(time.time(), recipient, message))
        if self.behaviour == "drop-data":
            _abort(server)
        return "250 OK"

    def release(self) -> None:
        """Have nobody hang any more."""
        self.hanging.clear()
        self._loop.call_soon_threadsafe(self._released.set)
        self._released, self.hung = asyncio.Event(), 0

    def cut(self) -> None:
        """Cut the connections that are open, as a server does that has waited for long."""

        async def abort() -> None:
            while self._protocols:
                _abort(self._protocols.pop())

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result(10)

    def close(self) -> None:
        """Stop, and cut the connections that are open."""
        if self._loop.is_closed():
            return
        self.cut()

        async def end() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _connection(self) -> SMTP:
        self.connections += 1
        protocol = SMTP(self, **self._options | {"loop": self._loop})
        self._protocols.add(protocol)
        return protocol


def parsed(message: bytes) -> EmailMessage:
    """Return a mail as a mail client reads it."""
    return message_from_string(message.decode().replace("\r\n", "\n"), policy=default)


def environment(
    ca_path: Path,
    dingtalk: DingTalk | None = None,
    smtp: MailServer | None = None,
    sms: AliyunSms | TwilioSms | None = None,
) -> dict[str, str]:
    """Return the settings that have the console talk to these instead of the real ones."""
    found = {"CA_BUNDLE": str(ca_path), "OUTGOING_NETWORKS": "127.0.0.0/8"}
    if dingtalk:
        found["DINGTALK_HOSTS"] = f"localhost:{dingtalk.port}"
    if smtp:
        found |= {"SMTP_HOST": "localhost", "SMTP_PORT": str(smtp.port), "SMTP_FROM": SMTP_FROM}
        found["SMTP_SECURITY"] = smtp.security
        if smtp.security != "none":
            found |= {"SMTP_USER": SMTP_USER, "SMTP_PASSWORD": SMTP_PASSWORD}
    if sms:
        found["SMS_ENDPOINT"] = f"https://localhost:{sms.port}"
    if isinstance(sms, AliyunSms):
        found |= {"SMS_PROVIDER": "aliyun", "ALIYUN_ACCESS_KEY_ID": ALIYUN_KEY, "ALIYUN_SIGN_NAME": ALIYUN_SIGN}
        found |= {"ALIYUN_ACCESS_KEY_SECRET": ALIYUN_SECRET, "ALIYUN_TEMPLATE_CODE": ALIYUN_TEMPLATE}
    if isinstance(sms, TwilioSms):
        found |= {"SMS_PROVIDER": "twilio", "TWILIO_ACCOUNT_SID": TWILIO_SID, "TWILIO_AUTH_TOKEN": TWILIO_TOKEN}
        found["TWILIO_FROM"] = TWILIO_FROM
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: Https, context: ssl.SSLContext, port: int) -> None:
        self.owner = owner
        self.context = context
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        raw, address = super().get_request()
        # The handshake comes with the first read, in the connection's own thread.
        connection = self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        self.open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are cut off on purpose."""

    def cut(self) -> None:
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        request = Request(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), self.headers, body)
        with owner.lock:
            owner.requests += 1
            reply = owner.replies.popleft() if owner.replies else None
        match owner.behaviour:
            case "hang":
                owner.closed.wait(60)
                self.close_connection = True
            case "close":
                self.close_connection = True
            case "drip" | "drip-headers":
                self._drip(owner, b"HTTP/1.1 200 OK\r\n" if owner.behaviour == "drip-headers" else b"")
            case "garbage":
                self._send(200, b"<html>not what one expects</html>")
            case "large":
                self._send(200, b" " * 70_000)
            case "500":
                self._send(500, b"Internal Server Error")
            case "redirect":
                self._send(302, b"", Location=f"https://localhost:{owner.port}/elsewhere")
            case _:
                status, said = reply or owner.answer(request)
                self._send(status, json.dumps(said).encode())

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(self.server.owner.now(), usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, owner: Https, beginning: bytes) -> None:
        """Send a byte every tenth of a second, of the headers or of the body, until the client goes."""
        self.wfile.write(beginning or b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        self.wfile.flush()
        self.close_connection = True
        while not owner.closed.wait(0.1):
            self.wfile.write(b"x")
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _abort(protocol: SMTP) -> None:
    # What is closed already has nothing to abort, which Python 3.11.2 meets with an AttributeError.
    if isinstance(protocol.transport, asyncio.Transport):
        with suppress(AttributeError):
            protocol.transport.abort()


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    given = (data.login, data.password) if isinstance(data, LoginPassword) else None
    return AuthResult(success=given == (SMTP_USER.encode(), SMTP_PASSWORD.encode()), handled=False)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(constraints, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
    )
