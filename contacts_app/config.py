"""Read every setting once from the environment, and refuse a bad one by its name."""

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import phonenumbers
import psycopg
from flask import current_app
from psycopg.conninfo import conninfo_to_dict

PROJECT = Path(__file__).resolve().parent.parent
DINGTALK_HOSTS = ("oapi.dingtalk.com", "oapi.dingtalk.io")


class StartError(Exception):
    """Say in one line why the console cannot start and what to do about it."""


@dataclass(frozen=True)
class Settings:
    """Hold the settings of one running console, as README's table lists them."""

    host: str
    port: int
    database_url: str | None
    data_dir: Path
    secret_key: str
    default_region: str
    contact_quota: int
    dingtalk_hosts: tuple[str, ...]
    https: bool
    proxy_count: int
    trusted_hosts: tuple[str, ...]
    workers: int
    threads: int


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

    def hosts(name: str) -> tuple[str, ...]:
        found = tuple(part.strip().lower() for part in text(name).split(",") if part.strip())
        for host in found:
            if not re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", host):
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
    host = text("HOST", "127.0.0.1")
    if not _is_host(host):
        raise StartError(f"HOST must be an address or a host name, not {host!r}.")
    return Settings(
        host=host.strip("[]"),
        port=number("PORT", 8000, 1, 65535),
        database_url=_database_url(text("DATABASE_URL")),
        contact_quota=number("CONTACT_QUOTA", 100, 1, 1_000_000),
        default_region=region,
        dingtalk_hosts=DINGTALK_HOSTS + hosts("DINGTALK_HOSTS"),
        https=switch("HTTPS"),
        proxy_count=number("PROXY_COUNT", 0, 0, 10),
        trusted_hosts=hosts("TRUSTED_HOSTS"),
        workers=number("WORKERS", 2, 1, 64),
        threads=number("THREADS", 4, 1, 64),
        data_dir=data_dir,
        secret_key=_secret_key(text("SECRET_KEY"), data_dir),
    )


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
    path = data_dir / "secret_key"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Linked into place when complete, so that two starts at once agree on one whole key.
            draft = data_dir / f".secret_key.{os.getpid()}"
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(48))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        key = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartError(f"DATA_DIR must be a folder this user can write to; {data_dir}: {error.strerror}.") from None
    if len(key) < 32 or not key.isascii():
        raise StartError(f"{path} is damaged; remove it (everybody logs on again) or restore it from a backup.")
    return key
