"""Edit a row in a form, and merge the changes of two users who edit it at the same time."""

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


class RowForm(FlaskForm):
    """A form that shows what the database refuses."""

    form_errors: Sequence[str] = ()

    def show(self, refused: Refused) -> None:
        """Add the error to its field, or to the form."""
        if refused.field is None:
            self.form_errors = [*self.form_errors, refused.message]
        else:
            add_error(self[refused.field], refused.message)


class EditForm(RowForm, Generic[Row]):
    """A form for a new or an existing row. Each NormalField and SwitchField is named after an attribute of the row."""

    version = IntegerField(widget=HiddenInput(), validators=[Optional()])
    opened = HiddenField()
    is_merged = False  # with changes that another user saved meanwhile
    adopted: Sequence[str] = ()  # labels of the fields that only the other user changed
    theirs: Mapping[str, Any] = {}  # conflicts, by field name: the other user's value as the form shows it

    def find(self, account_id: int, identity: int) -> Row:
        """Return the account's row with the id; respond with 404 if it was deleted."""
        raise NotImplementedError

    def write(self, account_id: int, row: Row | None) -> Row:
        """Create the row, or update it if its version is that of the form; raise Conflict or Refused."""
        raise NotImplementedError

    def validate(self, extra_validators: Mapping[str, Sequence[Any]] | None = None) -> bool:
        """Validate each field, and report an invalid hidden field above the form."""
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
        """Return the name of the first field with an error or a conflict."""
        return next((field.name for field in self.attributes if field.errors or field.name in self.theirs), None)

    def _units(self) -> Iterable[Sequence[NormalField | SwitchField]]:
        """Return the fields that are attributes of the row, grouped by the unit in which they are merged."""
        units: dict[str, list[NormalField | SwitchField]] = {}
        for field in self.attributes:
            units.setdefault(field.unit or field.name, []).append(field)
        return units.values()

    def values(self) -> dict[str, Any]:
        """Return the normalized input, by attribute name."""
        return {field.name: field.normal for field in self.attributes}

    def saved_values(self, row: Row) -> dict[str, Any]:
        """Return the saved values of the row, by attribute name."""
        return {field.name: getattr(row, field.name) for field in self.attributes}

    def open(self, row: Row) -> None:
        """Fill the form from the row."""
        for field in self.attributes:
            field.fill(getattr(row, field.name))
        self.note(row)

    def note(self, row: Row) -> None:
        """Store the version and the marks of the saved values in the hidden fields, for a later merge."""
        self.version.data, self.version.raw_data = row.version, None
        self.opened.data = marks(self.saved_values(row), *_place(row))

    def save(self, account_id: int, row: Row | None) -> Row | None:
        """Save the input, merged with concurrent changes; return None if the form shows an error or a conflict."""
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
        """Take over the values that only the other user changed; put those that both changed into `theirs`."""
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
                    self.adopted = [*self.adopted, field.label.text]
            else:
                self.theirs = {**self.theirs, **{field.name: field.as_shown(saved[field.name]) for field in differing}}
        self.is_merged = True
        self.note(row)

    def explain(self, refused: Refused, account_id: int, identity: int | None) -> None:
        """Show what the database has refused to save; `identity` is the id of the row, None for a new one."""
        self.show(refused)


def add_error(field: Field, message: str) -> None:
    """Add an error message to a field."""
    field.errors = [*field.errors, message]


def _place(row: Contact | Group) -> tuple[str, int, int]:
    return (row.__tablename__, row.account_id, row.id)
