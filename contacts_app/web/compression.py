"""Compress pages and static files with gzip for browsers that accept it."""

import gzip
import secrets
from functools import lru_cache
from io import BytesIO

from flask import Flask, Response, request

SMALLEST = 1024  # bytes; a smaller body fits into one packet anyway
PAGE_LEVEL, FILE_LEVEL = 2, 9  # 1 to 9: a page is compressed for each request, a file once
TYPES = {"text/html", "text/css", "text/javascript", "image/svg+xml"}
MAX_PADDING = 100


def init_app(app: Flask) -> None:
    """Compress the answers of `app`."""
    app.after_request(compress)


def compress(response: Response) -> Response:
    """Compress the body of an answer if the browser accepts gzip and the body is large enough."""
    if response.mimetype not in TYPES:
        return response
    response.vary.add("Accept-Encoding")
    if response.status_code == 304 or not request.accept_encodings["gzip"] or "Content-Range" in response.headers:
        return response
    response.direct_passthrough = False  # a file is read into memory here
    body = response.get_data()
    if len(body) < SMALLEST:
        return response
    if request.endpoint == "static":
        response.set_data(_compressed_file(body))
        etag, _ = response.get_etag()
        response.set_etag(etag or "", weak=True)  # weak: the bytes differ, the content is the same
    else:
        response.set_data(_compressed_page(body))
    response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(100)
def _compressed_file(body: bytes) -> bytes:
    return gzip.compress(body, FILE_LEVEL, mtime=0)


def _compressed_page(body: bytes) -> bytes:
    """Return the compressed page with a file name of random length in the gzip header.

    This mitigates BREACH: from the sizes of many answers that repeat a search text, an eavesdropper could guess secrets
    in the same page, such as the CSRF token. The padding is that of "Heal the Breach", which Django uses as well.
    """
    out = BytesIO()
    name = "a" * (1 + secrets.randbelow(MAX_PADDING))
    with gzip.GzipFile(name, "wb", PAGE_LEVEL, out, mtime=0) as file:
        file.write(body)
    return out.getvalue()
