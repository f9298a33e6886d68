"""Show that what a browser loads is compressed where it takes that, and the same in either form."""

import gzip
import re

import pytest
from flask import Flask

from tests.conftest import HTMX, Team

GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_a_page_is_the_same_compressed(team: Team, headers: dict[str, str]) -> None:
    for n in range(20):
        team.add(f"Contact {n}")
    plain = team.client.get("/contacts?q=contact", headers=headers)
    answer = team.client.get("/contacts?q=contact", headers=headers | GZIP)
    assert "Content-Encoding" not in plain.headers
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) == len(answer.data) < len(plain.data) / 4
    token = re.compile(rb'name="csrf_token" value="[^"]+"')
    assert token.sub(b"", gzip.decompress(answer.data)) == token.sub(b"", plain.data)
    for one in (plain, answer):
        assert {"Accept-Encoding", "HX-Request"} <= set(one.vary)


def test_the_size_of_a_page_reveals_nothing_of_what_is_in_it(team: Team) -> None:
    sizes = {len(team.client.get("/contacts", headers=GZIP).data) for _ in range(30)}
    assert len(sizes) > 10
    assert max(sizes) - min(sizes) > 30


def test_a_static_file_is_compressed_whole_and_known_again(app: Flask) -> None:
    client = app.test_client()
    path = "/static/vendor/bootstrap-5.3.9.min.css"
    plain, answer = client.get(path), client.get(path, headers=GZIP)
    assert gzip.decompress(answer.data) == plain.data
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert answer.headers["ETag"] == f"W/{plain.headers['ETag']}"
    assert answer.vary == plain.vary
    for etag in (answer.headers["ETag"], plain.headers["ETag"]):
        again = client.get(path, headers=GZIP | {"If-None-Match": etag})
        assert (again.status_code, again.data) == (304, b"")
    part = client.get(path, headers=GZIP | {"Range": "bytes=0-99"})
    assert (part.status_code, part.data) == (206, plain.data[:100])
    assert "Content-Encoding" not in part.headers


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0", "br", "*;q=0", "gzip;q=x", "\xff"])
def test_who_does_not_take_gzip_is_sent_none(app: Flask, accepted: str) -> None:
    answer = app.test_client().get("/static/app.css", headers={"Accept-Encoding": accepted})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer.headers


def test_a_small_answer_and_no_answer_stay_as_they_are(app: Flask) -> None:
    client = app.test_client()
    assert "Content-Encoding" not in client.get("/healthz", headers=GZIP).headers
    assert "Content-Encoding" not in client.get("/static/icon.svg", headers=GZIP).headers
    head = client.head("/static/app.css", headers=GZIP)
    assert (head.status_code, head.data) == (200, b"")


def test_the_first_page_with_all_that_it_loads_is_small(team: Team) -> None:
    """The log-on page, and after it the list of 100 contacts, of which each file is loaded once."""
    for n in range(100):
        team.add(f"Contact {n}", mobile=f"+86138000{n:05}")

    def loaded(path: str, seen: set[str]) -> int:
        client = team.client if path == "/contacts" else team.app.test_client()
        page = client.get(path, headers=GZIP)
        links = set(re.findall(rb'(?:href|src)="(/static/[^"]+)"', gzip.decompress(page.data))) - seen
        seen |= links
        return len(page.data) + sum(len(client.get(link.decode(), headers=GZIP).data) for link in links)

    seen: set[str] = set()
    first, second = loaded("/logon", seen), loaded("/contacts", seen)
    print(first, second)
    assert first < 60_000
    assert second < 15_000
