"""Show that integrations are created, shown, renewed and deleted by their own team only, and a token is shown once."""

import html
import json
import re
import shlex
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from werkzeug.test import TestResponse

from contacts_app.core.db import all_accounts, db
from tests.api.test_alerts import PATH, add_integration, another, integration_of, post
from tests.conftest import Team, watched_statements
from tests.pages.contacts.test_views import HOSTILE, errors_of
from tests.pages.groups.test_views import add_group

GONE = "This integration does not exist, or somebody has deleted it meanwhile."
OF_ONE = [("GET", ""), ("GET", "/renew"), ("POST", "/renew"), ("GET", "/delete"), ("POST", "/delete")]


def blocks(answer: TestResponse) -> dict[str, str]:
    """Return what is there to be copied, by its label."""
    found = re.findall(r'<pre tabindex="0" aria-label="([^"]+)"><code>(.*?)</code>', answer.text, re.DOTALL)
    return {label.removeprefix("Configuration for "): html.unescape(text) for label, text in found}


def create(team: Team, group: int, name: str = "Alertmanager") -> TestResponse:
    return team.post(f"/groups/{group}/integrations", {"name": name})


def test_the_page_of_a_group_lists_its_integrations_by_name(team: Team) -> None:
    night, day = add_group(team, "Night"), add_group(team, "Day")
    for group, name in ((night, "Zabbix"), (night, "Alertmanager"), (day, "Grafana")):
        add_integration(team, group, name)
    page = team.get(f"/groups/{night}/integrations").text
    assert re.findall(r'<th scope="row"><a [^>]*><bdi>([^<]*)', page) == ["Alertmanager", "Zabbix"]
    assert page.count("Never") == 2
    team.sql.execute("UPDATE integrations SET used_at = '2026-11-25 07:00Z' WHERE name = 'Zabbix'")
    page = team.get(f"/groups/{night}/integrations").text
    assert page.count("Never") == 1
    assert "2026-11-25 07:00 UTC" in page


def test_the_list_of_groups_leads_to_their_integrations(team: Team) -> None:
    night, day, none = add_group(team, "Night"), add_group(team, "Day"), add_group(team, "None")
    for group, name in ((night, "a"), (night, "b"), (day, "c")):
        add_integration(team, group, name)
    links = re.findall(r'<a href="/groups/(\d+)/integrations"[^>]*>([^<]*)</a>', team.get("/groups").text)
    assert {int(group): words for group, words in links} == {night: "2 integrations", day: "1 integration", none: "Add"}


def test_a_token_is_shown_once_and_only_its_hash_is_kept(team: Team) -> None:
    group = add_group(team, "Night")
    answer = create(team, group)
    token = blocks(answer)["Token"]
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    integration = integration_of(team)
    for path in (f"/groups/{group}/integrations", f"/integrations/{integration['id']}"):
        again = team.get(path)
        assert (again.status_code, token in again.text) == (200, False)
    assert token not in str(integration)
    assert post(team.app, token).status_code == 202


def test_renewing_ends_the_old_token_and_shows_the_new_one_once(team: Team) -> None:
    old = blocks(create(team, add_group(team, "Night")))["Token"]
    path = f"/integrations/{integration_of(team)['id']}"
    assert "ends at once" in team.get(f"{path}/renew").text
    assert post(team.app, old).status_code == 202
    form = {"made": integration_of(team)["token_made_at"].isoformat()}
    answer = team.post(f"{path}/renew", form)
    new = blocks(answer)["Token"]
    again = team.post(f"{path}/renew", form)  # as a browser does when the page is loaded anew
    assert again.status_code == 303
    assert "renewed already" in team.get(path).text
    assert (answer.status_code, old in answer.text, new in team.get(path).text) == (200, False, False)
    assert [post(team.app, token, {"title": "x"}).status_code for token in (old, new)] == [401, 202]


def test_deleting_leads_back_to_the_list_and_says_so(team: Team) -> None:
    group = add_group(team, "Night")
    add_integration(team, group)
    path = f"/integrations/{integration_of(team)['id']}/delete"
    assert "is refused from now on" in team.get(path).text
    answer = team.post(path, {})
    assert (answer.status_code, answer.location) == (303, f"/groups/{group}/integrations")
    assert "Alertmanager has been deleted." in team.get(str(answer.location)).text
    assert team.get(path).status_code == 404


def test_who_deletes_a_group_is_shown_its_integrations(team: Team) -> None:
    group = add_group(team, "Night")
    for name in ("Zabbix", "Alertmanager"):
        add_integration(team, group, name)
    page = team.get(f"/groups/delete?id={group}", htmx=True).text
    assert "2 integrations use it and are deleted as well:" in page
    assert page.index("<bdi>Alertmanager</bdi>") < page.index("<bdi>Zabbix</bdi>")
    team.post("/groups/delete", {"id": group})
    assert team.sql.execute(
        "SELECT count(*) FROM integrations WHERE account_id = %s", [team.account_id]
    ).fetchone() == (0,)


@pytest.mark.parametrize("name", [*HOSTILE, "监控 Überwachung", "محول", "🔔", "x" * 64])
def test_a_name_may_have_any_letters(team: Team, name: str) -> None:
    group = add_group(team, name)
    answer = create(team, group, name)
    pages = [answer, *(team.get(f"/integrations/{integration_of(team)['id']}{end}") for _, end in OF_ONE[:2])]
    pages += [team.get(f"/groups/{group}/integrations"), team.get(f"/groups/delete?id={group}")]
    for page in pages:
        assert page.status_code == 200
        assert name in [html.unescape(shown) for shown in re.findall(r"<bdi>([^<]*)</bdi>", page.text)]
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Enter a name."),
        ("\u200b", "Enter a name."),
        ("x" * 65, "This has 65 characters; at most 64 are possible."),
        ("a\x00b", "There are characters in this that cannot be shown. Type it instead of pasting it."),
        ("x\U00016d63\U00016d67", "This name has characters that cannot be stored. Write it in another way."),
    ],
)
def test_a_bad_name_is_explained_beside_its_field_and_nothing_is_created(team: Team, name: str, message: str) -> None:
    group = add_group(team, "Night")
    add_integration(team, group, "Zabbix")
    answer = create(team, group, name)
    assert (answer.status_code, errors_of(answer)) == (422, {"name": message})
    assert "Zabbix" in answer.text
    assert integration_of(team)["name"] == "Zabbix"


@pytest.mark.parametrize("public_url", ["", "https://contacts.example.com"])
def test_the_configurations_work_as_pasted(team: Team, settings: dict[str, str], public_url: str) -> None:
    group = add_group(team, "Night")
    with another(settings, PUBLIC_URL=public_url) as app:
        client = app.test_client()
        client.set_cookie("console", team.cookie)
        answer = client.post(f"/groups/{group}/integrations", data={"name": "a", "csrf_token": team.csrf_token})
        known = client.get(f"/integrations/{integration_of(team)['id']}")
    url = f"{public_url or 'http://localhost'}{PATH}"
    for page, token in ((answer, blocks(answer)["Token"]), (known, "YOUR-TOKEN")):
        found = blocks(page)
        (webhook,) = yaml.safe_load(found["Alertmanager"])["receivers"][0]["webhook_configs"]
        authorization = webhook["http_config"]["authorization"]
        assert (webhook["url"], authorization["type"], authorization["credentials"]) == (url, "Bearer", token)
        grafana = yaml.safe_load(found["Grafana"])["contactPoints"][0]["receivers"][0]["settings"]
        assert (grafana["url"], grafana["authorization_credentials"]) == (url, token)
        curl = shlex.split(found["A script"].replace("\\\n", ""))
        assert curl[:2] == ["curl", url]
        assert f"Authorization: Bearer {token}" in curl
    # What the page offers is what the console takes.
    assert post(team.app, blocks(answer)["Token"], json.loads(curl[-1])).status_code == 202


@pytest.mark.parametrize(("method", "end"), OF_ONE)
@pytest.mark.parametrize("who", ["another team", "nobody", "unknown"])
def test_an_integration_is_for_its_own_team_only(team: Team, other_team: Team, method: str, end: str, who: str) -> None:
    token = add_integration(team, add_group(team, "Night"))
    path = f"/integrations/{integration_of(team)['id'] if who != 'unknown' else 2**62}{end}"
    client = team.app.test_client() if who == "nobody" else other_team.client
    data = {"csrf_token": other_team.csrf_token} if method == "POST" else None
    answer = client.open(path, method=method, data=data)
    if who == "nobody":
        assert answer.status_code in (303, 400)
        assert method == "POST" or answer.location == f"/logon?next={path}"
    else:
        assert (answer.status_code, GONE in answer.text) == (404, True)
    assert "Night" not in answer.text
    assert post(team.app, token).status_code == 202


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_group_of_another_team_gets_no_integration(team: Team, other_team: Team, method: str) -> None:
    group = add_group(team, "Night")
    add_integration(team, group, "Zabbix")
    path = f"/groups/{group}/integrations"
    answer = other_team.post(path, {"name": "Mine"}) if method == "POST" else other_team.get(path)
    assert (answer.status_code, "Night" in answer.text, "Zabbix" in answer.text) == (404, False, False)
    assert integration_of(team)["name"] == "Zabbix"


@pytest.mark.filterwarnings("ignore:DELETE statement on table 'integrations' expected")
@pytest.mark.parametrize("end", ["renew", "delete"])
def test_an_integration_that_somebody_deletes_at_the_same_moment_is_gone(team: Team, end: str) -> None:
    add_integration(team, add_group(team, "Night"))
    identity, made = integration_of(team)["id"], integration_of(team)["token_made_at"].isoformat()

    def delete(*rest: Any) -> None:
        team.sql.execute("DELETE FROM integrations WHERE id = %s", [identity])

    with team.app.app_context(), all_accounts():
        session = db.session.session_factory.class_
    sa.event.listen(session, "before_flush", delete)
    try:
        answer = team.post(f"/integrations/{identity}/{end}", {"made": made})
    finally:
        sa.event.remove(session, "before_flush", delete)
    assert answer.status_code == (303 if end == "delete" else 404)


def test_no_page_takes_more_than_a_few_queries(team: Team) -> None:
    group = add_group(team, "Night")
    for number in range(30):
        add_integration(team, group, f"Number {number}")
    for path in (f"/groups/{group}/integrations", f"/integrations/{integration_of(team)['id']}"):
        with watched_statements() as sent:
            assert team.get(path).status_code == 200
        assert len(sent) <= 4  # session, group, integrations, what waits
