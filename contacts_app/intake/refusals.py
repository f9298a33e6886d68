"""Record requests that are refused although their token is valid: most senders neither retry nor report them."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..core.db import TIMESTAMP, Base, db
from .models import Admission, Integration
from .sentences import sentence

MAX_BODY = 2048  # characters of a body that are stored
MASKED_BYTES = 2 * MAX_BODY  # masked before the body is cut, so that the cut leaves no part of a secret
LONGEST_WORD = 500
MAX_SENTENCE = 500
MAX_RECORDS = 20  # per integration, and new ones per minute; every refusal is counted
RETENTION_DAYS = 7
MAX_SENDERS = 5  # named at the top of the page

_HIDDEN_NAME = (
    r"[\w-]{0,30}(?:passw|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authori[sz]ation"
    r"|credential|cookie|session[_-]?id|signature)[\w-]{0,30}"
)
_MASKS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)", re.DOTALL), "…"),
    # "password": "…" in JSON, and in JSON inside a JSON string, also where the end is cut off.
    (re.compile(rf'("{_HIDDEN_NAME}"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\\?$)', re.IGNORECASE | re.DOTALL), r'\1"…"'),
    (re.compile(rf'(\\"{_HIDDEN_NAME}\\"\s*:\s*\\")[^"\\]*', re.IGNORECASE), r"\1…"),
    (re.compile(rf'("{_HIDDEN_NAME}\\?"\s*:\s*)[^\s"\\,}}\]]+', re.IGNORECASE), r"\1…"),
    # Headers, then password=… and password: … anywhere.
    (re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\s*[=:]\s*)[^\n\"\\…]+", re.IGNORECASE), r"\1\2…"),
    (re.compile(r"\b(bearer|basic|digest)\s+[^\s\"',;\\]{4,}", re.IGNORECASE), r"\1 …"),
    (re.compile(rf"\b({_HIDDEN_NAME}\s*[=:]\s*)[^\s&\"',;\\]+", re.IGNORECASE), r"\1…"),
    (re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE), lambda found: _masked_address(found[0])),
    (re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}(@[\w-]{1,63}(?:\.[\w-]{1,63})+)"), r"…\1"),
    # Telephone numbers, and anything that looks like a key: long, of letters and digits.
    (re.compile(r"(?<![\w.])(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){6,14}(?!\w)|(?<![\w.])1[3-9]\d{9}(?!\w)"), "…"),
    (re.compile(r"[A-Za-z0-9+=_-]{20,}"), lambda found: _masked_key(found[0])),
)
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_OF_INTEGRATION = "account_id = :account_id AND integration_id = :integration_id"
_NO_REFUSALS = "refused_count = 0, refused_since = NULL, refused_at = NULL"
_insert = sa.text(f"""
    INSERT INTO refusals (account_id, integration_id, status, sentence, body)
    SELECT :account_id, :integration_id, :status, :answer, :body
    WHERE (SELECT count(*) FROM refusals WHERE {_OF_INTEGRATION} AND refused_at > now() - interval '1 minute') < :most
    RETURNING 1
""")  # nosec B608
_delete_beyond_limit = sa.text(f"""
    DELETE FROM refusals WHERE {_OF_INTEGRATION}
        AND id < (SELECT id FROM refusals WHERE {_OF_INTEGRATION} ORDER BY id DESC OFFSET :most - 1 LIMIT 1)
""")  # nosec B608
_delete_all = sa.text(f"DELETE FROM refusals WHERE {_OF_INTEGRATION}")  # nosec B608
_delete_expired = sa.text(f"""
    DELETE FROM refusals WHERE (account_id, id) IN (
        SELECT account_id, id FROM refusals WHERE refused_at < now() - interval '{RETENTION_DAYS} days'
        FOR UPDATE SKIP LOCKED)
""")  # nosec B608
_reset_count = sa.text(
    f"UPDATE integrations SET {_NO_REFUSALS} WHERE account_id = :account_id AND id = :integration_id"  # nosec B608
)
_reset_expired_counts = sa.text(f"""
    UPDATE integrations SET {_NO_REFUSALS} WHERE (account_id, id) IN (
        SELECT account_id, id FROM integrations WHERE refused_at < now() - interval '{RETENTION_DAYS} days'
        FOR NO KEY UPDATE SKIP LOCKED)
""")  # nosec B608


class Refusal(Base):
    """A refused request of an integration, with the beginning of its body, secrets masked."""

    __tablename__ = "refusals"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    integration_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    refused_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    status: Mapped[int]
    answer: Mapped[str] = mapped_column("sentence")  # a code of sentences.py, or text
    body: Mapped[str]

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["account_id", "integration_id"], ["integrations.account_id", "integrations.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("status BETWEEN 400 AND 499", name="refusal_status_is_the_senders_fault"),
        sa.CheckConstraint(f"char_length(sentence) BETWEEN 1 AND {MAX_SENTENCE}", name="refusal_sentence_is_short"),
        sa.CheckConstraint(f"char_length(body) <= {MAX_BODY}", name="refusal_body_is_short"),
        sa.Index("refusals_refused_at", "refused_at"),
    )

    @property
    def sentence(self) -> str:
        """Return the reason."""
        return sentence(self.answer)

    @classmethod
    def of(cls, account_id: int, integration_id: int) -> "Sequence[Refusal]":
        """Return the recorded refusals of an integration, newest first."""
        found = sa.select(cls).where(cls.account_id == account_id, cls.integration_id == integration_id)
        return db.session.scalars(found.order_by(cls.id.desc())).all()


class RefusedSender(NamedTuple):
    """An integration with refused requests: how many, since when, and the latest error."""

    id: int
    name: str
    times: int
    since: datetime
    sentence: str


def record(admission: Admission, status: int, answer: str, body: bytes, token: str) -> None:
    """Record a refused request and why: a dumped code, or text. The caller holds the lock of the integration.

    The latest MAX_RECORDS of each integration are stored, and at most as many new ones a minute.
    """
    limited = {"account_id": admission.account_id, "integration_id": admission.integration_id, "most": MAX_RECORDS}
    values = {"status": status, "answer": answer[:MAX_SENTENCE] or "-", "body": masked(body, token)}
    if db.session.execute(_insert, limited | values).first():
        db.session.execute(_delete_beyond_limit, limited)


def dismiss(account_id: int, integration_id: int) -> None:
    """Delete the recorded refusals of an integration and reset their count, once somebody has seen them."""
    integration = {"account_id": account_id, "integration_id": integration_id}
    db.session.execute(_reset_count, integration)
    db.session.execute(_delete_all, integration)


def delete_old() -> None:
    """Delete refusals past their retention time and reset their counts; skip locked rows."""
    db.session.execute(_delete_expired)
    db.session.execute(_reset_expired_counts)


def refused_senders(account_id: sa.ColumnElement[int]) -> sa.ScalarSelect[str]:
    """Return a column for `read_senders`: the integrations refused most recently, as JSON; null if there are none."""
    return sa.select(_senders(account_id)).scalar_subquery()


def read_senders(found: str | None) -> list[RefusedSender]:
    """Parse the value of a column made by `refused_senders`."""
    return [
        RefusedSender(id, name, times, datetime.fromisoformat(since), sentence(answer))
        for id, name, times, since, answer in json.loads(found or "[]")
    ]


def masked(body: bytes, token: str) -> str:
    """Return the beginning of `body` with everything masked that looks like a secret, an address or a phone number."""
    text = body[:MASKED_BYTES].decode(errors="replace")
    if len(body) > MASKED_BYTES:
        text = text[:-LONGEST_WORD] + re.sub(r"[\w+/=.-]*$", "", text[-LONGEST_WORD:])  # may be part of a secret
    text = _UNWANTED.sub("", text.replace("\r\n", "\n")).replace(token, "…")
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text[:MAX_BODY]


def _masked_address(address: str) -> str:
    """Return a URL without user info and query, and a webhook's without its path too: each may grant access."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    _, at, host = host.rpartition("@")
    is_hook = re.search("hook|robot", f"{host}/{path}", re.IGNORECASE)
    query = "?…" if "?" in rest and not is_hook else ""
    return f"{scheme}://{'…@' if at else ''}{host}{slash}{'…' if is_hook and path else path}{query}"


def _masked_key(word: str) -> str:
    return "…" if re.search("[0-9]", word) and re.search("[A-Za-z]", word) else word


def _senders(account_id: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    last = (
        sa.select(Refusal.answer)
        .where(Refusal.account_id == Integration.account_id, Refusal.integration_id == Integration.id)
        .order_by(Refusal.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    newest = (
        sa.select(Integration.id, Integration.name, Integration.refused_count, Integration.refused_since)
        .add_columns(sa.func.coalesce(last, "").label("answer"))
        .where(Integration.account_id == account_id, Integration.refused_count > 0)
        .order_by(Integration.refused_at.desc())
        .limit(MAX_SENDERS)
        .subquery()
    )
    row = sa.func.json_build_array(*newest.c)
    return sa.cast(sa.func.json_agg(row), sa.Text)
