"""Tell requests of programs from requests of browsers."""

from flask import Blueprint, current_app, request

API = "/api/"


class ApiBlueprint(Blueprint):
    """Hold the views of an API: errors are JSON, and there is no session and no CSRF token.

    All of them are below /api/, because an address that leads to no view, or a request that is refused before it
    reaches the app, has no blueprint that could say for whom it is.
    """

    def __init__(self, name: str, import_name: str, below: str) -> None:
        super().__init__(name, import_name, url_prefix=API + below)


def is_api_request() -> bool:
    """Tell whether a program sends this request: its blueprint says so, or its address where it leads to no view."""
    if request.endpoint is None:
        return is_api_path(request.path)
    return any(isinstance(current_app.blueprints[name], ApiBlueprint) for name in request.blueprints)


def is_api_path(path: str) -> bool:
    """Tell whether programs ask at `path`, where the app has not routed the request."""
    return path.startswith(API)
