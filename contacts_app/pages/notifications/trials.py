"""Describe the recipients and the cost of a test, and send it."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from flask import abort
from werkzeug.datastructures import CombinedMultiDict
from werkzeug.exceptions import TooManyRequests

from ...contacts.models import Contact
from ...core.db import db
from ...delivery.channels.registry import KINDS
from ...delivery.limits import TooManyTests
from ...delivery.models import Notification
from ...delivery.queueing import send_test
from ...groups.models import Group
from ...reach.reachability import channels_off
from ...web.arguments import read_ids
from ..wording import CONTACT_GONE, GROUP_GONE, too_many_tests

# Contacts that share a robot get one message, which mentions them.
_MESSAGES = ", ".join(f"{kind.messages} AS {kind.name}" for kind in KINDS.values())
_costs = sa.text(f"""
    SELECT count(*) AS contacts, {_MESSAGES}
    FROM contacts WHERE account_id = :account_id AND id = ANY (CAST(:contact_ids AS bigint[]))
""")  # nosec B608


class Cost(NamedTuple):
    """The cost of a test on one channel: the number of messages, in words, and whether the channel is configured."""

    messages: int
    words: str
    is_set_up: bool


class Trial(NamedTuple):
    """A test to a group or to contacts, before it is sent."""

    account_id: int
    argument: str  # the query parameter with the ids
    ids: Sequence[int]
    names: Sequence[str]  # of the group, or of the contacts that exist
    contact_ids: Sequence[int]

    @classmethod
    def read(cls, account_id: int, arguments: CombinedMultiDict[str, str]) -> "Trial":
        """Return the test that `arguments` ask for; respond with 404 if the group or all contacts are missing."""
        argument = next((name for name in ("group", "id") if name in arguments), "contact")
        ids = read_ids(arguments.getlist(argument))
        if argument == "group":
            (identity, name), *_ = Group.names(account_id, ids[:1]) or abort(404, GROUP_GONE)
            return cls(account_id, argument, [identity], [name], Group.member_ids(account_id, identity))
        found = Contact.names(account_id, ids) or abort(404, CONTACT_GONE)
        known = [id for id, _ in found]
        return cls(account_id, argument, known, [name for _, name in found], known)

    @property
    def addressee(self) -> str:
        """Return the recipients in words."""
        return self.names[0] if len(self.names) == 1 else f"{len(self.names)} contacts"

    def costs(self) -> tuple[int, list[Cost]]:
        """Return the number of contacts, and the cost for each channel."""
        chosen = {"account_id": self.account_id, "contact_ids": list(self.contact_ids)}
        found = db.session.execute(_costs, chosen).mappings().one()
        off = channels_off()
        costs = [
            Cost(count, f"{count} {kind.message}{'' if count == 1 else 's'}", name not in off)
            for name, kind in KINDS.items()
            if (count := found[name])
        ]
        return found["contacts"], costs

    def send(self) -> Notification:
        """Queue the test in the current transaction; respond with 429 if all contacts have reached the limit."""
        try:
            return send_test(self.account_id, self.addressee, self.contact_ids)
        except TooManyTests as error:
            raise TooManyRequests(too_many_tests(error.wait), retry_after=error.wait) from error
