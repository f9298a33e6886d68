"""Read all settings from the environment once, and name the first that is invalid."""

import base64
import os
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
import psycopg
from flask import current_app
from psycopg.conninfo import conninfo_to_dict

from .data_folder import make_private, stored_secret
from .environment import Environment, Network, StartError

__all__ = [
    "DINGTALK_HOSTS",
    "PROJECT",
    "Aliyun",
    "Network",
    "Settings",
    "Smtp",
    "StartError",
    "Twilio",
    "current_settings",
    "load",
    "make_private",
]

PROJECT = Path(__file__).resolve().parent.parent.parent
DINGTALK_HOSTS = ("oapi.dingtalk.com", "oapi.dingtalk.io")
SMTP_PORTS = {"starttls": 587, "tls": 465, "none": 25}  # by SMTP_SECURITY


@dataclass(frozen=True)
class Settings:
    """The settings of a running console, which docs/operating.md documents."""

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
    """The SMTP server for outgoing mail; `security` is starttls, tls or none."""

    host: str
    port: int
    security: str
    user: str
    password: str = field(repr=False)
    sender: str


@dataclass(frozen=True)
class Aliyun:
    """The credentials and templates for Alibaba Cloud SMS."""

    endpoint: str
    access_key_id: str
    access_key_secret: str = field(repr=False)
    sign_name: str
    template_code: str
    content_length: int


@dataclass(frozen=True)
class Twilio:
    """The credentials for Twilio; `sender` is a number or the SID of a messaging service."""

    endpoint: str
    account_sid: str
    auth_token: str = field(repr=False)
    sender: str


def current_settings() -> Settings:
    """Return the settings of the app that handles this request or command."""
    settings: Settings = current_app.extensions["settings"]
    return settings


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings from `environ`; raise StartError with the name of the first that is invalid."""
    env = Environment(environ)
    data_dir = _data_dir(env)
    return Settings(
        default_region=_region(env),
        ca_bundle=_ca_bundle(env),
        host=env.host("HOST", "127.0.0.1"),
        port=env.number("PORT", 8000, 1, 65535),
        database_url=_database_url(env.text("DATABASE_URL")),
        contact_quota=env.number("CONTACT_QUOTA", 100, 1, 1_000_000),
        dingtalk_hosts=DINGTALK_HOSTS + env.hosts("DINGTALK_HOSTS", port=r"(:[0-9]{1,5})?"),
        https=env.switch("HTTPS"),
        proxy_count=env.number("PROXY_COUNT", 0, 0, 10),
        trusted_hosts=env.hosts("TRUSTED_HOSTS"),
        workers=env.number("WORKERS", 2, 1, 64),
        threads=env.number("THREADS", 4, 1, 64),
        data_dir=data_dir,
        secret_key=_secret_key(env.text("SECRET_KEY"), data_dir),
        encryption_keys=_encryption_keys(env.text("ENCRYPTION_KEYS"), data_dir),
        public_url=env.web_address("PUBLIC_URL") or None,
        alerts_per_minute=env.number("ALERTS_PER_MINUTE", 1000, 1, 1_000_000),
        retention_days=env.number("RETENTION_DAYS", 90, 1, 36_500),
        texts_per_number=env.number("TEXTS_PER_NUMBER", 10, 1, 1000),
        mails_per_mailbox=env.number("MAILS_PER_MAILBOX", 60, 1, 1000),
        delivery_threads=env.number("DELIVERY_THREADS", 4, 1, 64),
        delivery_lease=env.number("DELIVERY_LEASE", 60, 5, 3600),
        outgoing_networks=env.networks("OUTGOING_NETWORKS"),
        smtp=_smtp(env),
        sms=_sms(env),
        sms_links=env.switch("SMS_LINKS"),
        timezone=_timezone(env.text("TIMEZONE", "UTC")),
    )


def _data_dir(env: Environment) -> Path:
    try:
        # Relative to the project, because web server and commands may run in different working directories.
        return PROJECT / Path(env.text("DATA_DIR", "instance")).expanduser()
    except RuntimeError:
        raise StartError(
            f"DATA_DIR must be a folder; there is no home of this user: {env.text('DATA_DIR')!r}."
        ) from None


def _region(env: Environment) -> str:
    region = env.text("DEFAULT_REGION", "CN").upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise StartError(f"DEFAULT_REGION must be a country's two letters, such as CN or US, not {region!r}.")
    return region


def _ca_bundle(env: Environment) -> Path | None:
    path = Path(env.text("CA_BUNDLE")).expanduser() if env.text("CA_BUNDLE") else None
    if path and not (path.is_file() and os.access(path, os.R_OK)):
        raise StartError(f"CA_BUNDLE must be a file of certificates that can be read, not {str(path)!r}.")
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError):
        raise StartError(f"CA_BUNDLE must be a file of certificates in PEM; {str(path)!r} has none.") from None
    return path


def _smtp(env: Environment) -> Smtp | None:
    if not env.text("SMTP_HOST"):
        return None
    security = env.text("SMTP_SECURITY", "starttls").lower()
    if security not in SMTP_PORTS:
        raise StartError(f"SMTP_SECURITY must be starttls, tls or none, not {security!r}.")
    sender = env.required("SMTP_FROM", because="SMTP_HOST")
    if not re.fullmatch(r"[\x21-\x3f\x41-\x7e]+@[A-Za-z0-9.-]+", sender):
        raise StartError(f"SMTP_FROM must be an e-mail address, not {sender!r}.")
    if bool(env.text("SMTP_USER")) != bool(env.text("SMTP_PASSWORD")):
        raise StartError("SMTP_USER and SMTP_PASSWORD must be set together or not at all.")
    return Smtp(
        host=env.host("SMTP_HOST"),
        port=env.number("SMTP_PORT", SMTP_PORTS[security], 1, 65535),
        security=security,
        user=env.text("SMTP_USER"),
        password=env.text("SMTP_PASSWORD"),
        sender=sender,
    )


def _sms(env: Environment) -> Aliyun | Twilio | None:
    provider = env.text("SMS_PROVIDER").lower()
    because = f"SMS_PROVIDER={provider}"
    if provider == "aliyun":
        return Aliyun(
            endpoint=env.web_address("SMS_ENDPOINT", "https://dysmsapi.aliyuncs.com"),
            access_key_id=env.required("ALIYUN_ACCESS_KEY_ID", because),
            access_key_secret=env.required("ALIYUN_ACCESS_KEY_SECRET", because),
            sign_name=env.required("ALIYUN_SIGN_NAME", because),
            template_code=env.required("ALIYUN_TEMPLATE_CODE", because),
            content_length=env.number("ALIYUN_CONTENT_LENGTH", 35, 20, 134),
        )
    if provider == "twilio":
        return Twilio(
            endpoint=env.web_address("SMS_ENDPOINT", "https://api.twilio.com"),
            account_sid=env.required("TWILIO_ACCOUNT_SID", because),
            auth_token=env.required("TWILIO_AUTH_TOKEN", because),
            sender=env.required("TWILIO_FROM", because),
        )
    if provider:
        raise StartError(f"SMS_PROVIDER must be aliyun or twilio, not {provider!r}.")
    return None


def _timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise StartError(f"TIMEZONE must be the name of a time zone, such as Asia/Shanghai, not {name!r}.") from None


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
        # The message of psycopg quotes the URL and so the password.
        raise StartError(f"{wrong}; this one cannot be read.") from None
    # An unescaped @ or / in a password moves its rest into the host, which error messages would then show.
    text = " ".join(str(parts.get(name, "")) for name in ("user", "host", "dbname"))
    if "@" in text or not re.fullmatch(r"[0-9,]*", str(parts.get("port", ""))):
        raise StartError(f"{wrong}, with %40 for @ and %2F for / in a password.")
    return url


def _secret_key(value: str, data_dir: Path) -> str:
    """Return the key that signs cookies: from the setting, or generated once and stored in `data_dir`."""
    if value:
        if len(value) < 32:
            raise StartError("SECRET_KEY must have at least 32 characters, best from a generator.")
        return value
    key = stored_secret(data_dir / "secret_key", lambda: secrets.token_urlsafe(48))
    if len(key) < 32:
        raise StartError(
            f"{data_dir / 'secret_key'} is damaged; remove it (everybody logs on again) or restore it from a backup."
        )
    return key


def _encryption_keys(value: str, data_dir: Path) -> tuple[bytes, ...]:
    """Return the encryption keys of the database: the first encrypts, all decrypt."""
    path = data_dir / "encryption_key"
    texts = [part.strip() for part in value.split(",")] if value else [stored_secret(path, _new_encryption_key)]
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
    raise StartError(f"{path} is damaged; restore it from a backup: secrets in the database cannot be read without it.")


def _new_encryption_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
