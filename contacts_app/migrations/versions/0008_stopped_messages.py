"""Let users cancel queued deliveries, and record who did.

A delivery that is being sent when it is cancelled keeps its state; `cancelled_by` then means that it is not retried.
The state `overtaken` means that a newer alert with the same key was sent instead.
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE deliveries
            ADD COLUMN cancelled_by text,
            DROP CONSTRAINT delivery_state_is_known,
            ADD CONSTRAINT delivery_state_is_known
                CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'cancelled', 'overtaken')),
            ADD CONSTRAINT cancelled_delivery_says_by_whom CHECK (state <> 'cancelled' OR cancelled_by IS NOT NULL),
            ADD CONSTRAINT stopped_delivery_does_not_wait CHECK (state <> 'queued' OR cancelled_by IS NULL);

        -- One index for each thing that people look for. There was one for all that is not sent: a flood that was
        -- stopped would stand in it for as long as it is kept, and be read for each list of what failed or waits.
        CREATE INDEX deliveries_failed ON deliveries (account_id, alert_id) WHERE state = 'failed';
        CREATE INDEX deliveries_not_sent ON deliveries (account_id, alert_id) WHERE state IN ('cancelled', 'overtaken');
        -- In other words than the index of what is due, which a page must not read: it leads with the channel.
        CREATE INDEX deliveries_waiting ON deliveries (account_id, alert_id)
            WHERE state <> 'sent' AND state <> 'failed' AND state <> 'cancelled' AND state <> 'overtaken';
        DROP INDEX deliveries_unsent;
    """)
