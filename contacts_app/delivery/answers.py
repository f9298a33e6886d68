"""Say what became of a delivery: stored as codes with parameters, and turned into sentences when it is shown."""

import json
from collections.abc import Mapping
from typing import NamedTuple

MAX_STORED = 500  # characters of what is stored
# Each entry is one or several whole sentences. Only what the other side said, names, numbers and times are parameters.
SENTENCES = {
    "quoted": "%(text)s",
    # Any channel.
    "delivery.contact_deleted": "The contact has been deleted.",
    "delivery.headline_only": "Only the headline was sent.",
    "delivery.in_digest": "It went in one message with %(others)s others, because more came than the limit of"
    " this contact lets through one by one.",
    "delivery.limit_of_tests": "A contact gets at most %(tests)s tests a minute.",  # in place of who cancelled it
    "delivery.given_up": "Given up after an hour.",
    "delivery.no_result": "Given up: each worker that sent this ended before the result was recorded.",
    "delivery.not_recorded": "The answer could not be written down. Tell your administrator.",
    "delivery.console_failed": "The console itself failed (%(error)s). Tell your administrator.",
    # The way to a server.
    "outgoing.redirect": "%(host)s answered with a redirect, which is not followed.",
    "outgoing.too_large": "%(host)s answered more than 64 KiB.",
    "outgoing.not_https": "%(host)s is not called, because the address does not begin with https://.",
    "outgoing.no_answer": "%(host)s did not answer within %(seconds)s seconds.",
    "outgoing.unreadable_answer": "%(host)s closed the connection without an answer that can be read.",
    "outgoing.unreadable_address": "%(host)s cannot be called: its address cannot be read.",
    "outgoing.not_trusted": "The certificate of %(host)s is not trusted.",
    "outgoing.not_secure": "%(host)s closed the connection before it was secure.",
    "outgoing.not_public": "%(host)s is not called, because its address %(address)s is not public."
    " OUTGOING_NETWORKS can allow it.",
    "outgoing.unreachable": "%(host)s cannot be reached.",
    "outgoing.connection_refused": "%(host)s refused the connection.",
    "outgoing.unknown_host": "%(host)s cannot be found.",
    # Text messages.
    "sms.not_set_up": "Text messages are not set up: SMS_PROVIDER is not set.",
    "sms.no_address": "The contact has no mobile phone number any more.",
    "twilio.sent": "Twilio took the text.",
    "twilio.rate_limited": "Twilio: rate limited.",
    "twilio.rate_limited_error": "Twilio: rate limited. (%(error)s)",
    "twilio.unexpected": "Twilio: unexpected response (HTTP %(status)s).",
    "twilio.refused": "Twilio refused the text: %(said)s",
    "twilio.log_on": "Twilio does not take the log-on. Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN. (%(error)s)",
    "twilio.inactive_account": "The account at Twilio is not active. (%(error)s)",
    "twilio.unknown_account": "Twilio does not know the account. Check TWILIO_ACCOUNT_SID. (%(error)s)",
    "twilio.bad_number": "Twilio does not take the number. Check it in the contact. (%(error)s)",
    "twilio.unknown_sender": "Twilio does not know the sender. Check TWILIO_FROM. (%(error)s)",
    "twilio.country": "The account at Twilio may not send to this country. Allow it in Twilio's geographic permissions."
    " (%(error)s)",
    "twilio.foreign_sender": "The sender is no number of this account at Twilio. Check TWILIO_FROM. (%(error)s)",
    "twilio.too_long": "The text is longer than Twilio takes. (%(error)s)",
    "twilio.unfit_sender": "The sender cannot send to this number. Check TWILIO_FROM. (%(error)s)",
    "twilio.trial": "The account at Twilio is on trial, and sends only to numbers that were confirmed there."
    " (%(error)s)",
    "twilio.unsubscribed": "The recipient has unsubscribed by answering STOP, and can subscribe by answering START."
    " (%(error)s)",
    "twilio.not_mobile": "The number is not one of a mobile phone. Check it in the contact. (%(error)s)",
    "twilio.no_sender": "The messaging service has no number that can send. Check TWILIO_FROM. (%(error)s)",
    "twilio.unknown_service": "Twilio does not know the messaging service. Check TWILIO_FROM. (%(error)s)",
    "twilio.suspended_account": "The account at Twilio is suspended. (%(error)s)",
    "twilio.filtered": "Twilio or the network has filtered the text for what it says. (%(error)s)",
    "twilio.too_long_for_network": "The text is longer than the network takes. (%(error)s)",
    "twilio.unregistered_sender": "The sender is not registered for texts to the United States. Register it at Twilio."
    " (%(error)s)",
    "aliyun.sent": "Alibaba Cloud took the text.",
    "aliyun.unexpected": "Alibaba Cloud: unexpected response (HTTP %(status)s).",
    "aliyun.refused_status": "Alibaba Cloud refused the text (HTTP %(status)s).",
    "aliyun.refused": "Alibaba Cloud refused the text: %(said)s",
    "aliyun.not_now": "Alibaba Cloud cannot send at the moment: %(said)s",
    "aliyun.limit_of_a_minute": "The number has been sent too many texts for the limit of one minute at Alibaba Cloud."
    " (%(said)s)",
    "aliyun.limit_of_an_hour": "The number has been sent too many texts for the limit of one hour at Alibaba Cloud."
    " (%(said)s)",
    "aliyun.limit_of_a_day": "The number has been sent too many texts for the limit of one day at Alibaba Cloud."
    " (%(said)s)",
    "aliyun.limits": "The number has been sent too many texts for the limits at Alibaba Cloud. (%(said)s)",
    "aliyun.unknown_template": "Alibaba Cloud does not know the template, or has not approved it. Check"
    " ALIYUN_TEMPLATE_CODE. (%(error)s)",
    "aliyun.unfit_template": "The template does not fit. It has to contain the variable ${content}, and no other."
    " (%(error)s)",
    "aliyun.unfit_signature": "The signature is not for templates of this kind. Check ALIYUN_SIGN_NAME. (%(error)s)",
    "aliyun.forbidden_signature": "Alibaba Cloud has forbidden the signature. Check ALIYUN_SIGN_NAME. (%(error)s)",
    "aliyun.unusable_signature": "The signature cannot be used as it stands at Alibaba Cloud. Check ALIYUN_SIGN_NAME."
    " (%(error)s)",
    "aliyun.unknown_signature": "Alibaba Cloud does not know the signature. Check ALIYUN_SIGN_NAME. (%(error)s)",
    "aliyun.word": "The text holds a word that Alibaba Cloud does not send. (%(error)s)",
    "aliyun.too_long": "The template's variable ${content} is shorter than ALIYUN_CONTENT_LENGTH. (%(error)s)",
    "aliyun.link": "The text holds a link, or what looks like one, which ${content} may not. (%(error)s)",
    "aliyun.bad_number": "Alibaba Cloud does not take the number. Check it in the contact. (%(error)s)",
    "aliyun.template_for_abroad": "The template is for numbers outside China. Check ALIYUN_TEMPLATE_CODE. (%(error)s)",
    "aliyun.bad_origin": "Alibaba Cloud does not take calls from the address of this console. (%(error)s)",
    "aliyun.daily_limit": "The daily limit set at Alibaba Cloud is reached. (%(error)s)",
    "aliyun.monthly_limit": "The monthly limit set at Alibaba Cloud is reached. (%(error)s)",
    "aliyun.no_balance": "The balance at Alibaba Cloud is used up. (%(error)s)",
    "aliyun.stopped": "Alibaba Cloud has stopped the service. Check the balance. (%(error)s)",
    "aliyun.not_subscribed": "The account at Alibaba Cloud has not subscribed to the SMS service. (%(error)s)",
    "aliyun.unknown_account": "Alibaba Cloud does not know the account. Check ALIYUN_ACCESS_KEY_ID. (%(error)s)",
    "aliyun.blocked_account": "Alibaba Cloud has blocked the account, or its balance is used up. (%(error)s)",
    "aliyun.no_permission": "The access key may not send text messages. Give it the right to call SendSms. (%(error)s)",
    "aliyun.unknown_key": "Alibaba Cloud does not know the access key. Check ALIYUN_ACCESS_KEY_ID. (%(error)s)",
    "aliyun.wrong_key": "The secret of the access key is wrong. Check ALIYUN_ACCESS_KEY_SECRET. (%(error)s)",
    "aliyun.wrong_time": "Alibaba Cloud finds the time wrong. Check the clock of the console's machine. (%(error)s)",
    # E-mail.
    "mail.not_set_up": "E-mail is not set up: SMTP_HOST is not set.",
    "mail.no_address": "The contact has no mailbox any more.",
    "mail.sent": "The mail server took the message.",
    "mail.unwritable_mailbox": "The mailbox cannot be written as mail servers know it. Enter it again.",
    "mail.no_utf8": "%(host)s takes no mailbox with letters outside ASCII (SMTPUTF8).",
    "mail.no_starttls": "%(host)s does not offer STARTTLS. Check SMTP_SECURITY and SMTP_PORT.",
    "mail.no_log_on": "%(host)s does not offer to log on. Check SMTP_SECURITY and SMTP_PORT.",
    "mail.no_tls": "%(host)s does not speak TLS as expected. Check SMTP_SECURITY and SMTP_PORT.",
    "mail.not_trusted": "The certificate of %(host)s is not trusted. CA_BUNDLE can name its authority.",
    "mail.connection_closed": "%(host)s closed the connection.",
    "mail.unreachable": "%(host)s cannot be found or reached.",
    "mail.refused_connection": "The mail server refused the connection: %(said)s",
    "mail.refused_credentials": "The mail server refused SMTP_USER and SMTP_PASSWORD: %(said)s",
    "mail.refused_sender": "The mail server refused the sender: %(said)s",
    "mail.refused_relaying": "The mail server refused to send for this console; check SMTP_USER and SMTP_PASSWORD:"
    " %(said)s",
    "mail.refused_mailbox": "The mail server refused the mailbox: %(said)s",
    "mail.refused_message": "The mail server refused the message: %(said)s",
    # DingTalk.
    "dingtalk.no_address": "The contact has no DingTalk robot any more.",
    "dingtalk.sent": "The robot took the message.",
    "dingtalk.bad_host": "The robot's host is not one of DingTalk's. Enter the robot's address again.",
    "dingtalk.unreadable": "The robot's address cannot be read, because ENCRYPTION_KEYS of this worker lacks its key.",
    "dingtalk.secret_not_tried": "The secret of this contact was not tried yet: %(refused)s of other contacts were"
    " refused before it. Correct those.",
    "dingtalk.rate_limited": "DingTalk: rate limited (HTTP 429).",
    "dingtalk.out_of_order": "DingTalk is out of order (HTTP %(status)s).",
    "dingtalk.unexpected": "DingTalk: unexpected response.",
    "dingtalk.refused_status": "DingTalk refused the message (HTTP %(status)s).",
    "dingtalk.refused": "DingTalk refused the message: %(said)s",
    "dingtalk.blocked": "The robot is blocked until %(until)s, because it was sent more than 20 messages in a minute."
    " (%(error)s)",
    "dingtalk.busy": "DingTalk is busy. (%(error)s)",
    "dingtalk.unknown_robot": "DingTalk does not know the token. Copy the robot's address from its settings again."
    " (%(error)s)",
    "dingtalk.chat_dissolved": "The robot's group chat has been dissolved. Enter the robot of another. (%(error)s)",
    "dingtalk.switched_off": "The robot is switched off. Switch it on in the settings of its group chat. (%(error)s)",
    "dingtalk.not_in_chat": "The robot is not in its group chat any more. Add it again, and enter its address."
    " (%(error)s)",
    "dingtalk.link": "The text holds a link that DingTalk does not take for safe. (%(error)s)",
    "dingtalk.word": "The text holds a word that DingTalk does not send. (%(error)s)",
    "dingtalk.picture": "The text holds a picture that DingTalk does not send. (%(error)s)",
    "dingtalk.something": "The text holds something that DingTalk does not send. (%(error)s)",
    "dingtalk.too_long": "The text is longer than DingTalk takes. (%(error)s)",
    "dingtalk.no_keyword": "The robot wants a keyword in the text, and none is set. Enter the robot's keyword in the"
    " contact. (%(error)s)",
    "dingtalk.wrong_keyword": "The robot wants a keyword in the text, and '%(keyword)s' is not one of its keywords."
    " Enter the robot's keyword in the contact. (%(error)s)",
    "dingtalk.not_signed": "The robot wants a signature. Enter its secret (SEC…) in the contact. (%(error)s)",
    "dingtalk.wrong_signature": "The signature does not match: the secret in the contact is not the robot's."
    " Enter it again. (%(error)s)",
    "dingtalk.bad_origin": "The robot does not take messages from the address of this console. Add it to the robot's IP"
    " addresses. (%(error)s)",
    "dingtalk.wrong_time": "The robot finds the time of the message wrong. Check the clock of the console's machine."
    " (%(error)s)",
    "dingtalk.clock_fast": "The clock of the console's machine is %(minutes)s minutes fast. Set it right. (%(error)s)",
    "dingtalk.clock_slow": "The clock of the console's machine is %(minutes)s minutes slow. Set it right. (%(error)s)",
}
Parameters = tuple[tuple[str, str | int], ...]


class Answer(NamedTuple):
    """A code of SENTENCES with its parameters, none of which holds a secret."""

    code: str
    parameters: Parameters


Answers = tuple[Answer, ...]


def answer(code: str, /, **parameters: str | int) -> Answers:
    """Return one answer; several are added, and shown one after the other."""
    return (Answer(code, tuple(parameters.items())),)


def dump(answers: Answers) -> str:
    """Return the answers as they are stored: JSON of at most MAX_STORED characters; long texts are shortened."""
    stored = ""
    for most in range(MAX_STORED, -1, -10):
        found = [{"code": one.code, **_shortened(one.parameters, most)} for one in answers]
        plain = found if len(found) > 1 else found[0]
        # Sorted and without spaces, because equal answers are recognised by their text.
        stored = json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if len(stored) <= MAX_STORED:
            break
    return stored


def words(answers: Answers, sentences: Mapping[str, str] = SENTENCES) -> str:
    """Return the answers as sentences."""
    return " ".join(sentences[one.code] % dict(one.parameters) for one in answers)


def sentence(stored: str | None, sentences: Mapping[str, str] = SENTENCES) -> str:
    """Return the sentences of what `dump` stored; anything else is quoted, such as rows of earlier versions."""
    if stored is None:
        return ""
    try:
        found = json.loads(stored)
        return " ".join(sentences[one["code"]] % one for one in (found if isinstance(found, list) else [found]))
    except (ValueError, TypeError, KeyError):
        return stored


def _shortened(parameters: Parameters, most: int) -> dict[str, str | int]:
    return {
        name: f"{value[:most]}…" if isinstance(value, str) and len(value) > most else value
        for name, value in parameters
    }
