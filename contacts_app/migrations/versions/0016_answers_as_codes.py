"""Quote the sentences about failing channels and unwritten results, which are stored as codes from now on.

Deliveries are too many to rewrite: their sentences are quoted when they are shown.
"""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute("""
        UPDATE channel_states SET answer = '{"code":"quoted","text":' || to_json(answer) || '}'
            WHERE answer IS NOT NULL;
        UPDATE channel_news SET answer = '{"code":"quoted","text":' || to_json(answer) || '}'
            WHERE answer IS NOT NULL;
        UPDATE sent_deliveries SET answer = '{"code":"quoted","text":' || to_json(answer) || '}';
    """)
