"""The data plane: what API servers (and native clients) and dispatch hosts say to each other.

    API server -> host    Infer (many requests of one tick), Cancel
    host -> API server    Answers (all results and failures of one batch for one API server), Forecast

A message is ZeroMQ multipart: one head, then raw buffers. The head is MessagePack of [VERSION, kind, fields...]. Each
dataclass has one encoder and one decoder here; `decode` is the only way in. A request that is malformed inside a sound
message fails alone: its arguments stay packed until `InferItem.call` opens them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from paceline.protocol.errors import InvalidInput, ModelError, ProtocolError
from paceline.protocol.forecast import Forecast as Forecast
from paceline.protocol.forecast import forecast_fields, forecast_of
from paceline.protocol.head import VERSION as VERSION
from paceline.protocol.head import Frames as Frames
from paceline.protocol.head import open_head as open_head
from paceline.protocol.head import pack_head as pack_head
from paceline.protocol.head import unpack_head as unpack_head
from paceline.protocol.hot_record import hot_record
from paceline.protocol.limits import ID_CHARS_MAX, KEY_BYTES_MAX, TEXT_BYTES_MAX
from paceline.protocol.tensor import Buffer
from paceline.protocol.tree import (
    Packed,
    Tree,
    pack_lone_call,
    pack_lone_tensor,
    pack_tree,
    unpack_lone_call,
    unpack_tree,
)

INFER, CANCEL, ANSWERS, FORECAST = 1, 2, 3, 4
ORIGIN_BYTES: Final = 16
CANCELLED: Final = "cancelled"


@hot_record
@dataclass(frozen=True, slots=True)
class InferItem:
    """One request on its way to a worker.

    `counter` is unique within its origin; with `attempt` it fences answers. `starts` counts hand-overs to a worker
    process so far; `suspect`: one of them may have killed its worker. Times are CLOCK_MONOTONIC nanoseconds of this
    host. `packed` is the pair (args tuple, kwargs dict) as tree.py packs it; its large buffers are `frames`. `key`,
    `rows` and `length` (of the padded dim, rounded up; 0 = none) are what `measure` said.
    """

    counter: int
    attempt: int
    starts: int
    suspect: bool
    arrival_ns: int
    deadline_ns: int
    priority: int
    rows: int
    length: int
    method: str
    key: bytes
    request_id: str
    traceparent: str
    packed: Packed
    frames: tuple[Buffer, ...] = ()

    def call(self) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
        """(args, kwargs), tensors viewing the message's bytes. Raises ProtocolError if they are not well-formed."""
        lone = unpack_lone_call(self.packed, self.frames)
        if lone is not None:
            return (lone,), {}
        tree = unpack_tree(self.packed, self.frames)
        if isinstance(tree, tuple) and len(tree) == 2:
            args, kwargs = tree
            if isinstance(args, tuple) and isinstance(kwargs, dict):
                return args, kwargs
        raise ProtocolError("arguments are not a pair of a tuple and a map")


@dataclass(frozen=True, slots=True)
class Infer:
    """Requests of one loop tick of the API server `origin` (its 16-byte incarnation)."""

    origin: bytes
    items: tuple[InferItem, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Requests of `origin` that nobody waits for any more. The host answers each that it still had queued."""

    origin: bytes
    counters: tuple[int, ...]


@hot_record
@dataclass(frozen=True, slots=True)
class Result:
    """One request's result tree, packed; `batch_rows`, `queue_us` and `run_us` say how it was served."""

    counter: int
    attempt: int
    batch_rows: int
    queue_us: int
    run_us: int
    packed: Packed
    frames: tuple[Buffer, ...] = ()

    def tree(self) -> Tree:
        """The result, tensors viewing the message's bytes. Raises ProtocolError if it is not well-formed."""
        return unpack_tree(self.packed, self.frames)


@dataclass(frozen=True, slots=True)
class Failure:
    """One request's terminal error, or CANCELLED, which only returns the window's credit."""

    counter: int
    attempt: int
    code: str
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """All that one batch (or one round of refusals) has for the API server `origin`."""

    origin: bytes
    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()


Message: TypeAlias = Infer | Cancel | Answers | Forecast


def pack_call(args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> tuple[Packed, tuple[Buffer, ...]]:
    """(packed, frames) of an InferItem's arguments. Raises InvalidInput if they cannot travel."""
    if len(args) == 1 and not kwargs:
        lone = pack_lone_call(args[0])
        if lone is not None:
            return lone, ()
    frames: list[Buffer] = []
    try:
        packed = pack_tree((args, kwargs), frames)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"arguments cannot be sent: {error}") from error
    return packed, tuple(frames)


def pack_result(tree: Tree) -> tuple[Packed, tuple[Buffer, ...]]:
    """(packed, frames) of a Result's tree. Raises ModelError if it cannot travel."""
    lone = pack_lone_tensor(tree)
    if lone is not None:
        return lone, ()
    frames: list[Buffer] = []
    try:
        packed = pack_tree(tree, frames)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's result cannot be sent: {error}") from error
    return packed, tuple(frames)


def encode(message: Message) -> list[Buffer]:
    """The multipart form of `message`: head first, then the buffers in item order."""
    return _ENCODERS[type(message)](message)


def decode(parts: Frames) -> Message:
    """The message behind `parts` (head, buffers...). Raises ProtocolError on anything else, and nothing but that."""
    kind, fields, frames = open_head(parts)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"message kind {kind!r} is unknown on the data plane")
    return decoder(fields, frames)


_ITEM_TYPES = [int, int, int, bool, int, int, int, int, int, str, bytes, str, str]
_RESULT_TYPES = [int, int, int, int, int]


def pack_requests(items: Iterable[InferItem], parts: list[Buffer]) -> list[tuple[object, ...]]:
    """The requests as they stand in a head; their frames are appended to `parts`."""
    rows: list[tuple[object, ...]] = []
    for i in items:
        rows.append(
            (
                i.counter,
                i.attempt,
                i.starts,
                i.suspect,
                i.arrival_ns,
                i.deadline_ns,
                i.priority,
                i.rows,
                i.length,
                i.method,
                i.key,
                i.request_id,
                i.traceparent,
                i.packed,
                len(i.frames),
            )
        )
        parts.extend(i.frames)
    return rows


def unpack_requests(rows: list[Any], frames: Frames, at: int = 0) -> tuple[tuple[InferItem, ...], int]:
    """The requests in `rows`, whose frames begin at number `at`, and where they end. Raises ProtocolError."""
    items = []
    for row in rows:
        if type(row) is not list or len(row) != 15 or list(map(type, row[:13])) != _ITEM_TYPES:
            raise ProtocolError("message has an item that is not the 15 fields of a request")
        count = _frame_count(row[14], at, frames)
        if row[7] < 1 or row[8] < 0 or min(row[:6]) < 0:
            raise ProtocolError(
                "message has a request with rows < 1 or a negative id, attempt, start count, time or length"
            )
        if len(row[10]) > KEY_BYTES_MAX or max(len(row[9]), len(row[11]), len(row[12])) > ID_CHARS_MAX:
            raise ProtocolError(
                f"message has a request with a key over {KEY_BYTES_MAX} bytes, or a method, request id or traceparent "
                f"over {ID_CHARS_MAX} characters"
            )
        row[14] = tuple(frames[at : at + count])
        items.append(InferItem(*row))
        at += count
    return tuple(items), at


def _encode_infer(message: Infer) -> list[Buffer]:
    parts: list[Buffer] = [b""]
    rows = pack_requests(message.items, parts)
    parts[0] = pack_head(INFER, message.origin, rows)
    return parts


def _decode_infer(fields: list[Any], frames: Frames) -> Infer:
    origin, rows = _origin_and_array(fields)
    items, used = unpack_requests(rows, frames)
    _all_used(used, frames)
    return Infer(origin, items)


def _encode_cancel(message: Cancel) -> list[Buffer]:
    return [pack_head(CANCEL, message.origin, message.counters)]


def _decode_cancel(fields: list[Any], frames: Frames) -> Cancel:
    origin, counters = _origin_and_array(fields)
    _all_used(0, frames)
    if not all(type(counter) is int and counter >= 0 for counter in counters):
        raise ProtocolError("Cancel has a counter that is not an integer >= 0")
    return Cancel(origin, tuple(counters))


def _encode_answers(message: Answers) -> list[Buffer]:
    parts: list[Buffer] = [b""]
    results = []
    for r in message.results:
        results.append((r.counter, r.attempt, r.batch_rows, r.queue_us, r.run_us, r.packed, len(r.frames)))
        parts.extend(r.frames)
    failures = [(f.counter, f.attempt, f.code, _text(f.message), _seconds(f.retry_after_s)) for f in message.failures]
    parts[0] = pack_head(ANSWERS, message.origin, results, failures)
    return parts


def _decode_answers(fields: list[Any], frames: Frames) -> Answers:
    if len(fields) != 3:
        raise ProtocolError(f"Answers has {len(fields)} fields, expected 3")
    origin, rows = _origin_and_array(fields[:2])
    results = []
    at = 0
    for row in rows:
        if type(row) is not list or len(row) != 7 or list(map(type, row[:5])) != _RESULT_TYPES:
            raise ProtocolError("Answers has an item that is not the 7 fields of a result")
        if min(row[:5]) < 0:
            raise ProtocolError("Answers has a result with a negative number")
        count = _frame_count(row[6], at, frames)
        row[6] = tuple(frames[at : at + count])
        results.append(Result(*row))
        at += count
    _all_used(at, frames)
    if type(fields[2]) is not list:
        raise ProtocolError("Answers has no array of failures")
    return Answers(origin, tuple(results), tuple(_failure(row) for row in fields[2]))


def _failure(row: object) -> Failure:
    if type(row) is not list or len(row) != 5 or list(map(type, row[:4])) != [int, int, str, str]:
        raise ProtocolError("Answers has an item that is not the 5 fields of a failure")
    if row[0] < 0 or row[1] < 0 or len(row[3]) > TEXT_BYTES_MAX:
        raise ProtocolError(f"Answers has a failure with a negative id or over {TEXT_BYTES_MAX} characters of text")
    if row[4] is not None and (type(row[4]) is not float or not 0 <= row[4] < math.inf):
        raise ProtocolError("Answers has a failure whose retry_after_s is not a finite float >= 0")
    return Failure(*row)


def _text(message: str) -> str:
    """`message` as it may travel: user code's errors can be of any length and hold half a surrogate pair."""
    return message.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore")


def _seconds(retry_after_s: float | None) -> float | None:
    return float(retry_after_s) if retry_after_s is not None and 0 <= retry_after_s < math.inf else None


def _encode_forecast(message: Forecast) -> list[Buffer]:
    return [pack_head(FORECAST, *forecast_fields(message))]


def _decode_forecast(fields: list[Any], frames: Frames) -> Forecast:
    _all_used(0, frames)
    return forecast_of(fields)


def _origin_and_array(fields: list[Any]) -> tuple[bytes, list[Any]]:
    if (
        len(fields) != 2
        or type(fields[0]) is not bytes
        or len(fields[0]) != ORIGIN_BYTES
        or type(fields[1]) is not list
    ):
        raise ProtocolError(f"message is not a {ORIGIN_BYTES}-byte origin and an array")
    return fields[0], fields[1]


def _frame_count(count: object, at: int, frames: Frames) -> int:
    if type(count) is not int or count < 0 or at + count > len(frames):
        raise ProtocolError(f"item claims {count!r} frames from number {at} of {len(frames)}")
    return count


def _all_used(used: int, frames: Frames) -> None:
    if used != len(frames):
        raise ProtocolError(f"message has {len(frames)} buffers, its items use {used}")


_ENCODERS: dict[type, Callable[[Any], list[Buffer]]] = {
    Infer: _encode_infer,
    Cancel: _encode_cancel,
    Answers: _encode_answers,
    Forecast: _encode_forecast,
}
_DECODERS: dict[int, Callable[[list[Any], Frames], Message]] = {
    INFER: _decode_infer,
    CANCEL: _decode_cancel,
    ANSWERS: _decode_answers,
    FORECAST: _decode_forecast,
}
