"""Send a text message with Twilio."""

import json

import requests

from ...config import Twilio
from . import Outcome, outgoing, quoted

TOO_MANY = (20429, 21611, 14107)  # concurrent requests, the sender's queue, the rate of messages
LOG_ON = 20003
FAILED = {
    20003: "Twilio does not take the log-on. Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.",
    20005: "The account at Twilio is not active.",
    20404: "Twilio does not know the account. Check TWILIO_ACCOUNT_SID.",
    21211: "Twilio does not take the number. Check it in the contact.",
    21212: "Twilio does not know the sender. Check TWILIO_FROM.",
    21217: "Twilio does not take the number. Check it in the contact.",
    21408: "The account at Twilio may not send to this country. Allow it in Twilio's geographic permissions.",
    21601: "The sender is no number of this account at Twilio. Check TWILIO_FROM.",
    21605: "The text is longer than Twilio takes.",
    21606: "The sender cannot send to this number. Check TWILIO_FROM.",
    21608: "The account at Twilio is on trial, and sends only to numbers that were confirmed there.",
    21610: "The recipient has unsubscribed by answering STOP, and can subscribe by answering START.",
    21612: "The sender cannot send to this number. Check TWILIO_FROM.",
    21614: "The number is not one of a mobile phone. Check it in the contact.",
    21617: "The text is longer than Twilio takes.",
    21635: "The number is not one of a mobile phone. Check it in the contact.",
    21658: "The text is longer than Twilio takes.",
    21659: "The sender is no number of this account at Twilio. Check TWILIO_FROM.",
    21660: "The sender is no number of this account at Twilio. Check TWILIO_FROM.",
    21703: "The messaging service has no number that can send. Check TWILIO_FROM.",
    21705: "Twilio does not know the messaging service. Check TWILIO_FROM.",
    30002: "The account at Twilio is suspended.",
    30007: "Twilio or the network has filtered the text for what it says.",
    30019: "The text is longer than the network takes.",
    30034: "The sender is not registered for texts to the United States. Register it at Twilio.",
}
CONTENT = (21605, 21617, 21658, 30007, 30019)


def send(session: requests.Session, access: Twilio, mobile: str, text: str) -> Outcome:
    """Send `text` to a number in E.164."""
    sender = "MessagingServiceSid" if access.sender.startswith("MG") else "From"
    url = f"{access.endpoint}/2010-04-01/Accounts/{access.account_sid}/Messages.json"
    form = {"To": mobile, sender: access.sender, "Body": text}
    try:
        answer = outgoing.post(session, url, data=form, auth=(access.account_sid, access.auth_token))
    except outgoing.CannotReach as error:
        return Outcome("later", error.words, is_uncertain=error.is_uncertain)
    return _outcome(answer, access)


def _outcome(answer: outgoing.Answer, access: Twilio) -> Outcome:
    try:
        said = json.loads(answer.body)
        sid, code, message = said.get("sid"), int(said.get("code") or 0), str(said.get("message", ""))
    except (ValueError, TypeError, AttributeError, RecursionError):
        sid, code, message = None, 0, ""
    if answer.status == 201 and sid:
        return Outcome("sent", "Twilio took the text.")
    if answer.status == 429 or code in TOO_MANY:
        return Outcome("later", "Twilio: rate limited." + (f" ({code})" if code else ""))
    if answer.status < 400 or answer.status >= 500:
        words = f"Twilio: unexpected response (HTTP {answer.status})."
        return Outcome("later", words, is_uncertain=True)
    if answer.status == 401:
        code = code or LOG_ON
    # With another HTTP status this code means that the credentials are valid but lack the permission to send.
    if code in FAILED and not (code == LOG_ON and answer.status != 401):
        return Outcome("failed", f"{FAILED[code]} ({code})", text_state="refused" if code in CONTENT else "whole")
    said_words = quoted(message, access.auth_token, access.account_sid)
    return Outcome("failed", f"Twilio refused the text: {code or f'HTTP {answer.status}'} {said_words}".rstrip())
