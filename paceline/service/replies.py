"""What every reply of a service has: error bodies of the one form, request ids, and an end for replies that failed
halfway.

Every error body is `{"error", "code", "request_id"}`, as on every other route of the server.
"""

from __future__ import annotations

import math
import re
import secrets
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from paceline.protocol import limits
from paceline.protocol.errors import InvalidParameter, RequestError

if TYPE_CHECKING:
    from starlette.datastructures import Headers

REQUEST_ID = "x-request-id"

_RETRY_AFTER_S_MAX = 3600.0
_VISIBLE = re.compile(r"[\x21-\x7e]+")


class ReplyCutOff(Exception):
    """A reply that cannot be finished: raised through the ASGI server, which then closes the connection, so that the
    client sees a broken stream and not a short one. Its cause is already in the log."""


def request_id_of(headers: Headers) -> str:
    """The client's id, or a new one. Raises InvalidParameter."""
    given = headers.get(REQUEST_ID)
    if given is None:
        return new_request_id()
    if len(given) > limits.REQUEST_ID_CHARS_MAX or not _VISIBLE.fullmatch(given):
        raise InvalidParameter(
            f"{REQUEST_ID} is not 1 to {limits.REQUEST_ID_CHARS_MAX} visible ASCII characters; leave it out to get one"
        )
    return given


def new_request_id() -> str:
    return secrets.token_hex(8)


def error_reply(error: RequestError, request_id: str) -> Response:
    reply = body_reply(error.http_status, error.message, error.code, request_id)
    if error.retry_after_s is not None:
        seconds = max(1, math.ceil(min(error.retry_after_s, _RETRY_AFTER_S_MAX)))
        reply.headers["retry-after"] = str(seconds)
    # The rest of a body that was not read would stand before the next request.
    if error.code in ("draining", "too_large"):
        reply.headers["connection"] = "close"
    return reply


def body_reply(status: int, message: str, code: str, request_id: str) -> Response:
    """An error outside the table: what HTTP itself forbids."""
    body = orjson.dumps({"error": message, "code": code, "request_id": request_id})
    return Response(body, status, {REQUEST_ID: request_id}, "application/json")
