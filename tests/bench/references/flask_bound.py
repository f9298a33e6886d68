"""Do what a console in Flask cannot do without, and nothing else, to bound what it can reach.

Flask reads the signed cookie, psycopg alone runs the console's own statements, a form's token is made or checked, the
headers are set. The answer is the limit's page, rendered once and kept.
"""

from functools import cache
from typing import Any

import sqlalchemy as sa
from flask import Flask, Response, redirect, request, session
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import generate_csrf, validate_csrf

from contacts_app.accounts.models import visitor_of_session
from contacts_app.contacts.models import contact_to_show
from contacts_app.core.db import db
from contacts_app.core.encryption import digest
from contacts_app.groups.models import groups_of_contact
from contacts_app.pages.contacts.listing import page_statement
from contacts_app.reach.reachability import reach_statement
from contacts_app.web.security import headers
from tests.bench.references import limit
from wsgi import app as console

app = Flask(__name__)
app.config.update(SECRET_KEY=console.secret_key, SESSION_COOKIE_NAME="console")


def run(statement: sa.Select[Any], **parameters: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a statement of the console."""
    text, known = prepared(statement)
    cursor = limit.connection().cursor(binary=True)
    return cursor.execute(text, known | parameters, prepare=True).fetchall()


@cache
def prepared(statement: sa.Select[Any]) -> tuple[str, dict[str, Any]]:
    """Return the SQL of a statement and the parameters that never change."""
    with console.app_context():
        compiled = statement.compile(dialect=db.engine.dialect)
        return str(compiled), dict(compiled.params)


@cache
def body(name: str, query: str, *parameters: Any) -> str:
    """Return the limit's page."""
    return limit.templates[name].render(rows=limit.rows(query, limit.ACCOUNT, *parameters))


@app.before_request
def log_on() -> None:
    """Find out whose request it is, and let the connection see that account's rows."""
    (visitor,) = run(visitor_of_session, digest=digest(session["token"]))
    assert visitor[1] == limit.ACCOUNT
    if request.method == "POST":
        validate_csrf(request.form["csrf_token"])
    else:
        generate_csrf()


@app.get("/contacts")
def index() -> str:
    """Answer the list, or a search."""
    text = request.args.get("q")
    found = page_statement("name", "all", "email" if text else None)
    assert run(found, account_id=limit.ACCOUNT, offset=0, **({"text": text} if text else {}))
    run(reach_statement(), account_id=limit.ACCOUNT)
    return body("search", limit.SEARCH, text) if text else body("list", limit.LIST)


@app.route("/contacts/<int:id>/edit", methods=["GET", "POST"])
def edit(id: int) -> ResponseReturnValue:
    """Answer the dialog, or save what it holds."""
    if request.method == "POST":
        limit.save(id, request.form.to_dict(flat=False))
        return redirect("/contacts", 303)
    keys = {"account_id": limit.ACCOUNT, "contact_id": id}
    assert run(contact_to_show, **keys)
    run(groups_of_contact, **keys)
    return body("edit", limit.ONE, id)


@app.after_request
def add_headers(response: Response) -> Response:
    """Send what every answer of the console carries."""
    response.headers.update(headers(https=False) | {"Cache-Control": "no-store", "Vary": "HX-Request"})
    return response
