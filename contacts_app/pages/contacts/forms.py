"""Say what a contact may be, and put what the database refuses beside its field."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import url_for
from flask_wtf import FlaskForm
from markupsafe import Markup
from werkzeug.exceptions import BadRequest
from wtforms import BooleanField, Field, HiddenField, IntegerField
from wtforms.validators import Optional
from wtforms.widgets import HiddenInput

from ...contacts.addresses import (
    clean_dingtalk_secret,
    clean_dingtalk_url,
    clean_mailbox,
    clean_mobile,
    is_doubtful_mailbox,
    is_doubtful_mobile,
    shown_mobile,
)
from ...contacts.models import Contact
from ...core.db import violated_constraint
from ...web.arguments import read_page, read_text
from ...web.fields import Doubtful, EmailField, NameField, NormalField, TelField, clean_text
from ...web.opened import marks, unchanged
from .listing import FIELDS, FILTERS, SORTS, Query

NO_CHANNEL = "Enter a mobile phone number, a mailbox or a DingTalk robot: at least one of the three."
DOUBTFUL: Mapping[str, Callable[[str], bool]] = {"mobile": is_doubtful_mobile, "email": is_doubtful_mailbox}
# What is merged as one where two people edit a contact: a secret is no good with another robot's address.
UNITS = (
    *(("name",), ("mobile",), ("email",), ("dingtalk_url", "dingtalk_secret", "dingtalk_keyword")),
    ("receives_system_notifications",),
)


class ContactForm(FlaskForm):
    """The dialogs New contact and Edit contacts."""

    name = NameField("Name")
    mobile = TelField("Mobile phone number", clean_mobile, shown_mobile)
    email = EmailField("Mailbox", clean_mailbox)
    dingtalk_url = NormalField("DingTalk robot", clean_dingtalk_url)
    dingtalk_secret = NormalField("Signature secret", clean_dingtalk_secret)
    dingtalk_keyword = NormalField("Keyword", partial(clean_text, most=64, what="A keyword"))
    receives_system_notifications = BooleanField("Receive system notifications")
    form_errors: Sequence[str] = ()
    version = IntegerField(widget=HiddenInput(), validators=[Optional()])
    opened = HiddenField()
    kept: Sequence[str] = ()  # the labels of what somebody else has saved meanwhile, and the person had not touched

    def validate(self, extra_validators: Mapping[str, Sequence[Any]] | None = None) -> bool:
        """Require one of the three channels, beside what each field requires."""
        valid = super().validate(extra_validators)
        if self.version.errors:  # its field is hidden
            self.form_errors = [*self.form_errors, "This form is damaged. Reload the page and try again."]
        return self.is_whole() and bool(valid)

    def is_whole(self) -> bool:
        """Require what no field can be asked for alone: one of the three channels, and a robot with its secret."""
        channels = (self.mobile, self.email, self.dingtalk_url)
        if not any(channel.normal or channel.errors for channel in channels):
            _add_error(self.mobile, NO_CHANNEL)
            return False
        if (self.dingtalk_secret.normal or self.dingtalk_keyword.normal) and not (
            self.dingtalk_url.normal or self.dingtalk_url.errors
        ):
            _add_error(self.dingtalk_url, "Enter the robot's address, or clear its secret and its keyword.")
            return False
        return True

    def show(self, contact: Contact) -> None:
        """Fill in what is saved of `contact`."""
        for name, value in shown_values(contact).items():
            self._fill(name, getattr(contact, name), value)
        self._open(contact)

    def _fill(self, name: str, value: Any, shown: Any) -> None:
        """Put a saved value into a field; what is doubtful of it has been confirmed."""
        field = self[name]
        field.data = shown
        if value and name in DOUBTFUL:
            field.doubted = field.confirmed = value if DOUBTFUL[name](value) else None

    def _open(self, contact: Contact) -> None:
        """Note what the form is opened with, or anew with what somebody else has saved."""
        self.version.data, self.version.raw_data = contact.version, None
        self.opened.data = marks(saved_values(contact), *_place(contact))

    def values(self) -> dict[str, Any]:
        """Return the normal forms of what was typed, by the name of the column."""
        return {
            "name": self.name.normal,
            "mobile": self.mobile.normal,
            "email": self.email.normal,
            "dingtalk_url": self.dingtalk_url.normal,
            "dingtalk_secret": self.dingtalk_secret.normal,
            "dingtalk_keyword": self.dingtalk_keyword.normal,
            "receives_system_notifications": bool(self.receives_system_notifications.data),
        }

    def write_to(self, contact: Contact) -> None:
        """Give `contact` what was typed."""
        for name, value in self.values().items():
            setattr(contact, name, value)

    def merge(self, contact: Contact) -> dict[str, Any]:
        """Take over what somebody else has saved and the person has not touched; return what both have changed.

        That is what they saved, as the form shows it, by the name of the field.
        """
        typed, saved, shown = self.values(), saved_values(contact), shown_values(contact)
        place = _place(contact)
        not_typed, not_saved = (unchanged(self.opened.data, values, *place) for values in (typed, saved))
        conflicts: dict[str, Any] = {}
        for unit in UNITS:
            differing = [name for name in unit if typed[name] != saved[name]]
            if not differing or not_saved.issuperset(unit):
                continue
            if not_typed.issuperset(unit):
                for name in differing:
                    self._take(name, saved[name], shown[name])
                continue
            conflicts |= {name: shown[name] for name in differing}
        self._open(contact)
        return conflicts

    def _take(self, name: str, value: Any, shown: Any) -> None:
        """Put a saved value into a field."""
        field = self[name]
        self._fill(name, value, shown)
        if isinstance(field, NormalField):
            field.normal = value
        self.kept = [*self.kept, field.label.text]

    def explain(self, error: sa.exc.IntegrityError, account_id: int, contact_id: int | None) -> None:
        """Put what the database refused beside its field; raise `error` again if it is not known."""
        constraint = violated_constraint(error)
        if constraint not in REFUSALS:
            raise error
        field, message = REFUSALS[constraint]
        if field is None:
            self.form_errors = [*self.form_errors, message]
            return
        # The database names the first constraint; the number and the address may both be taken.
        for holder in Contact.holders(account_id, self.mobile.normal, self.email.normal):
            if holder.id == contact_id:
                continue
            link = _HOLDER.format(url_for("contacts.edit", id=holder.id), holder.name)
            same_mobile = holder.mobile is not None and holder.mobile == self.mobile.normal
            if same_mobile:
                _add_error(self.mobile, _in_words("contact_mobile_is_unique", link))
            # A holder without the number was found by the address, over the database's lower().
            if not same_mobile or (holder.email or "").lower() == (self.email.normal or "-").lower():
                _add_error(self.email, _in_words("contact_email_is_unique", link))
        if not self.errors:  # the holder is gone again
            _add_error(self[field], message.format("Another contact"))


REFUSALS: dict[str | None, tuple[str | None, str]] = {
    "contact_mobile_is_unique": (
        "mobile",
        "{} has this number already. Each number can be used for only one contact.",
    ),
    "contact_email_is_unique": (
        "email",
        "{} has this mailbox already. Each mailbox can be used for only one contact.",
    ),
    "contact_has_a_channel": ("mobile", NO_CHANNEL),
    # Letters that are newer than Python's tables or the database's may have another normal form there.
    "contact_name_is_clean": ("name", "This name has characters that cannot be kept. Write it in another way."),
    "account_is_within_quota": (
        None,
        "The account has as many contacts as it can have. Delete one that is no longer needed, then press OK.",
    ),
}
_HOLDER = Markup('<a href="{0}" hx-get="{0}" hx-target="#dialog">{1}</a>')


def _in_words(constraint: str, holder: Markup) -> Markup:
    return Markup(REFUSALS[constraint][1]).format(holder)  # nosec B704 # a constant; format escapes what it takes


def _add_error(field: Field, message: str) -> None:
    field.errors = [*field.errors, message]


def saved_values(contact: Contact) -> dict[str, Any]:
    """Return what a form may change of `contact`, by the name of the field."""
    return {name: getattr(contact, name) for unit in UNITS for name in unit}


def _place(contact: Contact) -> tuple[str, int, int]:
    return (Contact.__tablename__, contact.account_id, contact.id)


def shown_values(contact: Contact) -> dict[str, Any]:
    """Return what a form shows of `contact`, by the name of the field."""
    return {
        "name": contact.name,
        "mobile": shown_mobile(contact.mobile) if contact.mobile else "",
        "email": contact.email or "",
        "dingtalk_url": contact.dingtalk_url or "",
        "dingtalk_secret": contact.dingtalk_secret or "",
        "dingtalk_keyword": contact.dingtalk_keyword or "",
        "receives_system_notifications": contact.receives_system_notifications,
    }


def read_query(arguments: Mapping[str, str]) -> Query:
    """Return which contacts the address asks for; a value that no link of the console has is a 400."""
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
            number = clean_mobile(text)
        except Doubtful as doubt:
            number = doubt.normal
        except ValueError:
            pass
    return Query(text, field, sort, read_page(page), show, number)
