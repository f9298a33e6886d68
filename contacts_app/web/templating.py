"""Render templates: escaped as Jinja escapes, without an object for every piece."""

from datetime import datetime
from functools import lru_cache
from typing import Any

from flask import Flask, request
from flask.templating import Environment
from jinja2.compiler import CodeGenerator
from markupsafe import Markup, escape
from markupsafe._speedups import _escape_inner


class PlainOutput(CodeGenerator):
    """Compile what a template puts out to plain strings.

    Jinja makes a Markup of every piece, which takes most of the time of a long list, only to join them all. The method
    and the function that escapes are internal to Jinja2 and MarkupSafe, which is why both are pinned; a test holds the
    outcome against theirs.
    """

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
            return
        self.write("environment.escape(")
        if finalize.src is not None:
            self.write(finalize.src)


class Templates(Environment):
    """Hold the templates of the console."""

    code_generator_class = PlainOutput

    @staticmethod
    def escape(value: Any) -> str:
        """Return `value` as it may stand in HTML."""
        kind = type(value)
        if kind is str:
            return _escape_inner(value)
        if kind is Markup:
            return value  # type: ignore[no-any-return]
        return str(value) if kind is int else str(escape(value))


def moment(at: datetime) -> Markup:
    """Return a moment, UTC, which the script shows in the browser's own time zone."""
    text = at.isoformat()[:19]
    return Markup(f'<time datetime="{text}Z">{text[:10]} {text[11:16]} UTC</time>')  # nosec B704 # digits only


def init_app(app: Flask) -> None:
    """Have `app` render with these, and make each address once: a page has thirty, which change with no request."""

    @lru_cache(1_000)
    def made(root: str, endpoint: str, values: tuple[tuple[str, Any], ...]) -> str:
        return app.url_for(endpoint, **dict(values))

    def url_for(endpoint: str, **values: Any) -> str:
        if endpoint.startswith("."):
            endpoint = f"{request.blueprint}{endpoint}"
        return made(request.script_root, endpoint, tuple(values.items()))

    app.jinja_environment = Templates
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.filters["moment"] = moment
    app.jinja_env.globals["url_for"] = url_for
