"""Show that every view says who may use it, and that one that says nothing is open to nobody."""

from flask import Flask

from contacts_app import create_app
from contacts_app.accounts.permissions import Access, Permission, access_of
from tests.conftest import Team

PUBLIC = {"accounts.setup", "accounts.logon", "accounts.logoff", "api.alerts", "health.healthz"}


def test_every_view_names_its_permission_or_is_public(app: Flask) -> None:
    asked = {endpoint: access_of(view) for endpoint, view in app.view_functions.items() if endpoint != "static"}
    assert {endpoint for endpoint, access in asked.items() if access is Access.PUBLIC} == PUBLIC
    assert {endpoint for endpoint, access in asked.items() if not isinstance(access, Permission)} == PUBLIC


def test_a_view_that_names_nothing_is_open_to_nobody(settings: dict[str, str], team: Team) -> None:
    app = create_app(settings)
    app.add_url_rule("/forgotten", view_func=lambda: "open")
    client = app.test_client()
    assert client.get("/forgotten").headers["Location"].startswith("/logon")
    client.set_cookie("console", team.cookie)
    answer = client.get("/forgotten")
    assert (answer.status_code, "You do not have the permission for it." in answer.text) == (403, True)
