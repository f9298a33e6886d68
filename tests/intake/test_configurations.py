"""Show that the configurations that the console offers work as pasted, with the programs that they are meant for."""

import json
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from contacts_app.intake.configurations import alertmanager_config, curl_example, grafana_config
from contacts_app.intake.formats import read
from tests.conftest import wait_for
from tests.intake.alertmanager import amtool, hurried, running

URL, TOKEN = "https://contacts.example.com/api/v1/alerts", "Xf3-_0example"
ODD = [
    'a"b',
    "a\\b",
    "a'b",
    "a: b # c",
    "${HOME}$HOME$$",
    "a\nb\x00\x7f\x85\u2028",
    "é\U0001f600\ufeff",
    "%{{x}}*&!|>@`",
]


class Post(NamedTuple):
    """What came in."""

    path: str
    authorization: str
    content_type: str
    body: bytes


@contextmanager
def listener() -> Iterator[tuple[str, list[Post]]]:
    """Return the address of a server that takes what is posted, and the list that it comes into."""
    posts: list[Post] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append(Post(self.path, self.headers["Authorization"], self.headers["Content-Type"], body))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/v1/alerts", posts
        server.shutdown()


def test_a_real_alertmanager_sends_what_fires_and_what_is_resolved(tmp_path: Path) -> None:
    labels = {"severity": "critical", "instance": "db1"}
    annotations = {"summary": "Disk is full", "description": "98 % of /var is used."}
    with listener() as (url, posts), running(hurried(alertmanager_config(url, TOKEN)), tmp_path) as alertmanager:
        alertmanager.fire("DiskFull", labels, annotations)
        wait_for(lambda: posts, what="the alert")
        alertmanager.resolve("DiskFull", labels, annotations)
        wait_for(lambda: posts[-1].body != posts[0].body, what="the end of the alert")
    for post in posts:
        assert post.path == "/api/v1/alerts"
        assert post.authorization == f"Bearer {TOKEN}"
        assert post.content_type == "application/json"
    firing, resolved = read(posts[0].body), read(posts[-1].body)
    assert (firing.source, firing.title) == ("alertmanager", "DiskFull")
    assert (firing.severity, firing.status) == ("critical", "firing")
    first, second, last = firing.text.splitlines()
    assert first.startswith("Disk is full – 98 % of /var is used.; since 2")
    assert second == "Labels: instance=db1"
    assert last == "http://alertmanager.example.com"
    assert (resolved.title, resolved.status, resolved.key) == ("DiskFull", "resolved", firing.key)
    assert firing.key == '{}:{alertname="DiskFull"}'
    assert "; from 2" in resolved.text.splitlines()[0]


def test_a_real_alertmanager_sends_alerts_of_one_name_together(tmp_path: Path) -> None:
    with listener() as (url, posts), running(hurried(alertmanager_config(url, TOKEN)), tmp_path) as alertmanager:
        for instance, severity in (("web1", "warning"), ("web2", "critical"), ("web3", "warning")):
            alertmanager.fire("HighLoad", {"instance": instance, "severity": severity, "job": "node"})
        wait_for(lambda: posts and len(json.loads(posts[-1].body)["alerts"]) == 3, what="all three")
        firing = read(posts[-1].body)
        alertmanager.resolve("HighLoad", {"instance": "web2", "severity": "critical", "job": "node"})
        wait_for(lambda: b'"resolved"' in posts[-1].body, what="the end of one")
        mixed = read(posts[-1].body)
    assert (firing.title, firing.severity) == ("HighLoad (3 firing)", "critical")
    assert (mixed.title, mixed.severity, mixed.status) == ("HighLoad (2 firing, 1 resolved)", "warning", "firing")
    assert "- Resolved: instance=web2, severity=critical; from 2" in mixed.text
    assert "\nLabels: job=node\n" in mixed.text
    assert firing.key == mixed.key


@pytest.mark.parametrize("token", [TOKEN, *ODD])
def test_amtool_finds_alertmanagers_configuration_good(tmp_path: Path, token: str) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(alertmanager_config(URL, token))
    checked = amtool("check-config", str(path))
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "SUCCESS" in checked.stdout
    assert "1 receivers" in checked.stdout


@pytest.mark.parametrize("odd", [TOKEN, *ODD])
def test_any_address_and_token_stand_in_alertmanagers_configuration_as_they_are(odd: str) -> None:
    config = yaml.safe_load(alertmanager_config(f"{URL}?{odd}", odd))
    (receiver,) = config["receivers"]
    assert config["route"]["receiver"] == receiver["name"]
    (webhook,) = receiver["webhook_configs"]
    assert webhook["url"] == f"{URL}?{odd}"
    assert webhook["send_resolved"] is True
    assert webhook["http_config"]["authorization"] == {"type": "Bearer", "credentials": odd}


@pytest.mark.parametrize("odd", [TOKEN, *ODD])
def test_any_address_and_token_stand_in_grafanas_contact_point_as_they_are(odd: str) -> None:
    config = yaml.safe_load(grafana_config(f"{URL}?{odd}", odd))
    assert config["apiVersion"] == 1
    (contact_point,) = config["contactPoints"]
    (receiver,) = contact_point["receivers"]
    assert (receiver["type"], receiver["disableResolveMessage"]) == ("webhook", False)
    # Grafana replaces variables in what it reads; a doubled $ is how a single one is written.
    assert {name: value.replace("$$", "$") for name, value in receiver["settings"].items()} == {
        "url": f"{URL}?{odd}",
        "httpMethod": "POST",
        "authorization_scheme": "Bearer",
        "authorization_credentials": odd,
    }
    assert "$" not in "".join(receiver["settings"].values()).replace("$$", "")


@pytest.mark.parametrize("odd", [TOKEN, *ODD])
def test_a_shell_takes_any_address_and_token_of_the_example_as_they_are(odd: str) -> None:
    command = shlex.split(curl_example(f"{URL}?{odd}", odd).replace("\\\n  ", ""))
    assert command[:2] == ["curl", f"{URL}?{odd}"]
    assert f"Authorization: Bearer {odd}" in command


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("token", [TOKEN, 'it\'s $HOME; `id` "q" \\'])
def test_the_example_for_the_shell_posts_an_alert(token: str) -> None:
    with listener() as (url, posts):
        subprocess.run(["sh", "-c", curl_example(url, token)], check=True, capture_output=True, timeout=60)
    (post,) = posts
    assert post.authorization == f"Bearer {token}"
    assert post.content_type == "application/json"
    assert read(post.body).title == "Disk is full"
