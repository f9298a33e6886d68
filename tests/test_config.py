"""Show that every setting has a default, takes its good values, and is refused by name when it is wrong."""

import dataclasses
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest

from contacts_app.config import PROJECT, Settings, StartError, load
from tests.test_embedded import flask

KEY = "k" * 32


def loaded(**environ: str) -> Any:
    return load({"SECRET_KEY": KEY} | environ)


def refusal(**environ: str) -> str:
    """Return the one line with which these settings are refused."""
    with pytest.raises(StartError) as refused:
        loaded(**environ)
    (line,) = str(refused.value).splitlines()
    return line


def test_every_setting_has_a_default() -> None:
    settings = loaded()
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 8000, None)
    assert settings.data_dir == PROJECT / "instance"
    assert (settings.default_region, settings.contact_quota) == ("CN", 100)
    assert settings.dingtalk_hosts == ("oapi.dingtalk.com", "oapi.dingtalk.io")
    assert (settings.https, settings.proxy_count, settings.trusted_hosts) == (False, 0, ())
    assert min(settings.workers, settings.threads) >= 1


@pytest.mark.parametrize(
    ("name", "value", "field", "meant"),
    [
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("HOST", "[::1]", "host", "::1"),
        ("HOST", "::", "host", "::"),
        ("HOST", "contacts.example.com", "host", "contacts.example.com"),
        ("PORT", "1", "port", 1),
        ("PORT", " 65535 ", "port", 65535),
        ("PORT", "", "port", 8000),
        ("DATABASE_URL", "postgres://u@h/d", "database_url", "postgresql://u@h/d"),
        ("DATABASE_URL", "postgresql+psycopg://u@h/d", "database_url", "postgresql://u@h/d"),
        ("DATABASE_URL", "postgresql://u:p%40%2F@h:5/d?sslmode=require", "database_url", None),
        ("DATABASE_URL", "postgresql://h1:5432,h2:5433/d", "database_url", None),
        ("DATABASE_URL", "postgresql:///d?host=/run/postgresql", "database_url", None),
        ("DATABASE_URL", "postgresql://u:p@[::1]:5432/d", "database_url", None),
        ("DATA_DIR", "/srv/my data", "data_dir", Path("/srv/my data")),
        ("DATA_DIR", "~/data", "data_dir", Path.home() / "data"),
        ("SECRET_KEY", "s" * 32, "secret_key", "s" * 32),
        ("DEFAULT_REGION", "us", "default_region", "US"),
        ("CONTACT_QUOTA", "1", "contact_quota", 1),
        ("CONTACT_QUOTA", "1000000", "contact_quota", 1_000_000),
        ("DINGTALK_HOSTS", "robot.example.com", "dingtalk_hosts", None),
        ("HTTPS", "1", "https", True),
        ("HTTPS", "On", "https", True),
        ("HTTPS", "no", "https", False),
        ("PROXY_COUNT", "2", "proxy_count", 2),
        ("TRUSTED_HOSTS", "a.example.com, .B.example.com,", "trusted_hosts", ("a.example.com", ".b.example.com")),
        ("WORKERS", "4", "workers", 4),
        ("THREADS", "8", "threads", 8),
    ],
)
def test_a_setting_is_taken_as_meant(name: str, value: str, field: str, meant: Any) -> None:
    taken = getattr(loaded(**{name: value}), field)
    if meant is None:  # as it is, or beside the built-in ones
        assert taken == value or value in taken
    else:
        assert taken == meant


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("HOST", "127.0.0.1:80", "an address or a host name"),
        ("HOST", "http://here", "an address or a host name"),
        ("HOST", "a b", "an address or a host name"),
        ("HOST", "a..b", "an address"),
        ("HOST", "x" * 64 + ".example.com", "an address"),
        *[
            ("PORT", value, "a number from 1 to 65535")
            for value in ("0", "65536", "-1", "80x", "8e3", "８０", "9" * 5000)
        ],
        ("DATABASE_URL", "mysql://h/d", "postgresql://"),
        ("DATABASE_URL", "host=h dbname=d", "postgresql://"),
        ("DATABASE_URL", "postgresql://u@h/d?nonsense=1", "postgresql://"),
        ("DATABASE_URL", "postgresql://u@h:port/d", "postgresql://"),
        ("DATA_DIR", "~nobody-of-this-name/data", "a folder"),
        ("SECRET_KEY", "s" * 31, "at least 32 characters"),
        ("DEFAULT_REGION", "CHN", "two letters"),
        ("DEFAULT_REGION", "China", "two letters"),
        *[("CONTACT_QUOTA", value, "a number from 1 to 1000000") for value in ("0", "-5", "1.5", "many", "1000001")],
        ("DINGTALK_HOSTS", "https://robot.example.com/", "host names with commas"),
        ("HTTPS", "2", "1 or 0"),
        ("HTTPS", "yes please", "1 or 0"),
        ("PROXY_COUNT", "11", "a number from 0 to 10"),
        ("PROXY_COUNT", "one", "a number from 0 to 10"),
        ("TRUSTED_HOSTS", "*", "host names with commas"),
        ("TRUSTED_HOSTS", "a.example.com b.example.com", "host names with commas"),
        ("TRUSTED_HOSTS", "a.example.com:8000", "host names with commas"),
        ("WORKERS", "0", "a number from 1 to 64"),
        ("THREADS", "65", "a number from 1 to 64"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name_and_with_what_it_should_be(
    name: str, value: str, expected: str
) -> None:
    line = refusal(**{name: value})
    assert line.startswith(name)
    assert expected in line


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@127.0.0.1/db",
        "postgresql://user:s3cret%@127.0.0.1/db",
        "postgresql://user:s3cret@127.0.0.1/db?nonsense=1",
        # What it is not written as in an address splits the password; its second half must not become a host.
        "postgresql://user:half@s3cret@127.0.0.1:1/db",
        "postgresql://user:half/s3cret@127.0.0.1:1/db",
        "postgresql://user:s3cret/half@127.0.0.1:1/db",
        "postgresql://user:half#s3cret/@127.0.0.1:1/db",
    ],
)
def test_a_password_in_a_wrong_database_url_is_never_shown(url: str) -> None:
    line = refusal(DATABASE_URL=url)
    assert line.startswith("DATABASE_URL must look like postgresql://")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "abc", "PORT must be a number from 1 to 65535, not 'abc'."),
        ("HOST", "a..b", "HOST must be an address"),
        ("DATABASE_URL", "postgresql://user:half@s3cret@127.0.0.1:1/db", "DATABASE_URL must look like"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path, name: str, value: str, expected: str) -> None:
    result = flask(tmp_path / "data", "serve", **{name: value})
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"alert-contacts: {expected}")
    assert "s3cret" not in line


def test_the_secret_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path / "new" / "data")}
    key = load(environ).secret_key
    assert len(key) >= 32
    assert load(environ).secret_key == key
    assert load({"DATA_DIR": str(tmp_path / "other")}).secret_key != key
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == ["secret_key"]
    assert (tmp_path / "new" / "data" / "secret_key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new" / "data").stat().st_mode & 0o077 == 0


def _write_key(data_dir: Path, start: Any, keys: Any) -> None:
    start.wait()
    keys.put(load({"DATA_DIR": str(data_dir)}).secret_key)


def test_starts_at_once_agree_on_one_secret_key(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for attempt in range(5):
        start, keys = fork.Barrier(4), fork.Queue()
        starts = [fork.Process(target=_write_key, args=(tmp_path / str(attempt), start, keys)) for _ in range(4)]
        for process in starts:
            process.start()
        assert len({keys.get(timeout=30) for _ in starts}) == 1
        for process in starts:
            process.join()


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe" * 40])
def test_a_damaged_secret_key_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret_key").write_bytes(content)
    with pytest.raises(StartError, match="secret_key is damaged; remove it"):
        load({"DATA_DIR": str(tmp_path)})
    assert (tmp_path / "secret_key").read_bytes() == content


def test_a_relative_data_folder_is_the_same_one_wherever_a_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The console starts gunicorn in the project's folder, and both must mean one database.
    relative = os.path.relpath(tmp_path / "data", PROJECT)
    monkeypatch.chdir(tmp_path)
    assert loaded(DATA_DIR=relative).data_dir.resolve() == (tmp_path / "data").resolve()


def test_readme_lists_every_setting() -> None:
    table = (PROJECT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    listed = {name.lower() for name in re.findall(r"`([A-Z_]+)`", table)}
    assert {field.name for field in dataclasses.fields(Settings)} <= listed
