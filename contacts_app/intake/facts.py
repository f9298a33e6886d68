"""Parse what a sender adds to the text of an alert: values, errors, and links to dashboards and runbooks.

All of it is optional, so it is never a reason to refuse an alert: what cannot be parsed is left out.
"""

import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeGuard

from ..core.cleaning import clean_line
from ..delivery.facts import RUNBOOK, Fact, Link, safe_link

# Per notification: alerts, texts and links of each, and the size of all of it as JSON.
MAX_ALERTS, MAX_TEXTS, MAX_LINKS, MAX_BYTES = 20, 10, 10, 20_000
MAX_READ = 50  # annotations or values of one alert that are parsed
MAX_NAME, MAX_TEXT, MAX_VALUE = 120, 500, 200
ERROR, VALUE = "Error", "Value"
# The labels of known annotations. IN_LINE are part of the line of the alert and not repeated.
_NAMES = {
    **dict.fromkeys(("runbook_url", "runbook", "runbookurl", "runbook_link"), RUNBOOK),
    **dict.fromkeys(("dashboard_url", "dashboard", "dashboardurl"), "Dashboard"),
    **dict.fromkeys(("panel_url", "panel", "panelurl"), "Panel"),
    **{"error": ERROR, "value": VALUE},
}
IN_LINE = ("summary", "description", "message")
_FIELDS = (("Panel", "panelURL"), ("Dashboard", "dashboardURL"), ("Source", "generatorURL"))
_MORE_FIELDS = (("Silence", "silenceURL"), ("Image", "imageURL"))
_VALUE_STRING = re.compile(r"(?:var|metric)='([^']{1,60})'|\bvalue=([^\s\]]{1,40})")  # [ var='B' labels={…} value=22 ]


def read_facts(alerts: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Fact, ...]:
    """Return the facts of the first alerts; each is given with the labels that distinguish it from the others."""
    found: list[Fact] = []
    for name, item in alerts:
        fact = _fact(clean_line(name, MAX_NAME), item)
        if not (fact.texts or fact.links):
            continue
        if len(found) == MAX_ALERTS:
            break
        room = MAX_BYTES - sum(map(_size, found))
        fitting = next((one for one in (fact, fact.shortened()) if _size(one) <= room), None)
        if fitting is None:
            break
        found.append(fitting)
    return tuple(found)


def value_of(item: Mapping[str, Any]) -> str:
    """Return the measured values that Grafana sends: B=22, C=1."""
    values = item.get("values")
    if isinstance(values, dict):
        known = [(name, _number(value)) for name, value in islice(values.items(), MAX_READ) if _is_number(value)]
        return clean_line(", ".join(f"{name}={value}" for name, value in sorted(known)), MAX_VALUE)
    text, name, values_found = item.get("valueString"), "", []
    for found in _VALUE_STRING.finditer(text[:2000] if isinstance(text, str) else ""):
        if found[1]:
            name = found[1]
        elif name:
            values_found.append(f"{name}={found[2]}")
            name = ""
    return clean_line(", ".join(values_found), MAX_VALUE)


def error_of(item: Mapping[str, Any]) -> str:
    """Return why the sender could not evaluate the rule; "" if it could."""
    return next((clean_line(text, MAX_TEXT) for name, text in _annotations(item) if _named(name) == ERROR), "")


def _fact(alert: str, item: Mapping[str, Any]) -> Fact:
    texts: dict[str, str] = {}
    links: dict[str, str] = {}
    if value := value_of(item):
        texts[VALUE] = value
    fields = [(name, item.get(field)) for name, field in (*_FIELDS, *_MORE_FIELDS)]
    links_sent = [(name, text) for name, text in fields if _is_text(text)]
    for name, text in (*_annotations(item), *links_sent):
        name = _named(name)
        if name.lower() in IN_LINE or name.startswith("__"):  # such as Grafana's __orgId__
            continue
        if url := safe_link(text):
            links.setdefault(name, url)
        elif (name, text) not in links_sent and (words := clean_line(text, MAX_TEXT)):
            texts.setdefault(name, words)
    order = (RUNBOOK, *(name for name, _ in (*_FIELDS, *_MORE_FIELDS)))
    ordered = sorted(links.items(), key=lambda link: order.index(link[0]) if link[0] in order else len(order))
    shown = tuple(Link(name, url) for name, url in ordered[:MAX_LINKS])
    # Value and error first: the last texts are cut if there are too many.
    first = sorted(texts.items(), key=lambda text: text[0] not in (VALUE, ERROR))
    return Fact(alert, tuple(first[:MAX_TEXTS]), shown)


def _size(fact: Fact) -> int:
    return len(json.dumps(fact, ensure_ascii=False).encode()) + 2


def _annotations(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = item.get("annotations")
    if not isinstance(found, dict):
        return []
    return [(name, text) for name, text in islice(found.items(), MAX_READ) if _is_text(text)]


def _named(name: str) -> str:
    """Return the label of an annotation."""
    name = clean_line(name, MAX_NAME)
    return _NAMES.get(name.lower(), name)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.6g}"
