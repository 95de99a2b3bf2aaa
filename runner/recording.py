"""The form of a recording: what one dispatcher was told and what it answered, as lines of JSON, read back exactly.

A recording is a header, then one line per call of the dispatcher. It holds no payload and no id of a client: requests
and workers are numbered as they come, keys are the method's name and a digest. Pure. The scribe writes it, the
simulator reads and replays it; docs/operations.md describes it for people.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, NamedTuple, TypeAlias

import orjson

from paceline.protocol.errors import PacelineError
from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatch,
    DispatcherConfig,
    Event,
    Measured,
    Reject,
    RejectReason,
    Tick,
    WakeAt,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)

FORMAT = "paceline decisions"
VERSION = 1


class RecordingError(PacelineError):
    """The file is not a recording, or is damaged; the message names the line."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose decisions follow, and what its dispatcher was built from. `monotonic_s` and `wall_s` are one moment, on the
    clock of all times in the recording and since 1970."""

    runner: str
    index: int
    profile: str
    config: DispatcherConfig
    monotonic_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the dispatcher. `refused`: it raised ValueError for one of the events."""

    now: float
    events: tuple[Event, ...]
    actions: tuple[Action, ...]
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Torn:
    """A line that was cut short, as the last one of a process that was killed is."""


Entry: TypeAlias = Header | Step | Torn


class Column(NamedTuple):
    """A field's name in a line, and what reads its value."""

    short: str
    read: Callable[[object], object]


def read(lines: Iterable[bytes]) -> Iterator[tuple[int, Entry]]:
    """(line number, entry) of each line. Torn is only what a killed process leaves: the last line, or the last before
    the header of its successor. Raises RecordingError for any other damage."""
    torn = headers = 0
    for number, line in enumerate(lines, 1):
        entry = _parsed(number, line)
        if torn and not isinstance(entry, Header):
            raise RecordingError(f"line {torn} is damaged: it is not JSON")
        if torn:
            yield torn, Torn()
        torn = 0 if entry else number
        headers += isinstance(entry, Header)
        if entry and not headers:
            raise RecordingError(f"line {number} is no header: not a recording of `paceline serve --record`")
        if entry:
            yield number, entry
    if not headers:
        raise RecordingError("it has no header: not a recording of `paceline serve --record`")
    if torn:
        yield torn, Torn()


def _parsed(number: int, line: bytes) -> Header | Step | None:
    """None for what is not JSON."""
    try:
        plain: object = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    try:
        return _entry(plain)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordingError(f"line {number} is damaged: {type(error).__name__}: {error}") from error


def _entry(plain: object) -> Header | Step:
    if not isinstance(plain, dict):
        raise ValueError(f"expected an object, got {plain!r:.80}")
    return _header(plain) if "format" in plain else _step(plain)


def _header(plain: dict[str, Any]) -> Header:
    if (plain["format"], plain["version"]) != (FORMAT, VERSION):
        raise ValueError(f"the format is {plain['format']!r} {plain['version']!r}, expected {FORMAT!r} {VERSION}")
    return Header(
        runner=_text(plain["runner"]),
        index=_whole(plain["index"]),
        profile=_text(plain["profile"]),
        config=_config(plain["config"]),
        monotonic_s=_real(plain["monotonic_s"]),
        wall_s=_real(plain["wall_s"]),
    )


def _config(plain: dict[str, Any]) -> DispatcherConfig:
    """Raises ValueError for fields that this version does not have, TypeError where one lacks."""
    known = {f.name for f in fields(DispatcherConfig)}
    if unknown := sorted(plain.keys() - known):
        raise ValueError(f"the configuration has {', '.join(unknown)}, which this version does not know")
    values: dict[str, Any] = {name: inf if value == "inf" else value for name, value in plain.items()}
    if "buckets" in values:
        values["buckets"] = tuple(map(_whole, values["buckets"]))
    if "latency_table" in values:
        values["latency_table"] = _table(values["latency_table"])
    if "latency_tables" in values:
        values["latency_tables"] = {name: _table(points) for name, points in values["latency_tables"].items()}
    return DispatcherConfig(**values)


def _table(points: list[tuple[object, object]]) -> dict[int, float]:
    return {_whole(rows): _real(seconds) for rows, seconds in points}


def _step(plain: dict[str, Any]) -> Step:
    events = tuple([_record(event, EVENTS) for event in plain["e"]])
    actions = tuple([_record(action, ACTIONS) for action in plain["a"]])
    return Step(_real(plain["t"]), events, actions, plain.get("x", False) is True)


def _record(plain: dict[str, Any], classes: Mapping[str, type[Any]]) -> Any:
    cls = classes[plain["e"]]
    given = {_NAMES[short]: value for short, value in plain.items() if short != "e"}
    return cls(**{name: COLUMNS[name].read(value) for name, value in given.items()})


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"expected a whole number, got {value!r:.80}")
    return value


def _real(value: object) -> float:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {value!r:.80}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r:.80}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r:.80}")
    return value


def _wholes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {value!r:.80}")
    return tuple([_whole(item) for item in value])


def _key(value: object) -> Hashable:
    method, slash, rest = _text(value).partition("/")
    return (method, rest) if slash else method


def _reason(value: object) -> RejectReason:
    return RejectReason(_text(value))


# The names in a line: "e" is what happened, the others are fields, left out at their defaults.
EVENTS: dict[str, type[Event]] = {
    "A": Arrived,
    "C": Cancelled,
    "J": WorkerJoined,
    "G": WorkerDraining,
    "L": WorkerLost,
    "F": BatchDone,
    "M": CapChanged,
    "O": Measured,
    "T": Tick,
}
ACTIONS: dict[str, type[Action]] = {"D": Dispatch, "R": Reject, "W": WakeAt}
COLUMNS: dict[str, Column] = {
    "request_id": Column("i", _whole),
    "request_ids": Column("is", _wholes),
    "worker_id": Column("w", _whole),
    "batch_id": Column("b", _whole),
    "key": Column("k", _key),
    "rows": Column("r", _whole),
    "padded_rows": Column("pr", _whole),
    "length": Column("l", _whole),
    "batch_limit": Column("m", _whole),
    "priority": Column("p", _whole),
    "deadline": Column("d", _real),
    "arrived_at": Column("at", _real),
    "starts": Column("s", _whole),
    "starts_max": Column("sm", _whole),
    "started": Column("st", _wholes),
    "duration": Column("dt", _real),
    "learn": Column("ln", _flag),
    "until": Column("u", _real),
    "profile": Column("f", _text),
    "predicted_s": Column("ps", _real),
    "reason": Column("y", _reason),
    "retry_after_s": Column("ra", _real),
    "time": Column("t", _real),
}
_NAMES = {column.short: name for name, column in COLUMNS.items()}
