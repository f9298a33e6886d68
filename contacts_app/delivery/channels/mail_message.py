"""Write an alert as an e-mail: plain text and HTML."""

import hashlib
import re
from email.charset import BASE64, QP, Charset
from email.header import Header
from email.headerregistry import Address
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime
from functools import lru_cache
from html import escape

import idna

from ..facts import Fact
from . import Content, headline, particulars

URL = re.compile(r"(?<![a-z0-9])https?://[a-z0-9\[][!#-;=?-_a-~]*", re.IGNORECASE)
# Break long words; mail clients differ in which of these properties they support.
WRAPPED = "overflow-wrap:anywhere;word-wrap:break-word;word-break:break-word"
SMTP_LINES = compat32.clone(linesep="\r\n")
COLOURS = {"firing": "#c62828", "resolved": "#2e7d32"}


def message_of(sender: str, recipient: str, content: Content, message_id: str, thread: str | None) -> bytes:
    """Return the message as plain text and HTML; raise ValueError if the recipient is not a valid address."""
    local, _, at = recipient.rpartition("@")
    to = Address(username=local, domain=at).addr_spec
    domain = sender.rpartition("@")[2]
    head = f"From: {sender}\r\nTo: {to}\r\nMessage-ID: <{message_id}@{domain}>\r\n"
    return head.encode() + _for_everybody(domain, content, thread)


@lru_cache(16)  # it takes longer than the rest, and is the same for all contacts of an alert
def _for_everybody(domain: str, content: Content, thread: str | None) -> bytes:
    """Return the message without the headers that name one recipient."""
    # email.mime, because EmailMessage takes four times as long: it parses each header that it is given.
    message = MIMEMultipart("alternative")
    # Without the zero-width space a title could inject header text as an encoded word, which clients decode.
    subject = headline(content).replace("=?", "=\u200b?")
    message["Subject"] = Header(subject, "us-ascii" if subject.isascii() else "utf-8", header_name="Subject").encode()
    # The time of the alert, not of this delivery, so that mail clients sort by it.
    message["Date"] = format_datetime(content.received_at)
    if thread is not None:
        first = f"<thread-{hashlib.sha256(thread.encode()).hexdigest()[:32]}@{domain}>"
        message["In-Reply-To"] = first
        message["References"] = first
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.attach(_part(_plain(content), "plain"))
    message.attach(_part(_html(content), "html"))
    return message.as_bytes(policy=SMTP_LINES)


def _part(text: str, subtype: str) -> MIMEText:
    """Return a part in the shorter of the two encodings, both of which keep lines short and within ASCII."""
    charset = Charset("utf-8")
    is_mostly_ascii = len(text.encode()) < 1.2 * len(text)
    charset.body_encoding = QP if is_mostly_ascii else BASE64
    return MIMEText(text, subtype, charset)  # type: ignore[arg-type] # typeshed knows only the name of a charset


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
