"""Configure Jinja: the `moment` filter and a cached `url_for`."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from flask import Flask, request
from markupsafe import Markup


def moment(at: datetime) -> Markup:
    """Return a <time> element in UTC, which the script converts to the time zone of the browser."""
    text = at.isoformat()[:19]
    return Markup(f'<time datetime="{text}Z">{text[:10]} {text[11:16]} UTC</time>')  # nosec B704 # digits only


def init_app(app: Flask) -> None:
    """Set up the templates of `app`; URLs are cached, as a page has about thirty that never change."""

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
