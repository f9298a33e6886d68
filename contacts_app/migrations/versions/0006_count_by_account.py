"""Look up accounts by primary key when contacts are counted.

When PostgreSQL plans, it does not know how many accounts a statement changes. With a join over all of them, it read a
table of about ten thousand accounts completely, and used the primary key only for larger ones.
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
