"""Keep what was refused of a sender that has a valid token: it is not sent again, and nobody else would know."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..core.db import TIMESTAMP, Base, db
from .models import Admission, Integration

MOST_BODY = 2048  # characters that are kept of a body
LOOKED_AT = 2 * MOST_BODY  # bytes of a body that are masked before they are cut, so that no half of a secret stays
LONGEST_WORD = 500
MOST_SENTENCE = 500
KEPT = 20  # of each integration, and at most so many are written in a minute; all are counted
KEPT_DAYS = 7
NAMED = 5  # senders at the top of the page

_HIDDEN_NAME = (
    r"[\w-]{0,30}(?:passw|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authori[sz]ation"
    r"|credential|cookie|session[_-]?id|signature)[\w-]{0,30}"
)
_MASKS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)", re.DOTALL), "…"),
    # "password": "…" in JSON and in JSON within JSON, of which the end may be cut off.
    (re.compile(rf'("{_HIDDEN_NAME}"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\\?$)', re.IGNORECASE | re.DOTALL), r'\1"…"'),
    (re.compile(rf'(\\"{_HIDDEN_NAME}\\"\s*:\s*\\")[^"\\]*', re.IGNORECASE), r"\1…"),
    (re.compile(rf'("{_HIDDEN_NAME}\\?"\s*:\s*)[^\s"\\,}}\]]+', re.IGNORECASE), r"\1…"),
    # Headers, then password=… and password: … wherever they stand.
    (re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\s*[=:]\s*)[^\n\"\\…]+", re.IGNORECASE), r"\1\2…"),
    (re.compile(r"\b(bearer|basic|digest)\s+[^\s\"',;\\]{4,}", re.IGNORECASE), r"\1 …"),
    (re.compile(rf"\b({_HIDDEN_NAME}\s*[=:]\s*)[^\s&\"',;\\]+", re.IGNORECASE), r"\1…"),
    (re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE), lambda found: _masked_address(found[0])),
    (re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}(@[\w-]{1,63}(?:\.[\w-]{1,63})+)"), r"…\1"),
    # Telephone numbers, and what looks like a key: long, of letters and digits.
    (re.compile(r"(?<![\w.])(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){6,14}(?!\w)|(?<![\w.])1[3-9]\d{9}(?!\w)"), "…"),
    (re.compile(r"[A-Za-z0-9+=_-]{20,}"), lambda found: _masked_key(found[0])),
)
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Refusal(Base):
    """Something that was refused of an integration's sender, and how it began, without secrets."""

    __tablename__ = "refusals"

    account_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    integration_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    refused_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())
    status: Mapped[int]
    sentence: Mapped[str]
    body: Mapped[str]

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["account_id", "integration_id"], ["integrations.account_id", "integrations.id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("status BETWEEN 400 AND 499", name="refusal_status_is_the_senders_fault"),
        sa.CheckConstraint(f"char_length(sentence) BETWEEN 1 AND {MOST_SENTENCE}", name="refusal_sentence_is_short"),
        sa.CheckConstraint(f"char_length(body) <= {MOST_BODY}", name="refusal_body_is_short"),
        sa.Index("refusals_refused_at", "refused_at"),
    )

    @classmethod
    def of(cls, account_id: int, integration_id: int) -> "Sequence[Refusal]":
        """Return what was refused of an integration and is kept, newest first."""
        found = sa.select(cls).where(cls.account_id == account_id, cls.integration_id == integration_id)
        return db.session.scalars(found.order_by(cls.id.desc())).all()


class RefusedSender(NamedTuple):
    """An integration whose sender was refused: how often, since when, and what was said last."""

    id: int
    name: str
    times: int
    since: datetime
    sentence: str


def keep(admission: Admission, status: int, sentence: str, body: bytes, token: str) -> None:
    """Write down what was refused, while the integration is locked: the last of each are kept, a few a minute."""
    mine = {"account_id": admission.account_id, "integration_id": admission.integration_id, "most": KEPT}
    values = {"status": status, "sentence": sentence[:MOST_SENTENCE] or "-", "body": masked(body, token)}
    if db.session.execute(_keep, mine | values).first():
        db.session.execute(_drop_older, mine)


def forget(account_id: int, integration_id: int) -> None:
    """Remove what was refused of an integration, which somebody has seen."""
    mine = {"account_id": account_id, "integration_id": integration_id}
    db.session.execute(_not_refused, mine)
    db.session.execute(_drop_all, mine)


def forget_old() -> None:
    """Remove what was refused more than a week ago, but for what somebody holds a lock on."""
    db.session.execute(_drop_old)
    db.session.execute(_not_refused_lately)


def refused_senders(account_id: sa.ColumnElement[int]) -> sa.ScalarSelect[str]:
    """Return what a statement selects for `read_senders`: who was refused last, as JSON, null if nobody was."""
    return sa.select(_senders(account_id)).scalar_subquery()


def read_senders(found: str | None) -> list[RefusedSender]:
    """Return the senders of what `refused_senders` selected."""
    return [
        RefusedSender(id, name, times, datetime.fromisoformat(since), sentence)
        for id, name, times, since, sentence in json.loads(found or "[]")
    ]


def masked(body: bytes, token: str) -> str:
    """Return how `body` begins, as it may be shown: without what looks like a secret, an address or a number."""
    text = body[:LOOKED_AT].decode(errors="replace")
    if len(body) > LOOKED_AT:
        text = text[:-LONGEST_WORD] + re.sub(r"[\w+/=.-]*$", "", text[-LONGEST_WORD:])  # it may be half of a secret
    text = _UNWANTED.sub("", text.replace("\r\n", "\n")).replace(token, "…")
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text[:MOST_BODY]


def _masked_address(address: str) -> str:
    """Return an address without its user and its query, and of a webhook without its path: each may open a door."""
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
        sa.select(Refusal.sentence)
        .where(Refusal.account_id == Integration.account_id, Refusal.integration_id == Integration.id)
        .order_by(Refusal.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    newest = (
        sa.select(Integration.id, Integration.name, Integration.refused_count, Integration.refused_since)
        .add_columns(sa.func.coalesce(last, "").label("sentence"))
        .where(Integration.account_id == account_id, Integration.refused_count > 0)
        .order_by(Integration.refused_at.desc())
        .limit(NAMED)
        .subquery()
    )
    row = sa.func.json_build_array(*newest.c)
    return sa.cast(sa.func.json_agg(row), sa.Text)


_mine = "account_id = :account_id AND integration_id = :integration_id"
_keep = sa.text(f"""
    INSERT INTO refusals (account_id, integration_id, status, sentence, body)
    SELECT :account_id, :integration_id, :status, :sentence, :body
    WHERE (SELECT count(*) FROM refusals WHERE {_mine} AND refused_at > now() - interval '1 minute') < :most
    RETURNING 1
""")  # nosec B608
_drop_older = sa.text(f"""
    DELETE FROM refusals WHERE {_mine}
        AND id < (SELECT id FROM refusals WHERE {_mine} ORDER BY id DESC OFFSET :most - 1 LIMIT 1)
""")  # nosec B608
_drop_all = sa.text(f"DELETE FROM refusals WHERE {_mine}")  # nosec B608
_drop_old = sa.text(f"""
    DELETE FROM refusals WHERE (account_id, id) IN (
        SELECT account_id, id FROM refusals WHERE refused_at < now() - interval '{KEPT_DAYS} days'
        FOR UPDATE SKIP LOCKED)
""")  # nosec B608
_never = "refused_count = 0, refused_since = NULL, refused_at = NULL"
_not_refused = sa.text(
    f"UPDATE integrations SET {_never} WHERE account_id = :account_id AND id = :integration_id"  # nosec B608
)
_not_refused_lately = sa.text(f"""
    UPDATE integrations SET {_never} WHERE (account_id, id) IN (
        SELECT account_id, id FROM integrations WHERE refused_at < now() - interval '{KEPT_DAYS} days'
        FOR NO KEY UPDATE SKIP LOCKED)
""")  # nosec B608
