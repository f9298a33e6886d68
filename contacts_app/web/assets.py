"""Add the hash of their content to the URLs of static files, so that browsers may cache them for a year."""

import hashlib
from pathlib import Path
from typing import Any

from flask import Flask, Response, request

YEAR = 365 * 24 * 3600


def init_app(app: Flask) -> None:
    """Add the hash to the URLs that `url_for` makes, and cache headers to answers at such URLs."""
    folder = Path(app.static_folder or "")
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in folder.rglob("*")
        if path.is_file()
    }

    @app.url_defaults
    def add_hash(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static" and "v" not in values and values["filename"] in hashes:
            values["v"] = hashes[values["filename"]]

    @app.after_request
    def add_cache_control(response: Response) -> Response:
        if request.endpoint == "static" and response.status_code in (200, 304):
            filename = str((request.view_args or {}).get("filename"))
            if filename in hashes and request.args.get("v") == hashes[filename]:
                response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
        return response
