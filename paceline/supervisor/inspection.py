"""What the supervisor asks the inspector child, and its answer; both as MessagePack over inherited descriptors."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import msgpack

from paceline.protocol.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """Make a ServeSpec of `targets` under `config` (Config.to_plain) for a server on `host`:`port` with `run_dir`. A
    service's module is looked for in `folder`."""

    targets: tuple[str, ...]
    folder: str
    config: dict[str, object]
    trust: bool
    host: str
    port: int
    run_dir: str
    reply_fd: int
    parent_pid: int
    lifeline_fd: int


@dataclass(frozen=True, slots=True)
class InspectReply:
    """`serve` as protocol.spec encodes it, or empty and `error` says what is wrong, for the user to read. `code`: what
    a service says of its runners' settings, by runner and key, in TOML's types."""

    serve: bytes = b""
    error: str = ""
    code: dict[str, dict[str, object]] = field(default_factory=dict)


def encode_request(request: InspectRequest) -> bytes:
    return _encode(request)


def decode_request(data: bytes) -> InspectRequest:
    """Raises ProtocolError unless `data` is what `encode_request` wrote."""
    plain = _decode(data, InspectRequest)
    return InspectRequest(**{**plain, "targets": tuple(plain["targets"])})


def encode_reply(reply: InspectReply) -> bytes:
    return _encode(reply)


def decode_reply(data: bytes) -> InspectReply:
    """Raises ProtocolError unless `data` is what `encode_reply` wrote."""
    return InspectReply(**_decode(data, InspectReply))


def _encode(message: InspectRequest | InspectReply) -> bytes:
    packed: bytes = msgpack.packb({f.name: getattr(message, f.name) for f in fields(message)})
    return packed


def _decode(data: bytes, cls: type[Any]) -> dict[str, Any]:
    try:
        plain = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"{cls.__name__} is not readable: {type(error).__name__}: {error}") from error
    if not isinstance(plain, dict) or set(plain) != {f.name for f in fields(cls)}:
        raise ProtocolError(f"{cls.__name__} does not have its fields")
    return plain
