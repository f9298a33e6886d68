"""Send pages and static files compressed to browsers that take gzip."""

import gzip
import secrets
from functools import lru_cache
from io import BytesIO

from flask import Flask, Response, request

SMALLEST = 1024  # bytes; what is smaller fits one packet anyway
PAGE_LEVEL, FILE_LEVEL = 2, 9  # 1 to 9: a page is compressed each time, a file once
TYPES = {"text/html", "text/css", "text/javascript", "image/svg+xml"}
MOST_PADDING = 100


def init_app(app: Flask) -> None:
    """Compress what `app` answers."""
    app.after_request(compress)


def compress(response: Response) -> Response:
    """Compress the body where the browser takes it and it is worth it."""
    if response.mimetype not in TYPES:
        return response
    response.vary.add("Accept-Encoding")
    if response.status_code == 304 or not request.accept_encodings["gzip"] or "Content-Range" in response.headers:
        return response
    response.direct_passthrough = False  # a file, which is read here
    body = response.get_data()
    if len(body) < SMALLEST:
        return response
    if request.endpoint == "static":
        response.set_data(_compressed_file(body))
        etag, _ = response.get_etag()
        response.set_etag(etag or "", weak=True)  # the bytes are others, the file is the same
    else:
        response.set_data(_compressed_page(body))
    response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(100)
def _compressed_file(body: bytes) -> bytes:
    return gzip.compress(body, FILE_LEVEL, mtime=0)


def _compressed_page(body: bytes) -> bytes:
    """Return the page compressed, with a name of random length in its head.

    From the sizes of many answers that hold what was searched for, a listener could otherwise guess what else is in
    them, such as the token of the forms (BREACH; the padding is that of "Heal the Breach", as in Django).
    """
    out = BytesIO()
    name = "a" * (1 + secrets.randbelow(MOST_PADDING))
    with gzip.GzipFile(name, "wb", PAGE_LEVEL, out, mtime=0) as file:
        file.write(body)
    return out.getvalue()
