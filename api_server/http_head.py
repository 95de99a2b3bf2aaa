"""The rules for a request head: its size, and that nothing in it can be read in two ways. Pure; called per request."""

from __future__ import annotations

from paceline.api_server.answer import HttpRefusal
from paceline.api_server.front import HttpBounds
from paceline.api_server.oip_json import json_too_large
from paceline.protocol.errors import TooLarge

# Given twice they could be read in two ways, by us and by a proxy before us.
_SINGLE = (
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"content-encoding",
    b"inference-header-content-length",
    b"x-request-id",
    b"x-request-timeout-ms",
)


def framing(fields: dict[bytes, bytes], version: str, bounds: HttpBounds) -> int:
    """The body's length, -1 if chunked. Raises HttpRefusal on what is ambiguous, TooLarge before a byte is buffered."""
    if version == "1.1":
        if b"host" not in fields:
            raise bad_request("an HTTP/1.1 request needs exactly one Host header, none was given")
    elif version != "1.0":
        raise bad_request(f"HTTP version {version} is not spoken here, expected 1.1")
    encoding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if encoding is not None:
        if length is not None or version != "1.1" or encoding.lower() != b"chunked":
            raise bad_request("Transfer-Encoding must be chunked, on HTTP/1.1 and without Content-Length")
        return -1
    if length is None:
        return 0
    size = int(length)
    if size > bounds.body_bytes:
        raise body_too_large(bounds.body_bytes, size)
    return size


def bound_head(headers: list[tuple[bytes, bytes]], bounds: HttpBounds) -> None:
    """Raises HttpRefusal for headers that are too large or too many, or for one that must not be given twice."""
    if len(headers) > bounds.headers_count:
        raise HttpRefusal(431, "headers_too_large", f"more than {bounds.headers_count} headers")
    if sum([len(name) + len(value) + 4 for name, value in headers]) > bounds.headers_bytes:
        raise headers_too_large(bounds.headers_bytes)
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise bad_request(f"header {name.decode()} is given {names.count(name)} times, expected once")


def bound_json(fields: dict[bytes, bytes], body_size: int, limit: int) -> None:
    """Raises TooLarge for a body that is JSON as a whole (binary tensors come behind JSON of a given length) and over
    `limit`."""
    if body_size > limit and b"inference-header-content-length" not in fields:
        raise json_too_large(limit, body_size)


def bad_request(message: str) -> HttpRefusal:
    return HttpRefusal(400, "bad_request", message)


def headers_too_large(limit: int) -> HttpRefusal:
    return HttpRefusal(431, "headers_too_large", f"the request's headers are over {limit} bytes")


def body_too_large(limit: int, size: int | None = None) -> TooLarge:
    given = f"of {size} bytes " if size is not None else ""
    return TooLarge(f"the body {given}is over the limit of {limit} bytes")
