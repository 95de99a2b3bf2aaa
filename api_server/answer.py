"""One HTTP answer as bytes: status, header lines, body parts; and the error bodies, one form for all.

Called by the infer route, the other routes and the hardened protocol; knows no socket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson

from paceline.protocol.errors import RequestError
from paceline.protocol.tensor import Buffer

JSON_TYPE = b"content-type: application/json\r\n"


@dataclass(slots=True)
class Answer:
    """`headers` are whole lines, content-length included; date, x-request-id and connection are added when sent."""

    status: int
    headers: bytes
    request_id: bytes
    body: tuple[Buffer, ...] = ()
    close: bool = False

    def header_pairs(self) -> list[tuple[bytes, bytes]]:
        """The ASGI form of the headers."""
        lines = [line.partition(b": ") for line in self.headers.split(b"\r\n")[:-1]]
        pairs = [(name, value) for name, _, value in lines]
        pairs.append((b"x-request-id", self.request_id))
        if self.close:
            pairs.append((b"connection", b"close"))
        return pairs


class HttpRefusal(Exception):
    """A request refused for its HTTP form, outside the table of request errors."""

    def __init__(self, status: int, code: str, message: str, extra_headers: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra_headers = extra_headers


def json_answer(status: int, value: object, request_id: bytes, extra_headers: bytes = b"") -> Answer:
    body = orjson.dumps(value)
    headers = b"%scontent-length: %d\r\n%s" % (JSON_TYPE, len(body), extra_headers)
    return Answer(status, headers, request_id, (body,))


def empty_answer(status: int, request_id: bytes) -> Answer:
    return Answer(status, b"content-length: 0\r\n", request_id)


def error_answer(error: RequestError, request_id: bytes, client_id: str | None = None) -> Answer:
    """The body every error has: {"error", "code", "request_id"}, `id` where the client gave one; Retry-After if set."""
    extra = b""
    if error.retry_after_s is not None:
        extra = b"retry-after: %d\r\n" % max(1, math.ceil(min(error.retry_after_s, 3600.0)))
    fields = {"error": error.message, "code": error.code, "request_id": request_id.decode()}
    if client_id is not None:
        fields["id"] = client_id
    answer = json_answer(error.http_status, fields, request_id, extra)
    answer.close = error.code == "draining"
    return answer


def refusal_answer(refusal: HttpRefusal, request_id: bytes, close: bool = True) -> Answer:
    """As error_answer, for what HTTP itself forbids."""
    fields = {"error": refusal.message, "code": refusal.code, "request_id": request_id.decode()}
    answer = json_answer(refusal.status, fields, request_id, refusal.extra_headers)
    answer.close = close
    return answer
