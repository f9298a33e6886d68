"""Read what Alertmanager, Grafana or a script posts."""

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
from ..delivery.facts import IN_LINE, MOST_ALERTS, Fact, error_of, read_facts, value_of
from ..delivery.models import MOST_TEXT

STATUSES = ("firing", "resolved")
PLAIN_FIELDS = ("title", "text", "severity", "status", "key")
MOST_TITLE, MOST_SEVERITY, MOST_KEY, MOST_ADDRESS = 200, 40, 200, 1000
MOST_LISTED = 1000  # alerts that have a line, of which the text has room for a few dozen; all of them are counted
MOST_HALVES = 10_000  # of surrogate pairs that are not in UTF-8, each of which takes what many letters take
MOST_LABELS = 100  # of one alert that its line names
SEVERITIES = (
    *("none", "debug", "info", "information", "notice", "low", "minor"),
    *("warn", "warning", "medium", "average", "error", "high", "major"),
    *("critical", "disaster", "page", "emergency"),
)
# How Grafana's own templates begin; a title and a message that somebody wrote for this contact point are kept.
_GRAFANA_TITLE = re.compile(r"\[(FIRING|RESOLVED)\b")
_GRAFANA_MESSAGE = re.compile(r"\s*\*\*(Firing|Resolved)\*\*")
CLASSIC_STATES = {  # of a rule of Grafana before version 9
    **{"alerting": "firing", "no_data": "firing", "pending": "firing", "unknown": "firing"},
    **{"ok": "resolved", "paused": "resolved"},
}
NO_DATA = ("DatasourceNoData", "DatasourceError")  # Grafana's names for a rule that could not be asked
NOT_UTF_8 = "The body is not JSON: it is not in UTF-8."
_HALF = re.compile(rb"\xed[\xa0-\xbf]")
_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
}


class Refused(Exception):
    """Say in one sentence why a body is not an alert."""


class Incoming(NamedTuple):
    """Hold what a sender tells, fit to be kept and shown; `key` is the same for all news of one matter."""

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
    """Hold the first alerts, and of all of them how many have each status, their names, and their severities."""

    listed: list[_Alert]
    counts: Counter[str]
    names: dict[str, None]  # in the order of the alerts
    severities: dict[str, dict[str, None]]  # of those with a status

    @property
    def unlisted(self) -> int:
        return self.counts.total() - len(self.listed)


def read(body: bytes, zone: tzinfo = UTC) -> Incoming:
    """Return what `body` tells, with times in `zone`; raise Refused for anything that is none of the three shapes."""
    data = _object(_json(body))
    if "alerts" in data or "groupKey" in data:
        return _read_group(data, zone)
    if "ruleId" in data or "evalMatches" in data:
        return _read_classic(data)
    if any(name in data for name in PLAIN_FIELDS):
        return _read_plain(data)
    raise Refused(
        "This is not an alert in a known shape. Send the webhook of Alertmanager (with version and alerts), "
        "the webhook of Grafana (with orgId and alerts), or an object with title and, if you like, "
        "text, severity, status and key."
    )


def _json(body: bytes) -> Any:
    if not body.strip():
        raise Refused('The body is empty. Send JSON, such as {"title": "Disk is full"}.')
    if next(islice(_HALF.finditer(body), MOST_HALVES, None), None):
        raise Refused(NOT_UTF_8)
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Refused(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    except UnicodeDecodeError:
        raise Refused(NOT_UTF_8) from None
    except RecursionError:
        raise Refused("The JSON in the body is nested too deeply.") from None
    except ValueError:
        raise Refused("The JSON in the body has a number with too many digits.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise Refused(f"The body is not JSON: {name} is not a value of JSON.")


def _read_plain(data: Mapping[str, Any]) -> Incoming:
    for name in data:
        if name not in PLAIN_FIELDS:
            raise Refused(f"The field {_named(name)} is not known. Known are {', '.join(PLAIN_FIELDS)}.")
    if data.get("title") is None:
        raise Refused('The field "title" is missing.')
    return Incoming(
        source="plain",
        title=_title(_text(data, "title")),
        text=clean_paragraphs(_text(data, "text"), MOST_TEXT),
        severity=clean_line(_text(data, "severity"), MOST_SEVERITY),
        status="firing" if data.get("status") is None else _status(data),
        key=_key(_text(data, "key")),
    )


def _read_group(data: Mapping[str, Any], zone: tzinfo) -> Incoming:
    """Read the shape of Alertmanager's webhook, which Grafana sends with fields of its own."""
    is_grafana = any(name in data for name in ("orgId", "title", "message"))
    if not is_grafana and data.get("version") not in ("4", 4):
        raise Refused(
            'The field "version" must be "4": that is the only version of Alertmanager\'s webhook known here.'
        )
    status = _status(data)
    alerts = _alerts(data, zone)
    common = _texts(data, "commonLabels")
    title, text = _group_title(data, common, alerts), _group_text(data, common, status, alerts)
    if is_grafana:
        # What Grafana writes by default begins with what the console says anyway, and hides the summary far below.
        own_title, message = _text(data, "title"), _text(data, "message")
        if own_title.strip() and not _GRAFANA_TITLE.match(own_title):
            title = _title(own_title)
        if message.strip() and not _GRAFANA_MESSAGE.match(message):
            text = clean_paragraphs(message, MOST_TEXT)
    return Incoming(
        source="grafana" if is_grafana else "alertmanager",
        title=title,
        text=text,
        severity=clean_line(common.get("severity") or _worst_severity(alerts.severities[status]), MOST_SEVERITY),
        status=status,
        key=_key(_text(data, "groupKey")),
        facts=read_facts(
            (_what_differs(alert, common) if len(alerts.listed) > 1 else "", alert.sent) for alert in alerts.listed
        ),
    )


def _read_classic(data: Mapping[str, Any]) -> Incoming:
    """Read the webhook of Grafana before version 9, which tells of one rule."""
    state = _text(data, "state")
    if state not in CLASSIC_STATES:
        raise Refused(f'The field "state" must be one of {", ".join(CLASSIC_STATES)}, not {_named(state)}.')
    found = data.get("evalMatches")
    matches = [match for match in found if isinstance(match, dict)] if isinstance(found, list) else []
    values = {str(match.get("metric")): match.get("value") for match in matches[:MOST_ALERTS]}
    sent = {"values": values, "generatorURL": data.get("ruleUrl"), "imageURL": data.get("imageUrl")}
    value = value_of(sent)
    no_data = "There is no data." if state == "no_data" else ""
    words = [_text(data, "message"), no_data, f"Value: {value}" if value else ""]
    rule = data.get("ruleId")
    return Incoming(
        source="grafana",
        title=_title(_text(data, "ruleName") or _text(data, "title")),
        text=clean_paragraphs("\n".join(filter(None, words)), MOST_TEXT),
        severity=clean_line(_texts(data, "tags").get("severity", ""), MOST_SEVERITY),
        status=CLASSIC_STATES[state],
        key=_key(f"rule-{rule}") if isinstance(rule, int | str) else None,
        facts=read_facts([("", sent)]),
    )


def _alerts(data: Mapping[str, Any], zone: tzinfo) -> _Alerts:
    found = data.get("alerts")
    if found is None:
        raise Refused('The field "alerts" is missing.')
    if not isinstance(found, list):
        raise _wrong_type("alerts", "a list", found)
    if not found:
        raise Refused('The field "alerts" has no alert in it.')
    alerts = _Alerts([], Counter(), {}, {status: {} for status in STATUSES})
    for index, item in enumerate(found):
        if index < MOST_LISTED:
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
    """Return the name of the alert and, of more than one, how many of them are firing and resolved."""
    name = common.get("alertname") or _texts(data, "groupLabels").get("alertname")
    rule = common.get("rulename")
    if name in NO_DATA and rule:
        name = f"{rule} ({name})"
    if not name:
        name = next(iter(alerts.names), "") + (" and others" if len(alerts.names) > 1 else "")
    told = ", ".join(f"{alerts.counts[status]} {status}" for status in STATUSES if alerts.counts[status])
    return _title(name, f" ({told})" if alerts.counts.total() > 1 else "")


def _group_text(data: Mapping[str, Any], common: Mapping[str, str], status: str, alerts: _Alerts) -> str:
    """Return a line for each alert, then what is the same for all, how many are missing, and where to look."""
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
        raise _wrong_type("truncatedAlerts", "a number", truncated)
    left_out = f"{truncated} more alerts were left out by the sender." if truncated and 0 < truncated < 2**64 else ""
    address = clean_line(_text(data, "externalURL"), MOST_ADDRESS)
    # What stands last is not lost when there are too many alerts for the text.
    end = "".join(f"\n{line}" for line in (left_out, address) if line)
    return (clean_paragraphs("\n".join(lines), MOST_TEXT - len(end)) + end).strip()


def _alert_line(alert: _Alert, common: Mapping[str, str], status: str) -> str:
    """Return what is told of an alert: on one line, or where its words have line ends of their own below them."""
    told = [_lines(alert.annotations.get(name, "")) for name in IN_LINE]
    is_long = any(len(lines) > 1 for lines in told)
    words = ("\n" if is_long else " – ").join("\n".join(lines) for lines in told if lines)
    parts = [] if is_long else [words]
    if error := error_of(alert.sent):
        parts.append(f"error: {error}")
    if value := value_of(alert.sent):
        parts.append(f"value {value}")
    parts.append(_what_differs(alert, common))
    if alert.starts_at and alert.ends_at and alert.status == "resolved":
        parts.append(f"from {alert.starts_at} to {alert.ends_at}")
    elif alert.starts_at:
        parts.append(f"since {alert.starts_at}")
    line = "; ".join(filter(None, parts))
    if is_long:
        line = f"{words}\n{line}".rstrip()
    return f"Resolved: {line}" if alert.status != status else line


def _lines(value: str) -> list[str]:
    """Return the lines of an annotation, without those that are empty."""
    lines = clean_paragraphs(value, MOST_TEXT).splitlines()
    return [line for line in (" ".join(line.split()) for line in lines) if line]


def _what_differs(alert: _Alert, common: Mapping[str, str]) -> str:
    """Return the labels that tell an alert from the others."""
    return _labels((name, value) for name, value in alert.labels.items() if common.get(name) != value)


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    shown = sorted(islice(((name, value) for name, value in labels if not name.startswith("__")), MOST_LABELS))
    return " ".join(", ".join(f"{name}={value}" for name, value in shown).split())


def _worst_severity(severities: Iterable[str]) -> str:
    ranks = {name: rank for rank, name in enumerate(SEVERITIES)}
    return max(severities, key=lambda severity: ranks.get(severity.lower(), -1), default="")


def _time(value: str, zone: tzinfo) -> str:
    """Return a time in RFC 3339 as people read it in `zone`; nothing for Go's zero time and for what is no time."""
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
        raise _wrong_type(where, "an object", value)
    raise Refused(f'The body must be an object, such as {{"title": "Disk is full"}}, not {_kind(value)}.')


def _text(data: Mapping[str, Any], name: str, within: str = "") -> str:
    """Return the text in a field, empty if it is missing or null, as Go writes what is not set."""
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(within + name, "text", value)
    return value


def _texts(data: Mapping[str, Any], name: str, within: str = "") -> dict[str, str]:
    """Return the texts in a field that is an object, by their names."""
    if data.get(name) is None:
        return {}
    found = _object(data[name], within + name)
    if not all(isinstance(value, str) for value in found.values()):
        return {key: _text(found, key, f"{within}{name}.") for key in found}  # null is empty, all else is refused
    return found


def _status(data: Mapping[str, Any], within: str = "") -> str:
    status = _text(data, "status", within)
    if status in STATUSES:
        return status
    field = _named(f"{within}status")
    if data.get("status") is None:
        raise Refused(f"The field {field} is missing. It says firing or resolved.")
    raise Refused(f"The field {field} must be firing or resolved, not {_named(status)}.")


def _wrong_type(field: str, wanted: str, value: Any) -> Refused:
    return Refused(f"The field {_named(field)} must be {wanted}, not {_kind(value)}.")


def _kind(value: Any) -> str:
    return _JSON_NAMES.get(type(value), "null")


def _named(value: str) -> str:
    """Return a sender's own word in quotation marks, fit to stand in a sentence."""
    return f'"{clean_line(value, 60)}"'


def _title(value: str, ending: str = "") -> str:
    title = clean_line(value, MOST_TITLE - len(ending))
    has_something_to_see = any(unicodedata.category(character)[0] in "LNPS" for character in title)
    return (title if has_something_to_see else "Alert") + ending


def _key(value: str) -> str | None:
    """Return a key that can be kept: one that is long, or has characters that cannot, as the hash of itself."""
    if len(value) <= MOST_KEY and value.isprintable():
        return value or None
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
