"""Send an alert by e-mail, through the operator's own mail server."""

import contextlib
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable

from ...config import Settings, Smtp
from ...contacts.addresses import clean_mailbox
from ...core.trace import mark
from ..answers import Answers, answer
from . import Content, Outcome, bare, or_headline, outgoing, quoted
from .kinds import ByContact, Message, Senders
from .mail_message import as_known_to_servers, message_of

NOT_SET_UP = answer("mail.not_set_up")
REFUSED_CONNECTION, REFUSED_MAILBOX = "mail.refused_connection", "mail.refused_mailbox"
REFUSED_MESSAGE = "mail.refused_message"

DOT, END = re.compile(rb"^\.", re.MULTILINE), b".\r\n"  # RFC 5321: a dot is doubled, and one alone ends the message
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


class Mailer:
    """Send mail over one connection that stays open between messages; use it in one thread only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = outgoing.trusted(settings)
        self._smtp: smtplib.SMTP | None = None
        self._way = outgoing.Attempt(outgoing.ANYWHERE)  # the server is the operator's own
        self._context.sslsocket_class = outgoing.limited_tls(self._way)

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
        outcome = self._attempt(access, recipient, message)
        is_closed = self._smtp is None and outcome.state == "later" and not outcome.is_uncertain
        if was_open and is_closed:
            # The server closed an idle connection, which has nothing to do with the message.
            outcome = self._attempt(access, recipient, message)
        return or_headline(
            outcome,
            lambda: self._attempt(
                access, recipient, message_of(access.sender, recipient, bare(content), message_id, thread)
            ),
        )

    def close(self) -> None:
        """Quit the session and close the connection."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                smtp.quit()
            smtp.close()

    def _connect(self, host: str, port: int) -> socket.socket:
        return outgoing.limited(outgoing.connect(host, port, self._way), self._way)

    def _attempt(self, access: Smtp, recipient: str, message: bytes) -> Outcome:
        is_uncertain = False
        try:
            smtp = self._smtp = self._smtp or self._open(access)
            mark("connected")
            options = ""
            if not recipient.isascii():
                if not smtp.has_extn("smtputf8"):
                    raise _Refused(answer("mail.no_utf8", host=access.host))
                options = " SMTPUTF8 BODY=8BITMIME"
            _prepare(access, smtp, f"MAIL FROM:<{access.sender}>{options}", f"RCPT TO:<{recipient}>")
            is_uncertain = True
            smtp.send(DOT.sub(b"..", message) + END)
            reply = smtp.getreply()
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
        _expect(access, smtp.ehlo(), REFUSED_CONNECTION)
        if access.security == "starttls":
            if not smtp.has_extn("starttls"):
                raise _Refused(answer("mail.no_starttls", host=access.host), is_passing=True)
            smtp.starttls(context=self._context)
            _expect(access, smtp.ehlo(), REFUSED_CONNECTION)
        if not access.user:
            return
        try:
            smtp.login(access.user, access.password)
        except smtplib.SMTPAuthenticationError as error:
            _expect(access, (error.smtp_code, _bytes(error.smtp_error)), "mail.refused_credentials")
        except (smtplib.SMTPNotSupportedError, UnicodeError):
            raise _Refused(answer("mail.no_log_on", host=access.host), is_passing=True) from None

    def _begin_anew(self) -> None:
        """Reset the session after a message that the server refused."""
        if self._smtp is None:
            return
        try:
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


Connect = Callable[[str, int], socket.socket]


def _plain_text(connect: Connect) -> type[smtplib.SMTP]:
    """Return a class of smtplib that opens its connections by `connect`, which limits the time for all addresses."""

    # smtplib has no public way to be given a socket; it overrides this method itself, for TLS.
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


def _prepare(access: Smtp, smtp: smtplib.SMTP, mail: str, rcpt: str) -> None:
    """Send the commands up to DATA, all at once if the server allows that (RFC 2920); raise _Refused."""
    commands = [f"{command}\r\n".encode() for command in (mail, rcpt, "DATA")]
    is_pipelined = smtp.has_extn("pipelining")
    if is_pipelined:
        smtp.send(b"".join(commands))
    replies: list[tuple[int, bytes]] = []
    for command in commands:
        if not is_pipelined:
            smtp.send(command)
        replies.append(smtp.getreply())
        if not is_pipelined and replies[-1][0] >= 400:
            break
    if is_pipelined and replies[2][0] == 354 and max(replies[0][0], replies[1][0]) >= 400:
        smtp.send(END)  # no recipient is left, so this message is empty and goes nowhere
        smtp.getreply()
    for reply, what in zip(replies, ("mail.refused_sender", REFUSED_MAILBOX, REFUSED_MESSAGE), strict=False):
        _expect(access, reply, what)


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
