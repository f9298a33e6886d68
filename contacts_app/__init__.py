"""Build the alert contacts console."""

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from . import api, cli, config, pages
from .core import db
from .ops import embedded
from .pages import visitors
from .web import assets, compression, errors, security, templating

__version__ = "0.2.0"


def create_app(environ: Mapping[str, str] | None = None) -> Flask:
    """Return the Flask app configured from `environ`, by default the environment of the process."""
    settings = config.load(os.environ if environ is None else environ)
    app = Flask(
        __name__,
        template_folder=config.PROJECT / "templates",
        static_folder=config.PROJECT / "static",
    )
    app.extensions["settings"] = settings
    app.config.update(
        VERSION=__version__,
        SECRET_KEY=settings.secret_key,
        MAX_CONTENT_LENGTH=64 * 1024,
        MAX_FORM_MEMORY_SIZE=64 * 1024,
        SESSION_COOKIE_NAME="console",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.https,
        PERMANENT_SESSION_LIFETIME=timedelta(days=30),
        SESSION_REFRESH_EACH_REQUEST=False,
        TRUSTED_HOSTS=list(settings.trusted_hosts) or None,
        # A form that stays open overnight must still be accepted.
        WTF_CSRF_TIME_LIMIT=None,
    )
    templating.init_app(app)
    if settings.proxy_count:
        count = settings.proxy_count
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=count, x_proto=count, x_host=count
        )
    if settings.database_url is None:
        start = partial(embedded.ensure, settings.data_dir)
        db.init_app(app, embedded.url(settings.data_dir), start)
    else:
        db.init_app(app, settings.database_url)
    compression.init_app(app)  # registered first, so that it runs after every other hook that changes a response
    errors.init_app(app)
    # The order matters: authorize before a body is read, so that no large form is parsed for an unknown client; check
    # the CSRF token last, so that a user whose session has expired is sent to the log-on page and gets no CSRF error.
    app.before_request(visitors.authorize)
    security.init_app(app)
    pages.init_app(app)
    assets.init_app(app)
    api.init_app(app)
    cli.init_app(app)
    return app
