"""Show the same contacts with Flask-Admin, which has no log-on of its own."""

import os
from typing import Any

from flask import Flask
from flask_admin import Admin
from flask_admin.contrib.sqla import ModelView
from flask_sqlalchemy import SQLAlchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import Mapped, mapped_column

from tests.bench.references import shown_mobile

ACCOUNT = int(os.environ["ACCOUNT"])
app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ["SECRET_KEY"],
    SQLALCHEMY_DATABASE_URI="postgresql+psycopg://",
    SQLALCHEMY_ENGINE_OPTIONS={"connect_args": conninfo_to_dict(os.environ["DATABASE_URL"]), "pool_size": 4},
)
db = SQLAlchemy(app)


class Contact(db.Model):
    """A row of the console's table."""

    __tablename__ = "contacts"

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int]
    name: Mapped[str]
    mobile: Mapped[str | None]
    email: Mapped[str | None]
    receives_system_notifications: Mapped[bool]


class Contacts(ModelView):
    """The list that Flask-Admin makes by itself, in the columns of the console."""

    page_size = 100
    column_list = ("name", "mobile", "email", "receives_system_notifications")
    column_searchable_list = ("name", "mobile", "email")
    column_default_sort = "name"
    column_formatters = {"mobile": lambda view, context, contact, name: shown_mobile(contact.mobile)}  # noqa: RUF012

    def get_query(self) -> Any:
        """Return the contacts of the one account."""
        return super().get_query().filter(Contact.account_id == ACCOUNT)

    def get_count_query(self) -> Any:
        """Return how many they are."""
        return super().get_count_query().filter(Contact.account_id == ACCOUNT)


Admin(app).add_view(Contacts(Contact, db, endpoint="contacts", url="/contacts"))
