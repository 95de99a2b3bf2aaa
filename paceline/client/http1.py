"""HTTP/1.1 without I/O: the bytes of one request, and a parser that is fed bytes until a response is whole.

Shared by the blocking and the asyncio connection, which own the sockets. Speaks what Paceline's servers and proxies in
front of them send: Content-Length, chunked, or a body until the connection closes. Raises ProtocolError for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from paceline.protocol.errors import ConfigError, ProtocolError
from paceline.protocol.limits import MESSAGE_BYTES_MAX

HEAD_BYTES_MAX = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?")


@dataclass(slots=True)
class Response:
    """`headers` by lower-case name. `body` is the caller's own. `reusable`: the connection may carry more requests."""

    status: int
    headers: dict[bytes, bytes]
    body: bytearray
    reusable: bool


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers`, if each can be a header line. Raises ConfigError; the value is not shown, it may be a secret."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(ord(c) < 32 or ord(c) > 255 or ord(c) == 127 for c in value):
            raise ConfigError(f"header {name!r} cannot be sent: its name or value has characters that HTTP forbids")
    return dict(headers)


def request_head(method: str, target: str, authority: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """The request line and headers, the empty line included."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if method == "POST":
        lines.append(f"content-length: {body_bytes}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class ResponseParser:
    """One response at a time: `feed` what arrives until it returns the response; then it is ready for the next one."""

    def __init__(self, body_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._body_bytes_max = body_bytes_max
        self._reset()

    @property
    def started(self) -> bool:
        """Whether anything of a response was received."""
        return self._head is not None or bool(self._buffer)

    def feed(self, data: bytes) -> Response | None:
        """Take in bytes of the response; the whole response as soon as its last byte is there. Raises ProtocolError."""
        if self._head is not None and self._missing > 0:
            self._fill(memoryview(data))
        else:
            self._buffer += data
        while self._head is None:
            if not self._open_head():
                return None
        return self._advance_body()

    def feed_eof(self) -> Response | None:
        """The connection closed: a response without a stated length ends here; otherwise None."""
        head = self._head
        if head is None or not self._until_eof:
            return None
        head.body = self._buffer
        self._reset()
        return head

    def _reset(self) -> None:
        self._buffer = bytearray()
        self._head: Response | None = None
        self._chunked = False
        self._until_eof = False
        self._missing = 0
        self._filled = 0

    def _open_head(self) -> bool:
        """Parse the head if it is whole; False if more bytes are needed."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ProtocolError(f"the server's response head is over {HEAD_BYTES_MAX} bytes")
            return False
        head = _parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        if head.status < 200:
            return True  # an interim response (100 Continue): the real one follows
        self._head = head
        self._choose_framing(head)
        return True

    def _choose_framing(self, head: Response) -> None:
        encoding = head.headers.get(b"transfer-encoding")
        if encoding is not None:
            if encoding.lower() != b"chunked":
                raise ProtocolError(f"the server's transfer-encoding is {encoding!r}, expected chunked")
            self._chunked = True
            return
        length = head.headers.get(b"content-length")
        if head.status in (204, 304):
            length = b"0"
        if length is None:
            self._until_eof = True
            head.reusable = False
            return
        if not length.isdigit() or len(length) > 15:
            raise ProtocolError(f"the server's content-length is {length[:32]!r}, expected a number")
        self._expect(int(length))
        head.body = bytearray(int(length))
        self._missing = int(length)
        given, self._buffer = self._buffer, bytearray()
        self._fill(memoryview(given))

    def _expect(self, body_bytes: int) -> None:
        if body_bytes > self._body_bytes_max:
            raise ProtocolError(f"the server's response has over {self._body_bytes_max} bytes, the client's limit")

    def _fill(self, data: memoryview) -> None:
        """Put bytes of a body of known length where they belong; what is left over is of no response."""
        assert self._head is not None
        count = min(len(data), self._missing)
        self._head.body[self._filled : self._filled + count] = data[:count]
        self._filled += count
        self._missing -= count
        if count < len(data):
            raise ProtocolError(f"the server sent {len(data) - count} bytes more than its content-length")

    def _advance_body(self) -> Response | None:
        assert self._head is not None
        if self._chunked:
            return self._finished() if self._open_chunks() else None
        if self._until_eof:
            self._expect(len(self._buffer))
            return None
        return self._finished() if self._missing == 0 else None

    def _open_chunks(self) -> bool:
        """Move whole chunks from the buffer to the body; True after the last one and its trailers."""
        assert self._head is not None
        body, buffer = self._head.body, self._buffer
        while True:
            end = buffer.find(b"\r\n", 0, HEAD_BYTES_MAX)
            if end < 0:
                if len(buffer) > HEAD_BYTES_MAX:
                    raise ProtocolError("the server's chunk has no size")
                return False
            match = _CHUNK_SIZE.fullmatch(bytes(buffer[:end]))
            if match is None:
                raise ProtocolError(f"the server's chunk size is {bytes(buffer[:32])!r}, expected a hex number")
            size = int(match[1], 16)
            if size == 0:
                return self._skip_trailers(end)
            self._expect(len(body) + size)
            if len(buffer) < end + 2 + size + 2:
                return False
            body += memoryview(buffer)[end + 2 : end + 2 + size]
            del buffer[: end + 2 + size + 2]

    def _skip_trailers(self, end: int) -> bool:
        if self._buffer[end : end + 4] == b"\r\n\r\n":
            return True
        close = self._buffer.find(b"\r\n\r\n", end)
        if close < 0 and len(self._buffer) > end + HEAD_BYTES_MAX:
            raise ProtocolError("the server's trailers are too long")
        return close >= 0

    def _finished(self) -> Response:
        response = self._head
        assert response is not None
        self._reset()
        return response


def _parse_head(head: bytes) -> Response:
    status_line, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise ProtocolError(f"the server's response starts with {status_line[:60]!r}, which is not HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name != name.strip():
            raise ProtocolError(f"the server's response has the header line {line[:60]!r}")
        headers[name.lower()] = value.strip()
    connection = headers.get(b"connection", b"").lower()
    reusable = match[1] == b"1" and b"close" not in connection
    return Response(int(match[2]), headers, bytearray(), reusable)
