"""Show that what senders post is read as they mean it, and that whatever else comes is refused in a sentence."""

import json
import random
import unicodedata
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from contacts_app.delivery.facts import Fact, Link
from contacts_app.intake.formats import MAX_LABELS, MAX_LISTED, MAX_SURROGATES, Incoming, Refused, read

DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def read_json(data: Any) -> Incoming:
    return read(json.dumps(data).encode())


def refusal(data: Any) -> str:
    with pytest.raises(Refused) as refused:
        read(data if isinstance(data, bytes) else json.dumps(data).encode())
    return str(refused.value)


def alert(instance: str, status: str = "firing", severity: str = "warning", **annotations: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "HighLoad", "instance": instance, "job": "node", "severity": severity},
        "annotations": annotations,
        "startsAt": "2026-11-25T09:51:03.157076123+02:00",
        "endsAt": "2026-11-25T08:00:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "c6eadffa33fcdf37",
    }


def group(*alerts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return what Alertmanager posts for the alerts, with what all of them share worked out as it does."""
    every = [set(item["labels"].items()) for item in alerts]
    return {
        "version": "4",
        "groupKey": '{}:{alertname="HighLoad"}',
        "truncatedAlerts": 0,
        "status": "firing" if any(item["status"] == "firing" for item in alerts) else "resolved",
        "receiver": "contacts",
        "groupLabels": {"alertname": "HighLoad"},
        "commonLabels": dict(set.intersection(*every)),
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": list(alerts),
    } | fields


def grafana(*alerts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return what Grafana posts; its version is another one."""
    own = {"version": "1", "orgId": 1, "state": "alerting", "externalURL": "https://grafana.example.com/"}
    return group(*alerts) | own | fields


def test_a_title_is_enough() -> None:
    assert read_json({"title": "Disk is full"}) == Incoming("plain", "Disk is full", "", "", "firing", None)


def test_a_plain_alert_says_all_it_can() -> None:
    data = {"title": "Disk", "text": "98 %\nof /var", "severity": "critical", "status": "resolved", "key": "db1"}
    assert read_json(data) == Incoming("plain", "Disk", "98 %\nof /var", "critical", "resolved", "db1")


def test_null_is_as_good_as_missing() -> None:
    data = {"title": "Disk", "text": None, "severity": None, "status": None, "key": None}
    assert read_json(data) == read_json({"title": "Disk"})


def test_one_alert_of_alertmanager_is_shown_with_its_labels() -> None:
    incoming = read_json(group(alert("web1", summary="Load is high", description="It is 12.\nFor 5 minutes.")))
    assert incoming == Incoming(
        source="alertmanager",
        title="HighLoad",
        text="Load is high\nIt is 12.\nFor 5 minutes.\nsince 2026-11-25 07:51:03 UTC\n"
        "Labels: instance=web1, job=node\nhttp://alertmanager:9093",
        severity="warning",
        status="firing",
        key='{}:{alertname="HighLoad"}',
        facts=(Fact("", (), (Link("Source", "http://prometheus/graph"),)),),
    )


def test_several_alerts_are_counted_and_distinguished() -> None:
    incoming = read_json(group(alert("web1", summary="Load"), alert("web2"), alert("web3"), alert("web4", "resolved")))
    assert incoming.title == "HighLoad (3 firing, 1 resolved)"
    assert incoming.status == "firing"
    assert incoming.text.splitlines() == [
        "- Load; instance=web1; since 2026-11-25 07:51:03 UTC",
        "- instance=web2; since 2026-11-25 07:51:03 UTC",
        "- instance=web3; since 2026-11-25 07:51:03 UTC",
        "- Resolved: instance=web4; from 2026-11-25 07:51:03 UTC to 2026-11-25 08:00:00 UTC",
        "Labels: job=node",
        "http://alertmanager:9093",
    ]


def test_a_resolved_group_is_resolved() -> None:
    incoming = read_json(group(alert("web1", "resolved", summary="Load is high")))
    assert (incoming.title, incoming.status) == ("HighLoad", "resolved")
    assert incoming.text.startswith("Load is high; from 2026-11-25 07:51:03 UTC to 2026-11-25 08:00:00 UTC\n")


def test_firing_and_resolved_have_the_same_key() -> None:
    assert read_json(group(alert("web1"))).key == read_json(group(alert("web1", "resolved"))).key is not None


def test_alerts_of_several_names_are_named_in_their_lines() -> None:
    other = alert("web2") | {"labels": {"alertname": "DiskFull", "severity": "warning"}}
    incoming = read_json(group(alert("web1"), other, groupLabels={}))
    assert incoming.title == "HighLoad and others (2 firing)"
    assert "- alertname=DiskFull; since" in incoming.text


@pytest.mark.parametrize(
    ("severities", "worst"),
    [(["warning", "critical", "info"], "critical"), (["odd", "info"], "info"), (["odd", "strange"], "odd"), ([""], "")],
)
def test_the_worst_severity_counts(severities: list[str], worst: str) -> None:
    alerts = [alert(f"web{index}", severity=severity) for index, severity in enumerate(severities)]
    assert read_json(group(*alerts, commonLabels={})).severity == worst


def test_what_is_resolved_does_not_make_a_firing_group_worse() -> None:
    assert read_json(group(alert("web1"), alert("web2", "resolved", "critical"))).severity == "warning"


def test_alerts_that_were_left_out_are_reported() -> None:
    text = read_json(group(alert("web1"), truncatedAlerts=7)).text
    assert text.endswith("\n7 more alerts were left out by the sender.\nhttp://alertmanager:9093")


def test_line_ends_within_a_description_stay() -> None:
    description = "It is 12.\r\n\r\n  For 5 minutes.\u2028Call Ann.\n"
    alerts = [alert("web1", summary="Load", description=description), alert("web2", "resolved", description="a\nb")]
    assert read_json(group(*alerts)).text.splitlines() == [
        "- Load",
        "  It is 12.",
        "  For 5 minutes.",
        "  Call Ann.",
        "  instance=web1; since 2026-11-25 07:51:03 UTC",
        "- Resolved: a",
        "  b",
        "  instance=web2; from 2026-11-25 07:51:03 UTC to 2026-11-25 08:00:00 UTC",
        "Labels: job=node",
        "http://alertmanager:9093",
    ]


def test_a_version_or_a_count_of_another_type_is_read() -> None:
    text = read_json(group(alert("web1"), version=4, truncatedAlerts="7")).text
    assert "7 more alerts were left out by the sender." in text


def test_the_address_stands_last_however_many_alerts_there_are() -> None:
    incoming = read_json(group(*(alert(f"web{number}", summary="Load is high") for number in range(5000))))
    assert incoming.title == "HighLoad (5000 firing)"
    assert len(incoming.text) <= 4000
    assert incoming.text.endswith(" more characters\nhttp://alertmanager:9093")


def test_of_thousands_of_alerts_all_count_and_the_first_are_listed() -> None:
    same, others = [alert("web1")] * MAX_LISTED, [alert(f"web{number}", "resolved") for number in range(2000)]
    others[-1]["labels"] |= {"severity": "critical", "alertname": "Down"}
    others[-2] |= {"status": "firing", "labels": {"severity": "critical"}}
    incoming = read_json(group(*same, *others, commonLabels={}, groupLabels={}))
    assert incoming.title == "HighLoad and others (1001 firing, 1999 resolved)"
    assert incoming.severity == "critical"
    bare = group(alert("web1")) | {"alerts": [{"status": "firing"}] * (MAX_LISTED + 1500)}
    assert "1,500 more alerts are counted, but not listed here." in read_json(bare).text
    for wrong in (1, {}, {"status": "no"}):
        with pytest.raises(Refused, match=rf"alerts\[{MAX_LISTED + 1500}\]"):
            read_json(bare | {"alerts": [*bare["alerts"], wrong]})


def test_halves_of_pairs_are_left_out_as_long_as_they_are_few() -> None:
    half = "\ud800".encode("utf-8", "surrogatepass")
    assert read(b'{"title": "a' + half * MAX_SURROGATES + b'"}').title.startswith("a")
    with pytest.raises(Refused, match="UTF-8"):
        read(b'{"title": "a' + half * (MAX_SURROGATES + 1) + b'"}')
    assert read(b'{"title": "' + "힣퀀".encode() * MAX_SURROGATES + b'"}').title.startswith("힣퀀")


def test_of_thousands_of_labels_the_first_are_shown() -> None:
    labels = {f"label{number:05}": "x" for number in range(10_000)}
    text = read_json(group(alert("web1") | {"labels": labels}, commonLabels={})).text
    assert text.count("label") == MAX_LABELS
    assert text.startswith("label00000=x, label00001=x")


def test_what_go_writes_as_null_is_read() -> None:
    item = alert("web1") | {"annotations": None}
    incoming = read_json(group(item, groupLabels=None, commonLabels=None, commonAnnotations=None, truncatedAlerts=None))
    assert incoming.title == "HighLoad"


def test_a_time_that_is_none_is_left_out() -> None:
    for time in ("", "yesterday", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
        assert "since" not in read_json(group(alert("web1") | {"startsAt": time})).text


def test_grafanas_default_words_give_way_to_the_summary() -> None:
    title, message = "[FIRING:1] HighLoad (web1 node)", "**Firing**\n\nValue: B=22\nLabels:\n - alertname = HighLoad\n"
    incoming = read_json(grafana(alert("web1", summary="Load is high"), title=title, message=message))
    assert (incoming.source, incoming.title) == ("grafana", "HighLoad")
    assert incoming.text.startswith("Load is high; since 2026-11-25 07:51:03 UTC\n")
    assert incoming.text.endswith("\nhttps://grafana.example.com/")


def test_what_somebody_wrote_in_grafana_is_kept() -> None:
    incoming = read_json(grafana(alert("web1"), title="Load in Berlin", message="Call the hotline.\n\nNow."))
    assert (incoming.title, incoming.text) == ("Load in Berlin", "Call the hotline.\n\nNow.")


def test_grafana_needs_no_words_of_its_own() -> None:
    assert read_json(grafana(alert("web1"), title="", message="")).title == "HighLoad"


def test_odd_characters_are_removed() -> None:
    incoming = read_json(
        {"title": f"\x00a\ud800b\x1b[31m\r\n\tc{DIRECTION}", "text": "\x00x\r\ny\tz\u2028w\udc00\x7f\x85"}
    )
    assert (incoming.title, incoming.text) == ("ab[31m c", "x\ny\tz\nw")


def test_text_is_in_normal_form() -> None:
    incoming = read_json({"title": "Cafe\u0301", "text": "Zu\u0308rich", "severity": "e\u0301"})
    assert (incoming.title, incoming.text, incoming.severity) == ("Café", "Zürich", "é")


@pytest.mark.parametrize("title", ["", " \n\t", "\x00", "\ud800", "\u200b\u200d", "\u202e"])
def test_a_title_that_cannot_be_seen_becomes_alert(title: str) -> None:
    assert read_json({"title": title}).title == "Alert"


def test_an_alert_without_a_name_is_called_alert() -> None:
    nameless = {"status": "firing", "labels": {}}
    data = {"version": "4", "status": "firing", "alerts": [nameless]}
    assert read_json(data) == Incoming("alertmanager", "Alert", "", "", "firing", None)
    assert read_json(data | {"alerts": [nameless] * 3}).title == "Alert (3 firing)"


def test_what_is_too_long_is_cut_and_says_so() -> None:
    incoming = read_json({"title": "t" * 201, "text": "x" * 5000, "severity": "s" * 41})
    assert incoming.title == "t" * 199 + "…"
    assert incoming.text == "x" * 3960 + "… 1,040 more characters"
    assert incoming.severity == "s" * 39 + "…"
    incoming = read_json({"title": "t" * 200, "text": "x" * 4000, "severity": "s" * 40})
    assert (len(incoming.title), len(incoming.text), len(incoming.severity)) == (200, 4000, 40)
    assert "…" not in incoming.title + incoming.text + incoming.severity


def test_the_counts_survive_a_long_name() -> None:
    long = [alert(f"web{number}") | {"labels": {"alertname": "n" * 300}} for number in range(2)]
    title = read_json(group(*long)).title
    assert len(title) == 200
    assert title.endswith("n… (2 firing)")


def test_text_that_grows_in_its_normal_form_stays_within_the_limit() -> None:
    incoming = read_json({"title": "\ufb2c" * 200, "text": "\ufb2c" * 4000, "severity": "\ufb2c" * 40})
    assert (len(incoming.title), len(incoming.severity)) == (200, 40)
    assert len(incoming.text) <= 4000


def test_a_key_is_kept_or_hashed() -> None:
    assert read_json({"title": "t", "key": "k" * 200}).key == "k" * 200
    assert read_json({"title": "t", "key": ""}).key is None
    odd = [read_json({"title": "t", "key": key}).key for key in ("k" * 201, "k" * 202, "\x00", "\ud800", "a\nb")]
    assert [len(key or "") for key in odd] == [64] * 5
    assert len(set(odd)) == 5


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", 'The body is empty. Send JSON, such as {"title": "Disk is full"}.'),
        (b" \n", 'The body is empty. Send JSON, such as {"title": "Disk is full"}.'),
        (b"title=Disk", "The body is not JSON: Expecting value (line 1, column 1)."),
        (b'{"title": "a"', "The body is not JSON: Expecting ',' delimiter (line 1, column 14)."),
        (b'{"title": "\xff"}', "The body is not JSON: it is not in UTF-8."),
        (b'{"title": "a", "text": NaN}', "The body is not JSON: NaN is not a value of JSON."),
        (b"[" * 100_000, "The JSON in the body is nested too deeply."),
        (b'{"title":' * 100_000, "The JSON in the body is nested too deeply."),
        (b'{"title": ' + b"9" * 5000 + b"}", "The JSON in the body has a number with too many digits."),
        (b"[]", 'The body must be an object, such as {"title": "Disk is full"}, not a list.'),
        (b"null", 'The body must be an object, such as {"title": "Disk is full"}, not null.'),
    ],
)
def test_a_body_that_is_no_object_of_json_is_explained(body: bytes, sentence: str) -> None:
    assert refusal(body) == sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"text": "a"}, 'The field "title" is missing.'),
        ({"title": None}, 'The field "title" is missing.'),
        ({"title": 5}, 'The field "title" must be text, not a number.'),
        ({"title": "a", "text": ["b"]}, 'The field "text" must be text, not a list.'),
        ({"title": "a", "key": True}, 'The field "key" must be text, not true or false.'),
        ({"title": "a", "status": "ok"}, 'The field "status" must be firing or resolved, not "ok".'),
        (
            {"title": "a", "message": "b"},
            'The field "message" is not known. The known fields are title, text, severity, status, key.',
        ),
    ],
)
def test_a_plain_alert_that_is_wrong_is_explained(data: Any, sentence: str) -> None:
    assert refusal(data) == sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"alerts": None}, 'The field "alerts" is missing.'),
        ({"alerts": {}}, 'The field "alerts" must be a list, not an object.'),
        ({"alerts": []}, 'The field "alerts" must contain at least one alert.'),
        ({"alerts": [5]}, 'The field "alerts[0]" must be an object, not a number.'),
        ({"alerts": [{}]}, 'The field "alerts[0].status" is missing. It must be firing or resolved.'),
        ({"status": None}, 'The field "status" is missing. It must be firing or resolved.'),
        ({"commonLabels": []}, 'The field "commonLabels" must be an object, not a list.'),
        ({"commonLabels": {"a": 1}}, 'The field "commonLabels.a" must be text, not a number.'),
        ({"groupKey": 1}, 'The field "groupKey" must be text, not a number.'),
        ({"truncatedAlerts": "many"}, 'The field "truncatedAlerts" must be a number, not text.'),
        ({"truncatedAlerts": True}, 'The field "truncatedAlerts" must be a number, not true or false.'),
        (
            {"alerts": [{"status": "firing", "startsAt": 5}]},
            'The field "alerts[0].startsAt" must be text, not a number.',
        ),
        ({"orgId": 1, "title": []}, 'The field "title" must be text, not a list.'),
        (
            {"version": "3"},
            'The field "version" must be "4", the only supported version of Alertmanager\'s webhook.',
        ),
    ],
)
def test_a_group_that_is_wrong_is_explained(fields: dict[str, Any], sentence: str) -> None:
    assert refusal(group(alert("web1")) | fields) == sentence


def test_what_is_in_no_known_shape_is_answered_with_the_three() -> None:
    for data in ({}, {"message": "Disk is full"}, {"version": "4"}):
        assert all(word in refusal(data) for word in ("Alertmanager", "Grafana", "title", "severity"))


def test_a_refusal_repeats_little_of_the_body() -> None:
    sentence = refusal({"title": "a", "\x00\ud800" + "x" * 1_000_000: 1})
    assert len(sentence) < 200
    assert sentence.isprintable()


def assert_can_be_kept(incoming: Incoming) -> None:
    """Check that the schema, every channel and every page can take what was read."""
    assert 1 <= len(incoming.title) <= 200
    assert len(incoming.text) <= 4000
    assert len(incoming.severity) <= 40
    assert incoming.status in ("firing", "resolved")
    assert incoming.key is None or 1 <= len(incoming.key) <= 200
    for value in incoming._replace(key=None)[:5]:
        assert value is not None
        assert unicodedata.is_normalized("NFC", value)
        value.encode()
    for value, kept in (
        (incoming.title, ""),
        (incoming.text, "\n\t"),
        (incoming.severity, ""),
        (incoming.key or "", ""),
    ):
        bad = {c for c in value if c not in kept and (unicodedata.category(c) in ("Cc", "Cs") or c in DIRECTION)}
        assert not bad
    assert "\n" not in incoming.title + incoming.severity


def scramble(source: random.Random, value: Any, depth: int = 0) -> Any:
    """Return a value with something in it changed, removed, or put where it does not belong."""
    odd = ["", "\x00", "\ud800", "e\u0301" * 300, "\u202e", "4", 10**400, -1, 1.5, True, None, [], {}, [[]], "x" * 9000]
    if depth > 4 or source.random() < 0.12:
        return source.choice(odd)
    if isinstance(value, dict):
        changed = {key: scramble(source, item, depth + 1) for key, item in value.items() if source.random() > 0.05}
        return changed | ({source.choice(["title", "orgId", "\udfff", "key"]): "x"} if source.random() < 0.1 else {})
    if isinstance(value, list):
        return [scramble(source, item, depth + 1) for item in value] * source.choice([0, 1, 1, 3])
    return value


def test_whatever_comes_is_read_or_refused_in_a_sentence() -> None:
    source = random.Random(4)
    shapes = [
        {"title": "Disk", "text": "98 %", "severity": "critical", "status": "firing", "key": "db1"},
        group(alert("web1", summary="Load"), alert("web2", "resolved")),
        grafana(alert("web1"), title="[FIRING:1] HighLoad", message="**Firing**"),
    ]
    sentences, accepted = [], []
    for _ in range(6000):
        body = json.dumps(scramble(source, source.choice(shapes))).encode()
        if source.random() < 0.3:
            at = source.randrange(len(body))
            body = body[:at] + source.randbytes(source.randrange(4)) + body[at + source.randrange(3) :]
        try:
            accepted.append(read(body))
        except Refused as refused:
            sentences.append(str(refused))
    for incoming in accepted:
        assert_can_be_kept(incoming)
    for sentence in sentences:
        assert sentence.isprintable()
        assert len(sentence) < 400
    assert min(len(accepted), len(sentences)) > 500


def test_random_bytes_are_refused() -> None:
    source = random.Random(5)
    for _ in range(3000):
        refusal(source.randbytes(source.randrange(60)))


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_no_obstacle(prefix: bytes) -> None:
    assert read(prefix + b'{"title": "Disk"}').title == "Disk"


def test_of_a_field_that_is_given_twice_the_last_counts() -> None:
    assert read(b'{"title": "first", "title": "last"}').title == "last"


@pytest.mark.parametrize(
    "body",
    [
        b'{"title": "' + "\u0315\u0300".encode() * 1_000_000 + b'"}',
        b'{"title": "a", "text": "' + b"\\u0000" * 690_000 + b'"}',
        b'{"version": "4", "status": "firing", "alerts": ['
        + b'{"status":"firing"},' * 200_000
        + b'{"status":"firing"}]}',
    ],
    ids=["combining marks", "zeros", "alerts"],
)
def test_four_megabytes_are_read(body: bytes) -> None:
    assert_can_be_kept(read(body))


def test_times_are_shown_in_the_zone_of_the_settings() -> None:
    alert = {"status": "resolved", "labels": {"alertname": "Disk"}}
    alert |= {"startsAt": "2026-03-01T12:00:00Z", "endsAt": "2026-03-01T23:00:00.5+09:00"}
    body = json.dumps({"version": "4", "status": "resolved", "alerts": [alert]}).encode()
    expected = "from 2026-03-01 20:00:00 UTC+08:00 to 2026-03-01 22:00:00 UTC+08:00"
    assert read(body, ZoneInfo("Asia/Shanghai")).text.endswith(expected)
