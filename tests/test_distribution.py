"""Show which tables can be spread over several servers by account as they are, and what keeps the others together.

PostgreSQL's own partitioning has the rule that Citus has for its distributed tables: a unique key must hold the column
that the rows are spread by.
"""

import psycopg
from psycopg import errors

# What is looked up by somebody who does not say for which account: these would need a table of their own, from what is
# unique to the account, that every server has.
UNIQUE_WITHOUT_ACCOUNT = {
    ("integrations", "integration_token_is_unique"),
    ("sessions", "sessions_pkey"),
    ("users", "user_email_is_unique"),
}
# Few rows, or rows of nobody's account: every server would have them, or one.
OF_NO_ACCOUNT = {"accounts", "alembic_version", "encryption_keys", "logon_attempts", "workers"}


def tables(sql: psycopg.Connection, having: str) -> set[str]:
    """Return the tables that have a column account_id, or have none."""
    query = f"""
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND {having} EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'account_id' AND NOT attisdropped)
    """
    return {name for (name,) in sql.execute(query)}


def test_every_row_of_a_team_says_whose_it_is(sql: psycopg.Connection) -> None:
    assert tables(sql, "NOT") == OF_NO_ACCOUNT
    nullable = "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'account_id' AND NOT attnotnull"
    of_tables = " AND attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r')"
    assert sql.execute(nullable + of_tables).fetchall() == []


def test_unique_keys_begin_with_the_account(sql: psycopg.Connection) -> None:
    query = """
        SELECT indrelid::regclass::text, relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        JOIN pg_attribute AS first ON first.attrelid = indexrelid AND first.attnum = 1
        WHERE indisunique AND first.attname <> 'account_id' AND indrelid IN (
            SELECT attrelid FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE attname = 'account_id' AND relkind = 'r' AND relnamespace = 'public'::regnamespace)
    """
    assert set(sql.execute(query).fetchall()) == UNIQUE_WITHOUT_ACCOUNT


def test_foreign_keys_lead_to_rows_of_the_same_account(sql: psycopg.Connection) -> None:
    query = """
        SELECT conname, own.attname, CASE confrelid::regclass::text WHEN 'accounts' THEN 'account_' ELSE '' END
            || other.attname
        FROM pg_constraint
        JOIN pg_attribute AS own ON own.attrelid = conrelid AND own.attnum = conkey[1]
        JOIN pg_attribute AS other ON other.attrelid = confrelid AND other.attnum = confkey[1]
        WHERE contype = 'f'
    """
    found = sql.execute(query).fetchall()
    assert len(found) > 10
    assert [name for name, *columns in found if columns != ["account_id", "account_id"]] == []


def test_the_tables_of_a_team_can_be_spread_by_account(sql: psycopg.Connection) -> None:
    refused = {}
    for name in tables(sql, ""):
        try:
            with sql.transaction(force_rollback=True):
                sql.execute(f'CREATE TABLE spread (LIKE "{name}" INCLUDING ALL) PARTITION BY HASH (account_id)')
        except errors.FeatureNotSupported as error:
            refused[name] = str(error)
    assert refused.keys() == {name for name, _ in UNIQUE_WITHOUT_ACCOUNT}
    assert all("must include all partitioning columns" in reason for reason in refused.values())
