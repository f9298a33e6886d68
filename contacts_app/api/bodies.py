"""Read request bodies with a size limit: with Content-Length or chunked, compressed or not."""

import zlib
from typing import NoReturn

from flask import abort, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from ..delivery.answers import Answers, answer
from ..intake.refusals import MASKED_BYTES
from ..intake.sentences import words
from ..web.machines import ALERT_BYTES

_PIECE = 64 * 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits for each format


def refuse(status: int, why: Answers) -> NoReturn:
    """Refuse the request; the reason is left in `g.refusal`, for the record of it."""
    g.refusal = why
    abort(status, words(why))


def read_body() -> bytes:
    """Return the decompressed body, at most ALERT_BYTES long; raise 400, 411, 413 or 415 if that fails.

    Its beginning is left in `g.body`, for the record of a refusal.
    """
    body = g.body = _read_chunks() if request.headers.get("Transfer-Encoding") else _read()
    body = g.body = _unpack(body)
    return body


def _read() -> bytes:
    if (request.content_length or 0) > ALERT_BYTES:
        g.body = request.environ["wsgi.input"].read(MASKED_BYTES)
    try:
        return request.get_data()
    except ClientDisconnected:
        g.is_noted = True  # not refused: the sender notices the broken connection and retries
        raise


def _read_chunks() -> bytes:
    """Return a chunked body, if the server marks its end."""
    is_chunked = request.headers["Transfer-Encoding"].strip().lower() == "chunked"
    if not (is_chunked and request.environ.get("wsgi.input_terminated")):
        abort(411)
    body = bytearray()
    # Not through Werkzeug, which silently cuts a body at the size limit.
    while piece := _piece():
        body += piece
        if len(body) > ALERT_BYTES:
            g.body = bytes(body[:MASKED_BYTES])
            abort(413)
    return bytes(body)


def _piece() -> bytes:
    try:
        piece: bytes = request.environ["wsgi.input"].read(_PIECE)
    except (OSError, ParseException):
        refuse(400, answer("body.bad_chunks"))
    return piece


def _unpack(body: bytes) -> bytes:
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        refuse(415, answer("body.unknown_coding"))
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    unpacking = zlib.decompressobj(_GZIP if "gzip" in coding else _ZLIB if is_zlib else _RAW)
    try:
        # Against decompression bombs: at most this much is ever decompressed.
        unpacked = unpacking.decompress(body, ALERT_BYTES + 1)
    except zlib.error:
        refuse(400, answer("body.not_compressed", coding=coding))
    if len(unpacked) > ALERT_BYTES:
        g.body = unpacked[:MASKED_BYTES]
        abort(413)
    if not unpacking.eof or unpacking.unused_data:
        refuse(400, answer("body.incomplete", coding=coding))
    return unpacked
