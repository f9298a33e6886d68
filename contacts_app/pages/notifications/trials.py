"""Say whom a test is for, and what it costs, before it is sent."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from flask import abort
from werkzeug.datastructures import CombinedMultiDict

from ...contacts.models import Contact
from ...core.db import db
from ...delivery.models import OF_CONTACTS, OF_GROUP, Alert
from ...groups.models import Group
from ...reach.reachability import channels_off
from ...web.arguments import read_ids
from ..contacts.views import GONE as CONTACT_GONE
from ..groups.views import GONE as GROUP_GONE


class Cost(NamedTuple):
    """What a test sends over one channel: how many messages, in words, and whether the channel is set up."""

    messages: int
    words: str
    is_set_up: bool


class Trial(NamedTuple):
    """A test that is to be sent: to a group, or to contacts."""

    account_id: int
    argument: str  # the name that the ids have in the address
    ids: Sequence[int]
    names: Sequence[str]  # of the group, or of those contacts that exist
    who: str
    values: dict[str, Any]

    @classmethod
    def read(cls, account_id: int, arguments: CombinedMultiDict[str, str]) -> "Trial":
        """Return the test that `arguments` ask for; an unknown group, or nobody who exists, is a 404."""
        argument = next((name for name in ("group", "id") if name in arguments), "contact")
        ids = read_ids(arguments.getlist(argument))
        if argument == "group":
            (identity, name), *_ = Group.names(account_id, ids[:1]) or abort(404, GROUP_GONE)
            return cls(account_id, argument, [identity], [name], OF_GROUP, {"group_id": identity})
        found = Contact.names(account_id, ids) or abort(404, CONTACT_GONE)
        known = [id for id, _ in found]
        return cls(account_id, argument, known, [name for _, name in found], OF_CONTACTS, {"contact_ids": known})

    @property
    def addressee(self) -> str:
        """Return whom it is for, in words."""
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} contacts"

    def costs(self) -> tuple[int, list[Cost]]:
        """Return how many contacts it is for, and what it sends over each channel."""
        parameters = self.values | {"account_id": self.account_id}
        contacts, mobiles, mailboxes, robots = db.session.execute(_costs(self.who), parameters).one()
        off = channels_off()
        kinds = (
            ("sms", mobiles, "text message"),
            ("email", mailboxes, "e-mail"),
            ("dingtalk", robots, "DingTalk message"),
        )
        costs = [
            Cost(count, f"{count} {words}{'' if count == 1 else 's'}", channel not in off)
            for channel, count, words in kinds
            if count
        ]
        return contacts, costs

    def send(self) -> Alert:
        """Send it, in the transaction that is open."""
        return Alert.test(self.account_id, self.addressee, self.who, **self.values)


@cache
def _costs(who: str) -> sa.TextClause:
    # Contacts that share a robot get one message, which mentions them.
    return sa.text(f"""
        SELECT count(*), count(mobile), count(email), count(DISTINCT dingtalk_url_hash) FROM contacts
        WHERE contacts.account_id = :account_id AND {who}
    """)  # nosec B608
