"""Recognise the browsers of a user, so that password guessing by others does not lock that user out.

The cookie grants no access: attempts from a known browser are only counted separately from all others.
"""

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from flask import Response, after_this_request, request, url_for
from itsdangerous import BadData, URLSafeSerializer

from ...accounts.models import User
from ...config import current_settings
from ...core.db import db

COOKIE = "known_browser"
LIFE = timedelta(days=400)  # the longest lifetime that browsers accept for a cookie
MAX_USERS = 5  # of one browser, such as a shared one at the desk of a shift


class _Known(NamedTuple):
    """A user who has logged on with this browser: `name` is random, `mark` is an HMAC of the password hash then."""

    account_id: int
    user_id: int
    name: str
    mark: str


def remember(user: User) -> None:
    """Add `user` to the cookie of this browser's users in the response to this request."""
    key = user.account_id, user.id
    former = {known[:2]: known for known in _noted()}
    name = former.pop(key).name if key in former else secrets.token_urlsafe(16)
    noted = [_Known(*key, name, _mark(user.password_hash)), *former.values()][:MAX_USERS]

    @after_this_request
    def note(response: Response) -> Response:
        if response.status_code < 400:  # an error means that the log-on was not saved
            response.set_cookie(
                COOKIE,
                str(_serializer().dumps(noted)),
                max_age=LIFE,
                path=url_for("accounts.logon"),  # no other path needs it
                secure=current_settings().https,
                httponly=True,
                samesite="Strict",
            )
        return response


def name_for(email: str) -> str | None:
    """Return the key that counts this browser's attempts for the user with this email; None for an unknown browser.

    A password change invalidates all browsers of the user. Only users in the cookie are looked up, so that
    the cookie cannot be used to probe for others.
    """
    names = {(known.account_id, known.user_id): known for known in _noted()}
    if not names:
        return None
    columns = sa.select(User.account_id, User.id, User.password_hash)
    is_meant = sa.func.lower(User.email) == sa.func.lower(email)
    user = db.session.execute(columns.where(sa.tuple_(User.account_id, User.id).in_(names), is_meant)).one_or_none()
    if user is None:
        return None
    known = names[user.account_id, user.id]
    return known.name if hmac.compare_digest(known.mark, _mark(user.password_hash)) else None


def _noted() -> list[_Known]:
    try:
        return [_Known(*values) for values in _serializer().loads(request.cookies.get(COOKIE, ""))]
    except BadData:
        return []


def _serializer() -> URLSafeSerializer:
    return URLSafeSerializer(
        current_settings().secret_key, salt=COOKIE, signer_kwargs={"digest_method": hashlib.sha256}
    )


def _mark(password_hash: str) -> str:
    key = current_settings().secret_key.encode()
    return hmac.new(key, f"{COOKIE} {password_hash}".encode(), hashlib.sha256).hexdigest()[:32]
