"""Read every setting once from the environment, and refuse a bad one by its name."""

import base64
import ipaddress
import os
import re
import secrets
import ssl
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
import psycopg
from flask import current_app
from psycopg.conninfo import conninfo_to_dict

PROJECT = Path(__file__).resolve().parent.parent
OWN_NAMES = (
    "secret_key",
    "encryption_key",
    "postgres",
    "serve.lock",
    "postgres.start.lock",
)  # one of them is in DATA_DIR
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
DINGTALK_HOSTS = ("oapi.dingtalk.com", "oapi.dingtalk.io")


class StartError(Exception):
    """Say in one line why the console cannot start and what to do about it."""


@dataclass(frozen=True)
class Settings:
    """Hold the settings of one running console, as docs/operating.md lists them."""

    host: str
    port: int
    database_url: str | None = field(repr=False)
    data_dir: Path
    secret_key: str = field(repr=False)
    default_region: str
    contact_quota: int
    dingtalk_hosts: tuple[str, ...]
    https: bool
    proxy_count: int
    trusted_hosts: tuple[str, ...]
    workers: int
    threads: int
    encryption_keys: tuple[bytes, ...] = field(repr=False)
    public_url: str | None
    alerts_per_minute: int
    retention_days: int
    texts_per_number: int
    mails_per_mailbox: int
    delivery_threads: int
    delivery_lease: int
    outgoing_networks: tuple[Network, ...]
    ca_bundle: Path | None
    smtp: "Smtp | None"
    sms: "Aliyun | Twilio | None"
    sms_links: bool
    timezone: ZoneInfo


@dataclass(frozen=True)
class Smtp:
    """Say which server takes the console's mail; `security` is starttls, tls or none."""

    host: str
    port: int
    security: str
    user: str
    password: str = field(repr=False)
    sender: str


@dataclass(frozen=True)
class Aliyun:
    """Hold the access to Alibaba Cloud SMS."""

    endpoint: str
    access_key_id: str
    access_key_secret: str = field(repr=False)
    sign_name: str
    template_code: str
    content_length: int


@dataclass(frozen=True)
class Twilio:
    """Hold the access to Twilio; `sender` is a number or the sid of a messaging service."""

    endpoint: str
    account_sid: str
    auth_token: str = field(repr=False)
    sender: str


def current_settings() -> Settings:
    """Return the settings of the app that handles this request or command."""
    settings: Settings = current_app.extensions["settings"]
    return settings


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings found in `environ`; raise StartError naming the first that is wrong."""

    def text(name: str, default: str = "") -> str:
        return environ.get(name, "").strip() or default

    def number(name: str, default: int, low: int, high: int) -> int:
        value = text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise StartError(f"{name} must be a number from {low} to {high}, not {value!r}.")
        return int(value)

    def switch(name: str) -> bool:
        value = text(name, "0").lower()
        if value not in ("0", "1", "false", "true", "no", "yes", "off", "on"):
            raise StartError(f"{name} must be 1 or 0, not {value!r}.")
        return value in ("1", "true", "yes", "on")

    def hosts(name: str, port: str = "") -> tuple[str, ...]:
        found = tuple(part.strip().lower() for part in text(name).split(",") if part.strip())
        for host in found:
            if not re.fullmatch(rf"(\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]){port}", host):
                raise StartError(
                    f"{name} must be host names with commas between them, such as contacts.example.com, not {host!r}."
                )
        return found

    try:
        # The web server and a command may stand elsewhere than the console; all mean the same folder.
        data_dir = PROJECT / Path(text("DATA_DIR", "instance")).expanduser()
    except RuntimeError:
        raise StartError(f"DATA_DIR must be a folder; there is no home of this user: {text('DATA_DIR')!r}.") from None
    region = text("DEFAULT_REGION", "CN").upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise StartError(f"DEFAULT_REGION must be a country's two letters, such as CN or US, not {region!r}.")

    def host(name: str, default: str = "") -> str:
        value = text(name, default)
        if not _is_host(value):
            raise StartError(f"{name} must be an address or a host name, not {value!r}.")
        return value.strip("[]")

    def all_of(names: Sequence[str], because: str) -> list[str]:
        for name in names:
            if not text(name):
                raise StartError(f"{name} must be set, because {because} is.")
        return [text(name) for name in names]

    def web_address(name: str, default: str = "") -> str:
        value = text(name, default).rstrip("/")
        if value and not re.fullmatch(r"https?://[A-Za-z0-9_.-]+(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?", value):
            raise StartError(f"{name} must look like https://contacts.example.com, not {value!r}.")
        return value

    def networks(name: str) -> tuple[Network, ...]:
        parts = [part.strip() for part in text(name).split(",") if part.strip()]
        try:
            return tuple(ipaddress.ip_network(part) for part in parts)
        except ValueError:
            raise StartError(
                f"{name} must be networks with commas between them, such as 10.20.0.0/16, not {text(name)!r}."
            ) from None

    def smtp() -> Smtp | None:
        if not text("SMTP_HOST"):
            return None
        security = text("SMTP_SECURITY", "starttls").lower()
        if security not in ("starttls", "tls", "none"):
            raise StartError(f"SMTP_SECURITY must be starttls, tls or none, not {security!r}.")
        default = {"starttls": 587, "tls": 465, "none": 25}[security]
        (sender,) = all_of(["SMTP_FROM"], "SMTP_HOST")
        if not re.fullmatch(r"[\x21-\x3f\x41-\x7e]+@[A-Za-z0-9.-]+", sender):
            raise StartError(f"SMTP_FROM must be an e-mail address, not {sender!r}.")
        if bool(text("SMTP_USER")) != bool(text("SMTP_PASSWORD")):
            raise StartError("SMTP_USER and SMTP_PASSWORD must be set together or not at all.")
        user, password = text("SMTP_USER"), text("SMTP_PASSWORD")
        return Smtp(host("SMTP_HOST"), number("SMTP_PORT", default, 1, 65535), security, user, password, sender)

    def sms() -> Aliyun | Twilio | None:
        provider = text("SMS_PROVIDER").lower()
        because = f"SMS_PROVIDER={provider}"
        if provider == "aliyun":
            endpoint = web_address("SMS_ENDPOINT", "https://dysmsapi.aliyuncs.com")
            names = ["ALIYUN_ACCESS_KEY_ID", "ALIYUN_ACCESS_KEY_SECRET", "ALIYUN_SIGN_NAME", "ALIYUN_TEMPLATE_CODE"]
            key_id, secret, sign_name, template = all_of(names, because)
            length = number("ALIYUN_CONTENT_LENGTH", 35, 20, 134)
            return Aliyun(endpoint, key_id, secret, sign_name, template, length)
        if provider == "twilio":
            endpoint = web_address("SMS_ENDPOINT", "https://api.twilio.com")
            return Twilio(endpoint, *all_of(["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM"], because))
        if provider:
            raise StartError(f"SMS_PROVIDER must be aliyun or twilio, not {provider!r}.")
        return None

    ca_bundle = Path(text("CA_BUNDLE")).expanduser() if text("CA_BUNDLE") else None
    if ca_bundle and not (ca_bundle.is_file() and os.access(ca_bundle, os.R_OK)):
        raise StartError(f"CA_BUNDLE must be a file of certificates that can be read, not {str(ca_bundle)!r}.")
    try:
        ssl.create_default_context(cafile=ca_bundle)
    except (ssl.SSLError, OSError):
        raise StartError(f"CA_BUNDLE must be a file of certificates in PEM; {str(ca_bundle)!r} has none.") from None
    return Settings(
        host=host("HOST", "127.0.0.1"),
        port=number("PORT", 8000, 1, 65535),
        database_url=_database_url(text("DATABASE_URL")),
        contact_quota=number("CONTACT_QUOTA", 100, 1, 1_000_000),
        default_region=region,
        dingtalk_hosts=DINGTALK_HOSTS + hosts("DINGTALK_HOSTS", r"(:[0-9]{1,5})?"),
        https=switch("HTTPS"),
        proxy_count=number("PROXY_COUNT", 0, 0, 10),
        trusted_hosts=hosts("TRUSTED_HOSTS"),
        workers=number("WORKERS", 2, 1, 64),
        threads=number("THREADS", 4, 1, 64),
        data_dir=data_dir,
        secret_key=_secret_key(text("SECRET_KEY"), data_dir),
        encryption_keys=_encryption_keys(text("ENCRYPTION_KEYS"), data_dir),
        public_url=web_address("PUBLIC_URL") or None,
        alerts_per_minute=number("ALERTS_PER_MINUTE", 1000, 1, 1_000_000),
        retention_days=number("RETENTION_DAYS", 90, 1, 36_500),
        texts_per_number=number("TEXTS_PER_NUMBER", 10, 1, 1000),
        mails_per_mailbox=number("MAILS_PER_MAILBOX", 60, 1, 1000),
        delivery_threads=number("DELIVERY_THREADS", 4, 1, 64),
        delivery_lease=number("DELIVERY_LEASE", 60, 5, 3600),
        outgoing_networks=networks("OUTGOING_NETWORKS"),
        ca_bundle=ca_bundle,
        smtp=smtp(),
        sms=sms(),
        sms_links=switch("SMS_LINKS"),
        timezone=_timezone(text("TIMEZONE", "UTC")),
    )


def _timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise StartError(f"TIMEZONE must be the name of a time zone, such as Asia/Shanghai, not {name!r}.") from None


def _is_host(value: str) -> bool:
    try:
        ipaddress.ip_address(value.removeprefix("[").removesuffix("]"))
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", value))
    return True


def _database_url(value: str) -> str | None:
    if not value:
        return None
    url = re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql://", value)
    wrong = "DATABASE_URL must look like postgresql://user:password@host:5432/database"
    if not url.startswith("postgresql://"):
        raise StartError(f"{wrong}.")
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # The reason that psycopg gives quotes the address, and with it the password.
        raise StartError(f"{wrong}; this one cannot be read.") from None
    # A password with @ or / in it that is not written %40 or %2F: its rest would be shown as a host that is not there.
    told = " ".join(str(parts.get(name, "")) for name in ("user", "host", "dbname"))
    if "@" in told or not re.fullmatch(r"[0-9,]*", str(parts.get("port", ""))):
        raise StartError(f"{wrong}, with %40 for @ and %2F for / in a password.")
    return url


def _secret_key(value: str, data_dir: Path) -> str:
    """Return the key that signs cookies: the one given, or one made once and kept in `data_dir`."""
    if value:
        if len(value) < 32:
            raise StartError("SECRET_KEY must have at least 32 characters, best from a generator.")
        return value
    key = _kept(data_dir / "secret_key", lambda: secrets.token_urlsafe(48))
    if len(key) < 32:
        raise StartError(
            f"{data_dir / 'secret_key'} is damaged; remove it (everybody logs on again) or restore it from a backup."
        )
    return key


def _encryption_keys(value: str, data_dir: Path) -> tuple[bytes, ...]:
    """Return the keys of what is encrypted in the database: the first encrypts, each decrypts what it encrypted."""
    path = data_dir / "encryption_key"
    texts = [part.strip() for part in value.split(",")] if value else [_kept(path, _new_encryption_key)]
    try:
        keys = [base64.b64decode(text, validate=True) for text in texts]
    except ValueError:
        keys = []
    if keys and all(len(key) == 32 for key in keys):
        return tuple(keys)
    if value:
        raise StartError(
            "ENCRYPTION_KEYS must be keys of 32 bytes in base64 with commas between them; "
            "`openssl rand -base64 32` makes one."
        )
    raise StartError(f"{path} is damaged; restore it from a backup: the robots' addresses cannot be read without it.")


def _new_encryption_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def make_private(data_dir: Path) -> None:
    """Make the folder, or close one that others may open; raise StartError where it cannot be or is no folder for that.

    What is in it needs no closing: all that the console makes there is for its owner alone.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data_dir.stat()
        # An entry `--x` in the access list, for the embedded server's user, shows as the group's.
        open_to_others = found.st_mode & 0o067
        if not open_to_others or not os.access(data_dir, os.W_OK | os.X_OK):
            return  # whoever writes there is told why that is not possible
        is_own = not any(data_dir.iterdir()) or any((data_dir / name).exists() for name in OWN_NAMES)
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX or not is_own:
            raise StartError(
                f"DATA_DIR {data_dir} can be opened by other users of this machine, and belongs to another user or has"
                " other things in it, so the console does not close it. Close it (chmod 700), or name one of its own."
            )
        data_dir.chmod(stat.S_IMODE(found.st_mode) & ~0o067)
        print(
            f"alert-contacts: DATA_DIR {data_dir} was open to other users of this machine; it is closed now.",
            file=sys.stderr,
        )
    except OSError as error:
        raise StartError(f"DATA_DIR must be a folder this user can write to; {data_dir}: {error.strerror}.") from None


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in the file at `path`, made when there is none yet."""
    make_private(path.parent)
    try:
        if not path.exists():
            # Linked into place when complete, so that two starts at once agree on one whole secret.
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        secret = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartError(
            f"DATA_DIR must be a folder this user can write to; {path.parent}: {error.strerror}."
        ) from None
    return secret if secret.isascii() else ""
