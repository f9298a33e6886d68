"""Let results that wait to be written down name only channels that there are, as deliveries do."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE sent_deliveries
            ADD CONSTRAINT sent_delivery_is_of_a_channel CHECK (channel IN ('sms', 'email', 'dingtalk'));
        ALTER TABLE channel_news
            ADD CONSTRAINT channel_news_is_of_a_channel CHECK (channel IN ('sms', 'email', 'dingtalk'));
    """)
