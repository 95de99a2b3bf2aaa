"""A value's bytes as they came in or go out: a whole body, or one part of a form; and the bounded reading of a body.

Knows HTTP's content types, not what the bytes mean: that is each descriptor's.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING

from paceline.protocol import limits
from paceline.protocol.errors import InvalidInput, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

# The key of an ASGI scope under which a service says how large a body may be.
BODY_BYTES_MAX_KEY = "paceline.body_bytes_max"

_UNKNOWN_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Payload:
    """`content_type` as it was sent, or empty; `field` is the name of a form's part, empty for a whole body."""

    data: bytes
    content_type: str = ""
    field: str = ""
    filename: str = ""

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def where(self) -> str:
        """How a message speaks of this value."""
        return f'field "{self.field}"' if self.field else "the body"

    def parameter(self, name: str) -> str:
        """A parameter of the content type (`charset`, `boundary`), or an empty string."""
        parsed = Message()
        parsed["content-type"] = self.content_type
        value = parsed.get_param(name)
        return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A result's bytes and their content type."""

    data: bytes
    content_type: str
    filename: str = ""


def accepted_type(payload: Payload, accepted: Sequence[str]) -> str:
    """The media type of `payload`, which is one of `accepted` (`image/png`, `text/*`, `*/*+json`); empty where the
    sender does not say: no content type, or a form's file of unknown kind. Raises UnsupportedMediaType."""
    given = payload.media_type
    if not given or (payload.field and given == _UNKNOWN_BYTES):
        return ""
    if any(_matches(given, pattern) for pattern in accepted):
        return given
    raise UnsupportedMediaType(
        f'{payload.where} has the content type "{given[:100]}", expected {" or ".join(accepted)}; '
        f"set the header content-type to what the bytes are"
    )


def _matches(given: str, pattern: str) -> bool:
    if pattern.startswith("*/*"):
        return given.endswith(pattern[3:])
    if pattern.endswith("/*"):
        return given.startswith(pattern[:-1])
    return given == pattern


def preferred_type(accept: str, offered: Sequence[str]) -> str:
    """The first of `offered` that the header `accept` names in so many words, else the first of all: clients that send
    `*/*` get the default."""
    named = {item.partition(";")[0].strip().lower() for item in accept.split(",")}
    return next((media_type for media_type in offered if media_type in named), offered[0])


def text_of(payload: Payload) -> str:
    """The payload as text. Raises InvalidInput for bytes that are not UTF-8, UnsupportedMediaType for other
    charsets."""
    charset = payload.parameter("charset").lower()
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f'{payload.where} has the charset "{charset[:40]}", expected utf-8')
    try:
        return payload.data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{payload.where} is not UTF-8: byte 0x{payload.data[error.start]:02x} at {error.start} is invalid; "
            f"encode the text as UTF-8"
        ) from error


async def body_of(request: Request) -> Payload:
    """The whole body. Raises TooLarge as soon as it is over the limit, and starlette's ClientDisconnect."""
    bytes_max: int = request.scope.get(BODY_BYTES_MAX_KEY, limits.BODY_BYTES_MAX)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f'the content-encoding "{encoding[:40]}" is not read here; send the body as it is')
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and len(announced) < 19 and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > bytes_max:
            raise _too_large(bytes_max)
    # One copy: what users get must not change under them.
    return Payload(bytes(data), request.headers.get("content-type", ""))


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body is over the limit of {bytes_max} bytes")
