"""Give templates what all of them use: moments, and addresses that are made once."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from flask import Flask, request
from markupsafe import Markup


def moment(at: datetime) -> Markup:
    """Return a moment, UTC, which the script shows in the browser's own time zone."""
    text = at.isoformat()[:19]
    return Markup(f'<time datetime="{text}Z">{text[:10]} {text[11:16]} UTC</time>')  # nosec B704 # digits only


def init_app(app: Flask) -> None:
    """Have the templates of `app` use these; a page has thirty addresses, which change with no request."""

    @lru_cache(1_000)
    def made(root: str, endpoint: str, values: tuple[tuple[str, Any], ...]) -> str:
        return app.url_for(endpoint, **dict(values))

    def url_for(endpoint: str, **values: Any) -> str:
        if endpoint.startswith("."):
            endpoint = f"{request.blueprint}{endpoint}"
        return made(request.script_root, endpoint, tuple(values.items()))

    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.filters["moment"] = moment
    app.jinja_env.globals["url_for"] = url_for
