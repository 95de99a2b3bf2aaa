"""The pool plane: what a broker and the workers of its runner say to each other.

    worker -> broker    Join once, Done for each batch, Leave
    broker -> worker    Work, Refused, Released

Framing as in messages.py. A Work holds requests as they came, a Done whole Answers messages as they go on: the broker
opens neither arguments nor results. A batch that is more than one message holds is several, of which `final` ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from paceline.protocol.errors import ProtocolError
from paceline.protocol.head import Frames, open_head, pack_head
from paceline.protocol.limits import ID_CHARS_MAX, KEY_BYTES_MAX, TEXT_BYTES_MAX
from paceline.protocol.messages import ORIGIN_BYTES, Infer, pack_requests, unpack_requests
from paceline.protocol.tensor import Buffer

JOIN, WORK, DONE, LEAVE, REFUSED, RELEASED = range(32, 38)


@dataclass(frozen=True, slots=True)
class Observation:
    """Before it was ready, a worker ran a batch of `rows` rows of requests with `key` in `seconds`."""

    method: str
    key: bytes
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Join:
    """A worker is ready: it loaded the model version `digest` on `device`; `ladder` is what its warm-up measured. Its
    identity on the socket is its incarnation."""

    device: str
    digest: str
    ladder: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of one batch, by origin. `rows` is the whole batch's."""

    batch_id: int
    final: bool
    rows: int
    requests: tuple[Infer, ...]


@dataclass(frozen=True, slots=True)
class Addressed:
    """One message, head and frames, for the API server or client `origin`."""

    origin: bytes
    parts: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A batch's answers. With `final` its requests are all answered, `duration_s` after the worker could begin;
    `learn`: the duration is worth learning from; `cap_rows`: what memory still holds, None = it held all."""

    batch_id: int
    final: bool
    duration_s: float
    learn: bool
    cap_rows: int | None
    answers: tuple[Addressed, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The worker wants to go: no more Work, please."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker will not have this worker; it should end with this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """No Work follows. The answer to Leave."""


PoolMessage: TypeAlias = Join | Work | Done | Leave | Refused | Released


def encode(message: PoolMessage) -> list[Buffer]:
    """The multipart form of `message`."""
    return _ENCODERS[type(message)](message)


def decode(parts: Frames) -> PoolMessage:
    """The message behind `parts` (head, buffers...). Raises ProtocolError on anything else, and nothing but that."""
    kind, fields, frames = open_head(parts)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"message kind {kind!r} is unknown on the pool plane")
    return decoder(fields, frames)


def _encode_join(message: Join) -> list[Buffer]:
    ladder = [(seen.method, seen.key, seen.rows, float(seen.seconds)) for seen in message.ladder]
    return [pack_head(JOIN, message.device, message.digest, ladder)]


def _decode_join(fields: list[Any], frames: Frames) -> Join:
    _check(fields, [str, str, list], "Join")
    _check_frames(0, frames)
    if max(len(fields[0]), len(fields[1])) > ID_CHARS_MAX:
        raise ProtocolError(f"Join has a device or digest over {ID_CHARS_MAX} characters")
    return Join(fields[0], fields[1], tuple([_observation(row) for row in fields[2]]))


def _observation(row: object) -> Observation:
    if type(row) is not list or list(map(type, row)) != [str, bytes, int, float]:
        raise ProtocolError("Join has an observation that is not its 4 fields")
    method, key, rows, seconds = row
    if len(method) > ID_CHARS_MAX or len(key) > KEY_BYTES_MAX or rows < 1 or not 0 <= seconds < math.inf:
        raise ProtocolError("Join has an observation with a long name or key, rows < 1 or no finite seconds >= 0")
    return Observation(method, key, rows, seconds)


def _encode_work(message: Work) -> list[Buffer]:
    parts: list[Buffer] = [b""]
    groups = [(infer.origin, pack_requests(infer.items, parts)) for infer in message.requests]
    parts[0] = pack_head(WORK, message.batch_id, message.final, message.rows, groups)
    return parts


def _decode_work(fields: list[Any], frames: Frames) -> Work:
    _check(fields, [int, bool, int, list], "Work")
    if min(fields[0], fields[2]) < 0:
        raise ProtocolError("Work has a negative batch id or number of rows")
    requests = []
    at = 0
    for group in fields[3]:
        origin, rows = _addressed(group, list, "Work")
        items, at = unpack_requests(rows, frames, at)
        requests.append(Infer(origin, items))
    _check_frames(at, frames)
    return Work(fields[0], fields[1], fields[2], tuple(requests))


def _encode_done(message: Done) -> list[Buffer]:
    parts: list[Buffer] = [b""]
    answers = []
    for answer in message.answers:
        answers.append((answer.origin, len(answer.parts)))
        parts.extend(answer.parts)
    parts[0] = pack_head(
        DONE, message.batch_id, message.final, float(message.duration_s), message.learn, message.cap_rows, answers
    )
    return parts


def _decode_done(fields: list[Any], frames: Frames) -> Done:
    cap_rows = fields[4] if len(fields) == 6 else None
    _check(fields, [int, bool, float, bool, type(None) if cap_rows is None else int, list], "Done")
    if fields[0] < 0 or not 0 <= fields[2] < math.inf or (cap_rows is not None and cap_rows < 1):
        raise ProtocolError("Done has a negative batch id, no finite duration >= 0, or a cap under 1 row")
    answers = []
    at = 0
    for group in fields[5]:
        origin, count = _addressed(group, int, "Done")
        if count < 1 or at + count > len(frames):
            raise ProtocolError(f"Done has a message of {count} parts from number {at} of {len(frames)}")
        answers.append(Addressed(origin, tuple(frames[at : at + count])))
        at += count
    _check_frames(at, frames)
    return Done(fields[0], fields[1], fields[2], fields[3], cap_rows, tuple(answers))


def _encode_plain(kind: int) -> Callable[[Any], list[Buffer]]:
    return lambda message: [pack_head(kind)]


def _decode_plain(message: Leave | Released) -> Callable[[list[Any], Frames], PoolMessage]:
    def decode_plain(fields: list[Any], frames: Frames) -> PoolMessage:
        _check(fields, [], type(message).__name__)
        _check_frames(0, frames)
        return message

    return decode_plain


def _encode_refused(message: Refused) -> list[Buffer]:
    return [pack_head(REFUSED, message.reason[:TEXT_BYTES_MAX])]


def _decode_refused(fields: list[Any], frames: Frames) -> Refused:
    _check(fields, [str], "Refused")
    _check_frames(0, frames)
    if len(fields[0]) > TEXT_BYTES_MAX:
        raise ProtocolError(f"Refused has a reason over {TEXT_BYTES_MAX} characters")
    return Refused(fields[0])


def _check(fields: list[Any], types: list[type], name: str) -> None:
    if list(map(type, fields)) != types:
        raise ProtocolError(f"{name} does not have its {len(types)} fields")


def _addressed(group: object, kind: type, name: str) -> tuple[bytes, Any]:
    """An origin, and what stands beside it."""
    if type(group) is not list or list(map(type, group)) != [bytes, kind] or len(group[0]) != ORIGIN_BYTES:
        raise ProtocolError(f"{name} has a part that is not a {ORIGIN_BYTES}-byte origin and its {kind.__name__}")
    return group[0], group[1]


def _check_frames(used: int, frames: Frames) -> None:
    if used != len(frames):
        raise ProtocolError(f"message has {len(frames)} buffers, it names {used}")


_ENCODERS: dict[type, Callable[[Any], list[Buffer]]] = {
    Join: _encode_join,
    Work: _encode_work,
    Done: _encode_done,
    Leave: _encode_plain(LEAVE),
    Refused: _encode_refused,
    Released: _encode_plain(RELEASED),
}
_DECODERS: dict[int, Callable[[list[Any], Frames], PoolMessage]] = {
    JOIN: _decode_join,
    WORK: _decode_work,
    DONE: _decode_done,
    LEAVE: _decode_plain(Leave()),
    REFUSED: _decode_refused,
    RELEASED: _decode_plain(Released()),
}
