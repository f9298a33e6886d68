"""Show that mail arrives as it should look, and what becomes of it when the mail server does not take it."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from html import escape, unescape
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contacts_app import config
from contacts_app.delivery import sample
from contacts_app.delivery.channels import outgoing
from contacts_app.delivery.channels.mail import Mailer
from contacts_app.delivery.channels.mail_message import as_known_to_servers, linked, message_of
from contacts_app.web.fields import clean_email
from tests.delivery.counterparts import SMTP_FROM, SMTP_PASSWORD, Authority, MailServer, environment, parsed
from tests.delivery.shown import Shown, shown
from tests.delivery.test_dingtalk import content

SENT = Shown("sent", "The mail server took the message.", None, False, "whole", 1)
Start = Callable[..., MailServer]
Post = Callable[..., Shown]
_numbers = count(1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start(authority: Authority) -> Iterator[Start]:
    """Return a function that starts a mail server."""
    started: list[MailServer] = []

    def start(**options: Any) -> MailServer:
        started.append(MailServer(authority, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(params=[True, False], ids=["pipelining", "one by one"])
def server(start: Start, request: pytest.FixtureRequest) -> MailServer:
    return start(pipelining=request.param)


@pytest.fixture
def mailer(authority: Authority, server: MailServer, tmp_path: Path) -> Iterator[Mailer]:
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=server))
    yield mailer
    mailer.close()


def mailer_for(folder: Path, environ: dict[str, str]) -> Mailer:
    return Mailer(config.load({"DATA_DIR": str(folder)} | environ))


def send(mailer: Mailer, address: str = "ann@example.com", thread: str | None = None, **columns: Any) -> Shown:
    outcome = shown(mailer.send(address, content(**columns), f"alert-{next(_numbers)}", thread))
    assert SMTP_PASSWORD not in outcome.answer
    return outcome


def test_a_message_shows_the_alert_in_both_forms(server: MailServer, mailer: Mailer) -> None:
    url = "https://console.example.com/notifications/1"
    assert send(mailer, text="97 % used\n<b>磁盘</b>", url=url) == SENT
    (found,) = server.messages
    message = found.message
    assert found.recipient == message["To"] == "ann@example.com"
    assert message["From"] == SMTP_FROM
    assert message["Subject"] == "[Firing] Disk full"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["Message-ID"].endswith("@alerts.example.com>")
    assert message["Date"] == "Sun, 01 Mar 2026 12:30:00 +0000"  # when the alert came in
    assert "In-Reply-To" not in message
    plain, html = (part.get_content() for part in message.iter_parts())
    facts = ["Severity: critical", "Group: On call", "Time: 2026-03-01 12:30:00 UTC"]
    assert plain.splitlines() == ["[Firing] Disk full", "", "97 % used", "<b>磁盘</b>", "", *facts, "", url]
    assert "&lt;b&gt;磁盘&lt;/b&gt;" in html
    assert f'<a href="{url}">' in html
    assert "<style" not in html
    assert "background" not in html


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See https://a.io/x?a=1&b=2.", 'See <a href="https://a.io/x?a=1&amp;b=2">https://a.io/x?a=1&amp;b=2</a>.'),
        ("(http://a.io/b_(c))", '(<a href="http://a.io/b_(c)">http://a.io/b_(c)</a>)'),
        ("[x](http://a.io)!", '[x](<a href="http://a.io">http://a.io</a>)!'),
        (
            '<https://a.io>"https://b.io"',
            '&lt;<a href="https://a.io">https://a.io</a>&gt;&quot;<a href="https://b.io">',
        ),
        ("见https://a.io/x，磁盘", '见<a href="https://a.io/x">https://a.io/x</a>，磁盘'),
        ("https://[2001:db8::1]:9093/#/a", '<a href="https://[2001:db8::1]:9093/#/a">'),
        ("HTTPS://A.io/", '<a href="HTTPS://A.io/">HTTPS://A.io/</a>'),
        ("javascript:alert(1) ftp://a.io data:text/html,x file:///etc http:// https://)", "<a"),
        ("https://a.io/'onclick='x", '<a href="https://a.io/&#x27;onclick=&#x27;x">'),
    ],
)
def test_a_web_address_is_a_link_and_nothing_else_is(text: str, expected: str) -> None:
    html = linked(text)
    if expected == "<a":
        assert html == escape(text)
    else:
        assert expected in html
    assert unescape(re.sub("<[^>]*>", "", html)) == text


def test_a_link_stands_in_both_forms(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, title="Full: http://a.io", text="See https://wiki.example.com/run?a=1&b=2") == SENT
    plain, html = (part.get_content() for part in server.messages[0].message.iter_parts())
    assert "See https://wiki.example.com/run?a=1&b=2" in plain
    for url in ("http://a.io", "https://wiki.example.com/run?a=1&amp;b=2"):
        assert f'<a href="{url}">{url}</a>' in html


def test_what_belongs_together_stands_together(server: MailServer, mailer: Mailer) -> None:
    send(mailer, thread="7-key")
    send(mailer, thread="7-key", status="resolved")
    send(mailer, thread="7-other")
    first, second, other = (found.message for found in server.messages)
    assert first["References"] == first["In-Reply-To"] == second["References"]
    assert first["References"] != other["References"]
    assert first["Message-ID"] != second["Message-ID"]
    assert second["Subject"] == "[Resolved] Disk full"


def test_a_title_cannot_add_a_header(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, title="Disk\r\nBcc: bob@example.com") == SENT
    assert server.messages[0].message["Subject"] == "[Firing] Disk Bcc: bob@example.com"
    assert "Bcc" not in server.messages[0].message


def test_a_line_with_only_a_dot_does_not_end_the_message(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, text="one\n.\ntwo " + "x" * 4000) == SENT
    plain = server.messages[0].message.get_body(("plain",))
    assert plain is not None
    lines = plain.get_content().splitlines()
    assert lines[2:5] == ["one", ".", "two " + "x" * 4000]


def test_the_connection_is_kept(server: MailServer, mailer: Mailer) -> None:
    assert [send(mailer) for _ in range(3)] == [SENT] * 3
    assert server.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_opened_again(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer) == SENT
    server.cut()
    assert send(mailer) == SENT
    assert server.connections == 2


@pytest.mark.parametrize("security", ["tls", "none"])
def test_a_server_is_spoken_to_as_the_settings_say(
    authority: Authority, start: Start, tmp_path: Path, security: str
) -> None:
    server = start(security=security)
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=server))
    assert send(mailer) == SENT
    mailer.close()
    assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("refusal", "content"),
    [
        ("554 5.7.1 Message rejected because of its content", "refused"),
        ("554 5.7.1 Spam message rejected", "refused"),
        ("552 5.7.0 This message was blocked because its content presents a potential security issue", "refused"),
        ("550 5.6.0 Invalid header found", "refused"),
        ("554 Contains a virus", "refused"),
        # Refused again, it was for another reason: then the mailbox is not to be reached by this server.
        ("554 5.7.1 Client host blocked using zen.spamhaus.org", "whole"),
        ("550 5.7.26 Unauthenticated mail is not accepted due to the content of the DMARC policy", "whole"),
        ("552 5.2.2 Mailbox full: no room for a body of this size", "whole"),
        ("554 Transaction failed", "whole"),
    ],
)
def test_of_a_message_that_is_refused_the_headline_is_sent(
    server: MailServer, mailer: Mailer, refusal: str, content: str
) -> None:
    server.words, server.refusal = {"casino", "https:"}, refusal
    # The mailbox was taken, so even what is not explained may be meant for this message alone.
    alert = {"title": "Full, see https://casino.example/1", "text": "casino", "url": "https://c.io", "group": "casino"}
    words = f"The mail server refused the message: {refusal}"
    outcome = send(mailer, **alert)
    assert outcome == ("sent", f"Only the headline was sent. {words}", None, False, "headline", 2)
    (found,) = server.messages
    assert found.message["Subject"] == "[Firing] Full, see (link)"
    assert send(mailer, title="A casino") == ("failed", words, None, False, content, 2)
    assert server.connections == 1


def test_a_message_that_is_too_big_is_sent_as_its_headline(server: MailServer, mailer: Mailer) -> None:
    server.most_bytes = 3000
    assert send(mailer, text="x" * 2000).text_state == "headline"
    server.most_bytes = 100
    assert send(mailer)[4:] == ("refused", 2)


def test_a_mail_server_takes_the_hardest_alert(server: MailServer, mailer: Mailer) -> None:
    alert = {"title": sample.TITLE, "text": sample.text("https://contacts.example.com"), "kind": "test"}
    assert send(mailer, **alert) == SENT
    assert server.messages[0].message["Subject"] == f"[Test] {sample.TITLE}"


def test_an_unknown_recipient_is_final(server: MailServer, mailer: Mailer) -> None:
    server.unknown.add("ann@example.com")
    words = "The mail server refused the mailbox: 550 5.1.1 <ann@example.com>: no such mailbox"
    assert send(mailer) == ("failed", words, None, False, "whole", 1)
    assert send(mailer, "bob@example.com") == SENT
    assert server.connections == 1


def test_a_server_that_does_not_relay_may_be_set_up_better_within_the_hour(server: MailServer, mailer: Mailer) -> None:
    server.foreign.add("ann@example.com")
    outcome = send(mailer)
    assert (outcome.state, outcome.text_state) == ("later", "whole")
    words = "The mail server refused to send for this console; check SMTP_USER and SMTP_PASSWORD: 554 5.7.1 <ann@"
    assert outcome.answer.startswith(words)


def test_a_message_whose_only_recipient_was_refused_is_ended_empty(tmp_path: Path) -> None:
    """A server may answer 354 to a DATA that came with a refused recipient (RFC 2920)."""
    refusing = ["250 OK", "550 5.1.1 Nobody", "354 Go on", "554 5.5.1 None", "250 OK"]
    taking = ["250 OK", "250 OK", "354 Go on", "250 Taken", "221 Bye"]
    replies = iter(["220 ready", "250-me\r\n250 PIPELINING", *refusing, *taking])
    got = b""

    def serve(listener: socket.socket) -> None:
        nonlocal got
        client, _ = listener.accept()
        with client, client.makefile("rb") as lines:
            client.sendall(f"{next(replies)}\r\n".encode())
            is_data = False
            for line in lines:
                got += line
                if not is_data or line == b".\r\n":
                    reply = next(replies)
                    client.sendall(f"{reply}\r\n".encode())
                    is_data = reply.startswith("354")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = str(listener.getsockname()[1])
        plain = {"SMTP_HOST": "localhost", "SMTP_PORT": port, "SMTP_FROM": SMTP_FROM, "SMTP_SECURITY": "none"}
        mailer = mailer_for(tmp_path, plain)
        refused, taken = send(mailer, "nobody@example.com"), send(mailer)
        mailer.close()
        thread.join()
    assert (refused.state, taken.state) == ("failed", "sent")
    assert b"RCPT TO:<nobody@example.com>\r\nDATA\r\n.\r\nRSET\r\nMAIL FROM" in got.replace(
        b"\r\nrset\r\n", b"\r\nRSET\r\n"
    )


def test_a_busy_server_is_tried_again(server: MailServer, mailer: Mailer) -> None:
    server.busy.add("ann@example.com")
    words = "The mail server refused the mailbox: 451 4.3.0 Come back later"
    assert send(mailer) == ("later", words, None, False, "whole", 1)
    server.busy.clear()
    assert send(mailer) == SENT


@pytest.mark.parametrize(("behaviour", "is_uncertain"), [("drop", False), ("drop-data", True)])
def test_a_lost_connection_is_uncertain_only_after_the_message(
    server: MailServer, mailer: Mailer, behaviour: str, is_uncertain: bool
) -> None:
    server.behaviour = behaviour
    assert send(mailer) == ("later", "localhost closed the connection.", None, is_uncertain, "whole", 1)
    server.behaviour = None
    assert send(mailer) == SENT


def test_a_wrong_password_may_be_set_right_within_the_hour(
    authority: Authority, server: MailServer, tmp_path: Path
) -> None:
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=server) | {"SMTP_PASSWORD": "wrong-password"})
    outcome = send(mailer)
    assert outcome.state == "later"
    assert outcome.answer.startswith("The mail server refused SMTP_USER and SMTP_PASSWORD: 535 5.7.8")
    assert "wrong-password" not in outcome.answer


def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    authority: Authority, server: MailServer, tmp_path: Path
) -> None:
    environ = environment(authority.path, smtp=server)
    del environ["CA_BUNDLE"]
    words = "The certificate of localhost is not trusted. CA_BUNDLE can name its authority."
    assert send(mailer_for(tmp_path, environ)) == ("later", words, None, False, "whole", 1)


def test_no_password_is_sent_without_encryption(authority: Authority, start: Start, tmp_path: Path) -> None:
    environ = environment(authority.path, smtp=start(security="none")) | {"SMTP_SECURITY": "starttls"}
    words = "localhost does not offer STARTTLS. Check SMTP_SECURITY and SMTP_PORT."
    assert send(mailer_for(tmp_path, environ)) == ("later", words, None, False, "whole", 1)


def test_a_server_that_lets_nobody_log_on_is_reported(authority: Authority, start: Start, tmp_path: Path) -> None:
    environ = environment(authority.path, smtp=start(security="none"))
    environ |= {"SMTP_USER": "console", "SMTP_PASSWORD": SMTP_PASSWORD}
    words = "localhost does not offer to log on. Check SMTP_SECURITY and SMTP_PORT."
    assert send(mailer_for(tmp_path, environ)) == ("later", words, None, False, "whole", 1)


def test_tls_on_a_port_without_it_is_reported(authority: Authority, server: MailServer, tmp_path: Path) -> None:
    environ = environment(authority.path, smtp=server) | {"SMTP_SECURITY": "tls"}
    words = "localhost does not speak TLS as expected. Check SMTP_SECURITY and SMTP_PORT."
    assert send(mailer_for(tmp_path, environ)) == ("later", words, None, False, "whole", 1)


def test_a_server_that_is_down_is_tried_again(authority: Authority, start: Start, tmp_path: Path) -> None:
    server = start()
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=server))
    assert send(mailer) == SENT
    port = server.port
    server.close()
    assert send(mailer) == ("later", "localhost refused the connection.", None, False, "whole", 1)
    start(port=port)
    assert send(mailer) == SENT


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        mailer = mailer_for(tmp_path, {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": port, "SMTP_FROM": SMTP_FROM})
        began = time.monotonic()
        assert send(mailer) == ("later", "127.0.0.1 did not answer within 1 seconds.", None, False, "whole", 1)
        assert time.monotonic() - began < 3


def test_a_server_that_says_something_now_and_then_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = threading.Event()

        def answer() -> None:
            with listener.accept()[0] as connection, contextlib.suppress(OSError):
                connection.sendall(b"220 here\r\n")
                while not gone.wait(0.1):
                    connection.sendall(b"250-and one thing more\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = str(listener.getsockname()[1])
        mailer = mailer_for(tmp_path, {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": port, "SMTP_FROM": SMTP_FROM})
        began = time.monotonic()
        assert send(mailer) == ("later", "127.0.0.1 did not answer within 1 seconds.", None, False, "whole", 1)
        assert time.monotonic() - began < 3
        gone.set()
        thread.join()


FORGED = "=?utf-8?q?Log_on=0D=0AReply-To:_eve=40example.org=0D=0AContent-Type:_text/html=0D=0A=0D=0A<!--?="


def test_no_title_becomes_a_header_or_the_body(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, title=FORGED, text="--><h1>Log on again</h1>") == SENT
    message = server.messages[0].message
    assert message.get_content_type() == "multipart/alternative"
    assert message["Reply-To"] is None
    assert "Log_on=0D=0A" in str(message["Subject"])


def test_no_mailbox_becomes_a_header(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, "=?utf-8?q?x=0D=0AReply-To=3A_e=40e.io?=@example.com").state == "failed"
    assert not server.messages


def test_a_server_that_is_full_is_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection = listener.accept()[0]
            connection.sendall(b"554 5.3.2 Too many connections\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        port = str(listener.getsockname()[1])
        mailer = mailer_for(tmp_path, {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": port, "SMTP_FROM": SMTP_FROM})
        words = "The mail server refused the connection: 554 5.3.2 Too many connections"
        assert send(mailer) == ("later", words, None, False, "whole", 1)
        thread.join()


def test_a_server_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    mailer = mailer_for(tmp_path, {"SMTP_HOST": "mail.invalid", "SMTP_FROM": SMTP_FROM})
    assert send(mailer) == ("later", "mail.invalid cannot be found.", None, False, "whole", 1)


def test_a_domain_of_other_letters_is_written_as_servers_know_it(server: MailServer, mailer: Mailer) -> None:
    assert send(mailer, "ann@例子.example") == SENT
    assert server.messages[0].recipient == "ann@xn--fsqu00a.example"


def test_a_mailbox_of_other_letters_needs_a_server_that_knows_them(
    authority: Authority, start: Start, tmp_path: Path
) -> None:
    knows, does_not = start(), start(smtputf8=False)
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=knows))
    assert send(mailer, "用户@例子.example") == SENT
    assert knows.messages[0].recipient == "用户@xn--fsqu00a.example"
    mailer.close()
    mailer = mailer_for(tmp_path, environment(authority.path, smtp=does_not))
    words = "localhost takes no mailbox with letters outside ASCII (SMTPUTF8)."
    assert send(mailer, "用户@例子.example") == ("failed", words, None, False, "whole", 1)
    assert send(mailer) == SENT
    mailer.close()


@pytest.mark.long
@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(
    typed=st.emails()
    | st.builds(
        "{}@{}".format, st.text(max_size=70), st.sampled_from(["example.com", "例子.测试", "intranet", "b.local"])
    )
    | st.builds(
        "{}@{}".format,
        st.text(st.sampled_from("ab.é字!#$%&'*+/=?^_`{|}~-<>()\\\"@"), max_size=70),
        st.lists(st.text(st.sampled_from("ab1é字-_"), min_size=1, max_size=20), min_size=1, max_size=9).map(".".join),
    )
)
def test_a_mailbox_that_is_saved_can_be_written_to(typed: str) -> None:
    try:
        address = clean_email(typed)
    except ValueError:
        return
    recipient = as_known_to_servers(address)
    local, _, domain = recipient.rpartition("@")
    assert domain.isascii()
    assert (len(local.encode()) <= 64, len(domain) <= 253, len(recipient.encode()) <= 254) == (True,) * 3
    message = parsed(message_of(SMTP_FROM, recipient, content(), "1", None))
    assert message["To"].addresses[0].addr_spec == recipient


@pytest.mark.parametrize("address", ["ann", "ann@", "ann@\r\nexample.com", "ann@..例", "a b@example.com", "a@b@c", ""])
def test_a_mailbox_that_cannot_be_written_is_reported(server: MailServer, mailer: Mailer, address: str) -> None:
    assert send(mailer, address).state == "failed"
    assert not server.messages
