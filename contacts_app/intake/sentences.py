"""Say why a request of a sender was refused: stored as a code with parameters, put into words when it is shown."""

from functools import partial

from ..delivery import answers

# As in delivery/answers.py: whole sentences, of which only names, numbers and words of the sender are parameters.
SENTENCES = {
    "request.too_many": "More than %(most)s alerts were sent within a minute. Further alerts in that minute are refused"
    " as well.",
    "request.not_json": "Send JSON, with the header Content-Type: application/json.",
    "request.bad_idempotency_key": "The Idempotency-Key must have 1 to 200 visible ASCII characters.",
    "body.bad_chunks": "The body is incomplete: its chunks end too early, or are malformed.",
    "body.unknown_coding": "Send the body uncompressed, or compressed with gzip or deflate as the header"
    " Content-Encoding says.",
    "body.not_compressed": "The body is not compressed with %(coding)s, although the header Content-Encoding says so.",
    "body.incomplete": "The body is incomplete: its %(coding)s data does not end where the body ends.",
    "body.empty": 'The body is empty. Send JSON, such as {"title": "Disk is full"}.',
    "body.not_utf_8": "The body is not JSON: it is not in UTF-8.",
    "body.not_json": "The body is not JSON: %(said)s (line %(line)s, column %(column)s).",
    "body.not_a_value": "The body is not JSON: %(name)s is not a value of JSON.",
    "body.nested": "The JSON in the body is nested too deeply.",
    "body.long_number": "The JSON in the body has a number with too many digits.",
    "body.unknown_format": "This is not an alert in a known format. Send the webhook of Alertmanager (with version and"
    " alerts), the webhook of Grafana (with orgId and alerts), or an object with title and, optionally, text, severity,"
    " status and key.",
    "body.is_list": 'The body must be an object, such as {"title": "Disk is full"}, not a list.',
    "body.is_text": 'The body must be an object, such as {"title": "Disk is full"}, not text.',
    "body.is_boolean": 'The body must be an object, such as {"title": "Disk is full"}, not true or false.',
    "body.is_number": 'The body must be an object, such as {"title": "Disk is full"}, not a number.',
    "body.is_null": 'The body must be an object, such as {"title": "Disk is full"}, not null.',
    "field.unknown": 'The field "%(field)s" is not known. The known fields are %(known)s.',
    "field.missing": 'The field "%(field)s" is missing.',
    "field.no_alerts": 'The field "alerts" must contain at least one alert.',
    "field.bad_version": 'The field "version" must be "4", the only supported version of Alertmanager\'s webhook.',
    "field.bad_state": 'The field "state" must be one of %(known)s, not "%(state)s".',
    "field.no_status": 'The field "%(field)s" is missing. It must be firing or resolved.',
    "field.bad_status": 'The field "%(field)s" must be firing or resolved, not "%(status)s".',
    "field.text_is_object": 'The field "%(field)s" must be text, not an object.',
    "field.text_is_list": 'The field "%(field)s" must be text, not a list.',
    "field.text_is_boolean": 'The field "%(field)s" must be text, not true or false.',
    "field.text_is_number": 'The field "%(field)s" must be text, not a number.',
    "field.object_is_list": 'The field "%(field)s" must be an object, not a list.',
    "field.object_is_text": 'The field "%(field)s" must be an object, not text.',
    "field.object_is_boolean": 'The field "%(field)s" must be an object, not true or false.',
    "field.object_is_number": 'The field "%(field)s" must be an object, not a number.',
    "field.object_is_null": 'The field "%(field)s" must be an object, not null.',
    "field.list_is_object": 'The field "%(field)s" must be a list, not an object.',
    "field.list_is_text": 'The field "%(field)s" must be a list, not text.',
    "field.list_is_boolean": 'The field "%(field)s" must be a list, not true or false.',
    "field.list_is_number": 'The field "%(field)s" must be a list, not a number.',
    "field.number_is_object": 'The field "%(field)s" must be a number, not an object.',
    "field.number_is_list": 'The field "%(field)s" must be a number, not a list.',
    "field.number_is_text": 'The field "%(field)s" must be a number, not text.',
    "field.number_is_boolean": 'The field "%(field)s" must be a number, not true or false.',
    "field.number_is_number": 'The field "%(field)s" must be a whole number.',
}
sentence = partial(answers.sentence, sentences=SENTENCES)
words = partial(answers.words, sentences=SENTENCES)
