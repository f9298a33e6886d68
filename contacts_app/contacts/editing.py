"""Create and change contacts."""

from collections.abc import Mapping
from typing import Any

from ..core.changes import Conflict, Refusal, translate
from ..core.db import db
from ..core.encryption import note_key
from .models import Contact

# Python and PostgreSQL may know different versions of Unicode, with another normal form for new letters.
NAME_IS_NOT_CLEAN = Refusal("name", "This name has characters that cannot be stored. Write it in another way.")
# By the name of the constraint. `{holder}` stands for the contact that has the number or the mailbox.
REFUSALS: Mapping[str, Refusal] = {
    "contact_mobile_is_unique": Refusal(
        "mobile", "{holder} has this number already. Each number can be used for only one contact."
    ),
    "contact_email_is_unique": Refusal(
        "email", "{holder} has this mailbox already. Each mailbox can be used for only one contact."
    ),
    "contact_has_a_channel": Refusal(
        "mobile", "Enter a mobile phone number, a mailbox or a DingTalk robot: at least one of the three."
    ),
    "contact_robot_is_whole": Refusal(
        "dingtalk_url", "Enter the robot's address, or clear its secret and its keyword."
    ),
    "contact_name_is_clean": NAME_IS_NOT_CLEAN,
    "account_is_within_quota": Refusal(
        None, "The account has as many contacts as it can have. Delete one that is no longer needed, then press OK."
    ),
}


def create(account_id: int, values: Mapping[str, Any]) -> Contact:
    """Add a contact to the account; `values` are by attribute name. Raise Refused if a constraint is violated."""
    contact = Contact(account_id=account_id, id=Contact.next_id())  # the id first: secrets are encrypted for it
    _write(contact, values)
    return contact


def update(contact: Contact, version: int | None, values: Mapping[str, Any]) -> Contact:
    """Change values of a contact that is still at `version`. Raise Conflict if it is not, or Refused."""
    if contact.version != version:
        raise Conflict
    _write(contact, values)
    return contact


def _write(contact: Contact, values: Mapping[str, Any]) -> None:
    if values.get("dingtalk_url"):
        note_key()  # else workers with other keys would notice only when they send
    for name, value in values.items():
        setattr(contact, name, value)
    with translate(REFUSALS):
        db.session.add(contact)
        db.session.flush()
