"""Run the migrations of Alembic on the connection that `upgrade` has opened."""

from alembic import context

from contacts_app.core.db import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
