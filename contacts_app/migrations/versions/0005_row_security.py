"""Let the database itself keep accounts apart: a second lock behind the conditions of the queries.

Each row of a team's data is there only for who has set `console.account_id` to its account, or to `all` for the work
that goes across accounts. Who has set nothing sees nothing and writes nothing. `db.py` sets it.

Without a policy stay the tables that are read before the account is known, because they tell which one it is: users
by the address that somebody logs on with, sessions by their token, and accounts, which is joined to these, holds no
contacts, and is written by the trigger that counts them. Log-on attempts, workers and encryption keys belong to no
account.

FORCE makes it hold for the owner of the tables, as whom the console connects; the checks of foreign keys and their
cascades go past it. A sub-select is evaluated once per statement. The cast never meets `all`, whatever is evaluated
first.
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
