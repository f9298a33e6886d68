"""Answer with WSGI, psycopg and Jinja2 alone, which is as fast as a list of contacts gets in Python without tricks.

The templates are the console's own answers. Fetched are the columns of contacts; groups, robots and the state of
channels stand in the template. Nobody logs on and nothing is checked.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import psycopg
from jinja2 import Environment, FileSystemLoader

from tests.bench.references import shown_mobile

ACCOUNT = int(os.environ["ACCOUNT"])
COLUMNS = "id, name, mobile, email, receives_system_notifications"
LIST = f'SELECT {COLUMNS} FROM contacts WHERE account_id = %s ORDER BY name_key COLLATE "C", id LIMIT 100'
SEARCH = LIST.replace("ORDER BY", "AND strpos(lower(email), lower(%s)) > 0 ORDER BY")
ONE = f"SELECT {COLUMNS}, version FROM contacts WHERE account_id = %s AND id = %s"
SAVE = (
    "UPDATE contacts SET name = %s, mobile = %s, email = %s, receives_system_notifications = %s, version = version + 1,"
    " updated_at = now() WHERE account_id = %s AND id = %s AND version = %s"
)
_environment = Environment(loader=FileSystemLoader(os.environ["TEMPLATES"]), autoescape=True)
templates = {name: _environment.get_template(f"{name}.html") for name in ("list", "search", "edit", "changed")}
_local = threading.local()


def connection() -> psycopg.Connection:
    """Return this thread's connection."""
    if not hasattr(_local, "connection"):
        _local.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    return _local.connection


def rows(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return contacts as the templates show them."""
    found = connection().cursor(binary=True).execute(query, parameters, prepare=True)
    return [(id, name, shown_mobile(mobile), *rest) for id, name, mobile, *rest in found]


def save(contact_id: int, form: dict[str, list[str]]) -> None:
    """Write what was typed, if nobody else has written meanwhile."""
    typed = [form["name"][0], form["mobile"][0].replace(" ", ""), form["email"][0]]
    keys = (ACCOUNT, contact_id, int(form["version"][0]))
    with connection().transaction():
        saved = connection().execute(SAVE, [*typed, "receives_system_notifications" in form, *keys], prepare=True)
        assert saved.rowcount == 1


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request for the list, a search, the dialog or a save."""
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if environ["REQUEST_METHOD"] == "POST":
        form = parse_qs(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode())
        save(int(path.split("/")[2]), form)
        if "HTTP_HX_REQUEST" not in environ:
            start_response("303 See Other", [("Location", "/contacts"), ("Content-Length", "0")])
            return []
        text = templates["changed"].render(rows=rows(LIST, ACCOUNT))
    elif path.endswith("/edit"):
        text = templates["edit"].render(rows=rows(ONE, ACCOUNT, int(path.split("/")[2])))
    elif query:
        text = templates["search"].render(rows=rows(SEARCH, ACCOUNT, parse_qs(query)["q"][0]))
    else:
        text = templates["list"].render(rows=rows(LIST, ACCOUNT))
    body = text.encode()
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
