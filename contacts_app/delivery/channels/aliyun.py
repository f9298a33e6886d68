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

from ...config import Aliyun
from ..answers import answer
from . import Outcome, outgoing, quoted, quoted_code

LATER = ("isp.", "Throttling", "ServiceUnavailable", "InternalError", "SignatureNonceUsed")
UNKNOWN_TEMPLATE, MISFIT = "aliyun.unknown_template", "aliyun.unfit_template"
# The first key that is a prefix of the error code applies; the response is quoted for other codes.
FAILED = {
    "isv.SMS_SIGNATURE_SCENE": "aliyun.unfit_signature",
    "isv.SMS_SIGN_ILLEGAL": "aliyun.forbidden_signature",
    "isv.SIGN_STATE_ILLEGAL": "aliyun.unusable_signature",
    "isv.SMS_SIGN": "aliyun.unknown_signature",
    "isv.TEMPLATE_PARAMS_ILLEGAL": "aliyun.word",
    "isv.TEMPLATE_MISSING": MISFIT,
    "isv.INVALID_JSON_PARAM": MISFIT,
    "isv.PARAM_LENGTH_LIMIT": "aliyun.too_long",
    "isv.PARAM_NOT_SUPPORT_URL": "aliyun.link",
    "isv.BLACK_KEY_CONTROL_LIMIT": "aliyun.word",
    "isv.SMS_CONTENT_ILLEGAL": "aliyun.word",
    "isv.MOBILE_NUMBER_ILLEGAL": "aliyun.bad_number",
    "isv.DOMESTIC_NUMBER_NOT_SUPPORTED": "aliyun.template_for_abroad",
    "isv.DENY_IP_RANGE": "aliyun.bad_origin",
    "isv.DAY_LIMIT_CONTROL": "aliyun.daily_limit",
    "isv.MONTH_LIMIT_CONTROL": "aliyun.monthly_limit",
    "isv.AMOUNT_NOT_ENOUGH": "aliyun.no_balance",
    "isv.OUT_OF_SERVICE": "aliyun.stopped",
    "isv.PRODUCT_UN": "aliyun.not_subscribed",
    "isv.ACCOUNT_NOT_EXISTS": "aliyun.unknown_account",
    "isv.ACCOUNT_ABNORMAL": "aliyun.blocked_account",
    "isp.RAM_PERMISSION_DENY": "aliyun.no_permission",
    "InvalidAccessKeyId": "aliyun.unknown_key",
    "SignatureDoesNotMatch": "aliyun.wrong_key",
    "InvalidTimeStamp": "aliyun.wrong_time",
    "Forbidden": "aliyun.no_permission",
    "NoPermission": "aliyun.no_permission",
}
# An error code with two meanings, which only the message of the response distinguishes.
IS_MISFIT = re.compile("变量|参数|variable|param", re.IGNORECASE)
IS_UNKNOWN = re.compile("不合法|找不到|不存在|拉黑|审核|illegal|not (exist|found)|unknown|approved", re.IGNORECASE)
CONTENT = (
    *("isv.PARAM_LENGTH_LIMIT", "isv.PARAM_NOT_SUPPORT_URL", "isv.BLACK_KEY_CONTROL_LIMIT"),
    *("isv.TEMPLATE_PARAMS_ILLEGAL", "isv.SMS_CONTENT_ILLEGAL"),
)
PERHAPS_CONTENT = "isv.INVALID_PARAMETERS"  # also returned for a variable that is too long
LIMITS = {
    "分钟|minute": "aliyun.limit_of_a_minute",
    "小时|hour": "aliyun.limit_of_an_hour",
    "天|日|day": "aliyun.limit_of_a_day",
}


def send(session: outgoing.Session, access: Aliyun, mobile: str, text: str) -> Outcome:
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
        response = outgoing.post(session, f"{access.endpoint}/", form)
    except outgoing.CannotReach as error:
        return Outcome("later", error.answer, is_uncertain=error.is_uncertain)
    return _outcome(response, access)


def signature(method: str, parameters: dict[str, str], secret: str) -> str:
    """Return the Base64 HMAC-SHA1 signature of the request, over the sorted and percent-encoded parameters."""
    query = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(parameters.items()))
    signed = f"{method}&{_encoded('/')}&{_encoded(query)}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), signed.encode(), hashlib.sha1).digest()).decode()


def _encoded(value: str) -> str:
    return quote(value, safe="~")


def _outcome(response: outgoing.Response, access: Aliyun) -> Outcome:
    secrets = (access.access_key_id, access.access_key_secret)
    try:
        said = json.loads(response.body)
        code, message = str(said["Code"]), str(said.get("Message", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if 400 <= response.status < 500 and response.status != 429:
            return Outcome("failed", answer("aliyun.refused_status", status=response.status))
        why = answer("aliyun.unexpected", status=response.status)
        return Outcome("later", why, is_uncertain=response.status != 429)
    if code == "OK":
        return Outcome("sent", answer("aliyun.sent"))
    shown = quoted_code(code, *secrets)
    if reason := _explained(code, message):
        text_state = "refused" if code.startswith(CONTENT) else "whole"
        return Outcome("failed", answer(reason, error=shown), text_state=text_state)
    said = f"{shown} {quoted(message, *secrets)}".rstrip()
    if "BUSINESS_LIMIT" in code:
        limits = (limit for words, limit in LIMITS.items() if re.search(words, f"{code} {message}", re.I))
        return Outcome("later", answer(next(limits, "aliyun.limits"), said=said))
    if code.startswith(LATER):
        return Outcome("later", answer("aliyun.not_now", said=said))
    text_state = "doubtful" if code == PERHAPS_CONTENT else "whole"
    return Outcome("failed", answer("aliyun.refused", said=said), text_state=text_state)


def _explained(code: str, message: str) -> str | None:
    """Return the code of a permanent error; None for a temporary or unknown one."""
    if code == "isv.SMS_TEMPLATE_ILLEGAL":
        return MISFIT if IS_MISFIT.search(message) else UNKNOWN_TEMPLATE if IS_UNKNOWN.search(message) else None
    return next((reason for beginning, reason in FAILED.items() if code.startswith(beginning)), None)
