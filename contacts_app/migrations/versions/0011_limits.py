"""Rate-limit the messages to a number or mailbox, and send nothing older after something newer with the same key.

`send_windows` has the times at which a contact was sent something, or a test, over a channel; the lock on a row
serialises the decision what is sent next. `is_held` marks a delivery that waits for the rate limit, `overtaken_by` is
the alert that was sent instead of an overtaken one, and `asked_at` is when a user last asked to send one again.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE send_windows (
            account_id bigint NOT NULL,
            contact_id bigint NOT NULL,
            kind text NOT NULL,
            sent_at timestamptz[] NOT NULL DEFAULT '{}',
            CONSTRAINT send_windows_pkey PRIMARY KEY (account_id, contact_id, kind),
            CONSTRAINT send_windows_contacts_fkey FOREIGN KEY (account_id, contact_id)
                REFERENCES contacts (account_id, id) ON DELETE CASCADE,
            CONSTRAINT send_window_is_of_a_known_kind CHECK (kind IN ('sms', 'email', 'test'))
        );
        ALTER TABLE send_windows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY rows_of_the_account ON send_windows USING (
            account_id = (SELECT nullif(nullif(current_setting('console.account_id', true), ''), 'all')::bigint)
            OR (SELECT current_setting('console.account_id', true) = 'all'));

        ALTER TABLE deliveries
            ADD COLUMN is_held boolean NOT NULL DEFAULT false,
            ADD COLUMN overtaken_by bigint,
            ADD COLUMN asked_at timestamptz,
            ADD CONSTRAINT overtaken_delivery_says_by_what
                CHECK (state <> 'overtaken' OR overtaken_by IS NOT NULL AND overtaken_by > alert_id);

        -- What waits for a contact over any channel, not only for robots.
        CREATE INDEX deliveries_of_contacts ON deliveries (account_id, contact_id, channel, next_attempt_at)
            WHERE state IN ('queued', 'sending');
        DROP INDEX deliveries_for_robots;

        -- All news of one key, newest first.
        CREATE INDEX alerts_account_id_key ON alerts (account_id, integration_id, key, id) WHERE key IS NOT NULL;
    """)
