"""Restrict e-mail addresses to those that mail servers accept: a limited length in bytes, and no special syntax.

Existing addresses stay; one that breaks the rule is refused when its contact is saved again.
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(r"""
        ALTER TABLE contacts
            DROP CONSTRAINT contact_email_is_an_address,
            ADD CONSTRAINT contact_email_is_an_address CHECK (
                email ~ '^[^][<>()\\,;:@"[:space:]]+@[^][<>()\\,;:@"[:space:]]+$' AND strpos(email, '=?') = 0
                AND octet_length(email) <= 254 AND octet_length(split_part(email, '@', 1)) <= 64
            ) NOT VALID;
    """)
    op.execute("""
        DO $$ BEGIN
            ALTER TABLE contacts VALIDATE CONSTRAINT contact_email_is_an_address;
        EXCEPTION WHEN check_violation THEN
            NULL;
        END $$;
    """)
