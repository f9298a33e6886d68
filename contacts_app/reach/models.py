"""Remember which system notifications an account has received."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from ..accounts.models import Account
from ..core.db import TIMESTAMP, Base


class SystemNotice(Base):
    """The time of the last system notification of a kind: each kind is sent at most once a day."""

    __tablename__ = "system_notices"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sent_at: Mapped[datetime] = mapped_column(TIMESTAMP, server_default=sa.func.now())


class ReportedFact(Base):
    """A fact that was reported to an account and still holds: it is not reported again."""

    # The name of the table stays: during an update, consoles of the version before use the same database.
    __tablename__ = "told_facts"

    account_id: Mapped[int] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
