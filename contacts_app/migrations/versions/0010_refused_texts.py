"""Record for each delivery whether its text was refused, and whether its headline arrived instead."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE deliveries
            ADD headline_only boolean NOT NULL DEFAULT false,
            ADD text_refused boolean NOT NULL DEFAULT false,
            ADD CONSTRAINT delivery_of_a_headline_is_sent CHECK (NOT headline_only OR state = 'sent'),
            ADD CONSTRAINT delivery_of_a_refused_text_has_failed CHECK (NOT text_refused OR state = 'failed');
    """)
