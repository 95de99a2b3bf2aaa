"""Service: a user's functions behind HTTP routes, with the runners that they call.

The inspector asks it for its plan, an API server binds it to a runner port and serves its ASGI application; tests and
notebooks do the same in one process.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from paceline.context import Context
from paceline.protocol import limits
from paceline.protocol.errors import StartError
from paceline.protocol.service_app import ServicePlan
from paceline.service.api import Api, make_api
from paceline.service.docs_page import DOCS, OPENAPI, pages
from paceline.service.edge import Bounds, Edge
from paceline.service.openapi import document
from paceline.service.router import Router, check_route
from paceline.service.runner_use import check_runners_listed
from paceline.service.threads import FunctionThreads

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from paceline.handle import Runner
    from paceline.io import Descriptor
    from paceline.protocol.runner_port import RunnerPort

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Service:
    """A service.

    - `name`: of the service, for its documentation and its log.
    - `runners`: those that its functions call; each name once. A runner that is not listed here cannot be called.
    - `threads`: how many functions that are not async run at a time, in each API server.
    - `latency_budget_ms`: the time from arrival to answer of a request that names none (`x-request-timeout-ms`).
    - `timeout_max_ms`, `body_bytes_max`: what a request may ask for, and how large its body may be; the server's own
      settings hold as well.

    Raises StartError where a name, a route or a hint cannot be served: when the file is imported, not at the first
    request.

    Example::

        runner = paceline.pytorch.get("my_torch_model").to_runner()
        svc = paceline.Service(name="test_service", runners=[runner])

        @svc.api(input=JSON(), output=JSON())
        async def predict(json_obj: JSONSerializable) -> JSONSerializable:
            batch_ret = await runner.async_run([json_obj])
            return batch_ret[0]
    """

    def __init__(
        self,
        name: str,
        runners: Sequence[Runner] = (),
        *,
        threads: int = limits.SERVICE_THREADS,
        latency_budget_ms: float = limits.LATENCY_BUDGET_MS,
        timeout_max_ms: float = limits.TIMEOUT_MAX_MS,
        body_bytes_max: int = limits.BODY_BYTES_MAX,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StartError(f"the service name {name!r} is not 1 to 128 letters, digits, '_', '.' and '-'")
        if threads < 1:
            raise StartError(f"Service(threads={threads}), expected at least 1")
        self.name = name
        self.state: dict[str, Any] = {}
        self._runners = _checked_runners(name, runners)
        self._apis: dict[str, Api] = {}
        self._mounts: dict[str, ASGIApp] = {}
        self._middleware: list[Callable[[ASGIApp], ASGIApp]] = []
        self._startup: list[Callable[..., Any]] = []
        self._shutdown: list[Callable[..., Any]] = []
        self._threads = FunctionThreads(threads, limits.SERVICE_WAITING_MAX)
        self._bounds = Bounds(min(latency_budget_ms, timeout_max_ms) / 1e3, timeout_max_ms / 1e3, body_bytes_max)
        self._app: ASGIApp | None = None

    @overload
    def api(self, function: Function) -> Function: ...

    @overload
    def api(
        self,
        *,
        input: Descriptor | None = None,
        output: Descriptor | None = None,
        route: str | None = None,
        name: str | None = None,
        doc: str | None = None,
    ) -> Callable[[Function], Function]: ...

    def api(
        self,
        function: Any = None,
        *,
        input: Descriptor | None = None,  # the word that users write
        output: Descriptor | None = None,
        route: str | None = None,
        name: str | None = None,
        doc: str | None = None,
    ) -> Any:
        """Make a function an API: `POST /<its name>`, or `route`. Use it bare (`@svc.api`) or with options.

        - `input`, `output`: descriptors of paceline.io; without them the type hints choose.
        - `route`, `name`, `doc`: instead of the function's name and docstring.

        The function is returned as it is, so that tests can call it. Raises StartError.
        """
        if function is not None:
            self._add(make_api(function))
            return function

        def add(function: Function) -> Function:
            self._add(make_api(function, input, output, route, name, doc))
            return function

        return add

    def on_startup(self, hook: Function) -> Function:
        """Run `hook` in each API server before its first request: a function, async or not, of nothing or of a Context,
        whose `state` the APIs see."""
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: Function) -> Function:
        """Run `hook` in each API server after its last request, the latest added first."""
        self._shutdown.append(hook)
        return hook

    def mount_asgi_app(self, app: ASGIApp, path: str = "/") -> None:
        """Let an ASGI application answer all that is below `path` and no API's. Its lifespan events are not sent: use
        the service's hooks. Raises StartError."""
        route = f"/{path.strip('/')}"
        check_route(route, "the mounted application", [*self._mounts, *self._routes()])
        self._mounts[route] = app
        self._app = None

    def add_asgi_middleware(self, middleware: Callable[..., ASGIApp], **options: Any) -> None:
        """Put `middleware(app, **options)` around all routes of the service; the first one added is the outermost."""
        self._middleware.append(functools.partial(middleware, **options))
        self._app = None

    @property
    def apis(self) -> Mapping[str, Api]:
        """By name."""
        return self._apis

    def plan(self) -> ServicePlan:
        """What the server has to start for this service. Raises StartError for what only the whole shows."""
        for api in self._apis.values():
            check_runners_listed(api.function, api.name, self.name, self._runners)
        self.openapi()
        routes = (*self._routes(), *self._mounts, DOCS, OPENAPI)
        return ServicePlan(self.name, tuple(runner.plan() for runner in self._runners), routes)

    def bind(self, port: RunnerPort) -> None:
        """Let the service's runners send their calls through `port`."""
        for runner in self._runners:
            runner.bind(port)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document, as served at /docs.json."""
        return document(self.name, "1", self._apis.values())

    def asgi(self) -> ASGIApp:
        """Every route of the service, its documentation, what is mounted, and its middleware around it all."""
        if self._app is None:
            apis = {api.route: self._edge(api) for api in self._apis.values()}
            app: ASGIApp = Router(apis, pages(self.openapi()), self._mounts)
            for middleware in reversed(self._middleware):
                app = middleware(app)
            self._app = app
        return self._app

    async def startup(self) -> None:
        """Run the hooks, in order; one that raises ends the start."""
        for hook in self._startup:
            await self._run(hook)

    async def shutdown(self) -> None:
        """Run the hooks, the latest first; one that raises is logged, and the others run."""
        for hook in reversed(self._shutdown):
            try:
                await self._run(hook)
            except Exception:  # the process is about to end: the other hooks still have something to close
                logger.exception("shutdown hook failed", extra={"service": self.name})
        self._threads.stop()

    async def _run(self, hook: Callable[..., Any]) -> None:
        context = (Context(self.state),) if inspect.signature(hook).parameters else ()
        if inspect.iscoroutinefunction(hook):
            await hook(*context)
        else:
            await self._threads.run(hook, *context)

    def _add(self, api: Api) -> None:
        if api.name in self._apis:
            raise StartError(f"service {self.name!r} has two APIs named {api.name!r}; say @svc.api(name=...)")
        check_route(api.route, f"the API {api.name!r}", [*self._routes(), *self._mounts])
        self._apis[api.name] = api
        self._app = None

    def _routes(self) -> list[str]:
        return [api.route for api in self._apis.values()]

    def _edge(self, api: Api) -> Edge:
        return Edge(api, self._threads, self.state, self._bounds)

    def __repr__(self) -> str:
        return f"Service(name={self.name!r}, apis={list(self._apis)})"


def _checked_runners(service: str, runners: Sequence[Runner]) -> tuple[Runner, ...]:
    names = [runner.name for runner in runners]
    for name in names:
        if names.count(name) > 1:
            raise StartError(
                f"service {service!r} has two runners named {name!r}; give one another name: to_runner(name=...)"
            )
    return tuple(runners)
