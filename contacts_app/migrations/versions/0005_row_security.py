"""Enable row-level security on the tables of accounts, as a second barrier behind the conditions of the queries.

A row is visible only while `console.account_id` is its account, or `all` for work across accounts. Without a setting
nothing can be read or written. `core/db.py` sets it.

Three tables have no policy, because they are read to find out the account: users by e-mail at log-on, sessions by their
token, and accounts, which is joined to these, holds no contacts, and is written by the trigger that counts contacts.
Log-on attempts, workers and encryption keys belong to no account.

FORCE applies the policies to the owner of the tables as well, which is the console's role; checks of foreign keys and
their cascades bypass them. The sub-select is evaluated once per statement. The cast never sees `all`, in whatever order
the conditions are evaluated.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = (
    *("contacts", "groups", "memberships", "integrations", "alerts", "deliveries", "robots", "channel_states"),
    *("system_checks", "system_notices", "told_facts"),
)


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"""
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
            CREATE POLICY rows_of_the_account ON {table} USING (
                account_id = (SELECT nullif(nullif(current_setting('console.account_id', true), ''), 'all')::bigint)
                OR (SELECT current_setting('console.account_id', true) = 'all'));
        """)
