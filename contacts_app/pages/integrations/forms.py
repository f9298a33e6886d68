"""Validate the name of an integration."""

import sqlalchemy as sa
from flask_wtf import FlaskForm

from ...core.db import violated_constraint
from ...web.fields import NameField


class IntegrationForm(FlaskForm):
    """The form New integration."""

    name = NameField("Name")

    def explain(self, error: sa.exc.IntegrityError) -> None:
        """Add the violated constraint as an error to its field; raise `error` again if it is unknown."""
        if violated_constraint(error) != "integration_name_is_clean":
            raise error
        # The Unicode versions of Python and the database may differ, and with them the normal form of new characters.
        self.name.errors = ["This name has characters that cannot be stored. Write it in another way."]
