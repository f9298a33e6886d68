"""Say what an integration may be named."""

import sqlalchemy as sa
from flask_wtf import FlaskForm

from ...core.db import violated_constraint
from ...web.fields import NameField


class IntegrationForm(FlaskForm):
    """The form New integration."""

    name = NameField("Name")

    def explain(self, error: sa.exc.IntegrityError) -> None:
        """Put what the database refused beside its field; raise `error` again if it is not known."""
        if violated_constraint(error) != "integration_name_is_clean":
            raise error
        # Letters that are newer than Python's tables or the database's may have another normal form there.
        self.name.errors = ["This name has characters that cannot be stored. Write it in another way."]
