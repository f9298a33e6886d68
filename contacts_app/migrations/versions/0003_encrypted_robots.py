"""Encrypt the webhook URLs of DingTalk robots, and add a robot's signature secret and keyword."""

from hashlib import sha256

import sqlalchemy as sa
from alembic import op

from contacts_app.core.encryption import encrypt

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE encryption_keys (
            id bytea NOT NULL CONSTRAINT encryption_keys_pkey PRIMARY KEY,
            used_since timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT encryption_key_is_named CHECK (octet_length(id) = 4)
        );
        ALTER TABLE contacts
            ADD dingtalk_url_encrypted bytea,
            ADD dingtalk_url_hash bytea,
            ADD dingtalk_secret_encrypted bytea,
            ADD dingtalk_keyword text;
    """)
    connection = op.get_bind()
    found = sa.text("SELECT account_id, id, dingtalk_url FROM contacts WHERE dingtalk_url IS NOT NULL")
    write = sa.text("""
        UPDATE contacts SET dingtalk_url_encrypted = :encrypted, dingtalk_url_hash = :hash
        WHERE account_id = :account_id AND id = :id
    """)
    with connection.execute(found, execution_options={"yield_per": 1000}) as rows:
        for part in rows.partitions():
            values = [
                {
                    "account_id": account_id,
                    "id": identity,
                    "encrypted": encrypt(url, "contacts", account_id, identity, "dingtalk_url"),
                    "hash": sha256(url.encode()).digest(),
                }
                for account_id, identity, url in part
            ]
            connection.execute(write, values)
    op.execute("""
        ALTER TABLE contacts
            DROP CONSTRAINT contact_has_a_channel,
            DROP CONSTRAINT contact_dingtalk_url_is_a_robot,
            DROP COLUMN dingtalk_url;
        ALTER TABLE contacts
            -- Writes the whole table anew: a dropped column alone would leave the addresses readable in its file.
            ALTER dingtalk_keyword TYPE text USING dingtalk_keyword || '',
            ADD CONSTRAINT contact_has_a_channel CHECK (num_nonnulls(mobile, email, dingtalk_url_encrypted) > 0),
            ADD CONSTRAINT contact_robot_is_whole CHECK (
                num_nulls(dingtalk_url_encrypted, dingtalk_url_hash) <> 1 AND (dingtalk_url_encrypted IS NOT NULL
                OR num_nonnulls(dingtalk_secret_encrypted, dingtalk_keyword) = 0)),
            ADD CONSTRAINT contact_robot_is_encrypted CHECK (
                octet_length(dingtalk_url_encrypted) > 32 AND octet_length(dingtalk_url_hash) = 32
                AND (dingtalk_secret_encrypted IS NULL OR octet_length(dingtalk_secret_encrypted) > 32)),
            ADD CONSTRAINT contact_keyword_is_short CHECK (char_length(dingtalk_keyword) BETWEEN 1 AND 64);
        CREATE INDEX contacts_account_id_dingtalk_url_hash ON contacts (account_id, dingtalk_url_hash)
            WHERE dingtalk_url_hash IS NOT NULL;
    """)
