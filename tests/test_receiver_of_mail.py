"""Show that the mail server of the benchmarks speaks SMTP, whatever the pieces that commands come in."""

import re
import smtplib
import socket

import pytest

from tests.bench.receivers import Taken, receive_mail

SAID = (
    b"EHLO me\r\nMAIL FROM:<a@example.com> BODY=8BITMIME\r\n"
    b"RCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n"
    b"Subject: a\r\n\r\n..\r\nb\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nDATA\r\nNONE\r\nQUIT\r\n"
)
CODES = [b"220", b"250", b"250", b"250", b"250", b"354", b"250", b"250", b"250", b"503", b"502", b"221"]


@pytest.mark.parametrize("size", [1, 7, 60, len(SAID)])
def test_commands_are_answered_in_order_in_any_pieces(size: int) -> None:
    taken = Taken()
    host, _, port = receive_mail(taken)["address"].partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        for start in range(0, len(SAID), size):
            connection.sendall(SAID[start : start + size])
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert re.findall(rb"(?m)^(\d{3}) ", answer) == CODES
    assert [(arrival.receiver, arrival.size) for arrival in taken.arrivals] == [
        ("b@example.com", 21),
        ("c@example.com", 21),
    ]


def test_a_client_finds_all_that_it_looks_for() -> None:
    taken = Taken()
    host, _, port = receive_mail(taken)["address"].partition(":")
    with smtplib.SMTP(host, int(port), "localhost", 10) as client:
        client.ehlo()
        assert all(client.has_extn(name) for name in ("pipelining", "8bitmime", "smtputf8"))
        assert client.sendmail("a@example.com", ["b@example.com"], "Subject: a\n\n.\n", ["BODY=8BITMIME"]) == {}
    assert taken.wait(1, 0)
