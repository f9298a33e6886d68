"""Write the index of what waits for a contact in other words than that of what is due.

The planner took the latter for the deliveries of one contact, and read the whole queue of an account for each of them.
"""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.execute("""
        DROP INDEX deliveries_of_contacts;
        CREATE INDEX deliveries_of_contacts ON deliveries (account_id, contact_id, channel, next_attempt_at)
            WHERE ended_at IS NULL;
    """)
