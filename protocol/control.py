"""The control plane: what children, native clients, `paceline status` and `paceline profile` say to the supervisor, and
it to them.

    child -> supervisor     Hello once, ChildState at each change
    supervisor -> child     Topology (whole snapshots, versioned): of the hosts to API servers and clients, of a pool to
                            its broker and its workers; Drain to all
    client -> supervisor    Hello; answered by Welcome (the ServeSpec) and from then on by Topology
    status -> supervisor    StatusRequest; answered by Status
    profile -> supervisor   ProfileRequest; the supervisor sends the worker Trace, whose ProfileDone it passes on

Same framing as messages.py, one head and no buffers. Small and rare: encoded field by field, through records.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any, TypeAlias

from paceline.protocol.errors import ProtocolError
from paceline.protocol.head import Frames, open_head, pack_head
from paceline.protocol.records import field_value, to_plain
from paceline.protocol.tensor import Buffer


class State(StrEnum):
    """The life of a child process."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Hello:
    """A peer's first message: `kind` is "api_server", "broker", "worker" or "client"; `incarnation` is its own."""

    kind: str
    runner: str
    index: int
    incarnation: bytes
    pid: int


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child's own word on its state. READY of a worker carries the address of its data socket and its device, and if
    it listens for other machines, `remote_address`; that of a broker also the address where its workers join."""

    incarnation: bytes
    state: str
    detail: str = ""
    address: str = ""
    device: str = ""
    remote_address: str = ""
    pool_address: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """One dispatch host: where to send a runner's requests. In the picture of a pool: its broker, where workers join,
    or a worker, without an address."""

    runner: str
    incarnation: bytes
    address: str
    state: str


@dataclass(frozen=True, slots=True)
class LostHost:
    """A host that died. `started`: the last (origin, counter) pairs that it had begun, answered ones too; `known` is
    False where that could not be told, and all its requests may have started. `suspects`: whether what it had started
    may have killed it; False for a broker, which runs no model."""

    runner: str
    incarnation: bytes
    reason: str
    known: bool
    suspects: bool
    started: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class FailedRunner:
    """A runner that was given up: `reason` says why."""

    runner: str
    reason: str


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole picture, replacing any of a lower version. `lost` holds the latest deaths, so that one missed snapshot
    loses none."""

    version: int
    draining: bool
    hosts: tuple[Host, ...]
    lost: tuple[LostHost, ...]
    failed: tuple[FailedRunner, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """An API server goes by the Topology of this version now."""

    version: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to a client's Hello: the ServeSpec as spec.py encodes it."""

    serve: bytes


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop taking, finish what has a deadline left within `grace_s` seconds, exit 0."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Ask for Status."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process in `paceline status`. Counters are since its start; `last_death` explains the latest restart."""

    kind: str
    runner: str
    index: int
    pid: int
    state: str
    device: str
    uptime_s: float
    restarts: int
    requests: int
    batches: int
    rows: int
    rss_bytes: int
    last_death: str

    @property
    def name(self) -> str:
        return process_name(self.kind, self.runner, self.index)


@dataclass(frozen=True, slots=True)
class Status:
    """The supervisor's answer: itself and every child. `service`: the name of the one that is served, or empty."""

    version: str
    url: str
    draining: bool
    service: str
    processes: tuple[ProcessStatus, ...]


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Ask for ProfileDone: a trace of `seconds` of worker `index` of `runner`; None: of the busiest."""

    runner: str
    index: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Record torch's operators for `seconds` and write them to `path`, a Chrome trace; answered by ProfileDone."""

    seconds: float
    path: str


@dataclass(frozen=True, slots=True)
class ProfileDone:
    """The trace is at `path`, and whoever asked may take it away: `batches` of `seconds`; `full`: it ended early, at
    its bound. Or an `error`, whose `code` is that of the table or empty. `worker`: who was recorded, "net/0"."""

    path: str = ""
    seconds: float = 0.0
    batches: int = 0
    full: bool = False
    worker: str = ""
    error: str = ""
    code: str = ""


def process_name(kind: str, runner: str, index: int) -> str:
    """How a process is called in logs, events and status: "net/0", "net/broker", "api/1", "supervisor"."""
    names = {"worker": f"{runner}/{index}", "broker": f"{runner}/broker", "api_server": f"api/{index}"}
    return names.get(kind, kind)


ControlMessage: TypeAlias = (
    Hello
    | ChildState
    | Topology
    | Seen
    | Welcome
    | Drain
    | StatusRequest
    | Status
    | ProfileRequest
    | Trace
    | ProfileDone
)

_KINDS: dict[int, type[Any]] = {
    64: Hello,
    65: ChildState,
    66: Topology,
    67: Welcome,
    68: Drain,
    69: StatusRequest,
    70: Status,
    71: ProfileRequest,
    72: Trace,
    73: ProfileDone,
    74: Seen,
}
_CODES = {cls: code for code, cls in _KINDS.items()}


def encode(message: ControlMessage) -> list[Buffer]:
    """The one-frame multipart form of `message`."""
    return [pack_head(_CODES[type(message)], *to_plain(message))]


def decode(parts: Frames) -> ControlMessage:
    """The control message behind `parts`. Raises ProtocolError on anything else, and nothing but that."""
    kind, values, frames = open_head(parts)
    cls = _KINDS.get(kind)
    if cls is None:
        raise ProtocolError(f"message kind {kind!r} is unknown on the control plane")
    if frames:
        raise ProtocolError(f"{cls.__name__} has {len(frames)} buffers, expected none")
    message: ControlMessage = _build(cls, values)
    return message


def _build(cls: type[Any], values: object) -> Any:
    specs = fields(cls)
    if type(values) is not list or len(values) != len(specs):
        raise ProtocolError(f"{cls.__name__} does not have its {len(specs)} fields")
    return cls(*[field_value(cls, spec, value, _READERS) for spec, value in zip(specs, values)])


def _pair(item: object) -> tuple[bytes, int]:
    if type(item) is list and len(item) == 2 and type(item[0]) is bytes and type(item[1]) is int:
        return (item[0], item[1])
    raise ProtocolError("LostHost has a started request that is not (origin, counter)")


_READERS: dict[str, Callable[[object], Any]] = {
    "Host": partial(_build, Host),
    "LostHost": partial(_build, LostHost),
    "FailedRunner": partial(_build, FailedRunner),
    "ProcessStatus": partial(_build, ProcessStatus),
    "tuple[bytes, int]": _pair,
}
