"""The head of a message: MessagePack of [VERSION, kind, fields...], its form checked before anything is built from it.

Called by messages, control and spec. Reading takes two passes over the bytes: the first builds nothing and proves that
every element that a header claims is really there, so that a few bytes cannot make the second allocate gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgpack

from paceline.protocol.errors import ProtocolError
from paceline.protocol.limits import HEAD_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_FRAMES_MAX
from paceline.protocol.tensor import Buffer

VERSION: Final = 2

Frames: TypeAlias = Sequence[Buffer]


def pack_head(*fields: object) -> bytes:
    """MessagePack of [VERSION, *fields]."""
    packed: bytes = msgpack.packb((VERSION, *fields), use_bin_type=True)
    return packed


def open_head(parts: Frames) -> tuple[int, list[Any], Frames]:
    """(kind, fields, buffers) of a multipart message whose head has this protocol's version and form."""
    if not parts:
        raise ProtocolError("message has no head")
    if len(parts) > MESSAGE_FRAMES_MAX:
        raise ProtocolError(f"message has {len(parts)} frames, over the limit of {MESSAGE_FRAMES_MAX}")
    message_bytes = sum(map(len, parts))
    if message_bytes > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"message has {message_bytes} bytes, over the limit of {MESSAGE_BYTES_MAX}")
    head = unpack_head(parts[0])
    if head[0] != VERSION:
        raise ProtocolError(f"message has protocol version {head[0]!r}, this side speaks {VERSION}")
    return head[1], head[2:], parts[1:]


def unpack_head(head: Buffer) -> list[Any]:
    """The array in `head`: no trailing bytes, ext types or non-string keys, and at least version and kind."""
    if len(head) > HEAD_BYTES_MAX:
        raise ProtocolError(f"head of {len(head)} bytes is over the limit of {HEAD_BYTES_MAX}")
    fields = unpack_value(head)
    if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not int or type(fields[1]) is not int:
        raise ProtocolError("head is not an array that starts with version and kind")
    return fields


def unpack_value(data: Buffer) -> object:
    """The one MessagePack value that `data` is. Raises ProtocolError, nothing else."""
    size = max(1, len(data))
    try:
        # Without this pass, 1,000 nested headers that claim as many elements as the head has bytes take 8 kB of list
        # for each byte of input. It costs 0.5 us a message.
        skimmer = msgpack.Unpacker(None, read_size=size, max_buffer_size=size)
        skimmer.feed(data)
        skimmer.skip()
        return msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_no_ext, timestamp=0)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"head is not MessagePack: {type(error).__name__}") from error


def _no_ext(code: int, data: bytes) -> object:
    raise ProtocolError(f"head has an ext type {code} of {len(data)} bytes, expected none")
