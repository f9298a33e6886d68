"""Derive the secret of the set-up link, with which the first account is created."""

import hashlib
import hmac

from ..config import current_settings


def setup_token() -> str:
    """Return the secret of the set-up link, an HMAC of SECRET_KEY; only readers of the console's output know it."""
    key = current_settings().secret_key.encode()
    return hmac.new(key, b"set-up link", hashlib.sha256).hexdigest()[:40]
