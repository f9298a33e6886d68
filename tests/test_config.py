"""Show that every setting has a default, takes its good values, and is refused by name when it is wrong."""

import base64
import multiprocessing
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import certifi
import pytest

from contacts_app.config import PROJECT, Aliyun, Smtp, StartError, Twilio, load
from tests.ops.test_embedded import flask

KEY = "k" * 32
KEYS = [base64.b64encode(letter * 32).decode() for letter in (b"a", b"b")]
NETWORKS = (ip_network("10.20.0.0/16"), ip_network("::1/128"))
SMTP = {"SMTP_HOST": "mail.example.com", "SMTP_FROM": "alerts@example.com"}
ALIYUN = {
    "SMS_PROVIDER": "aliyun",
    "ALIYUN_ACCESS_KEY_ID": "id",
    "ALIYUN_ACCESS_KEY_SECRET": "s3cret",
    "ALIYUN_SIGN_NAME": "Ops",
    "ALIYUN_TEMPLATE_CODE": "SMS_1",
}
TWILIO = {
    "SMS_PROVIDER": "Twilio",
    "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "s3cret",
    "TWILIO_FROM": "+12025550123",
}


def loaded(**environ: str) -> Any:
    return load({"SECRET_KEY": KEY, "ENCRYPTION_KEYS": KEYS[0]} | environ)  # or one would be made in DATA_DIR


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
        ("ENCRYPTION_KEYS", ", ".join(KEYS), "encryption_keys", (b"a" * 32, b"b" * 32)),
        ("DINGTALK_HOSTS", "localhost:4430", "dingtalk_hosts", None),
        ("PUBLIC_URL", "https://contacts.example.com/", "public_url", "https://contacts.example.com"),
        ("ALERTS_PER_MINUTE", "1", "alerts_per_minute", 1),
        ("RETENTION_DAYS", "30", "retention_days", 30),
        ("DELIVERY_THREADS", "8", "delivery_threads", 8),
        ("DELIVERY_LEASE", "5", "delivery_lease", 5),
        ("OUTGOING_NETWORKS", "10.20.0.0/16, ::1", "outgoing_networks", NETWORKS),
        ("CA_BUNDLE", certifi.where(), "ca_bundle", Path(certifi.where())),
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
        *[("ENCRYPTION_KEYS", value, "32 bytes in base64") for value in ("secret", KEYS[0][:-4], f"{KEYS[0]},,", "é")],
        *[
            ("PUBLIC_URL", value, "must look like https://")
            for value in ("contacts.example.com", "ftp://x", "https://a b")
        ],
        ("ALERTS_PER_MINUTE", "0", "a number from 1"),
        ("RETENTION_DAYS", "0", "a number from 1"),
        ("DELIVERY_LEASE", "4", "a number from 5 to 3600"),
        *[("OUTGOING_NETWORKS", value, "must be networks") for value in ("all", "10.20.0.1/16", "10.0.0.0/33")],
        ("CA_BUNDLE", "/nowhere/at all", "a file of certificates"),
        ("CA_BUNDLE", __file__, "has none"),
        ("SMS_PROVIDER", "pigeon", "aliyun or twilio"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name_and_with_what_it_should_be(
    name: str, value: str, expected: str
) -> None:
    line = refusal(**{name: value})
    assert line.startswith(name)
    assert expected in line


def test_a_mail_server_is_taken_whole() -> None:
    assert loaded().smtp is None
    assert loaded(**SMTP).smtp == Smtp("mail.example.com", 587, "starttls", "", "", "alerts@example.com")
    given = SMTP | {"SMTP_SECURITY": "TLS", "SMTP_USER": "ann", "SMTP_PASSWORD": "s3cret"}
    assert loaded(**given).smtp == Smtp("mail.example.com", 465, "tls", "ann", "s3cret", "alerts@example.com")


def test_a_time_zone_is_known_by_its_name() -> None:
    assert loaded().timezone.key == "UTC"
    assert loaded(TIMEZONE="Asia/Shanghai").timezone.key == "Asia/Shanghai"


@pytest.mark.parametrize("name", ["Asia/Nowhere", "Asia", "../etc/passwd", "/etc/passwd", "UTC+8", "a\x00b", "很"])
def test_a_time_zone_that_is_none_is_refused_by_name(name: str) -> None:
    with pytest.raises(StartError, match="TIMEZONE must be the name of a time zone, such as Asia/Shanghai, not "):
        loaded(TIMEZONE=name)


def test_a_provider_of_text_messages_is_taken_whole() -> None:
    assert loaded().sms is None
    assert loaded(**ALIYUN).sms == Aliyun("https://dysmsapi.aliyuncs.com", "id", "s3cret", "Ops", "SMS_1", 35)
    twilio = loaded(**TWILIO, SMS_ENDPOINT="https://sms.example.com/").sms
    assert twilio == Twilio("https://sms.example.com", "AC1", "s3cret", "+12025550123")


@pytest.mark.parametrize(
    ("whole", "change", "expected"),
    [
        (SMTP, {"SMTP_FROM": ""}, "SMTP_FROM must be set, because SMTP_HOST is."),
        (SMTP, {"SMTP_FROM": "alerts"}, "SMTP_FROM must be an e-mail address"),
        (SMTP, {"SMTP_USER": "ann"}, "SMTP_USER and SMTP_PASSWORD must be set together"),
        (SMTP, {"SMTP_SECURITY": "ssl"}, "SMTP_SECURITY must be starttls, tls or none"),
        (SMTP, {"SMTP_PORT": "0"}, "SMTP_PORT must be a number"),
        *((ALIYUN, {name: ""}, f"{name} must be set, because SMS_PROVIDER=aliyun is.") for name in list(ALIYUN)[1:]),
        *((TWILIO, {name: ""}, f"{name} must be set, because SMS_PROVIDER=twilio is.") for name in list(TWILIO)[1:]),
    ],
)
def test_half_a_way_to_send_is_refused(whole: dict[str, str], change: dict[str, str], expected: str) -> None:
    line = refusal(**whole | change)
    assert expected in line
    assert "s3cret" not in line


def test_no_secret_stands_in_the_settings_as_they_are_shown() -> None:
    given = SMTP | {"SMTP_USER": "ann", "SMTP_PASSWORD": "s3cret"}
    own = {"SECRET_KEY": "s3cret" * 6, "DATABASE_URL": "postgresql://u:s3cret@h/d", "ENCRYPTION_KEYS": KEYS[0]}
    for environ in (given, ALIYUN, TWILIO, own):
        assert "aaaa" not in repr(loaded(**environ))
        assert "s3cret" not in repr(loaded(**environ))


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


@pytest.mark.long
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
    files = {path.name for path in (tmp_path / "new" / "data").iterdir()}
    assert files == {"secret_key", "encryption_key"}
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
