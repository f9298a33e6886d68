"""Parse the webhook bodies of Alertmanager and Grafana, and the plain JSON of scripts."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from ..core.cleaning import clean_line, clean_paragraphs
from ..core.times import shown
from ..delivery.answers import answer
from ..delivery.facts import Fact
from ..delivery.models import MAX_TEXT
from .facts import IN_LINE, MAX_ALERTS, error_of, read_facts, value_of
from .sentences import words

STATUSES = ("firing", "resolved")
PLAIN_FIELDS = ("title", "text", "severity", "status", "key")
MAX_TITLE, MAX_SEVERITY, MAX_KEY, MAX_ADDRESS = 200, 40, 200, 1000
MAX_LISTED = 1000  # alerts that get a line of text, of which a few dozen fit into it; all are counted
MAX_SURROGATES = 10_000  # lone surrogates in a body, which are not UTF-8; decoding one costs as much as many letters
MAX_LABELS = 100  # that the line of one alert shows
SEVERITIES = (
    *("none", "debug", "info", "information", "notice", "low", "minor"),
    *("warn", "warning", "medium", "average", "error", "high", "major"),
    *("critical", "disaster", "page", "emergency"),
)
# How Grafana's default templates begin. A custom title or message of the contact point is used as it is.
_GRAFANA_TITLE = re.compile(r"\[(FIRING|RESOLVED)\b")
_GRAFANA_MESSAGE = re.compile(r"\s*\*\*(Firing|Resolved)\*\*")
CLASSIC_STATES = {  # states of legacy alerting, before Grafana 9, and their status here
    **{"alerting": "firing", "no_data": "firing", "pending": "firing", "unknown": "firing"},
    **{"ok": "resolved", "paused": "resolved"},
}
NO_DATA = ("DatasourceNoData", "DatasourceError")  # Grafana's alert names for a rule that it could not evaluate
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
_JSON_TYPES = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}


class Refused(Exception):
    """A request cannot be read as an alert, for the reason in `answer`: a code of sentences.py with its parameters."""

    def __init__(self, code: str, /, **parameters: str | int) -> None:
        self.answer = answer(code, **parameters)
        super().__init__(words(self.answer))


class Incoming(NamedTuple):
    """One incoming alert, cleaned and ready to be stored; all updates of one problem share its `key`."""

    source: str
    title: str
    text: str
    severity: str
    status: str
    key: str | None
    facts: tuple[Fact, ...] = ()


class _Alert(NamedTuple):
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: str
    ends_at: str
    sent: Mapping[str, Any]


class _Alerts(NamedTuple):
    """The first alerts of a body, and the number in each status, the names and the severities of all of them."""

    listed: list[_Alert]
    counts: Counter[str]
    names: dict[str, None]  # in the order of the alerts
    severities: dict[str, dict[str, None]]  # by status

    @property
    def unlisted(self) -> int:
        return self.counts.total() - len(self.listed)


def read(body: bytes, zone: tzinfo = UTC) -> Incoming:
    """Parse `body` and write its times in `zone`; raise Refused where it has none of the three formats."""
    data = _object(_json(body))
    if "alerts" in data or "groupKey" in data:
        return _read_group(data, zone)
    if "ruleId" in data or "evalMatches" in data:
        return _read_classic(data)
    if any(name in data for name in PLAIN_FIELDS):
        return _read_plain(data)
    raise Refused("body.unknown_format")


def _json(body: bytes) -> Any:
    if not body.strip():
        raise Refused("body.empty")
    if next(islice(_SURROGATE.finditer(body), MAX_SURROGATES, None), None):
        raise Refused("body.not_utf_8")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Refused("body.not_json", said=error.msg, line=error.lineno, column=error.colno) from None
    except UnicodeDecodeError:
        raise Refused("body.not_utf_8") from None
    except RecursionError:
        raise Refused("body.nested") from None
    except ValueError:
        raise Refused("body.long_number") from None


def _refuse_constant(name: str) -> NoReturn:
    raise Refused("body.not_a_value", name=name)


def _read_plain(data: Mapping[str, Any]) -> Incoming:
    for name in data:
        if name not in PLAIN_FIELDS:
            raise Refused("field.unknown", field=_short(name), known=", ".join(PLAIN_FIELDS))
    if data.get("title") is None:
        raise Refused("field.missing", field="title")
    return Incoming(
        source="plain",
        title=_title(_text(data, "title")),
        text=clean_paragraphs(_text(data, "text"), MAX_TEXT),
        severity=clean_line(_text(data, "severity"), MAX_SEVERITY),
        status="firing" if data.get("status") is None else _status(data),
        key=_key(_text(data, "key")),
    )


def _read_group(data: Mapping[str, Any], zone: tzinfo) -> Incoming:
    """Parse the webhook of Alertmanager, which Grafana sends with additional fields."""
    is_grafana = any(name in data for name in ("orgId", "title", "message"))
    if not is_grafana and data.get("version") not in ("4", 4):
        raise Refused("field.bad_version")
    status = _status(data)
    alerts = _alerts(data, zone)
    common = _texts(data, "commonLabels")
    title, text = _group_title(data, common, alerts), _group_text(data, common, status, alerts)
    if is_grafana:
        # Grafana's default title and message repeat what the console shows anyway, and hide the summary below it.
        custom_title, message = _text(data, "title"), _text(data, "message")
        if custom_title.strip() and not _GRAFANA_TITLE.match(custom_title):
            title = _title(custom_title)
        if message.strip() and not _GRAFANA_MESSAGE.match(message):
            text = clean_paragraphs(message, MAX_TEXT)
    return Incoming(
        source="grafana" if is_grafana else "alertmanager",
        title=title,
        text=text,
        severity=clean_line(common.get("severity") or _worst_severity(alerts.severities[status]), MAX_SEVERITY),
        status=status,
        key=_key(_text(data, "groupKey")),
        facts=read_facts(
            (_distinguishing_labels(alert, common) if len(alerts.listed) > 1 else "", alert.sent)
            for alert in alerts.listed
        ),
    )


def _read_classic(data: Mapping[str, Any]) -> Incoming:
    """Parse the webhook of Grafana's legacy alerting, before version 9: one rule per request."""
    state = _text(data, "state")
    if state not in CLASSIC_STATES:
        raise Refused("field.bad_state", known=", ".join(CLASSIC_STATES), state=_short(state))
    found = data.get("evalMatches")
    matches = [match for match in found if isinstance(match, dict)] if isinstance(found, list) else []
    values = {str(match.get("metric")): match.get("value") for match in matches[:MAX_ALERTS]}
    sent = {"values": values, "generatorURL": data.get("ruleUrl"), "imageURL": data.get("imageUrl")}
    value = value_of(sent)
    no_data = "There is no data." if state == "no_data" else ""
    words = [_text(data, "message"), no_data, f"Value: {value}" if value else ""]
    rule = data.get("ruleId")
    return Incoming(
        source="grafana",
        title=_title(_text(data, "ruleName") or _text(data, "title")),
        text=clean_paragraphs("\n".join(filter(None, words)), MAX_TEXT),
        severity=clean_line(_texts(data, "tags").get("severity", ""), MAX_SEVERITY),
        status=CLASSIC_STATES[state],
        key=_key(f"rule-{rule}") if isinstance(rule, int | str) else None,
        facts=read_facts([("", sent)]),
    )


def _alerts(data: Mapping[str, Any], zone: tzinfo) -> _Alerts:
    found = data.get("alerts")
    if found is None:
        raise Refused("field.missing", field="alerts")
    if not isinstance(found, list):
        raise _wrong_type("alerts", "list", found)
    if not found:
        raise Refused("field.no_alerts")
    alerts = _Alerts([], Counter(), {}, {status: {} for status in STATUSES})
    for index, item in enumerate(found):
        if index < MAX_LISTED:
            alerts.listed.append(_alert(item, f"alerts[{index}]", zone))
        elif not isinstance(item, dict) or item.get("status") not in STATUSES:
            _status(_object(item, f"alerts[{index}]"), f"alerts[{index}].")  # raises
        alerts.counts[item["status"]] += 1
        labels = item.get("labels")
        if isinstance(labels, dict):
            for name, known in (("alertname", alerts.names), ("severity", alerts.severities[item["status"]])):
                if (value := labels.get(name)) and isinstance(value, str):
                    known[value] = None
    return alerts


def _alert(item: Any, where: str, zone: tzinfo) -> _Alert:
    alert, within = _object(item, where), f"{where}."
    return _Alert(
        status=_status(alert, within),
        labels=_texts(alert, "labels", within),
        annotations=_texts(alert, "annotations", within),
        starts_at=_time(_text(alert, "startsAt", within), zone),
        ends_at=_time(_text(alert, "endsAt", within), zone),
        sent=alert,
    )


def _group_title(data: Mapping[str, Any], common: Mapping[str, str], alerts: _Alerts) -> str:
    """Return the name of the alert and, if there are several, how many are firing and how many are resolved."""
    name = common.get("alertname") or _texts(data, "groupLabels").get("alertname")
    rule = common.get("rulename")
    if name in NO_DATA and rule:
        name = f"{rule} ({name})"
    if not name:
        name = next(iter(alerts.names), "") + (" and others" if len(alerts.names) > 1 else "")
    counts = ", ".join(f"{alerts.counts[status]} {status}" for status in STATUSES if alerts.counts[status])
    return _title(name, f" ({counts})" if alerts.counts.total() > 1 else "")


def _group_text(data: Mapping[str, Any], common: Mapping[str, str], status: str, alerts: _Alerts) -> str:
    """Return a line for each alert, then their common labels, how many are not listed, and the sender's URL."""
    lines = [line for alert in alerts.listed if (line := _alert_line(alert, common, status))]
    if len(lines) > 1:
        lines = ["- " + line.replace("\n", "\n  ") for line in lines]
    if shared := _labels((name, value) for name, value in common.items() if name not in ("alertname", "severity")):
        lines.append(f"Labels: {shared}")
    if alerts.unlisted:
        lines.append(f"{alerts.unlisted:,} more alerts are counted, but not listed here.")
    truncated = data.get("truncatedAlerts")
    if isinstance(truncated, str) and re.fullmatch("[0-9]{1,9}", truncated):
        truncated = int(truncated)
    if truncated is not None and (isinstance(truncated, bool) or not isinstance(truncated, int)):
        raise _wrong_type("truncatedAlerts", "number", truncated)
    left_out = f"{truncated} more alerts were left out by the sender." if truncated and 0 < truncated < 2**64 else ""
    address = clean_line(_text(data, "externalURL"), MAX_ADDRESS)
    # Added after the text is cut, so that many alerts do not push it out.
    end = "".join(f"\n{line}" for line in (left_out, address) if line)
    return (clean_paragraphs("\n".join(lines), MAX_TEXT - len(end)) + end).strip()


def _alert_line(alert: _Alert, common: Mapping[str, str], status: str) -> str:
    """Return the text of one alert: one line, or its annotations and a line below if they have several lines."""
    paragraphs = [_lines(alert.annotations.get(name, "")) for name in IN_LINE]
    is_long = any(len(lines) > 1 for lines in paragraphs)
    words = ("\n" if is_long else " – ").join("\n".join(lines) for lines in paragraphs if lines)
    parts = [] if is_long else [words]
    if error := error_of(alert.sent):
        parts.append(f"error: {error}")
    if value := value_of(alert.sent):
        parts.append(f"value {value}")
    parts.append(_distinguishing_labels(alert, common))
    if alert.starts_at and alert.ends_at and alert.status == "resolved":
        parts.append(f"from {alert.starts_at} to {alert.ends_at}")
    elif alert.starts_at:
        parts.append(f"since {alert.starts_at}")
    line = "; ".join(filter(None, parts))
    if is_long:
        line = f"{words}\n{line}".rstrip()
    return f"Resolved: {line}" if alert.status != status else line


def _lines(value: str) -> list[str]:
    """Return the lines of an annotation that are not empty."""
    lines = clean_paragraphs(value, MAX_TEXT).splitlines()
    return [line for line in (" ".join(line.split()) for line in lines) if line]


def _distinguishing_labels(alert: _Alert, common: Mapping[str, str]) -> str:
    """Return the labels of an alert that not all alerts of its group share."""
    return _labels((name, value) for name, value in alert.labels.items() if common.get(name) != value)


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    shown = sorted(islice(((name, value) for name, value in labels if not name.startswith("__")), MAX_LABELS))
    return " ".join(", ".join(f"{name}={value}" for name, value in shown).split())


def _worst_severity(severities: Iterable[str]) -> str:
    ranks = {name: rank for rank, name in enumerate(SEVERITIES)}
    return max(severities, key=lambda severity: ranks.get(severity.lower(), -1), default="")


def _time(value: str, zone: tzinfo) -> str:
    """Format an RFC 3339 time for people in `zone`; return "" for Go's zero time and for anything that is no time."""
    try:
        time = datetime.fromisoformat(value)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(zone)
    except (ValueError, OverflowError):
        return ""
    return shown(time) if time.year > 1970 else ""


def _object(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if where:
        raise _wrong_type(where, "object", value)
    raise Refused(f"body.is_{_json_type(value)}")


def _text(data: Mapping[str, Any], name: str, within: str = "") -> str:
    """Return the text in a field; "" if it is missing or null, which is how Go writes an unset field."""
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(within + name, "text", value)
    return value


def _texts(data: Mapping[str, Any], name: str, within: str = "") -> dict[str, str]:
    """Return a field that is an object of texts; {} if it is missing or null."""
    if data.get(name) is None:
        return {}
    found = _object(data[name], within + name)
    if not all(isinstance(value, str) for value in found.values()):
        return {
            key: _text(found, key, f"{within}{name}.") for key in found
        }  # null counts as empty; any other type is refused
    return found


def _status(data: Mapping[str, Any], within: str = "") -> str:
    status = _text(data, "status", within)
    if status in STATUSES:
        return status
    field = _short(f"{within}status")
    if data.get("status") is None:
        raise Refused("field.no_status", field=field)
    raise Refused("field.bad_status", field=field, status=_short(status))


def _wrong_type(field: str, wanted: str, value: Any) -> Refused:
    return Refused(f"field.{wanted}_is_{_json_type(value)}", field=_short(field))


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "null")


def _short(value: str) -> str:
    """Return a word of the sender, cleaned and cut, for use in a sentence."""
    return clean_line(value, 60)


def _title(value: str, ending: str = "") -> str:
    title = clean_line(value, MAX_TITLE - len(ending))
    is_visible = any(unicodedata.category(character)[0] in "LNPS" for character in title)
    return (title if is_visible else "Alert") + ending


def _key(value: str) -> str | None:
    """Return a key that can be stored; one that is too long or not printable is replaced by its SHA-256."""
    if len(value) <= MAX_KEY and value.isprintable():
        return value or None
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
