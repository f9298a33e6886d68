"""Know browsers again that a user has logged on with, so that strangers who guess do not keep that user out.

The cookie opens nothing: it only has the attempts of this browser counted apart from those of everybody else.
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
LIFE = timedelta(days=400)  # the longest that browsers keep a cookie
MOST_USERS = 5  # who share one browser, such as the one at the desk of a shift


class _Known(NamedTuple):
    """One user who has logged on with this browser: `name` is random, `mark` is of the password at that time."""

    account_id: int
    user_id: int
    name: str
    mark: str


def remember(user: User) -> None:
    """Have the answer to this request note that `user` has logged on with this browser."""
    key = user.account_id, user.id
    former = {known[:2]: known for known in _noted()}
    name = former.pop(key).name if key in former else secrets.token_urlsafe(16)
    noted = [_Known(*key, name, _mark(user.password_hash)), *former.values()][:MOST_USERS]

    @after_this_request
    def note(response: Response) -> Response:
        if response.status_code < 400:  # what could not be saved did not happen
            response.set_cookie(
                COOKIE,
                str(_serializer().dumps(noted)),
                max_age=LIFE,
                path=url_for("accounts.logon"),  # nothing else is sent it
                secure=current_settings().https,
                httponly=True,
                samesite="Strict",
            )
        return response


def name_for(email: str) -> str | None:
    """Return what this browser's attempts on the user with this address are counted by; None if it is a stranger's.

    A change of the password makes strangers of all browsers. Only users whom the browser names are looked up, so that
    it finds out about nobody else.
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
