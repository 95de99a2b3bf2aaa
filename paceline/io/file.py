"""File: bytes of any kind, with their name where a form gives one."""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.io.descriptor import Descriptor, MediaTypes, disposition
from paceline.io.payload import Encoded, Payload, accepted_type
from paceline.protocol.errors import ModelError, StartError

if TYPE_CHECKING:
    from starlette.responses import Response

    from paceline.context import Context

_BYTES = "application/octet-stream"


class UploadedFile(io.BytesIO):
    """A file as a function gets it: `.read()`, `.name` (the client's, may be empty; never use it as a path),
    `.content_type`."""

    def __init__(self, data: bytes, name: str, content_type: str) -> None:
        super().__init__(data)
        self.name = name
        self.content_type = content_type


class File(Descriptor):
    """A file in and out. The function gets an UploadedFile, or bytes with `as_bytes=True`; it returns bytes, a Path, or
    an object with `.read()`. A function that yields bytes streams them.

    `mime_types`: what is taken; the first one is the output's content type. None takes everything. Raises
    UnsupportedMediaType (415) for others.

    Example::

        @svc.api(input=File(mime_types=["audio/wav"]), output=JSON())
        async def transcribe(audio: UploadedFile) -> dict: ...
    """

    def __init__(self, *, mime_types: Sequence[str] | None = None, as_bytes: bool = False) -> None:
        if isinstance(mime_types, str) or (mime_types is not None and not mime_types):
            raise StartError(f"File(mime_types={mime_types!r}) is no list of types, like ['audio/wav']")
        self._mime_types = None if mime_types is None else tuple(kind.lower() for kind in mime_types)
        self._as_bytes = as_bytes

    @classmethod
    def from_sample(cls, sample: str | Path) -> File:
        """Takes what the name of `sample` says it is."""
        kind = mimetypes.guess_type(str(sample))[0]
        return cls(mime_types=None if kind is None else [kind])

    async def decode(self, payload: Payload) -> UploadedFile | bytes:
        if self._mime_types is not None:
            accepted_type(payload, self._mime_types)
        if self._as_bytes:
            return payload.data
        return UploadedFile(payload.data, payload.filename, payload.media_type)

    def write(self, value: Any, ctx: Context) -> Response:
        if not isinstance(value, Path):
            return super().write(value, ctx)
        from starlette.responses import FileResponse

        if not value.is_file():
            raise ModelError(f"the result is the path of {value.name!r}, which is no file")
        # Read piece by piece while it is sent, and not into memory.
        headers = {"content-disposition": disposition("attachment", value.name)}
        return FileResponse(value, headers=headers, media_type=self._type_of(value.name))

    def encode(self, value: Any, accept: str = "") -> Encoded:
        if isinstance(value, Path):
            return Encoded(value.read_bytes(), self._type_of(value.name), value.name)
        if isinstance(value, UploadedFile):
            return Encoded(value.getvalue(), value.content_type or self.stream_type, value.name)
        return Encoded(self.chunk(value.read() if hasattr(value, "read") else value), self.stream_type)

    def schema(self) -> MediaTypes:
        kinds = self._mime_types or (_BYTES,)
        return {kind: {"schema": {"type": "string", "contentMediaType": kind}} for kind in kinds}

    @property
    def stream_type(self) -> str:
        kind = self._mime_types[0] if self._mime_types else _BYTES
        return _BYTES if "*" in kind else kind

    def chunk(self, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise ModelError(f"the result is a {type(value).__name__}, expected bytes, a Path or an open file")
        return bytes(value)

    def _type_of(self, name: str) -> str:
        return self.stream_type if self._mime_types else mimetypes.guess_type(name)[0] or _BYTES
