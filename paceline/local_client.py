"""`paceline.local(...)`: a model, runner or service in this process, behind the client that a server would have.

For notebooks and tests: what is written against it runs against a server by its URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from paceline.client.call import Call, Outputs
from paceline.client.client import Client
from paceline.client.native_call import NativeCalls, outputs_of
from paceline.handle import Runner
from paceline.local_engine import LocalEngine
from paceline.model import Model
from paceline.protocol.errors import ConfigError
from paceline.protocol.runner_port import RunnerCall

if TYPE_CHECKING:
    import httpx

    from paceline.protocol.service_app import ServiceApp


class LocalClient(Client):
    """A `paceline.Client` whose server is an engine in this process; for a service it has `http` too."""

    def __init__(self, engine: LocalEngine, http: LocalHttp | None = None) -> None:
        super().__init__()
        self._transport = _EngineTransport(engine)
        self._http = http

    @property
    def http(self) -> LocalHttp:
        """Requests to the service's routes. Raises ConfigError for a model or runner, which has none."""
        if self._http is None:
            raise ConfigError("a model or runner has no routes; paceline.local(service) has them")
        return self._http


class LocalHttp:
    """A service's routes without a socket; requests and responses are httpx's, which must be installed.

    >>> client.http.post("/predict", json=[[1.0, 2.0]]).json()
    [3.0]
    """

    def __init__(self, engine: LocalEngine, service: ServiceApp) -> None:
        self._engine = engine
        self._service = service

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """options: those of `httpx.AsyncClient.request`: json, content, headers, files, params, ..."""
        return self._engine.run(self._request(method, path, options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    async def _request(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        try:
            import httpx  # an extra, and only for this
        except ImportError as error:
            raise ConfigError("paceline.local(service).http needs httpx; pip install httpx") from error
        # In the loop of the runners, as in an API server.
        transport = httpx.ASGITransport(cast("Any", self._service.asgi()), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            return await client.request(method, path, **options)


@contextmanager
def local(served: Model | Runner | ServiceApp) -> Iterator[LocalClient]:
    """Run a model, a runner or a service in this process, with the checks, batching and errors of a server.

    Gives a client with `predict` as `paceline.Client` has it, by the runners' names; for a service also `http`. The
    runners themselves can be called too. Raises as a server's start does.

    Example::

        with paceline.local(paceline.pytorch.get("my_model")) as client:
            client.predict("my_model", images)

        with paceline.local(svc) as client:
            client.http.post("/predict", json=[[1.0, 2.0]])
    """
    if isinstance(served, Model):
        served = served.to_runner()
    if isinstance(served, Runner):
        with _running(LocalEngine([served.plan()])) as engine:
            served.bind(engine.port)
            yield LocalClient(engine)
        return
    if isinstance(served, type) or not hasattr(served, "plan") or not hasattr(served, "asgi"):
        raise ConfigError(f"paceline.local({served!r}), expected a model's handle, a Runner or a Service")
    with _running(LocalEngine(served.plan().runners)) as engine:
        served.bind(engine.port)
        engine.run(served.startup())
        try:
            yield LocalClient(engine, LocalHttp(engine, served))
        finally:
            engine.run(served.shutdown())


class _EngineTransport:
    """How a Client reaches an engine, see BlockingTransport."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._calls = NativeCalls(engine.serve)

    def predict(self, call: Call) -> Outputs:
        native = self._calls.prepare(call)
        measured = native.measured
        request = RunnerCall(
            native.runner,
            native.method,
            native.args,
            native.kwargs,
            measured.key,
            measured.rows,
            measured.length,
            native.nbytes,
            self._calls.budget_s(call, native),
            call.priority,
            call.request_id or "",
        )
        future = asyncio.run_coroutine_threadsafe(self._engine.port.answer(request), self._engine.loop)
        try:
            return outputs_of(future.result())
        except BaseException:  # Ctrl-C while waiting: the request is called back
            future.cancel()
            raise

    def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]:
        return self._calls.metadata(model, version)

    def ready(self, model: str | None, version: str | None, deadline: float) -> bool:
        if model is None:
            return self._engine.hosts.all_ready()
        return self._calls.knows(model, version) and self._engine.hosts.ready(model)

    def close(self) -> None:
        """Nothing: the engine ends with the block that it began with."""


@contextmanager
def _running(engine: LocalEngine) -> Iterator[LocalEngine]:
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
