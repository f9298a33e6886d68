"""Show that templates escape exactly as stock Jinja does."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from flask import Flask
from jinja2 import DictLoader, Environment
from markupsafe import Markup

from contacts_app.web.templating import Templates, moment
from tests.test_attacks import NASTY


class Html:
    """Something that knows its own HTML."""

    def __html__(self) -> str:
        return "<i>&amp;</i>"


class Text(str):
    """A string of somebody's own."""


HOSTILE: list[Any] = [value if isinstance(value, str) else value.decode("latin1") for value in NASTY]
HOSTILE += [None, 0, -1, 10**30, 1.5, True, b"<b>", ["<"], {"<": ">"}, Html(), Markup("<b>&amp;</b>"), Text("<&'\">")]
TEMPLATES = {
    "page.html": "{% extends 'base.html' %}{% from 'macros.html' import told with context %}{% block main %}"
    "{{ value }}{{ value|safe }}{{ value ~ '<' }}{{ told(value) }}{% include 'part.html' %}"
    "{% for v in [value, '<'] %}{{ loop.index }}{{ v }}{% endfor %}"
    "{% set kept %}<p>{{ value }}</p>{% endset %}{{ kept }}"
    "{% call(x) told(value) %}{{ x }}{% endcall %}{% filter upper %}{{ value }}{% endfilter %}{{ missing }}"
    "{% if value %}<a title=\"{{ value }}\" href='{{ value|urlencode if value is string }}'>{% endif %}{{ '<&>' }}"
    "{% autoescape false %}{{ value }}{% endautoescape %}{{ value|e }}{{ value|join(',') if value is iterable }}"
    "{% endblock %}",
    "base.html": "<title>{{ value }}</title>{% block main %}{% endblock %}{{ self.main() }}",
    "macros.html": "{% macro told(v) %}<b>{{ v }}</b>{% if caller %}{{ caller(v) }}{% endif %}{% endmacro %}",
    "part.html": "<i>{{ value }}</i>",
}


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_templates_escape_exactly_as_stock_jinja_does(app: Flask, value: Any) -> None:
    ours = Templates(app, loader=DictLoader(TEMPLATES), autoescape=True)
    stock = Environment(loader=DictLoader(TEMPLATES), autoescape=True)
    assert ours.get_template("page.html").render(value=value) == stock.get_template("page.html").render(value=value)


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            '<time datetime="2026-01-02T03:04:05Z">2026-01-02 03:04 UTC</time>',
        ),
        (
            datetime(999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(0))),
            '<time datetime="0999-12-31T23:59:59Z">0999-12-31 23:59 UTC</time>',
        ),
    ],
)
def test_a_moment_is_told_in_utc_and_can_be_read_by_the_script(at: datetime, told: str) -> None:
    assert moment(at) == told
