"""Text: a body of UTF-8."""

from __future__ import annotations

from typing import Any

from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.payload import Encoded, Payload, accepted_type, text_of
from paceline.protocol.errors import ModelError


class Text(Descriptor):
    """Text in and out (`text/*`, UTF-8). A function that yields text streams it piece by piece.

    `content_type`: of the output; `text/event-stream` for server-sent events, whose framing is the function's own.
    Raises InvalidInput for bytes that are not UTF-8.

    Example::

        @svc.api(input=Text(), output=Text())
        async def tokens(prompt: str) -> AsyncIterator[str]:
            async for token in generate(prompt):
                yield token
    """

    def __init__(self, *, content_type: str = "text/plain", example: str | None = None) -> None:
        self._content_type = content_type
        self._example = example

    @classmethod
    def from_sample(cls, sample: str) -> Text:
        return cls(example=sample)

    async def decode(self, payload: Payload) -> str:
        accepted_type(payload, ("text/*",))
        return text_of(payload)

    def encode(self, value: Any, accept: str = "") -> Encoded:
        return Encoded(self.chunk(value), self.stream_type)

    def schema(self) -> MediaTypes:
        example = {} if self._example is None else {"example": self._example}
        return {self._content_type: {"schema": {"type": "string"}, **example}}

    @property
    def stream_type(self) -> str:
        return f"{self._content_type}; charset=utf-8"

    def chunk(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise ModelError(f"the result is a {type(value).__name__}, expected text")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the result is not valid Unicode: {error.reason} at {error.start}") from error
