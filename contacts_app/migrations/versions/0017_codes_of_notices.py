"""Store the codes and parameters of system notifications beside their text, which stays as it was sent."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE alerts
            ADD COLUMN codes jsonb,
            ADD CONSTRAINT alert_codes_are_of_the_console CHECK (
                codes IS NULL OR kind <> 'alert' AND jsonb_typeof(codes) = 'array' AND codes <> '[]');
    """)
