"""Read the body of what a program sends: of a length that is told or not, packed or not, never more than is allowed."""

import zlib

from flask import abort, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from ..intake.refusals import MASKED_BYTES

MOST_BYTES = 4 * 1024 * 1024  # an Alertmanager of a large site sends all alerts of a group at once
_PIECE = 64 * 1024
_GZIP, _ZLIB, _RAW = 31, 15, -15  # what zlib calls the formats


def read_body() -> bytes:
    """Return the body unpacked, at most MOST_BYTES long; raise 400, 411, 413 or 415 for what cannot be read.

    How it begins is left in `g.body`, for the record of a refusal.
    """
    body = g.body = _read_chunks() if request.headers.get("Transfer-Encoding") else _read()
    body = g.body = _unpack(body)
    return body


def _read() -> bytes:
    if (request.content_length or 0) > MOST_BYTES:
        g.body = request.environ["wsgi.input"].read(MASKED_BYTES)
    try:
        return request.get_data()
    except ClientDisconnected:
        g.is_noted = True  # it was not refused: whoever sends it sees that, and sends it again
        raise


def _read_chunks() -> bytes:
    """Return a body whose length is not told, where the server knows its end."""
    is_chunked = request.headers["Transfer-Encoding"].strip().lower() == "chunked"
    if not (is_chunked and request.environ.get("wsgi.input_terminated")):
        abort(411)
    body = bytearray()
    # Not by Werkzeug, which would give what is too long as if it ended at the limit.
    while piece := _piece():
        body += piece
        if len(body) > MOST_BYTES:
            g.body = bytes(body[:MASKED_BYTES])
            abort(413)
    return bytes(body)


def _piece() -> bytes:
    try:
        piece: bytes = request.environ["wsgi.input"].read(_PIECE)
    except (OSError, ParseException):
        abort(400, "The body is not whole: its chunks end too early, or are not written as HTTP has it.")
    return piece


def _unpack(body: bytes) -> bytes:
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        abort(415, "Send the body as it is, or packed with gzip or deflate; the header Content-Encoding says which.")
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    unpacking = zlib.decompressobj(_GZIP if "gzip" in coding else _ZLIB if is_zlib else _RAW)
    try:
        # What a small body can be unpacked to has no bound: no more than this is ever made of it.
        unpacked = unpacking.decompress(body, MOST_BYTES + 1)
    except zlib.error:
        abort(400, f"The body is not what the header Content-Encoding says: it is not packed with {coding}.")
    if len(unpacked) > MOST_BYTES:
        g.body = unpacked[:MASKED_BYTES]
        abort(413)
    if not unpacking.eof or unpacking.unused_data:
        abort(400, f"The body is not whole: what is packed with {coding} does not end where the body ends.")
    return unpacked
