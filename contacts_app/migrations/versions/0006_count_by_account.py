"""Count the contacts of each account by its key.

How many accounts one statement changes is not known to PostgreSQL when it plans: joined to them all at once, it read
every account of a table of some ten thousand, and passed over to the key only in larger ones.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION count_contacts() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            changed record;
        BEGIN
            FOR changed IN
                SELECT account_id, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END AS difference
                FROM changed_contacts GROUP BY account_id ORDER BY account_id
            LOOP
                UPDATE accounts SET contact_count = contact_count + changed.difference WHERE id = changed.account_id;
            END LOOP;
            RETURN NULL;
        END $$;
    """)
