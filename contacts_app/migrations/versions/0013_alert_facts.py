"""Store with an alert what its sender adds to the text: values, errors and links."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE alerts
            ADD COLUMN facts jsonb NOT NULL DEFAULT '[]',
            ADD CONSTRAINT alert_facts_are_a_short_list CHECK (
                jsonb_typeof(facts) = 'array' AND octet_length(facts::text) <= 40000);
    """)
