"""Show that a body is taken packed or not, of a declared length or not, and never costs more than a plain one."""

import gzip
import io
import json
import resource
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from contacts_app.web.machines import ALERT_BYTES
from tests.api.test_alerts import DISK, PATH, alerts_of, error_of, post, said, token
from tests.conftest import Team
from tests.intake.test_refusals import refusals_of

__all__ = ["token"]  # a fixture
TOO_LONG = "An alert can have at most 4 MB. Configure the sender to group fewer alerts into one message."
BODY = json.dumps(DISK).encode()


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(body) + packing.flush()


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "pack"), PACKED)
def test_a_packed_body_is_the_alert_that_is_in_it(
    team: Team, token: str, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    assert post(team.app, token, pack(BODY), Content_Encoding=coding).status_code == 202
    assert [alert["title"] for alert in alerts_of(team)] == ["Disk is full"]
    assert post(team.app, token, BODY).status_code == 200  # the same, packed or not


@pytest.mark.parametrize(
    ("body", "coding", "status", "words"),
    [
        (gzip.compress(BODY)[:-9], "gzip", 400, "is incomplete"),
        (gzip.compress(BODY) + b"x", "gzip", 400, "is incomplete"),
        (BODY, "gzip", 400, "not compressed with gzip"),
        (BODY, "deflate", 400, "not compressed with deflate"),
        (b"", "gzip", 400, "is incomplete"),
        (b"", "deflate", 400, "is incomplete"),
        (BODY, "br", 415, "compressed with gzip or deflate"),
        (gzip.compress(gzip.compress(BODY)), "gzip, gzip", 415, "compressed with gzip or deflate"),
        (gzip.compress(b"{"), "gzip", 400, "The body is not JSON"),
        (gzip.compress(b" " * (ALERT_BYTES + 1)), "gzip", 413, TOO_LONG),
    ],
    ids=range(10),
)
def test_what_cannot_be_unpacked_is_refused_in_words_and_seen(
    team: Team, token: str, body: bytes, coding: str, status: int, words: str
) -> None:
    sentence = error_of(post(team.app, token, body, Content_Encoding=coding), status)
    assert words in sentence
    assert [kept["sentence"] for kept in refusals_of(team)] == [sentence]
    assert alerts_of(team) == []


def test_a_packed_body_may_be_as_long_as_a_plain_one(team: Team, token: str) -> None:
    body = BODY.ljust(ALERT_BYTES)
    assert post(team.app, token, gzip.compress(body), Content_Encoding="gzip").status_code == 202


@pytest.mark.long
def test_a_bomb_costs_no_more_than_the_longest_plain_body(team: Team, token: str) -> None:
    packing = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024 * 1024)
    bomb = b"".join(packing.compress(zeros) for _ in range(2000)) + packing.flush()
    assert len(bomb) < ALERT_BYTES
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    answer = post(team.app, token, bomb, Content_Encoding="gzip")
    took = time.thread_time() - started
    assert error_of(answer, 413) == TOO_LONG
    assert took < 0.5
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 64 * 1024


def chunked(team: Team, token: str, body: bytes, **environ: Any) -> Any:
    """Post as a server that knows the end of the body hands it on."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    return team.app.test_client().post(
        PATH,
        input_stream=io.BytesIO(body),
        headers=headers,
        environ_overrides={"wsgi.input_terminated": True} | environ,
    )


def test_a_body_whose_length_is_not_declared_is_taken_up_to_the_limit(team: Team, token: str) -> None:
    assert chunked(team, token, BODY.ljust(ALERT_BYTES)).status_code == 202
    assert error_of(chunked(team, token, BODY.ljust(ALERT_BYTES + 1)), 413) == TOO_LONG
    assert refusals_of(team)[0]["body"].startswith('{"title": "Disk is full"}')
    packed = chunked(team, token, gzip.compress(b'{"title": "x"}'), HTTP_CONTENT_ENCODING="gzip")
    assert packed.status_code == 202


@pytest.mark.parametrize("environ", [{"wsgi.input_terminated": False}, {"HTTP_TRANSFER_ENCODING": "gzip"}])
def test_a_body_whose_end_nobody_knows_is_refused(team: Team, token: str, environ: dict[str, Any]) -> None:
    words = "Send the length of the body, in the header Content-Length."
    assert error_of(chunked(team, token, BODY, **environ), 411) == words


def test_a_form_of_unknown_length_is_refused_as_before(team: Team) -> None:
    answer = team.client.post(
        "/contacts/new",
        data="name=x",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 411


# As production serves it


def pieces(body: bytes) -> Iterator[bytes]:
    yield body[:5]
    yield body[5:]


def test_the_web_server_takes_chunks_and_what_is_packed(team: Team, token: str, console: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = requests.post(console + PATH, data=pieces(BODY), headers=headers, timeout=60)
    assert answer.status_code == 202
    packed = {"Content-Encoding": "gzip"}
    again = requests.post(console + PATH, data=pieces(gzip.compress(BODY)), headers=headers | packed, timeout=60)
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
    long = requests.post(console + PATH, data=iter([bytes(ALERT_BYTES), b"xx"]), headers=headers, timeout=60)
    assert (long.status_code, long.json()["error"]) == (413, TOO_LONG)


def test_chunks_that_are_broken_off_are_no_alert(team: Team, token: str, console: str) -> None:
    address = urlsplit(console)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    for rest in (b"19\r\n" + BODY, b"19\r\n" + BODY + b"\r\n", b"zz\r\n" + BODY):
        with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as visitor:
            visitor.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + rest)
            visitor.shutdown(socket.SHUT_WR)
            status = visitor.recv(4096).split(b" ", 2)[1:2]
        assert status in ([], [b"400"], [b"408"])
    assert alerts_of(team) == []


def test_a_body_that_is_broken_off_is_no_refusal(team: Team, token: str) -> None:
    environ = {"CONTENT_LENGTH": "100", "HTTP_AUTHORIZATION": f"Bearer {token}"}
    answer = team.app.test_client().post(
        PATH, input_stream=io.BytesIO(BODY), content_type="application/json", environ_overrides=environ
    )
    assert (answer.status_code, alerts_of(team), refusals_of(team)) == (400, [], [])


def test_the_answer_is_the_same_however_a_body_comes(team: Team, token: str) -> None:
    first = said(post(team.app, token, BODY))["id"]
    assert said(chunked(team, token, BODY))["id"] == first
