"""Send a text message with Twilio."""

import json
from base64 import b64encode

from ...config import Twilio
from ..answers import answer
from . import Outcome, outgoing, quoted

TOO_MANY = (20429, 21611, 14107)  # concurrent requests, the sender's queue, the rate of messages
LOG_ON = 20003
FAILED = {
    20003: "twilio.log_on",
    20005: "twilio.inactive_account",
    20404: "twilio.unknown_account",
    21211: "twilio.bad_number",
    21212: "twilio.unknown_sender",
    21217: "twilio.bad_number",
    21408: "twilio.country",
    21601: "twilio.foreign_sender",
    21605: "twilio.too_long",
    21606: "twilio.unfit_sender",
    21608: "twilio.trial",
    21610: "twilio.unsubscribed",
    21612: "twilio.unfit_sender",
    21614: "twilio.not_mobile",
    21617: "twilio.too_long",
    21635: "twilio.not_mobile",
    21658: "twilio.too_long",
    21659: "twilio.foreign_sender",
    21660: "twilio.foreign_sender",
    21703: "twilio.no_sender",
    21705: "twilio.unknown_service",
    30002: "twilio.suspended_account",
    30007: "twilio.filtered",
    30019: "twilio.too_long_for_network",
    30034: "twilio.unregistered_sender",
}
CONTENT = (21605, 21617, 21658, 30007, 30019)


def send(session: outgoing.Session, access: Twilio, mobile: str, text: str) -> Outcome:
    """Send `text` to a number in E.164."""
    sender = "MessagingServiceSid" if access.sender.startswith("MG") else "From"
    url = f"{access.endpoint}/2010-04-01/Accounts/{access.account_sid}/Messages.json"
    form = {"To": mobile, sender: access.sender, "Body": text}
    basic = "Basic " + b64encode(f"{access.account_sid}:{access.auth_token}".encode()).decode()
    try:
        response = outgoing.post(session, url, form, authorization=basic)
    except outgoing.CannotReach as error:
        return Outcome("later", error.answer, is_uncertain=error.is_uncertain)
    return _outcome(response, access)


def _outcome(response: outgoing.Response, access: Twilio) -> Outcome:
    try:
        said = json.loads(response.body)
        sid, code, message = said.get("sid"), int(said.get("code") or 0), str(said.get("message", ""))
    except (ValueError, TypeError, AttributeError, RecursionError):
        sid, code, message = None, 0, ""
    if response.status == 201 and sid:
        return Outcome("sent", answer("twilio.sent"))
    if response.status == 429 or code in TOO_MANY:
        why = answer("twilio.rate_limited_error", error=code) if code else answer("twilio.rate_limited")
        return Outcome("later", why)
    if response.status < 400 or response.status >= 500:
        return Outcome("later", answer("twilio.unexpected", status=response.status), is_uncertain=True)
    if response.status == 401:
        code = code or LOG_ON
    # With another HTTP status this code means that the credentials are valid but lack the permission to send.
    if code in FAILED and not (code == LOG_ON and response.status != 401):
        text_state = "refused" if code in CONTENT else "whole"
        return Outcome("failed", answer(FAILED[code], error=code), text_state=text_state)
    its_words = f"{code or f'HTTP {response.status}'} {quoted(message, access.auth_token, access.account_sid)}".rstrip()
    return Outcome("failed", answer("twilio.refused", said=its_words))
