"""Show that a blueprint alone says that programs ask: another API, and a view that takes files, need no more."""

from io import BytesIO
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, request
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue

from contacts_app import create_app
from contacts_app.accounts.permissions import Permission, public, requires
from contacts_app.web.machines import API, ApiBlueprint
from contacts_app.web.security import takes_files
from tests.conftest import Team


def names_of_files() -> ResponseReturnValue:
    """Return which files came, and their sizes."""
    return {name: len(file.read()) for name, file in request.files.items()}


@pytest.fixture
def console(settings: dict[str, str]) -> Flask:
    """Return a console with an API and a page more than it has."""
    app = create_app(settings)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    second = ApiBlueprint("second", __name__, below="v2/people")

    @second.post("/files")
    @public
    def files() -> ResponseReturnValue:
        return names_of_files()

    @second.post("/json")
    @public
    def json() -> ResponseReturnValue:
        return {"sent": request.json}

    @second.get("/conflict")
    @public
    def conflict() -> ResponseReturnValue:
        abort(409)

    @second.get("/broken")
    @public
    def broken() -> ResponseReturnValue:
        raise RuntimeError

    @second.route("/own", methods=["GET", "POST"])
    @requires(Permission.USE_CONSOLE)
    def own() -> ResponseReturnValue:
        return "of a user"

    page = Blueprint("page", __name__)

    @page.post("/upload")
    @requires(Permission.USE_CONSOLE)
    @takes_files
    def upload() -> ResponseReturnValue:
        return names_of_files()

    app.register_blueprint(second)
    app.register_blueprint(page)
    return app


@pytest.fixture
def client(console: Flask, team: Team) -> FlaskClient:
    """Return a browser that is logged on: what it shows must not count where programs ask."""
    client = console.test_client()
    client.set_cookie("console", team.cookie)
    return client


def a_file() -> dict[str, Any]:
    return {"file": (BytesIO(b"Ann,ann@example.com\n"), "contacts.csv")}


def test_another_api_takes_files_and_json_without_a_token(client: FlaskClient) -> None:
    answer = client.post("/api/v2/people/files", data=a_file())
    assert (answer.status_code, answer.json) == (200, {"file": 20})
    answer = client.post("/api/v2/people/json", json={"name": "Ann"})
    assert (answer.status_code, answer.json) == (200, {"sent": {"name": "Ann"}})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "conflict", 409),
        ("GET", "broken", 500),
        ("GET", "own", 401),
        ("POST", "own", 401),
        ("GET", "files", 405),
        ("GET", "nowhere", 404),
        ("POST", "nowhere", 404),
        ("POST", "../nowhere", 404),
    ],
)
@pytest.mark.parametrize("htmx", [{}, {"HX-Request": "true"}])
def test_errors_of_another_api_are_json_and_nobody_is_logged_on(
    client: FlaskClient, method: str, path: str, status: int, htmx: dict[str, str]
) -> None:
    body = {"name": "Ann"} if method == "POST" else None
    answer = client.open(f"/api/v2/people/{path}", method=method, headers=htmx, json=body)
    assert answer.status_code == status
    assert answer.is_json
    assert list(answer.json or ()) == ["error"]
    assert not answer.headers.getlist("Set-Cookie")


def test_a_page_takes_files_where_its_view_says_so_and_with_a_token(client: FlaskClient, team: Team) -> None:
    assert client.post("/upload", data=a_file()).status_code == 400
    answer = client.post("/upload", data=a_file() | {"csrf_token": team.csrf_token})
    assert (answer.status_code, answer.json) == (200, {"file": 20})
    assert client.post("/upload", json={}).status_code == 415
    assert client.post("/contacts/new", data=a_file() | {"csrf_token": team.csrf_token}).status_code == 415


def test_below_api_are_the_views_of_apis_and_no_others(console: Flask) -> None:
    for rule in console.url_map.iter_rules():
        blueprint = console.blueprints.get(rule.endpoint.rpartition(".")[0])
        assert rule.rule.startswith(API) is isinstance(blueprint, ApiBlueprint), rule
