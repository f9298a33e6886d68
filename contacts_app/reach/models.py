"""Keep what the console itself has reported to an account."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..accounts.models import Account
from ..core.db import TIMESTAMP, Base


class SystemNotice(Base):
    """When an account was last told something of a kind: at most once a day."""

    __tablename__ = "system_notices"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())


class ToldFact(Base):
    """Something that an account was told and that has not ended since: not news any more."""

    __tablename__ = "told_facts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
