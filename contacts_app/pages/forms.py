"""Edit a row in a form, so that two people who edit it at once each keep what only they changed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from flask_wtf import FlaskForm
from wtforms import Field, HiddenField, IntegerField
from wtforms.validators import Optional
from wtforms.widgets import HiddenInput

from ..contacts.models import Contact
from ..core.changes import Conflict, Refused
from ..core.db import db
from ..groups.models import Group
from ..web.fields import NormalField, SwitchField
from ..web.opened import marks, unchanged

Row = TypeVar("Row", Contact, Group)


class EditForm(FlaskForm, Generic[Row]):
    """A form of a new or a known row. Each field that has a normal form has the name of an attribute of the row."""

    version = IntegerField(widget=HiddenInput(), validators=[Optional()])
    opened = HiddenField()
    form_errors: Sequence[str] = ()
    is_merged = False  # with what somebody else has saved meanwhile
    kept: Sequence[str] = ()  # the labels of what they changed, and the person had not touched
    theirs: Mapping[str, Any] = {}  # what both have changed: as the form shows what they saved

    def find(self, account_id: int, identity: int) -> Row:
        """Return the account's row with the id; one that was deleted is a 404."""
        raise NotImplementedError

    def write(self, account_id: int, row: Row | None) -> Row:
        """Create the row, or change it if it is at the version of the form. Raise Conflict or Refused."""
        raise NotImplementedError

    def validate(self, extra_validators: Mapping[str, Sequence[Any]] | None = None) -> bool:
        """Check each field, and say where it can be seen that a hidden one is damaged."""
        is_valid = bool(super().validate(extra_validators))
        if self.version.errors:
            self.form_errors = [*self.form_errors, "This form is damaged. Reload the page and try again."]
        return is_valid

    @property
    def attributes(self) -> Sequence[NormalField | SwitchField]:
        """Return the fields that are attributes of the row."""
        return [field for field in self if isinstance(field, NormalField | SwitchField)]

    @property
    def focus(self) -> str | None:
        """Return the name of the first field that has to be looked at again."""
        return next((field.name for field in self.attributes if field.errors or field.name in self.theirs), None)

    def _units(self) -> Iterable[Sequence[NormalField | SwitchField]]:
        """Return the fields that are attributes of the row, those that make sense only together as one."""
        units: dict[str, list[NormalField | SwitchField]] = {}
        for field in self.attributes:
            units.setdefault(field.unit or field.name, []).append(field)
        return units.values()

    def values(self) -> dict[str, Any]:
        """Return the normal forms of what was typed, by the name of the attribute."""
        return {field.name: field.normal for field in self.attributes}

    def saved_values(self, row: Row) -> dict[str, Any]:
        """Return what is saved of the row, by the name of the attribute."""
        return {field.name: getattr(row, field.name) for field in self.attributes}

    def open(self, row: Row) -> None:
        """Fill in what is saved of the row."""
        for field in self.attributes:
            field.fill(getattr(row, field.name))
        self.note(row)

    def note(self, row: Row) -> None:
        """Note what the form is opened with, or anew with what somebody else has saved."""
        self.version.data, self.version.raw_data = row.version, None
        self.opened.data = marks(self.saved_values(row), *_place(row))

    def save(self, account_id: int, row: Row | None) -> Row | None:
        """Write what was typed, with what only somebody else has changed; None where the form says why it cannot be."""
        identity = row.id if row else None
        while True:
            try:
                return self.write(account_id, row)
            except Conflict:
                db.session.rollback()
                if identity is None:
                    raise
                row = self.find(account_id, identity)
                self.merge(row)
                if self.theirs:
                    return None
            except Refused as refused:
                db.session.rollback()
                self.explain(refused, account_id, identity)
                return None

    def merge(self, row: Row) -> None:
        """Take over what somebody else has saved and the person has not touched; note in `theirs` what both changed."""
        typed, saved = self.values(), self.saved_values(row)
        not_typed, not_saved = (unchanged(self.opened.data, values, *_place(row)) for values in (typed, saved))
        for unit in self._units():
            names = {field.name for field in unit}
            differing = [field for field in unit if typed[field.name] != saved[field.name]]
            if not differing or names <= not_saved:
                continue
            if names <= not_typed:
                for field in differing:
                    field.fill(saved[field.name])
                    self.kept = [*self.kept, field.label.text]
            else:
                self.theirs = {**self.theirs, **{field.name: field.as_shown(saved[field.name]) for field in differing}}
        self.is_merged = True
        self.note(row)

    def explain(self, refused: Refused, account_id: int, identity: int | None) -> None:
        """Put what was refused beside its field, or above all fields."""
        if refused.field is None:
            self.form_errors = [*self.form_errors, refused.message]
        else:
            add_error(self[refused.field], refused.message)


def add_error(field: Field, message: str) -> None:
    """Put a message beside a field."""
    field.errors = [*field.errors, message]


def _place(row: Contact | Group) -> tuple[str, int, int]:
    return (row.__tablename__, row.account_id, row.id)
