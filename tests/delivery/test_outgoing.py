"""Show that a call goes only where it may, ends in time, and says in words why there is no answer."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contacts_app import config
from contacts_app.delivery.answers import words
from contacts_app.delivery.channels import outgoing
from contacts_app.delivery.channels.outgoing import CannotReach, is_allowed
from tests.delivery.counterparts import Authority, DingTalk, environment

TOKEN = "0123456789abcdef0123456789abcdef"
LOCAL = {"OUTGOING_NETWORKS": "127.0.0.0/8"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[DingTalk]:
    server = DingTalk(authority)
    yield server
    server.close()


@pytest.fixture
def session(authority: Authority, tmp_path: Path) -> Iterator[outgoing.Session]:
    with session_with(tmp_path, environment(authority.path)) as session:
        yield session


def session_with(folder: Path, environ: dict[str, str]) -> outgoing.Session:
    return outgoing.Session(config.load({"DATA_DIR": str(folder)} | environ))


def refusal(session: outgoing.Session, url: str) -> CannotReach:
    """Call `url` and return why that failed, which never quotes the token."""
    with pytest.raises(CannotReach) as caught:
        outgoing.post(session, url, b"{}")
    assert TOKEN not in str(caught.value)
    return caught.value


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.5", "127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1", "192.168.1.1", "224.0.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1%2", "fc00::1", "ff02::1", "::ffff:10.0.0.5", "::10.0.0.5", "2002:a00:5::1"),
        *("64:ff9b::10.0.0.5", "::ffff:127.0.0.1", "2001:db8::1", "fec0::1", "255.255.255.255"),
    ],
)
def test_an_address_that_is_not_public_is_not_called(address: str) -> None:
    assert not is_allowed(address)


@pytest.mark.parametrize("address", ["106.11.43.136", "2606:4700::1111", "::ffff:106.11.43.136", "64:ff9b::8.8.8.8"])
def test_a_public_address_is_called(address: str) -> None:
    assert is_allowed(address)


def test_a_network_that_is_named_is_called_also_in_ipv6(tmp_path: Path) -> None:
    networks = config.load({"DATA_DIR": str(tmp_path), "OUTGOING_NETWORKS": "10.0.0.0/24, fc00::/7"}).outgoing_networks
    assert is_allowed("10.0.0.5", networks)
    assert is_allowed("::ffff:10.0.0.5", networks)
    assert is_allowed("fc00::1", networks)
    assert not is_allowed("10.0.1.5", networks)


def test_an_answer_is_returned_whatever_its_status(server: DingTalk, session: outgoing.Session) -> None:
    server.replies.append((418, {"is": "a teapot"}))
    answer = outgoing.post(session, server.add("t"), b"{}")
    assert (answer.status, answer.body) == (418, b'{"is": "a teapot"}')
    assert answer.headers["Date"]


def test_a_connection_is_kept_from_one_call_to_the_next(server: DingTalk, session: outgoing.Session) -> None:
    server.replies.extend([(200, {})] * 3)
    for _ in range(3):
        outgoing.post(session, server.add("t"), b"{}")
    assert len(server.open_connections) == 1


def test_a_private_address_is_not_even_connected_to(authority: Authority, server: DingTalk, tmp_path: Path) -> None:
    session = session_with(tmp_path, {"CA_BUNDLE": str(authority.path)})
    refused = refusal(session, server.add(TOKEN))
    content = "localhost is not called, because its address {} is not public. OUTGOING_NETWORKS can allow it."
    assert words(refused.answer) in (content.format("127.0.0.1"), content.format("::1"))
    assert not refused.is_uncertain
    assert not server.open_connections


def test_the_address_that_was_checked_is_the_one_that_is_called(
    server: DingTalk, session: outgoing.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    look_up = socket.getaddrinfo

    def rebinding(host: str, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(host)
        return look_up("127.0.0.1" if host == "localhost" and looked_up.count(host) == 1 else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.replies.append((200, {}))
    outgoing.post(session, server.add("t"), b"{}")
    assert [host for host in looked_up if host == "localhost"] == ["localhost"]


def test_a_private_address_beside_an_allowed_one_is_passed_over(
    server: DingTalk, session: outgoing.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("10.0.0.5", "127.0.0.1")]
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: found if host == "localhost" else look_up(host, *a, **k)
    )
    server.replies.append((200, {}))
    assert outgoing.post(session, server.add("t"), b"{}").status == 200


def test_a_name_that_does_not_exist_is_told(session: outgoing.Session) -> None:
    refused = refusal(session, f"https://robot.invalid/robot/send?access_token={TOKEN}")
    assert (words(refused.answer), refused.is_uncertain) == ("robot.invalid cannot be found.", False)


def test_a_look_up_that_hangs_is_given_up(session: outgoing.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 0.3)
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [never.wait(5)][:0])
    began = time.monotonic()
    assert words(refusal(session, "https://robot.example/").answer) == "robot.example cannot be found."
    assert time.monotonic() - began < 2
    never.set()


def test_a_port_that_is_closed_is_told(session: outgoing.Session) -> None:
    refused = refusal(session, f"https://localhost:{free_port()}/robot/send?access_token={TOKEN}")
    assert (words(refused.answer), refused.is_uncertain) == ("localhost refused the connection.", False)


def test_a_certificate_of_an_unknown_authority_is_not_trusted(server: DingTalk, tmp_path: Path) -> None:
    refused = refusal(session_with(tmp_path, LOCAL), server.add(TOKEN))
    assert (words(refused.answer), refused.is_uncertain) == ("The certificate of localhost is not trusted.", False)
    assert not server.requests


def test_a_certificate_for_another_name_is_not_trusted(
    server: DingTalk, session: outgoing.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: look_up("127.0.0.1" if "example" in host else host, *a, **k)
    )
    refused = refusal(session, f"https://robot.example:{server.port}/robot/send?access_token={TOKEN}")
    assert words(refused.answer) == "The certificate of robot.example is not trusted."


@pytest.mark.parametrize("url", ["http://localhost/", "ftp://localhost/", "file:///etc/passwd"])
def test_only_https_is_called(session: outgoing.Session, url: str) -> None:
    assert "does not begin with https://" in words(refusal(session, url).answer)


@pytest.mark.parametrize("url", ["https://", "https://[::1", "https://a..b/", f"https://{'a' * 300}/", "https://%00/"])
def test_an_address_that_cannot_be_read_is_told(session: outgoing.Session, url: str) -> None:
    assert not refusal(session, url).is_uncertain


def test_something_that_is_not_tls_is_told(session: outgoing.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection = listener.accept()[0]
            connection.recv(10)
            connection.sendall(b"220 not what you think\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        refused = refusal(session, f"https://localhost:{listener.getsockname()[1]}/?access_token={TOKEN}")
        thread.join()
    assert words(refused.answer) == "localhost closed the connection before it was secure."
    assert not refused.is_uncertain


def test_a_redirect_is_told_and_not_followed(server: DingTalk, session: outgoing.Session) -> None:
    server.behaviour = "redirect"
    refused = refusal(session, server.add(TOKEN))
    assert words(refused.answer) == "localhost answered with a redirect, which is not followed."
    assert server.requests == 1


def test_a_large_answer_is_cut_off(server: DingTalk, session: outgoing.Session) -> None:
    server.behaviour = "large"
    assert words(refusal(session, server.add(TOKEN)).answer) == "localhost answered more than 64 KiB."


def test_a_connection_that_is_closed_may_have_taken_the_request(server: DingTalk, session: outgoing.Session) -> None:
    server.behaviour = "close"
    refused = refusal(session, server.add(TOKEN))
    assert words(refused.answer) == "localhost closed the connection without an answer that can be read."
    assert refused.is_uncertain


@pytest.mark.parametrize("behaviour", ["hang", "drip", "drip-headers"])
def test_a_server_that_takes_its_time_is_cut_off(
    server: DingTalk, session: outgoing.Session, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    server.behaviour = behaviour
    began = time.monotonic()
    refused = refusal(session, server.add(TOKEN))
    assert 0.9 < time.monotonic() - began < 3
    assert (words(refused.answer), refused.is_uncertain) == ("localhost did not answer within 1 seconds.", True)


def test_a_handshake_that_hangs_is_cut_off(session: outgoing.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = refusal(session, f"https://localhost:{listener.getsockname()[1]}/?access_token={TOKEN}")
    assert (words(refused.answer), refused.is_uncertain) == ("localhost did not answer within 1 seconds.", False)


def test_a_call_takes_ten_seconds_at_most() -> None:
    assert outgoing.SECONDS == 10


def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: DingTalk, session: outgoing.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    server.replies.append((200, {}))
    assert outgoing.post(session, server.add("t"), b"{}").status == 200


def test_a_session_goes_on_after_a_failure(server: DingTalk, session: outgoing.Session) -> None:
    server.behaviour = "close"
    refusal(session, server.add(TOKEN))
    server.behaviour = None
    server.replies.append((200, {}))
    assert outgoing.post(session, server.add("t"), b"{}").status == 200


def test_a_server_that_has_closed_meanwhile_is_connected_to_again(
    authority: Authority, session: outgoing.Session
) -> None:
    first = DingTalk(authority)
    first.replies.append((200, {}))
    assert outgoing.post(session, first.add("t"), b"{}").status == 200
    first.close()
    again = DingTalk(authority, first.port)
    again.replies.append((200, {}))
    assert outgoing.post(session, again.add("t"), b"{}").status == 200
    again.close()
