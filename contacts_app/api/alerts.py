"""Take alerts in from the systems that watch: `POST /api/v1/alerts`."""

import logging
import re
from hashlib import sha256
from typing import NoReturn

import sqlalchemy as sa
from flask import Response, abort, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from ..accounts.permissions import public
from ..config import current_settings
from ..core.db import db
from ..delivery.models import Alert
from ..delivery.queueing import notify
from ..groups.models import Group
from ..intake import refusals
from ..intake.formats import Refused, read
from ..intake.models import Admission, Integration, find_duplicate
from ..web.machines import ApiBlueprint, is_api_request
from ..web.turns import note_account
from .bodies import MOST_BYTES, read_body

logger = logging.getLogger("contacts_app")
blueprint = ApiBlueprint("api", __name__, below="v1")
UNKNOWN = "There is no integration with this token. It may have been renewed, or its group deleted."

MOST_TOKEN = 200


@blueprint.url_value_preprocessor
def take_large_bodies(endpoint: str | None, values: dict[str, object] | None) -> None:
    """Let a sender tell much at once; this runs before anything reads the body."""
    request.max_content_length = MOST_BYTES


@blueprint.post("/alerts")
@public
def alerts() -> ResponseReturnValue:
    """Take an alert in: 202 with its id once it is committed, 200 with the same id for what is sent again."""
    token = _token()
    body = read_body()
    if not request.is_json:
        abort(415, "Send JSON, with the header Content-Type: application/json.")
    try:
        incoming = read(body, current_settings().timezone)
        idempotency_key = _idempotency_key()
    except Refused as refusal:
        abort(400, str(refusal))
    admission = _admit(token)
    body_hash = sha256(body).digest()
    known = find_duplicate(admission, body_hash, idempotency_key)
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
        facts=incoming.facts,
    )
    count = notify(alert, Group.member_ids(admission.account_id, admission.group_id))
    answer: dict[str, object] = {"id": alert.id, "deliveries": count}
    if not count:
        answer["warning"] = f"The contact group {admission.group_name} has no members: nobody is told."
    db.session.commit()
    return jsonify(answer), 202


@blueprint.after_app_request
def note_refusal(response: Response) -> Response:
    """Count and keep what is refused of a sender with a valid token, who does not repeat it, wherever it is refused."""
    token = _sent_token()
    is_final = 400 <= response.status_code < 500 and response.status_code != 401
    if not (is_final and is_api_request() and 0 < len(token) <= MOST_TOKEN) or g.get("is_noted"):
        return response
    limit = current_settings().alerts_per_minute
    try:
        wait = Integration.seconds_to_wait(token, limit)
        admission = Integration.admit(token, limit, is_refused=True) if wait == 0 else None
        if admission is not None:
            wait = admission.wait
            response = _too_many(wait) if wait else response
            _keep(admission, response.status_code, _sentence(response), token)
        elif wait:
            response = _too_many(wait)
        db.session.commit()
    except sa.exc.SQLAlchemyError as error:
        # The sender is answered all the same: what is refused is refused with and without a record of it.
        db.session.rollback()
        logger.error("A refusal could not be written down: %s", type(getattr(error, "orig", None) or error).__name__)
    return response


def _too_many(wait: int) -> Response:
    response = jsonify(error=_too_many_words())
    response.status_code = 429
    response.headers["Retry-After"] = str(wait)
    return response


def _too_many_words() -> str:
    most = current_settings().alerts_per_minute
    return f"More than {most:,} alerts came in within a minute. What else comes in that minute is refused as well."


def _sentence(response: Response) -> str:
    return str(response.json["error"]) if response.is_json else response.get_data(as_text=True)  # type: ignore[index]


def _keep(admission: Admission, status: int, sentence: str, token: str) -> None:
    refusals.record(admission, status, sentence, g.get("body", b""), token)


def _sent_token() -> str:
    """Return the token that the request carries, whether it is known or not; empty if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" else ""


def _token() -> str:
    """Return the token that the request carries, if an integration has it that may send more."""
    token = _sent_token()
    if not token:
        _refuse("Send the token of an integration in the header Authorization, after the word Bearer.")
    may_be_one = len(token) <= MOST_TOKEN
    wait = Integration.seconds_to_wait(token, current_settings().alerts_per_minute) if may_be_one else None
    db.session.commit()  # a body that comes slowly keeps no connection; a rollback would forget what is prepared
    if wait is None:
        _refuse(UNKNOWN)
    if wait:
        g.is_noted = True  # once in each minute, by the one that was too much
        raise TooManyRequests(_too_many_words(), retry_after=wait)
    return token


def _admit(token: str) -> Admission:
    """Count a use of the integration, which stays locked until the commit: so nothing slow comes after this."""
    admission = Integration.admit(token, current_settings().alerts_per_minute)
    if admission is None:
        _refuse(UNKNOWN)
    note_account(request.environ, admission.account_id)
    if admission.wait:
        g.is_noted = True
        _keep(admission, 429, _too_many_words(), token)
        db.session.commit()
        raise TooManyRequests(_too_many_words(), retry_after=admission.wait)
    return admission


def _refuse(sentence: str) -> NoReturn:
    raise Unauthorized(sentence, www_authenticate=WWWAuthenticate("bearer"))


def _idempotency_key() -> str | None:
    """Return the key by which the sender knows the alert; raise Refused for one that cannot be kept."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise Refused("The Idempotency-Key must have 1 to 200 visible ASCII characters.")
    return key
