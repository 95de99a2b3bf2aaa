"""ServeSpec: the frozen description of one server, made once by the inspector child, from which everything is spawned.

`latest` is resolved in it, so it never moves under a running server. It travels as MessagePack over an inherited pipe.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack

from paceline.protocol import limits
from paceline.protocol.errors import ProtocolError
from paceline.protocol.signature import MethodSpec, spec_from_plain, spec_to_plain


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """One runner: which stored version it serves, its methods, and how it may run.

    `digest` is the version's sha256; `threads` the torch threads of each worker; `devices` one entry per worker, or one
    for all. Times in milliseconds as in the config; None = off or learned.
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
    trust: bool = False
    aliases: tuple[str, ...] = ()


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
class ServeSpec:
    """One server: its runners by name, its HTTP side, the private run directory (0700)."""

    runners: tuple[RunnerSpec, ...]
    http: HttpSpec
    run_dir: str

    def runner(self, name: str) -> RunnerSpec:
        return next(runner for runner in self.runners if runner.name == name)


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
    return _opened(data, _serve_from)


def encode_child(spec: ChildSpec) -> bytes:
    plain = {f.name: getattr(spec, f.name) for f in fields(spec)}
    plain["serve"] = _serve_plain(spec.serve)
    packed: bytes = msgpack.packb(plain)
    return packed


def decode_child(data: bytes) -> ChildSpec:
    """Raises ProtocolError unless `data` is what `encode_child` wrote."""
    return _opened(data, _child_from)


def _opened(data: bytes, build: Any) -> Any:
    try:
        return build(msgpack.unpackb(data))
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"spec is not readable: {type(error).__name__}: {error}") from error


def _serve_plain(spec: ServeSpec) -> dict[str, Any]:
    runners = []
    for runner in spec.runners:
        plain = {f.name: getattr(runner, f.name) for f in fields(runner)}
        plain["methods"] = [spec_to_plain(method) for method in runner.methods]
        runners.append(plain)
    return {"runners": runners, "http": asdict(spec.http), "run_dir": spec.run_dir}


def _serve_from(plain: dict[str, Any]) -> ServeSpec:
    runners = []
    for item in plain["runners"]:
        item["methods"] = tuple(spec_from_plain(method) for method in item["methods"])
        item["devices"] = tuple(item["devices"])
        item["aliases"] = tuple(item["aliases"])
        runners.append(RunnerSpec(**item))
    return ServeSpec(tuple(runners), HttpSpec(**plain["http"]), plain["run_dir"])


def _child_from(plain: dict[str, Any]) -> ChildSpec:
    plain["serve"] = _serve_from(plain["serve"])
    plain["socket_fds"] = tuple(plain["socket_fds"])
    return ChildSpec(**plain)
