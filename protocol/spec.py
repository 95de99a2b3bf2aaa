"""ServeSpec: the frozen description of one server, made once by the inspector child, from which everything is spawned.

`latest` is resolved in it, so it never moves under a running server. It travels as MessagePack over an inherited pipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

from paceline.protocol import limits
from paceline.protocol.errors import ModelNotFound, ProtocolError, did_you_mean
from paceline.protocol.head import unpack_value
from paceline.protocol.records import field_value
from paceline.protocol.signature import MethodSpec, spec_from_plain, spec_to_plain
from paceline.protocol.tcp import PORT_MAX, split_tcp, tcp_address


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """One runner: which stored version or Runnable class it serves, its methods, and how it may run.

    `runnable`: "module:qualname" of a class in the service's folder and `init` its parameters (MessagePack), both empty
    for a stored version. `digest` is the version's sha256, or that of the class's source and parameters; `threads` the
    torch threads of each worker; `devices` one entry per worker, or one for all. `dispatch`: "worker" or "central".
    `buckets`: batch rows are padded up to the next of these, empty = not at all. `latency_table`: (rows, milliseconds)
    of one batch where they are known, empty = learned. `record`: where decisions are recorded, see
    ServeSpec.record_path; empty = nowhere. Times in milliseconds as in the config; None = off or learned.
    """

    name: str
    model: str
    version: str
    digest: str
    framework: str
    store_home: str
    methods: tuple[MethodSpec, ...]
    workers: int = 1
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    max_batch_size: int = limits.BATCH_ROWS_DEFAULT
    latency_budget_ms: float = limits.LATENCY_BUDGET_MS
    queue_timeout_ms: float | None = None
    execution_timeout_ms: float | None = None
    dispatch: str = "worker"
    buckets: tuple[int, ...] = ()
    latency_table: tuple[tuple[int, float], ...] = ()
    trust: bool = False
    aliases: tuple[str, ...] = ()
    record: str = ""
    runnable: str = ""
    init: bytes = b""

    @property
    def is_central(self) -> bool:
        """Whether it has one queue, in a broker, and not one in each worker."""
        return self.dispatch == "central"

    @property
    def queues(self) -> int:
        """How many dispatchers it has: one in its broker, or one in each worker."""
        return 1 if self.is_central else self.workers

    @property
    def reply_s(self) -> float:
        """What its dispatchers allow for the way back, from the end of a batch."""
        return limits.POOL_REPLY_S if self.is_central else limits.REPLY_S


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """The HTTP side. `sockets` are inherited file descriptors, opened by the supervisor."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_workers: int = 1
    timeout_max_ms: float = limits.TIMEOUT_MAX_MS
    body_bytes_max: int = limits.BODY_BYTES_MAX
    rows_max: int = limits.REQUEST_ROWS_MAX
    drain_grace_s: float = limits.DRAIN_GRACE_S
    window_requests: int = limits.WINDOW_REQUESTS
    pending_requests: int = limits.PENDING_REQUESTS_MAX


@dataclass(frozen=True, slots=True)
class NativeSpec:
    """The side for native clients on other machines: where to listen (tcp://host:port, empty = nowhere), and the folder
    of the keys. The keys themselves stay in their files."""

    listen: str = ""
    keys: str = ""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """The user's service: `target` ("service:svc") is imported in `folder` by each API server; `routes` are its paths.
    `store_home`: the store that its code means when it names none."""

    target: str
    folder: str
    name: str
    routes: tuple[str, ...]
    store_home: str


@dataclass(frozen=True, slots=True)
class ServeSpec:
    """One server: its runners by name, its HTTP side, the private run directory (0700), its side for other machines,
    and the service that it serves, if it is not models alone."""

    runners: tuple[RunnerSpec, ...]
    http: HttpSpec
    run_dir: str
    native: NativeSpec = NativeSpec()
    service: ServiceSpec | None = None

    def runner(self, name: str) -> RunnerSpec:
        """The runner `name`. Raises ModelNotFound that names the nearest."""
        for runner in self.runners:
            if runner.name == name:
                return runner
        names = [runner.name for runner in self.runners]
        raise ModelNotFound(
            f"runner {name!r} is not served here.{did_you_mean(name, names)} Served: {', '.join(names) or 'none'}."
        )

    def native_address(self, runner: str, index: int) -> str:
        """Where queue `index` of `runner` (its broker, or a worker) listens for other machines: on the ports after the
        server's own, in order, so that a firewall can know them. Port 0 = a free one."""
        host, port = split_tcp(self.native.listen)
        names = [each.name for each in self.runners]
        own = port + 1 + sum(each.queues for each in self.runners[: names.index(runner)]) + index
        return tcp_address(host, own if port > 0 and own <= PORT_MAX else 0)

    def record_paths(self) -> tuple[str, ...]:
        """Where the decisions of this server are recorded, one file per queue; empty = nowhere."""
        places = [(runner, index) for runner in self.runners for index in range(runner.queues)]
        return tuple(self.record_path(runner.name, index) for runner, index in places if runner.record)

    def record_path(self, runner: str, index: int) -> str:
        """Where queue `index` of `runner` is recorded, empty = nowhere. With several queues in the server each has a
        file of its own: `decisions.jsonl` becomes `decisions.net-0.jsonl`."""
        record = self.runner(runner).record
        if not record or sum(each.queues for each in self.runners) == 1:
            return record
        path = Path(record)
        return str(path.parent / f"{path.stem}.{runner}-{index}{path.suffix}")

    def for_remote(self) -> ServeSpec:
        """What a client on another machine is told: no path and no address of this one, and nothing of its code."""
        runners = tuple(replace(runner, store_home="", record="", runnable="", init=b"") for runner in self.runners)
        return ServeSpec(runners, replace(self.http, host="", port=0), "")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What one spawned child gets: the server's spec, which child it is, its fresh incarnation (16 bytes)."""

    serve: ServeSpec
    kind: str
    runner: str
    index: int
    incarnation: bytes
    control_address: str
    slot_path: str
    parent_pid: int
    lifeline_fd: int
    socket_fds: tuple[int, ...] = ()


def encode_serve(spec: ServeSpec) -> bytes:
    packed: bytes = msgpack.packb(_serve_plain(spec))
    return packed


def decode_serve(data: bytes) -> ServeSpec:
    """Raises ProtocolError unless `data` is what `encode_serve` wrote."""
    return _serve(unpack_value(data))


def encode_child(spec: ChildSpec) -> bytes:
    packed: bytes = msgpack.packb({**_named_plain(spec), "serve": _serve_plain(spec.serve)})
    return packed


def decode_child(data: bytes) -> ChildSpec:
    """Raises ProtocolError unless `data` is what `encode_child` wrote."""
    child: ChildSpec = _build(ChildSpec, unpack_value(data))
    return child


def _serve_plain(spec: ServeSpec) -> dict[str, object]:
    runners = [
        {**_named_plain(runner), "methods": [spec_to_plain(method) for method in runner.methods]}
        for runner in spec.runners
    ]
    return {
        "runners": runners,
        "http": _named_plain(spec.http),
        "run_dir": spec.run_dir,
        "native": _named_plain(spec.native),
        "service": None if spec.service is None else _named_plain(spec.service),
    }


def _named_plain(spec: RunnerSpec | HttpSpec | NativeSpec | ServiceSpec | ChildSpec) -> dict[str, object]:
    return {f.name: getattr(spec, f.name) for f in fields(spec)}


def _build(cls: type[Any], plain: object) -> Any:
    """The record `cls` from a map of exactly its fields: both sides are of one version."""
    specs = fields(cls)
    if not isinstance(plain, dict) or plain.keys() != {spec.name for spec in specs}:
        raise ProtocolError(f"{cls.__name__} is not a map of its {len(specs)} fields")
    return cls(**{spec.name: field_value(cls, spec, plain[spec.name], _READERS) for spec in specs})


def _serve(plain: object) -> ServeSpec:
    serve: ServeSpec = _build(ServeSpec, plain)
    return serve


def _point(item: object) -> tuple[int, float]:
    if type(item) is list and len(item) == 2 and type(item[0]) is int and type(item[1]) in (int, float):
        return (item[0], float(item[1]))
    raise ProtocolError("latency_table has a point that is not (rows, milliseconds)")


def _method(plain: object) -> MethodSpec:
    if not isinstance(plain, dict):
        raise ProtocolError(f"method spec is {type(plain).__name__}, expected a map")
    try:
        return spec_from_plain(plain)
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"method spec is not readable: {type(error).__name__}: {error}") from error


_READERS: dict[str, Callable[[object], Any]] = {
    "ServeSpec": _serve,
    "RunnerSpec": partial(_build, RunnerSpec),
    "HttpSpec": partial(_build, HttpSpec),
    "NativeSpec": partial(_build, NativeSpec),
    "ServiceSpec": partial(_build, ServiceSpec),
    "MethodSpec": _method,
    "tuple[int, float]": _point,
}
