"""Send a text message with Alibaba Cloud SMS: SendSms of 2017-05-25, an RPC call that is signed with HMAC-SHA1.

The template that ALIYUN_TEMPLATE_CODE names must contain the variable ${content}, which takes the whole text.
Alibaba Cloud limits the value of a variable: no links, and a maximum length that depends on its type and the country;
since 2018 a variable of a notification template in China takes at most 35 characters.
"""

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import requests

from ...config import Aliyun
from . import Outcome, outgoing, quoted, quoted_code

LATER = ("isp.", "Throttling", "ServiceUnavailable", "InternalError", "SignatureNonceUsed")
UNKNOWN_TEMPLATE = "Alibaba Cloud does not know the template, or has not approved it. Check ALIYUN_TEMPLATE_CODE."
MISFIT = "The template does not fit. It has to contain the variable ${content}, and no other."
# The first key that is a prefix of the error code applies; the response is quoted for other codes.
FAILED = {
    "isv.SMS_SIGNATURE_SCENE": "The signature is not for templates of this kind. Check ALIYUN_SIGN_NAME.",
    "isv.SMS_SIGN_ILLEGAL": "Alibaba Cloud has forbidden the signature. Check ALIYUN_SIGN_NAME.",
    "isv.SIGN_STATE_ILLEGAL": "The signature cannot be used as it stands at Alibaba Cloud. Check ALIYUN_SIGN_NAME.",
    "isv.SMS_SIGN": "Alibaba Cloud does not know the signature. Check ALIYUN_SIGN_NAME.",
    "isv.TEMPLATE_PARAMS_ILLEGAL": "The text holds a word that Alibaba Cloud does not send.",
    "isv.TEMPLATE_MISSING": MISFIT,
    "isv.INVALID_JSON_PARAM": MISFIT,
    "isv.PARAM_LENGTH_LIMIT": "The template's variable ${content} is shorter than ALIYUN_CONTENT_LENGTH.",
    "isv.PARAM_NOT_SUPPORT_URL": "The text holds a link, or what looks like one, which ${content} may not.",
    "isv.BLACK_KEY_CONTROL_LIMIT": "The text holds a word that Alibaba Cloud does not send.",
    "isv.SMS_CONTENT_ILLEGAL": "The text holds a word that Alibaba Cloud does not send.",
    "isv.MOBILE_NUMBER_ILLEGAL": "Alibaba Cloud does not take the number. Check it in the contact.",
    "isv.DOMESTIC_NUMBER_NOT_SUPPORTED": "The template is for numbers outside China. Check ALIYUN_TEMPLATE_CODE.",
    "isv.DENY_IP_RANGE": "Alibaba Cloud does not take calls from the address of this console.",
    "isv.DAY_LIMIT_CONTROL": "The daily limit set at Alibaba Cloud is reached.",
    "isv.MONTH_LIMIT_CONTROL": "The monthly limit set at Alibaba Cloud is reached.",
    "isv.AMOUNT_NOT_ENOUGH": "The balance at Alibaba Cloud is used up.",
    "isv.OUT_OF_SERVICE": "Alibaba Cloud has stopped the service. Check the balance.",
    "isv.PRODUCT_UN": "The account at Alibaba Cloud has not subscribed to the SMS service.",
    "isv.ACCOUNT_NOT_EXISTS": "Alibaba Cloud does not know the account. Check ALIYUN_ACCESS_KEY_ID.",
    "isv.ACCOUNT_ABNORMAL": "Alibaba Cloud has blocked the account, or its balance is used up.",
    "isp.RAM_PERMISSION_DENY": "The access key may not send text messages. Give it the right to call SendSms.",
    "InvalidAccessKeyId": "Alibaba Cloud does not know the access key. Check ALIYUN_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "The secret of the access key is wrong. Check ALIYUN_ACCESS_KEY_SECRET.",
    "InvalidTimeStamp": "Alibaba Cloud finds the time wrong. Check the clock of the console's machine.",
    "Forbidden": "The access key may not send text messages. Give it the right to call SendSms.",
    "NoPermission": "The access key may not send text messages. Give it the right to call SendSms.",
}
# An error code with two meanings, which only the message of the response distinguishes.
IS_MISFIT = re.compile("变量|参数|variable|param", re.IGNORECASE)
IS_UNKNOWN = re.compile("不合法|找不到|不存在|拉黑|审核|illegal|not (exist|found)|unknown|approved", re.IGNORECASE)
CONTENT = (
    *("isv.PARAM_LENGTH_LIMIT", "isv.PARAM_NOT_SUPPORT_URL", "isv.BLACK_KEY_CONTROL_LIMIT"),
    *("isv.TEMPLATE_PARAMS_ILLEGAL", "isv.SMS_CONTENT_ILLEGAL"),
)
PERHAPS_CONTENT = "isv.INVALID_PARAMETERS"  # also returned for a variable that is too long
LIMITS = {"分钟|minute": "minute", "小时|hour": "hour", "天|日|day": "day"}


def send(session: requests.Session, access: Aliyun, mobile: str, text: str) -> Outcome:
    """Send `text` to a number in E.164, as the variable ${content} of the template."""
    # Numbers in China are written without the country code, all others with it but without the plus sign.
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
    """Return the Base64 HMAC-SHA1 signature of the request, over the sorted and percent-encoded parameters."""
    query = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(parameters.items()))
    signed = f"{method}&{_encoded('/')}&{_encoded(query)}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), signed.encode(), hashlib.sha1).digest()).decode()


def _encoded(value: str) -> str:
    return quote(value, safe="~")


def _outcome(answer: outgoing.Answer, access: Aliyun) -> Outcome:
    secrets = (access.access_key_id, access.access_key_secret)
    try:
        said = json.loads(answer.body)
        code, message = str(said["Code"]), str(said.get("Message", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if 400 <= answer.status < 500 and answer.status != 429:
            return Outcome("failed", f"Alibaba Cloud refused the text (HTTP {answer.status}).")
        words = f"Alibaba Cloud: unexpected response (HTTP {answer.status})."
        return Outcome("later", words, is_uncertain=answer.status != 429)
    if code == "OK":
        return Outcome("sent", "Alibaba Cloud took the text.")
    shown = quoted_code(code, *secrets)
    if reason := _explained(code, message):
        return Outcome("failed", f"{reason} ({shown})", text_state="refused" if code.startswith(CONTENT) else "whole")
    said = f"{shown} {quoted(message, *secrets)}".rstrip()
    if "BUSINESS_LIMIT" in code:
        span = next((span for words, span in LIMITS.items() if re.search(words, f"{code} {message}", re.I)), "")
        limits = f"the limit of one {span}" if span else "the limits"
        return Outcome("later", f"The number has been sent too many texts for {limits} at Alibaba Cloud. ({said})")
    if code.startswith(LATER):
        return Outcome("later", f"Alibaba Cloud cannot send at the moment: {said}")
    text_state = "doubtful" if code == PERHAPS_CONTENT else "whole"
    return Outcome("failed", f"Alibaba Cloud refused the text: {said}", text_state=text_state)


def _explained(code: str, message: str) -> str | None:
    """Return the explanation of a permanent error; None for a temporary or unknown one."""
    if code == "isv.SMS_TEMPLATE_ILLEGAL":
        return MISFIT if IS_MISFIT.search(message) else UNKNOWN_TEMPLATE if IS_UNKNOWN.search(message) else None
    return next((words for beginning, words in FAILED.items() if code.startswith(beginning)), None)
