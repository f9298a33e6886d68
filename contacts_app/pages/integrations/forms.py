"""Validate the name of an integration."""

from ...web.fields import NameField
from ..forms import RowForm


class IntegrationForm(RowForm):
    """The form New integration."""

    name = NameField("Name")
