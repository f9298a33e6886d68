"""Distinguish API requests from requests of browsers."""

from flask import Blueprint, current_app, request

API = "/api/"
# The largest bodies: an Alertmanager of a large site sends all alerts of a group at once, and the form of a group has
# the id of each member.
ALERT_BYTES, FORM_BYTES = 4 * 1024 * 1024, 1024 * 1024


class ApiBlueprint(Blueprint):
    """A blueprint for API views: errors are JSON, and there is neither a session nor a CSRF token.

    All of them are below /api/, because a URL without a view, or a request that is refused before it reaches the app,
    has no blueprint that could decide it.
    """

    def __init__(self, name: str, import_name: str, below: str) -> None:
        super().__init__(name, import_name, url_prefix=API + below)


def is_api_request() -> bool:
    """Return whether this is an API request: by its blueprint, or by its path if the URL has no view."""
    if request.endpoint is None:
        return is_api_path(request.path)
    return any(isinstance(current_app.blueprints[name], ApiBlueprint) for name in request.blueprints)


def is_api_path(path: str) -> bool:
    """Return whether `path` belongs to an API, for requests that are not routed."""
    return path.startswith(API)
