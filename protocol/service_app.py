"""What a server sees of a user's service, by duck type: its plan before anything runs, then its life in an API server.

`paceline.Service` fulfils it; inspector and API servers know no more of it than this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from paceline.protocol.runner_port import RunnerPort
from paceline.protocol.signature import MethodSpec

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunnerPlan:
    """What code says of one runner: `model` ("name:version" of the store), or `runnable` ("module:qualname" of a class)
    with `init`, its keyword parameters in MessagePack, and `methods`. The rest are the keys of [runner.<name>] in the
    config; None = code says nothing, so that the operator's config or the default decides."""

    name: str
    model: str = ""
    runnable: str = ""
    init: bytes = b""
    methods: tuple[MethodSpec, ...] = ()
    workers: int | None = None
    devices: tuple[str, ...] | None = None
    threads: int | None = None
    max_batch_size: int | None = None
    latency_budget_ms: float | None = None
    queue_timeout_ms: float | None = None
    execution_timeout_ms: float | None = None
    dispatch: str | None = None
    buckets: tuple[int, ...] | None = None
    latency_table_ms: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What a server has to start for a service; `routes` are its paths."""

    name: str
    runners: tuple[RunnerPlan, ...]
    routes: tuple[str, ...]


class ServiceApp(Protocol):
    """See the module."""

    name: str

    def plan(self) -> ServicePlan:
        """What it needs and where it answers."""
        ...

    def bind(self, port: RunnerPort) -> None:
        """Let its runners send their calls through `port`."""
        ...

    def asgi(self) -> AsgiApp:
        """Every route of the service."""
        ...

    async def startup(self) -> None:
        """Run its hooks before the first request."""
        ...

    async def shutdown(self) -> None:
        """Run its hooks after the last request."""
        ...
