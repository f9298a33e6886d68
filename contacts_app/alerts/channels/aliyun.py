"""Send a text message with Alibaba Cloud SMS: SendSms of 2017-05-25, an RPC call that is signed with HMAC-SHA1.

The template that ALIYUN_TEMPLATE_CODE names has to contain the variable ${content}, which takes the whole text.
Alibaba Cloud limits what a variable may hold, by its type and the country: its length, and that it holds no link.
"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import requests

from ...config import Aliyun
from . import Outcome, outgoing, quoted

LATER = ("isv.BUSINESS_LIMIT_CONTROL", "isp.", "Throttling", "ServiceUnavailable", "InternalError")
# The first that begins like the code of the answer counts.
FAILED = {
    "isv.SMS_SIGN": "Alibaba Cloud does not know the signature. Check ALIYUN_SIGN_NAME.",
    "isv.SMS_TEMPLATE_ILLEGAL": "Alibaba Cloud does not know the template. Check ALIYUN_TEMPLATE_CODE.",
    "isv.TEMPLATE_": "The template does not fit. It has to contain the variable ${content}, and no other.",
    "isv.INVALID_JSON_PARAM": "The template does not fit. It has to contain the variable ${content}, and no other.",
    "isv.PARAM_LENGTH_LIMIT": "The text is longer than the template's variable ${content} may be.",
    "isv.PARAM_NOT_SUPPORT_URL": "The text holds a link, which the template's variable ${content} may not.",
    "isv.BLACK_KEY_CONTROL_LIMIT": "The text holds a word that Alibaba Cloud does not send.",
    "isv.MOBILE_NUMBER_ILLEGAL": "Alibaba Cloud does not take the number. Check it in the contact.",
    "isv.DENY_IP_RANGE": "Alibaba Cloud does not take calls from the address of this console.",
    "isv.DAY_LIMIT_CONTROL": "The daily limit set at Alibaba Cloud is reached.",
    "isv.AMOUNT_NOT_ENOUGH": "The balance at Alibaba Cloud is used up.",
    "isv.OUT_OF_SERVICE": "Alibaba Cloud has stopped the service. Check the balance.",
    "isv.PRODUCT_UN_SUBSCRI": "The account at Alibaba Cloud has not subscribed to the SMS service.",
    "isv.ACCOUNT_": "The account at Alibaba Cloud does not exist, or is blocked.",
    "isp.RAM_PERMISSION_DENY": "The access key may not send text messages. Give it the right to call SendSms.",
    "InvalidAccessKeyId": "Alibaba Cloud does not know the access key. Check ALIYUN_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "The secret of the access key is wrong. Check ALIYUN_ACCESS_KEY_SECRET.",
    "InvalidTimeStamp": "Alibaba Cloud finds the time wrong. Check the clock of the console's machine.",
    "Forbidden": "The access key may not send text messages. Give it the right to call SendSms.",
    "NoPermission": "The access key may not send text messages. Give it the right to call SendSms.",
}


def send(session: requests.Session, access: Aliyun, mobile: str, text: str) -> Outcome:
    """Send `text` to a number in E.164, as the variable ${content} of the template."""
    # Numbers in China are known without the country's code, all others with it but without the plus sign.
    form = {
        "AccessKeyId": access.access_key_id,
        "Action": "SendSms",
        "Format": "JSON",
        "PhoneNumbers": mobile.removeprefix("+86").removeprefix("+"),
        "SignName": access.sign_name,
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": str(uuid4()),
        "SignatureVersion": "1.0",
        "TemplateCode": access.template_code,
        "TemplateParam": json.dumps({"content": text}, ensure_ascii=False),
        "Timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "Version": "2017-05-25",
    }
    form["Signature"] = signature("POST", form, access.access_key_secret)
    try:
        answer = outgoing.post(session, f"{access.endpoint}/", data=form)
    except outgoing.CannotReach as error:
        return Outcome("later", error.words, is_uncertain=error.is_uncertain)
    return _outcome(answer, access)


def signature(method: str, parameters: dict[str, str], secret: str) -> str:
    """Return the signature over `parameters`, which stand sorted and encoded in what is signed."""
    query = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(parameters.items()))
    signed = f"{method}&{_encoded('/')}&{_encoded(query)}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), signed.encode(), hashlib.sha1).digest()).decode()


def _encoded(value: str) -> str:
    return quote(value, safe="~")


def _outcome(answer: outgoing.Answer, access: Aliyun) -> Outcome:
    try:
        said = json.loads(answer.body)
        code, message = str(said["Code"]), str(said.get("Message", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if 400 <= answer.status < 500 and answer.status != 429:
            return Outcome("failed", f"Alibaba Cloud refused the text (HTTP {answer.status}).")
        words = f"Alibaba Cloud answered something that cannot be read (HTTP {answer.status})."
        return Outcome("later", words, is_uncertain=answer.status != 429)
    if code == "OK":
        return Outcome("sent", "Alibaba Cloud took the text.")
    for beginning, words in FAILED.items():
        if code.startswith(beginning):
            return Outcome("failed", words)
    said = quoted(f"{code} {message}", access.access_key_id, access.access_key_secret)
    if code.startswith("isv.BUSINESS_LIMIT_CONTROL"):
        return Outcome("later", "The number has been sent too many texts for the limits at Alibaba Cloud.")
    if code.startswith(LATER):
        return Outcome("later", f"Alibaba Cloud cannot send at the moment: {said}")
    return Outcome("failed", f"Alibaba Cloud refused the text: {said}")
