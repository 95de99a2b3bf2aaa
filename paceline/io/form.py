"""multipart/form-data: a body into its parts, and parts into a body. Knows no descriptor."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from paceline.io.descriptor import disposition
from paceline.io.payload import Encoded, Payload, accepted_type
from paceline.protocol import limits
from paceline.protocol.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM_TYPE = "multipart/form-data"

_HEADER_BYTES_MAX = 4096


def parts_of(body: Payload) -> list[Payload]:
    """The parts of a form, as sent. Raises InvalidInput, TooLarge, UnsupportedMediaType."""
    if accepted_type(body, (FORM_TYPE,)) != FORM_TYPE:
        raise InvalidInput(f"{body.where} has no content type, expected {FORM_TYPE} with a boundary")
    boundary = body.parameter("boundary")
    if not boundary or not boundary.isascii():
        raise InvalidInput(f"the content type {FORM_TYPE} has no boundary; let the HTTP client set it")
    reader = _PartReader()
    try:
        parser = MultipartParser(boundary.encode(), reader.callbacks())
        parser.write(body.data)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput(f"the form cannot be read: {error}") from error
    if not reader.ended:
        raise InvalidInput("the form is cut off: its last boundary is missing")
    return reader.parts


def form_of(parts: Mapping[str, Encoded]) -> Encoded:
    """A form of these parts, with a boundary that cannot be in them but by chance (128 bits)."""
    boundary = secrets.token_hex(16)
    lines = [_part(boundary, name, part) for name, part in parts.items()]
    return Encoded(b"".join(lines) + f"--{boundary}--\r\n".encode(), f"{FORM_TYPE}; boundary={boundary}")


def _part(boundary: str, name: str, part: Encoded) -> bytes:
    head = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"'
    if part.filename:
        head += disposition("", part.filename)
    return f"{head}\r\ncontent-type: {part.content_type}\r\n\r\n".encode() + part.data + b"\r\n"


class _PartReader:
    """Collects what the parser reports."""

    def __init__(self) -> None:
        self.parts: list[Payload] = []
        self.ended = False
        self._data = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._form_end,
        }

    def _begin(self) -> None:
        if len(self.parts) == limits.FORM_PARTS_MAX:
            raise TooLarge(f"the form has more than {limits.FORM_PARTS_MAX} parts")
        self._headers = {}
        self._data = bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        if len(self._value) > _HEADER_BYTES_MAX:
            raise InvalidInput(f"a part of the form has a header over {_HEADER_BYTES_MAX} bytes")

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _text(options.get(b"name", b""))
        if not name:
            raise InvalidInput(f"part {len(self.parts) + 1} of the form has no name")
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        self.parts.append(Payload(bytes(self._data), content_type, name, _text(options.get(b"filename", b""))))

    def _form_end(self) -> None:
        self.ended = True


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("a name in the form is not UTF-8") from error
