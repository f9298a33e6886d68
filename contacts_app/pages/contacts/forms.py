"""Parse and validate the contact form and the query of the list, with errors beside the fields."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flask import abort, url_for
from markupsafe import Markup
from werkzeug.exceptions import BadRequest

from ...contacts.addresses import (
    clean_dingtalk_secret,
    is_doubtful_mailbox,
    is_doubtful_mobile,
    shown_mobile,
)
from ...contacts.editing import REFUSALS, create, update
from ...contacts.models import Contact
from ...core.changes import Refused
from ...delivery.channels.dingtalk import DINGTALK
from ...delivery.channels.mail import EMAIL
from ...delivery.channels.sms import SMS
from ...web.arguments import read_page, read_text
from ...web.fields import Doubtful, EmailField, NameField, NormalField, SwitchField, TelField, clean_text
from ..forms import EditForm, add_error
from ..wording import CONTACT_GONE
from .listing import FIELDS, FILTERS, SORTS, Query

HOLDER = Markup('<a href="{0}" hx-get="{0}" hx-target="#dialog">{1}</a>')


class ContactForm(EditForm[Contact]):
    """The dialogs New contact and Edit contacts.

    This is the single list of a contact's fields: parsing, rendering, saving and merging use it.
    """

    name = NameField("Name")
    mobile = TelField(SMS.label, SMS.clean, shown_mobile, is_doubtful_mobile)
    email = EmailField(EMAIL.label, EMAIL.clean, is_doubtful=is_doubtful_mailbox)
    # One unit for merging, because a secret is valid only for its own robot.
    dingtalk_url = NormalField(DINGTALK.label, DINGTALK.clean, unit="robot")
    dingtalk_secret = NormalField("Signature secret", clean_dingtalk_secret, unit="robot")
    dingtalk_keyword = NormalField("Keyword", partial(clean_text, most=64), unit="robot")
    receives_system_notifications = SwitchField("Receive system notifications")

    def validate(self, extra_validators: Mapping[str, Sequence[Any]] | None = None) -> bool:
        """Validate each field, and require at least one of the three channels, and a robot if there is a secret."""
        is_valid = super().validate(extra_validators)
        refusal = None
        if not any(field.normal or field.errors for field in (self.mobile, self.email, self.dingtalk_url)):
            refusal = REFUSALS["contact_has_a_channel"]
        elif (self.dingtalk_secret.normal or self.dingtalk_keyword.normal) and not (
            self.dingtalk_url.normal or self.dingtalk_url.errors
        ):
            refusal = REFUSALS["contact_robot_is_whole"]
        if refusal:
            add_error(self[refusal.field], refusal.message)
        return is_valid and not refusal

    def find(self, account_id: int, identity: int) -> Contact:
        """Return the account's contact with the id; respond with 404 if it was deleted."""
        return Contact.of(account_id, identity) or abort(404, CONTACT_GONE)

    def write(self, account_id: int, row: Contact | None) -> Contact:
        """Create the contact, or update it if its version is that of the form; raise Conflict or Refused."""
        return update(row, self.version.data, self.values()) if row else create(account_id, self.values())

    def explain(self, refused: Refused, account_id: int, identity: int | None) -> None:
        """Add the error to its field, with a link to the contact that already has the number or the email."""
        if refused.code not in ("contact_mobile_is_unique", "contact_email_is_unique"):
            super().explain(refused, account_id, identity)
            return
        # The database reports only the first violated constraint, but both number and email may be taken.
        for holder in Contact.holders(account_id, self.mobile.normal, self.email.normal):
            if holder.id == identity:
                continue
            link = HOLDER.format(url_for("contacts.edit", id=holder.id), holder.name)
            same_mobile = holder.mobile is not None and holder.mobile == self.mobile.normal
            if same_mobile:
                add_error(self.mobile, _taken("contact_mobile_is_unique", link))
            # A holder with another number was found by its email, with lower() of the database.
            if not same_mobile or (holder.email or "").lower() == (self.email.normal or "-").lower():
                add_error(self.email, _taken("contact_email_is_unique", link))
        if not self.errors:  # the other contact was deleted in the meantime
            add_error(self[refused.field], refused.message.format(holder="Another contact"))


def _taken(constraint: str, holder: Markup) -> Markup:
    message = Markup(REFUSALS[constraint].message)  # nosec B704 # a constant; format escapes what it takes
    return message.format(holder=holder)


def read_query(arguments: Mapping[str, str]) -> Query:
    """Return the query of the list from the URL; respond with 400 to a value that no link of the console uses."""
    text = read_text(arguments.get("q", ""))
    field, sort = arguments.get("field", "name"), arguments.get("sort", "name")
    show, page = arguments.get("show", "all"), arguments.get("page", "1")
    if field not in FIELDS:
        raise BadRequest("Contacts can be searched by Name, Cell phone number or Email only.")
    if sort not in SORTS:
        raise BadRequest("Contacts can be sorted by name, by creation or by change only.")
    if show not in FILTERS:
        raise BadRequest("The list cannot be narrowed to that.")
    number = None
    if field == "mobile":
        try:
            number = SMS.clean(text)
        except Doubtful as doubt:
            number = doubt.normal
        except ValueError:
            pass
    return Query(text, field, sort, read_page(page), show, number)
