"""Receive alerts from monitoring systems: `POST /api/v1/alerts`."""

import logging
import re
from hashlib import sha256
from typing import NoReturn

import sqlalchemy as sa
from flask import Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from ..accounts.permissions import public
from ..config import current_settings
from ..core.db import db
from ..core.trace import mark
from ..delivery.answers import Answers, answer, dump
from ..delivery.models import Notification
from ..delivery.queueing import notify_group
from ..intake import refusals
from ..intake.formats import Refused, read
from ..intake.models import Admission, Integration, find_duplicate
from ..intake.sentences import words
from ..web.machines import ALERT_BYTES, ApiBlueprint, is_api_request
from ..web.turns import note_account
from .bodies import read_body, refuse

logger = logging.getLogger("contacts_app")
blueprint = ApiBlueprint("api", __name__, below="v1")
UNKNOWN = (
    "There is no integration with this token. It may have been renewed, or its contact group may have been deleted."
)

MAX_TOKEN = 200


@blueprint.url_value_preprocessor
def take_large_bodies(endpoint: str | None, values: dict[str, object] | None) -> None:
    """Raise the size limit of bodies; this runs before anything reads the body."""
    request.max_content_length = ALERT_BYTES


@blueprint.post("/alerts")
@public
def alerts() -> ResponseReturnValue:
    """Accept an alert: answer 202 with its id once it is committed, or 200 with the known id for a duplicate."""
    token = _token()
    body = read_body()
    if not request.is_json:
        refuse(415, answer("request.not_json"))
    try:
        incoming = read(body, current_settings().timezone)
        idempotency_key = _idempotency_key()
    except Refused as refusal:
        refuse(400, refusal.answer)
    mark("parsed")
    admission = _admit(token)
    body_hash = sha256(body).digest()
    duplicate = find_duplicate(admission, body_hash, idempotency_key)
    if duplicate is not None:
        db.session.commit()
        return jsonify(id=duplicate), 200
    alert = Notification(
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
    count = notify_group(alert, admission.group_id)
    reply: dict[str, object] = {"id": alert.id, "deliveries": count}
    if not count:
        reply["warning"] = f"The contact group {admission.group_name} has no members, so nobody is notified."
    db.session.commit()
    mark("committed", reply["id"])
    return jsonify(reply), 202


@blueprint.after_app_request
def note_refusal(response: Response) -> Response:
    """Count and record a request with a valid token that any part of the console refuses: most senders do not retry."""
    token = _sent_token()
    is_final = 400 <= response.status_code < 500 and response.status_code != 401
    if not (is_final and is_api_request() and 0 < len(token) <= MAX_TOKEN) or g.get("is_noted"):
        return response
    limit = current_settings().alerts_per_minute
    try:
        wait = Integration.seconds_to_wait(token, limit)
        admission = Integration.admit(token, limit, is_refused=True) if wait == 0 else None
        if admission is not None:
            wait = admission.wait
            response = _too_many(wait) if wait else response
            why = dump(g.refusal) if "refusal" in g else _sentence(response)
            refusals.record(admission, response.status_code, why, g.get("body", b""), token)
        elif wait:
            response = _too_many(wait)
        db.session.commit()
    except sa.exc.SQLAlchemyError as error:
        # The refusal is answered even if it cannot be recorded.
        db.session.rollback()
        logger.error("A refusal could not be recorded: %s", type(getattr(error, "orig", None) or error).__name__)
    return response


def _too_many(wait: int) -> Response:
    g.refusal = _too_many_alerts()
    response = jsonify(error=words(g.refusal))
    response.status_code = 429
    response.headers["Retry-After"] = str(wait)
    return response


def _too_many_alerts() -> Answers:
    return answer("request.too_many", most=f"{current_settings().alerts_per_minute:,}")


def _sentence(response: Response) -> str:
    return str(response.json["error"]) if response.is_json else response.get_data(as_text=True)  # type: ignore[index]


def _sent_token() -> str:
    """Return the bearer token of the request, valid or not; "" if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" else ""


def _token() -> str:
    """Return the token of the request; raise 401 if it is unknown, 429 if its integration is rate limited."""
    token = _sent_token()
    if not token:
        _refuse("Send the token of an integration in the header Authorization, after the word Bearer.")
    is_short = len(token) <= MAX_TOKEN
    wait = Integration.seconds_to_wait(token, current_settings().alerts_per_minute) if is_short else None
    if wait != 0:
        db.session.commit()  # a rollback would discard prepared statements
    if wait is None:
        _refuse(UNKNOWN)
    if wait:
        g.is_noted = True  # recorded once a minute, with the first alert beyond the limit
        raise TooManyRequests(words(_too_many_alerts()), retry_after=wait)
    return token


def _admit(token: str) -> Admission:
    """Count a request of the integration; its row stays locked until the commit, so nothing slow may follow."""
    admission = Integration.admit(token, current_settings().alerts_per_minute)
    if admission is None:
        _refuse(UNKNOWN)
    note_account(request.environ, admission.account_id)
    if admission.wait:
        g.is_noted = True
        refusals.record(admission, 429, dump(_too_many_alerts()), g.get("body", b""), token)
        db.session.commit()
        raise TooManyRequests(words(_too_many_alerts()), retry_after=admission.wait)
    return admission


def _refuse(sentence: str) -> NoReturn:
    raise Unauthorized(sentence, www_authenticate=WWWAuthenticate("bearer"))


def _idempotency_key() -> str | None:
    """Return the sender's idempotency key, if any; raise Refused if it is invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise Refused("request.bad_idempotency_key")
    return key
