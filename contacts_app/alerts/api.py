"""Take alerts in from the systems that watch: `POST /api/v1/alerts`."""

import re
from hashlib import sha256
from typing import NoReturn

from flask import Blueprint, abort, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from ..accounts.views import public
from ..config import current_settings
from ..db import db
from .intake import Refused, read
from .models import OF_GROUP, Admission, Alert, Integration

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
UNKNOWN = "There is no integration with this token. It may have been renewed, or its group deleted."
MOST_BYTES = 4 * 1024 * 1024  # an Alertmanager of a large site sends all alerts of a group at once


@blueprint.url_value_preprocessor
def take_large_bodies(endpoint: str | None, values: dict[str, object] | None) -> None:
    """Let a sender tell much at once; this runs before anything reads the body."""
    request.max_content_length = MOST_BYTES


@blueprint.post("/alerts")
@public
def alerts() -> ResponseReturnValue:
    """Take an alert in: 202 with its id once it is committed, 200 with the same id for what is sent again."""
    token = _token()
    if not request.is_json:
        abort(415, "Send JSON, with the header Content-Type: application/json.")
    body = request.get_data()
    try:
        incoming = read(body)
        idempotency_key = _idempotency_key()
    except Refused as refusal:
        abort(400, str(refusal))
    admission = _admit(token)
    body_hash = sha256(body).digest()
    known = Alert.same_as(admission, body_hash, idempotency_key)
    if known is not None:
        db.session.commit()
        return jsonify(id=known), 200
    alert = Alert(
        account_id=admission.account_id,
        kind="alert",
        source=incoming.source,
        integration_id=admission.integration_id,
        integration_name=admission.integration_name,
        addressee=admission.group_name,
        title=incoming.title,
        text=incoming.text,
        severity=incoming.severity,
        status=incoming.status,
        key=incoming.key,
        body_hash=body_hash,
        idempotency_key=idempotency_key,
    )
    count = alert.tell(OF_GROUP, group_id=admission.group_id)
    answer: dict[str, object] = {"id": alert.id, "deliveries": count}
    if not count:
        answer["warning"] = f"The contact group {admission.group_name} has no members: nobody is told."
    db.session.commit()
    return jsonify(answer), 202


def _token() -> str:
    """Return the token that the request carries, if an integration has it."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        _refuse("Send the token of an integration in the header Authorization, after the word Bearer.")
    if len(token) > 200 or not Integration.is_known(token):
        _refuse(UNKNOWN)
    db.session.commit()  # a body that comes slowly keeps no connection; a rollback would forget what is prepared
    return token


def _admit(token: str) -> Admission:
    """Count a use of the integration, which stays locked until the commit: so nothing slow comes after this."""
    admission = Integration.admit(token, current_settings().alerts_per_minute)
    if admission is None:
        _refuse(UNKNOWN)
    if admission.wait:
        db.session.commit()
        raise TooManyRequests(
            f"More than {current_settings().alerts_per_minute} alerts came in within a minute.",
            retry_after=admission.wait,
        )
    return admission


def _refuse(sentence: str) -> NoReturn:
    raise Unauthorized(sentence, www_authenticate=WWWAuthenticate("bearer"))


def _idempotency_key() -> str | None:
    """Return the key by which the sender knows the alert; raise Refused for one that cannot be kept."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise Refused("The Idempotency-Key must have 1 to 200 visible ASCII characters.")
    return key
