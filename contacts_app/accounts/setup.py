"""Know the link by which the first account is set up."""

import hashlib
import hmac

from ..config import current_settings


def setup_token() -> str:
    """Return the secret of the set-up link, which only who reads the console's output knows."""
    key = current_settings().secret_key.encode()
    return hmac.new(key, b"set-up link", hashlib.sha256).hexdigest()[:40]
