"""Send an alert by e-mail, through the operator's own mail server."""

import contextlib
import hashlib
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from html import escape

import idna

from ...config import Settings, Smtp
from ...contacts.addresses import clean_mailbox
from ...core.trace import mark
from ..answers import Answers, answer
from ..facts import Fact
from . import Content, Outcome, bare, headline, or_headline, outgoing, particulars, quoted
from .kinds import ByContact, Message, Senders

NOT_SET_UP = answer("mail.not_set_up")
REFUSED_CONNECTION, REFUSED_MAILBOX = "mail.refused_connection", "mail.refused_mailbox"
REFUSED_MESSAGE = "mail.refused_message"

RELAYING = re.compile(r"\brelay", re.IGNORECASE)  # an error that is not about the mailbox
TOO_LONG = ((2, 3), (3, 4))  # enhanced status codes of a message that is too long
UNCLEAR = ((0, 0), (3, 0), (5, 0), (7, 0), (7, 1))  # codes that may mean the content or the sender
ABOUT_CONTENT = re.compile(
    r"\b(content|spam|virus|malware|phishing|links?|urls?|words?|attachment|subject|body|size|too (large|big|long))\b",
    re.I,
)
ABOUT_SENDER = re.compile(
    r"\b(client host|ip|relay\w*|sender|reputation|(block|black) ?list\w*|[dr]n?s?bl|spf|dkim|dmarc|quota|mailbox)\b"
    r"|authenti",
    re.I,
)
URL = re.compile(r"(?<![a-z0-9])https?://[a-z0-9\[][!#-;=?-_a-~]*", re.IGNORECASE)
# Break long words; mail clients differ in which of these properties they support.
WRAPPED = "overflow-wrap:anywhere;word-wrap:break-word;word-break:break-word"
COLOURS = {"firing": "#c62828", "resolved": "#2e7d32"}


class Mailer:
    """Send mail over one connection that stays open between messages; use it in one thread only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = outgoing.trusted(settings)
        self._smtp: smtplib.SMTP | None = None
        self._way = outgoing.Attempt(outgoing.ANYWHERE)  # the server is the operator's own
        self._socket: socket.socket | None = None

    def send(self, address: str, content: Content, message_id: str, thread: str | None) -> Outcome:
        """Send one message; mail clients group messages with the same `thread`."""
        access = self._settings.smtp
        if access is None:
            return Outcome("failed", NOT_SET_UP)
        try:
            recipient = as_known_to_servers(address)
            message = message_of(access.sender, recipient, content, message_id, thread)
        except ValueError:
            return Outcome("failed", answer("mail.unwritable_mailbox"))
        mark("made")
        self._way.begin()
        was_open = self._smtp is not None
        # A timeout for each read does not stop a server that sends a line now and then.
        guard = threading.Timer(self._way.left(), self._cut)
        guard.start()
        try:
            outcome = self._attempt(access, recipient, message)
            is_closed = self._smtp is None and outcome.state == "later" and not outcome.is_uncertain
            if was_open and is_closed:
                # The server closed an idle connection, which has nothing to do with the message.
                outcome = self._attempt(access, recipient, message)
            outcome = or_headline(
                outcome,
                lambda: self._attempt(
                    access, recipient, message_of(access.sender, recipient, bare(content), message_id, thread)
                ),
            )
        finally:
            guard.cancel()
        return outcome

    def close(self) -> None:
        """Quit the session and close the connection."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()
            smtp.close()

    def _cut(self) -> None:
        """Shut the connection down, so that a blocked read fails at once."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _connect(self, host: str, port: int) -> socket.socket:
        self._socket = outgoing.connect(host, port, self._way)
        return self._socket

    def _attempt(self, access: Smtp, recipient: str, message: EmailMessage) -> Outcome:
        is_uncertain = False
        try:
            smtp = self._smtp = self._smtp or self._open(access)
            mark("connected")
            options = []
            if not recipient.isascii():
                if not smtp.has_extn("smtputf8"):
                    raise _Refused(answer("mail.no_utf8", host=access.host))
                options = ["SMTPUTF8", "BODY=8BITMIME"]
            self._limit(smtp)
            _expect(access, smtp.mail(access.sender, options), "mail.refused_sender")
            self._limit(smtp)
            _expect(access, smtp.rcpt(recipient), REFUSED_MAILBOX)
            self._limit(smtp)
            is_uncertain = True
            try:
                reply = smtp.data(message.as_bytes())
            except smtplib.SMTPDataError as error:
                reply = (error.smtp_code, _bytes(error.smtp_error))
            is_uncertain = False
            _expect(access, reply, REFUSED_MESSAGE)
            return Outcome("sent", answer("mail.sent"))
        except _Refused as refusal:
            self._begin_anew()
            return Outcome("later" if refusal.is_passing else "failed", refusal.answer, text_state=refusal.text_state)
        except outgoing.CannotReach as error:
            why = error.answer
        except ssl.SSLCertVerificationError:
            why = answer("mail.not_trusted", host=access.host)
        except ssl.SSLError:
            why = answer("mail.no_tls", host=access.host)
        except ConnectionRefusedError:
            why = answer("outgoing.connection_refused", host=access.host)
        except (OSError, smtplib.SMTPException) as error:
            # smtplib turns a timeout into a lost connection.
            if time.monotonic() >= self._way.until:
                why = outgoing.no_answer(access.host)
            elif isinstance(error, ConnectionError | smtplib.SMTPException):
                why = answer("mail.connection_closed", host=access.host)
            else:
                why = answer("mail.unreachable", host=access.host)
        self._drop()
        return Outcome("later", why, is_uncertain=is_uncertain)

    def _open(self, access: Smtp) -> smtplib.SMTP:
        """Return a connection that is logged on; raise what smtplib raises, or _Refused."""
        # Without local_hostname smtplib looks up its own name in the DNS, which may take long.
        name = access.sender.rpartition("@")[2]
        try:
            if access.security == "tls":
                smtp: smtplib.SMTP = _tls(self._connect)(
                    access.host, access.port, local_hostname=name, timeout=self._way.left(), context=self._context
                )
            else:
                smtp = _plain_text(self._connect)(
                    access.host, access.port, local_hostname=name, timeout=self._way.left()
                )
        except smtplib.SMTPConnectError as error:
            # Busy servers respond with 5xx, too; the message itself has not been refused.
            why = answer(REFUSED_CONNECTION, said=_its_words(access, error.smtp_code, _bytes(error.smtp_error)))
            raise _Refused(why, is_passing=True) from None
        try:
            self._log_on(access, smtp)
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _log_on(self, access: Smtp, smtp: smtplib.SMTP) -> None:
        self._limit(smtp)
        _expect(access, smtp.ehlo(), REFUSED_CONNECTION)
        if access.security == "starttls":
            if not smtp.has_extn("starttls"):
                raise _Refused(answer("mail.no_starttls", host=access.host), is_passing=True)
            self._limit(smtp)
            smtp.starttls(context=self._context)
            _expect(access, smtp.ehlo(), REFUSED_CONNECTION)
        if not access.user:
            return
        self._limit(smtp)
        try:
            smtp.login(access.user, access.password)
        except smtplib.SMTPAuthenticationError as error:
            _expect(access, (error.smtp_code, _bytes(error.smtp_error)), "mail.refused_credentials")
        except (smtplib.SMTPNotSupportedError, UnicodeError):
            raise _Refused(answer("mail.no_log_on", host=access.host), is_passing=True) from None

    def _limit(self, smtp: smtplib.SMTP) -> None:
        """Limit the next command to the time that is left for the message."""
        if smtp.sock is not None:
            smtp.sock.settimeout(self._way.left())

    def _begin_anew(self) -> None:
        """Reset the session after a message that the server refused."""
        if self._smtp is None:
            return
        try:
            self._limit(self._smtp)
            if self._smtp.rset()[0] != 250:
                self._drop()
        except (OSError, smtplib.SMTPException):
            self._drop()

    def _drop(self) -> None:
        if self._smtp is not None:
            self._smtp.close()
        self._smtp = None


class Email(ByContact):
    """E-mail to mailboxes."""

    name = "email"
    label = "Mailbox"
    heading = "Email"
    message = "e-mail"
    no_address = answer("mail.no_address")
    column = used = "email"
    messages = "count(email)"
    batch = 20
    limited = "mailbox"

    def clean(self, typed: str) -> str:
        """Return the address of the mailbox."""
        return clean_mailbox(typed)

    def shown(self, stored: str, account_id: int, contact_id: int) -> str:
        """Return the address of the mailbox."""
        return stored

    def not_set_up(self, settings: Settings) -> Answers | None:
        """Return an error if no mail server is configured."""
        return NOT_SET_UP if settings.smtp is None else None

    def limit(self, settings: Settings) -> int:
        """Return the rate limit of e-mails."""
        return settings.mails_per_mailbox

    def send(self, senders: Senders, address: str, message: Message) -> Outcome:
        """Send one mail."""
        return senders.get(Mailer).send(address, message.content, message.id, message.thread)


EMAIL = Email()


def message_of(sender: str, recipient: str, content: Content, message_id: str, thread: str | None) -> EmailMessage:
    """Return the message as plain text and HTML; raise ValueError if the recipient is not a valid address."""
    policy = (SMTP if recipient.isascii() else SMTPUTF8).clone(cte_type="7bit")
    domain = sender.rpartition("@")[2]
    message = EmailMessage(policy=policy)
    message["From"] = sender
    local, _, at = recipient.rpartition("@")
    message["To"] = Address(username=local, domain=at)
    # Without the zero-width space a title could inject header text as an encoded word, which clients decode.
    message["Subject"] = headline(content).replace("=?", "=\u200b?")
    # The time of the alert, not of this delivery, so that mail clients sort by it.
    message["Date"] = format_datetime(content.received_at)
    message["Message-ID"] = f"<{message_id}@{domain}>"
    if thread is not None:
        first = f"<thread-{hashlib.sha256(thread.encode()).hexdigest()[:32]}@{domain}>"
        message["In-Reply-To"] = first
        message["References"] = first
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(_plain(content))
    message.add_alternative(_html(content), subtype="html")
    return message


Connect = Callable[[str, int], socket.socket]


def _plain_text(connect: Connect) -> type[smtplib.SMTP]:
    """Return a class of smtplib that opens its connections by `connect`, which limits the time for all addresses."""

    class Connection(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            made = connect(host, port)
            made.settimeout(timeout)
            return made

    return Connection


def _tls(connect: Connect) -> type[smtplib.SMTP_SSL]:
    class Connection(smtplib.SMTP_SSL):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            made = connect(host, port)
            made.settimeout(timeout)
            return self.context.wrap_socket(made, server_hostname=host)

    return Connection


class _Refused(Exception):
    """The server refused the message, temporarily if `is_passing`; `text_state` is as in Outcome."""

    def __init__(self, answer: Answers, is_passing: bool = False, text_state: str = "whole") -> None:
        super().__init__(answer)
        self.text_state = text_state
        self.answer = answer
        self.is_passing = is_passing


def _expect(access: Smtp, reply: tuple[int, bytes], refused: str) -> None:
    """Raise _Refused with the code `refused` for an error, SMTPServerDisconnected if that ends the session."""
    code, words = reply
    if code in (-1, 421):
        raise smtplib.SMTPServerDisconnected
    if not 200 <= code < 400:
        if refused == REFUSED_MAILBOX and RELAYING.search(words.decode(errors="replace")):
            refused = "mail.refused_relaying"
        # Only errors about this mailbox or message are permanent; the server may be reconfigured within the hour.
        is_final = code >= 500 and refused in (REFUSED_MAILBOX, REFUSED_MESSAGE)
        text_state = _text_state(words.decode(errors="replace")) if is_final and refused == REFUSED_MESSAGE else "whole"
        why = answer(refused, said=_its_words(access, code, words))
        raise _Refused(why, is_passing=not is_final, text_state=text_state)


def _text_state(words: str) -> str:
    """Return "refused" if the error is about the content, by its enhanced status code (RFC 3463) or else its words.

    Otherwise return "doubtful": the server accepted the mailbox, so an unexplained error may be about this message.
    """
    code = re.search(r"\b5\.([0-9]{1,3})\.([0-9]{1,3})\b", words)
    subject, detail = (int(code[1]), int(code[2])) if code else (0, 0)
    if subject == 6 or (subject, detail) in TOO_LONG:
        return "refused"
    is_open = (subject, detail) in UNCLEAR and not ABOUT_SENDER.search(words)
    return "refused" if is_open and ABOUT_CONTENT.search(words) else "doubtful"


def _its_words(access: Smtp, code: int, words: bytes) -> str:
    return f"{code} {quoted(words.decode(errors='replace'), access.password, access.user)}".rstrip()


def _bytes(words: bytes | str) -> bytes:
    return words if isinstance(words, bytes) else words.encode()


def as_known_to_servers(address: str) -> str:
    """Return the address with its domain in ASCII; raise ValueError (which IDNAError is) if that is impossible."""
    # smtplib changes an address that is not one plain addr-spec.
    if "=?" in address or not re.fullmatch(r"[^\s<>()\[\]\\,;:@\"]+@[^\s<>()\[\]\\,;:@\"]+", address):
        raise ValueError(address)
    local, _, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}@{idna.encode(domain, uts46=True).decode()}"


def _plain(content: Content) -> str:
    facts = "\n".join(f"{name}: {value}" for name, value in particulars(content))
    parts = [headline(content), content.text.strip(), *(_plain_fact(fact, content.text) for fact in content.facts)]
    parts += [facts, content.url or ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain_fact(fact: Fact, words: str) -> str:
    lines = [f"{name}: {value}" for name, value in (*fact.texts_beside(words), *fact.main_links)]
    return "\n".join([fact.alert, *lines] if fact.alert and lines else lines)


def _html(content: Content) -> str:
    """Return simple HTML without colours of text and background, so that dark mode works."""
    title = headline(content)
    paragraphs = [f'<h1 style="font-size:18px;margin:0 0 12px">{linked(title)}</h1>']
    if content.text.strip():
        paragraphs.append(f'<p style="white-space:pre-wrap;margin:0 0 12px">{linked(content.text.strip())}</p>')
    paragraphs += [html for fact in content.facts if (html := _html_fact(fact, content.text))]
    facts = "<br>".join(f"{name}: {linked(value)}" for name, value in particulars(content))
    paragraphs.append(f'<p style="font-size:13px;margin:0 0 12px">{facts}</p>')
    if content.url:
        paragraphs.append(f'<p style="margin:0"><a href="{escape(content.url)}">Open in the console</a></p>')
    border = f"border-left:4px solid {COLOURS[content.status]};padding:4px 0 4px 16px"
    style = f"{border};font-family:sans-serif;font-size:15px;line-height:1.5;{WRAPPED}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f'<title>{escape(title)}</title></head><body><div style="{style}">{"".join(paragraphs)}</div></body></html>\n'
    )


def _html_fact(fact: Fact, words: str) -> str:
    lines = [f"{escape(name)}: {linked(value)}" for name, value in fact.texts_beside(words)]
    if links := " · ".join(f'<a href="{escape(link.url)}">{escape(link.name)}</a>' for link in fact.main_links):
        lines.append(links)
    if lines and fact.alert:
        lines.insert(0, f"<strong>{escape(fact.alert)}</strong>")
    return f'<p style="margin:0 0 12px;overflow-wrap:anywhere">{"<br>".join(lines)}</p>' if lines else ""


def linked(text: str) -> str:
    """Return the text as HTML in which each URL is a link that shows its target."""
    parts, end = [], 0
    for found in URL.finditer(text):
        url = found[0].rstrip(".,;:!?'*_~")
        while url[-1] in ")]}" and url.count("([{"[")]}".index(url[-1])]) < url.count(url[-1]):
            url = url[:-1].rstrip(".,;:!?'*_~")
        parts += [escape(text[end : found.start()]), f'<a href="{escape(url)}">{escape(url)}</a>']
        end = found.start() + len(url)
    return "".join(parts) + escape(text[end:])
