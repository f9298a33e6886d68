"""Show that values, errors and links of each alert arrive, and that no link leads where it must not."""

import json
import re
import time
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from contacts_app.delivery.channels import Content, bare, dingtalk, sms
from contacts_app.delivery.channels.mail_message import message_of
from contacts_app.delivery.facts import Fact, Link, from_json, safe_link
from contacts_app.intake.configurations import alertmanager_config
from contacts_app.intake.facts import MAX_ALERTS, MAX_BYTES, read_facts
from contacts_app.intake.formats import Incoming
from tests.api.test_alerts import add_integration, alerts_of, post, token
from tests.conftest import Team, wait_for
from tests.delivery.counterparts import parsed
from tests.intake.alertmanager import hurried, running
from tests.intake.test_configurations import TOKEN, listener
from tests.intake.test_formats import alert, assert_can_be_kept, grafana, group, read_json, refusal
from tests.pages.groups.test_views import add_group
from tests.pages.notifications.test_views import words

__all__ = ["token"]  # a fixture
G = "https://grafana.example.com"
# What Grafana 11 posts for a rule with a panel, and for one whose data source cannot be asked.
UNIFIED = {
    **alert("web1", summary="Load is high", runbook_url="https://wiki.example.com/load", __orgId__="1"),
    **{"values": {"C": 1, "B": 22.1234567}, "valueString": "[ var='B' labels={} value=22.1 ]"},
    **{"silenceURL": f"{G}/alerting/silence/new?matcher=a%3Db", "dashboardURL": f"{G}/d/abc?orgId=1"},
    **{"panelURL": f"{G}/d/abc?orgId=1&viewPanel=2", "generatorURL": f"{G}/alerting/grafana/x/view?orgId=1"},
    **{"imageURL": f"{G}/image.png"},
}
BROKEN: dict[str, Any] = {
    "status": "firing",
    "labels": {"alertname": "DatasourceError", "rulename": "Load of the web", "datasource_uid": "x"},
    "annotations": {"Error": "[sse.dataQueryError] failed to execute query [A]: connection refused"},
    **{"startsAt": "2026-11-25T09:51:03Z", "endsAt": "0001-01-01T00:00:00Z", "values": None, "valueString": ""},
    **{"generatorURL": f"{G}/alerting/x/view", "fingerprint": "1", "silenceURL": f"{G}/alerting/silence/new"},
    **{"dashboardURL": "", "panelURL": ""},
}


def content_of(incoming: Incoming, **changes: Any) -> Content:
    at = datetime(2026, 11, 25, 8, tzinfo=UTC)
    content = Content(1, incoming.title, incoming.text, "", incoming.status, "Night", at, None, "alert", "Grafana")
    return content._replace(facts=incoming.facts, **changes)


def mails(content: Content) -> tuple[str, str]:
    """Return the plain and the HTML part of the mail."""
    message = parsed(message_of("console@example.com", "ann@example.com", content, "1", None))
    parts = [message.get_body([kind]) for kind in ("plain", "html")]
    return tuple(part.get_content() for part in parts if part)


def bot(*alerts: Content) -> str:
    return dingtalk.text_of(alerts, None, [], 0)


# Read


def test_of_grafana_all_values_and_links_are_read() -> None:
    (fact,) = read_json(grafana(UNIFIED)).facts
    assert fact.texts == (("Value", "B=22.1235, C=1"),)
    assert {link.name: link.url for link in fact.links} == {
        "Runbook": "https://wiki.example.com/load",
        "Panel": UNIFIED["panelURL"],
        "Dashboard": UNIFIED["dashboardURL"],
        "Source": UNIFIED["generatorURL"],
        "Silence": UNIFIED["silenceURL"],
        "Image": UNIFIED["imageURL"],
    }
    assert [link.name for link in fact.main_links] == ["Runbook", "Panel"]
    assert "value B=22.1235, C=1" in read_json(grafana(UNIFIED)).text


def test_of_alertmanager_the_runbook_and_the_source_are_read() -> None:
    item = alert(
        "web1", runbook_url="https://wiki.example.com/load", impact="Slow pages", dashboard="https://g.example/d"
    )
    (fact,) = read_json(group(item)).facts
    assert fact.texts == (("impact", "Slow pages"),)
    assert [tuple(link) for link in fact.links] == [
        ("Runbook", "https://wiki.example.com/load"),
        ("Dashboard", "https://g.example/d"),
        ("Source", "http://prometheus/graph"),
    ]


def test_an_alert_without_data_names_its_rule_and_its_error() -> None:
    content = read_json(grafana(BROKEN, commonLabels=BROKEN["labels"]))
    error = BROKEN["annotations"]["Error"]
    assert content.title == "Load of the web (DatasourceError)"
    assert content.text.startswith(f"error: {error}; since 2026-11-25 09:51:03 UTC")
    assert content.facts[0].texts == (("Error", error),)
    for text in (*mails(content_of(content)), sms.text_of(content_of(content))):
        assert "Load of the web" in text
        assert "failed to execute query" in text


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"values": {"B": 22, "A": 0.5}}, "A=0.5, B=22"),
        ({"values": {"B": 1764150000.0}}, "B=1764150000"),
        ({"values": {"B": 1e300}}, "B=1e+300"),
        ({"values": {"B": None, "C": 1}}, "C=1"),
        (
            {
                "values": None,
                "valueString": "[ var='B0' metric='cpu' labels={a=b} value=95.5 ], [ var='B1' labels={} value=3 ]",
            },
            "cpu=95.5, B1=3",
        ),
        ({"values": None, "valueString": "[ metric='foo' labels={instance=bar} value=10 ]"}, "foo=10"),
        ({"values": {}, "valueString": ""}, ""),
        ({"values": [1], "valueString": 5}, ""),
        ({"values": {"B": True, "C": "x", "D": {}}}, ""),
    ],
)
def test_a_value_is_told_in_few_words(fields: dict[str, Any], value: str) -> None:
    texts = dict(next(iter(read_json(grafana(alert("web1") | fields)).facts)).texts)
    assert texts.get("Value", "") == value


def test_what_go_writes_as_null_loses_nothing_else() -> None:
    item = UNIFIED | {"labels": None, "annotations": None, "values": None, "dashboardURL": None}
    content = read_json(grafana(UNIFIED, alerts=[item], groupLabels=None, commonLabels=None))
    assert (content.title, content.facts[0].links[0].name) == ("Alert", "Panel")


def test_the_alerts_of_a_group_are_told_apart() -> None:
    facts = read_json(group(alert("web1", runbook_url="https://a.example/1"), alert("web2"))).facts
    assert [fact.alert for fact in facts] == ["instance=web1", "instance=web2"]


def test_the_webhook_of_an_old_grafana_is_read() -> None:
    body = {
        "dashboardId": 1, "panelId": 2, "ruleId": 17, "orgId": 1,
        "evalMatches": [{"value": 100, "metric": "High value", "tags": None}, {"value": 5.5, "metric": "b"}],
        "imageUrl": f"{G}/image.png", "message": "Somebody should look.",
        "ruleName": "Load", "ruleUrl": f"{G}/d/abc?tab=alert", "state": "alerting", "tags": {"severity": "critical"},
        "title": "[Alerting] Load",
    }  # fmt: skip
    content = read_json(body)
    assert content[:6] == (
        "grafana", "Load", "Somebody should look.\nValue: High value=100, b=5.5", "critical", "firing", "rule-17"
    )  # fmt: skip
    assert [tuple(link) for link in content.facts[0].links] == [
        ("Source", f"{G}/d/abc?tab=alert"),
        ("Image", f"{G}/image.png"),
    ]
    ok = read_json(body | {"state": "ok", "evalMatches": None, "tags": None})
    assert (ok.status, ok.key, ok.text) == ("resolved", content.key, "Somebody should look.")
    assert "There is no data." in read_json(body | {"state": "no_data"}).text
    assert 'The field "state" must be one of' in refusal(body | {"state": "x"})


# Links


@pytest.mark.parametrize(
    ("value", "link"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTP://Example.com:8080/a?b=c&d=%20e#f", "http://example.com:8080/a?b=c&d=%20e#f"),
        (" https://example.com/ü ", "https://example.com/%C3%BC"),
        ("https://例え.jp/a", "https://xn--r8jz45g.jp/a"),
        ("http://[::1]:3000/d", "http://[::1]:3000/d"),
        ("http://prometheus/graph?g0.expr=up%7Bjob%3D%22a%22%7D+%3D%3D+0&g0.tab=1",) * 2,
        ("http://a_b.local/x?y={z}|`", "http://a_b.local/x?y=%7Bz%7D%7C%60"),
    ],
)
def test_an_address_is_a_link(value: str, link: str) -> None:
    assert safe_link(value) == link
    assert safe_link(link) == link


BAD_LINKS = [
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)", "\x01javascript:alert(1)", "java\nscript:alert(1)"),
    *("data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "ftp://example.com"),
    *(
        "//example.com",
        "/graph",
        "example.com",
        "",
        "http://",
        "https:///path",
        "http:example.com",
        "http:/example.com",
    ),
    *("https://user@example.com", "https://user:secret@example.com", "https://good.example\\@evil.example/"),
    *("https://example.com/a b", "https://example.com/\n", 'https://example.com/"onclick=', "https://exa<mple.com"),
    *("https://example.com:port/", "https://example.com:99999/", "https://[::1", "https://\u202eexample.com"),
    *("https://-example.com", "https://exa mple.com", "https://example.com/" + "x" * 2000, "https://\ud800.example"),
]


@pytest.mark.parametrize("value", [value for value in BAD_LINKS if value != "https://example.com/\n"])
def test_what_leads_elsewhere_is_no_link_anywhere(team: Team, token: str, value: str) -> None:
    assert safe_link(value) is None
    item = UNIFIED | dict.fromkeys(("panelURL", "dashboardURL", "generatorURL", "silenceURL", "imageURL"), value)
    item["annotations"] = {"runbook_url": value, "wiki": value}
    content = read_json(grafana(item, externalURL=""))
    assert all(fact.links == () for fact in content.facts)
    # An address that stands in the words may be a link to what is read there, as in any mail.
    assert all(url == shown for url, shown in re.findall(r'<a href="([^"]*)">([^<]*)', mails(content_of(content))[1]))
    assert "](" not in re.sub(r"\\.", "", bot(content_of(content)))
    assert post(team.app, token, grafana(item, externalURL="")).status_code == 202
    page = team.get(f"/notifications/{alerts_of(team)[0]['id']}").text
    assert 'rel="noopener noreferrer"' not in page


def test_links_that_stand_in_the_table_are_looked_at_again() -> None:
    kept = [["", [], [["Source", "javascript:alert(1)"], ["Panel", "https://example.com"]]]]
    assert from_json(kept) == (Fact("", (), (Link("Panel", "https://example.com"),)),)


# Bounds


@pytest.mark.long
def test_what_is_kept_is_bounded(team: Team, token: str) -> None:
    notes = {f"note{number}": "é" * 1000 for number in range(200)}
    links = {f"link{number}": f"https://example.com/{'x' * 1900}" for number in range(200)}
    item = alert("web1") | {"annotations": notes | links, "values": {f"{n}": n for n in range(10_000)}}
    (first,) = read_facts([("", item | {"annotations": notes})])
    assert len(first.texts) == 10
    assert all(len(value) <= 500 for _, value in first.texts)
    (second,) = read_facts([("", item | {"annotations": links, "panelURL": links["link1"]})])
    assert second.links[0].name == "Panel"
    many = read_json(group(*(alert(f"web{number}") for number in range(100))))
    assert len(many.facts) == MAX_ALERTS
    big = [item | {"annotations": notes}] * 100
    assert len(json.dumps(read_json(group(*big)).facts, ensure_ascii=False).encode()) <= MAX_BYTES + 2
    assert_can_be_kept(read_json(group(*big)))
    assert post(team.app, token, group(*[item] * 2)).status_code == 202


def test_odd_annotations_cost_little_and_lose_no_alert() -> None:
    odd: dict[str, Any] = {"a" * 1000: "b", "": "c", "\ud800": "\x00", "list": "[1]", "x": "var='" * 10_000}
    items = [alert("web1") | {"annotations": odd, "valueString": "var='a' value= " * 2000}] * 100
    items += [alert("web2") | {"annotations": {f"{n}": "https://x.example" for n in range(30_000)}}]
    body = group(*items)
    started = time.thread_time()
    assert_can_be_kept(read_json(body))
    assert time.thread_time() - started < 2


# What the messages show


def test_mail_carries_value_runbook_and_one_link_for_each_alert() -> None:
    second = UNIFIED | alert("web2") | {"panelURL": "", "annotations": {"impact": "Slow <pages>"}}
    content = content_of(read_json(grafana(UNIFIED, second, externalURL="")))
    plain, html = mails(content)
    assert "instance=web1\nRunbook: https://wiki.example.com/load\nPanel: " in plain
    assert f"instance=web2\nimpact: Slow <pages>\nDashboard: {G}/d/abc?orgId=1" in plain
    assert [(unescape(url), name) for url, name in re.findall(r'<a href="([^"]+)">([^<]+)', html)] == [
        ("https://wiki.example.com/load", "Runbook"),
        (UNIFIED["panelURL"], "Panel"),
        (UNIFIED["dashboardURL"], "Dashboard"),
    ]
    assert "impact: Slow &lt;pages&gt;" in html
    assert plain.count("B=22.1235, C=1") == html.count("B=22.1235, C=1") == 2  # in the lines, and not again


def test_words_of_somebodys_own_do_not_hide_value_and_error() -> None:
    item = UNIFIED | {"annotations": {"Error": "no route to host"}}
    content = content_of(read_json(grafana(item, title="Own", message="Own words.")))
    for text in (*mails(content), bot(content)):
        assert "Own words." in text
        assert "Value: B=22.1235, C=1" in text
        assert "Error: no route to host" in text


def test_dingtalk_carries_links_that_stay_links() -> None:
    item = alert("web1", runbook_url="https://wiki.example.com/a_(b)*[c]~d", impact="*[x](y)*")
    content = content_of(read_json(group(item, externalURL="")))
    text = bot(content)
    assert "[Runbook](https://wiki.example.com/a_%28b%29%2A%5Bc%5D%7Ed) · [Source](http://prometheus/graph)" in text
    assert r"impact: \*\[x\](y)\*" in text
    both = bot(content, content._replace(id=2))
    assert both.count("[Runbook](") == 2
    many = bot(*(content._replace(id=number, facts=content.facts * 20) for number in range(50)))
    assert len(many.encode()) < 20_000


def test_texts_stay_without_links_of_alerts() -> None:
    content = content_of(read_json(grafana(UNIFIED, externalURL="")))
    assert "http" not in sms.text_of(content)
    assert "B=22.1235" in sms.text_of(content)


def test_a_headline_goes_without_links_that_may_have_been_refused() -> None:
    content = bare(content_of(read_json(grafana(UNIFIED))))
    assert "http" not in bot(content) + "".join(mails(content)).replace("<meta http", "")


def test_a_notification_shows_all_links_and_where_they_lead(team: Team, token: str) -> None:
    long = f"https://wiki.example.com/{'x' * 300}"
    second = UNIFIED | alert("web2", runbook_url=long, note="<b>bold</b>")
    assert post(team.app, token, grafana(UNIFIED, second)).status_code == 202
    page = team.get(f"/notifications/{alerts_of(team)[0]['id']}").text
    found = re.findall(r'<a href="([^"]+)" rel="noopener noreferrer"><bdi>([^<]+)</bdi></a>', page)
    assert len(found) == 12
    assert all(unescape(url).startswith(unescape(shown).rstrip("…")) for url, shown in found)
    assert long in [url for url, _ in found]
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "instance=web2" in words(page)


def test_an_alert_without_facts_shows_no_empty_place(team: Team) -> None:
    token = add_integration(team, add_group(team, "Night"))
    assert post(team.app, token).status_code == 202
    assert "Values and links" not in team.get(f"/notifications/{alerts_of(team)[0]['id']}").text


def test_a_real_alertmanagers_runbook_and_generator_arrive(tmp_path: Path, team: Team, token: str) -> None:
    annotations = {"summary": "Disk is full", "runbook_url": "https://wiki.example.com/disk", "value": "98 %"}
    with listener() as (url, posts), running(hurried(alertmanager_config(url, TOKEN)), tmp_path) as alertmanager:
        alertmanager.fire(
            "DiskFull", {"instance": "db1"}, annotations, "http://prometheus.example.com/graph?g0.expr=up"
        )
        wait_for(lambda: posts, what="the alert")
    assert post(team.app, token, posts[0].body).status_code == 202
    (fact,) = from_json(alerts_of(team)[0]["facts"])
    assert fact.texts == (("Value", "98 %"),)
    assert [tuple(link) for link in fact.main_links] == [
        ("Runbook", "https://wiki.example.com/disk"),
        ("Source", "http://prometheus.example.com/graph?g0.expr=up"),
    ]
