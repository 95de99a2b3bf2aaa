"""Runner: the handle by which user code calls a model, wherever that runs.

A handle says what is to be served (its plan), and sends calls through the port that a server or the local engine gives
it: arguments are converted and checked here, in the caller's process, so that what is wrong never leaves it. It knows
neither processes nor models. `deadline` and `request_id` are those of the request that is being answered.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import fields
from math import inf
from typing import Any, NoReturn, Protocol, TypedDict, Unpack

from paceline.client.arguments import Measures, arguments_of, payload_bytes, tree_argument
from paceline.client.arrays import has_torch, value_of
from paceline.config.keys import BY_NAME
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ConfigError, DeadlineExceeded, StartError, did_you_mean
from paceline.protocol.limits import REQUEST_ROWS_MAX
from paceline.protocol.runner_port import RunnerCall, RunnerPort
from paceline.protocol.service_app import RunnerPlan
from paceline.protocol.signature import MethodSpec
from paceline.runnable import Runnable, devices_for, pack_init, target_of

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""When the request that this code answers must be answered, in seconds of the monotonic clock; None = nobody waits."""
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Its id, which the workers' logs name; empty = it has none."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class _Engine(Protocol):
    """What runs a runner in this process."""

    def start(self) -> RunnerPort: ...

    def stop(self) -> None: ...


class RunnerSettings(TypedDict, total=False):
    """What code may say of a runner: the keys of [runner.<name>] in paceline.toml (docs/configuration.md), which an
    operator can override."""

    workers: int | None
    devices: str | tuple[str, ...] | list[str] | None
    threads: int | None
    max_batch_size: int | None
    latency_budget_ms: float | None
    queue_timeout_ms: float | None
    execution_timeout_ms: float | None
    dispatch: str | None
    buckets: str | tuple[int, ...] | list[int] | None
    latency_table_ms: str | dict[int, float] | tuple[tuple[int, float], ...] | None


class Runner:
    """A runner of a `Runnable` class; `Model.to_runner()` makes those of stored models.

    - `runnable`: the class, at the top of a module.
    - `name`: of the runner, by default that of the class in lower case.
    - `init`: the parameters of its `__init__`, plain values.
    - settings: as in the config, which overrides them: `workers`, `devices`, `max_batch_size`, `latency_budget_ms`, ...

    `run` and `async_run` call the method `__call__`, or the only one; `runner.<method>.run` and `.async_run` any.

    Raises ConfigError, StartError: what no server could run.

    Example::

        runner = paceline.Runner(Toxicity, init={"threshold": 0.7}, max_batch_size=32)
        runner.init_local()
        runner.classify.run(embeddings)
    """

    __slots__ = ("__weakref__", "_engine", "_measures", "_methods", "_plan", "_port")

    _engine: _Engine | None
    _port: RunnerPort | None

    def __init__(
        self,
        runnable: type[Runnable],
        name: str | None = None,
        init: Mapping[str, object] | None = None,
        **settings: Unpack[RunnerSettings],
    ) -> None:
        if not (isinstance(runnable, type) and issubclass(runnable, Runnable)):
            raise ConfigError(
                f"Runner({runnable!r}), expected a class that derives from paceline.Runnable; the runner of a stored "
                f"model is made by paceline.pytorch.get(tag).to_runner()"
            )
        methods = runnable.__paceline_methods__()
        chosen = {**settings, "devices": devices_for(runnable, settings.get("devices"))}
        self._set_up(
            RunnerPlan(
                name=_checked_name(runnable.__name__.lower() if name is None else name),
                runnable=target_of(runnable),
                init=pack_init(runnable, init or {}),
                methods=tuple(methods.values()),
                **_checked_settings(chosen),
            ),
            methods,
        )

    @classmethod
    def of_model(
        cls, model: str, methods: Mapping[str, MethodSpec], name: str, settings: Mapping[str, object]
    ) -> Runner:
        """The runner of a stored version, "name:version". See Model.to_runner."""
        runner = cls.__new__(cls)
        runner._set_up(RunnerPlan(name=_checked_name(name), model=model, **_checked_settings(settings)), methods)
        return runner

    @property
    def name(self) -> str:
        """Its name: in the config, under /v2/models, in logs."""
        return self._plan.name

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """As `async_run`, waiting for the result: for functions that are not async, and scripts.

        Raises RuntimeError inside a running event loop, which it would stop.
        """
        return self._main_method().run(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; concurrent calls run in batches if it is batchable.

        args, kwargs: the method's arguments, batch dim included: numpy arrays and torch tensors as they are; lists of
        numbers, as JSON has them, become one tensor of the dtype that the model declares; dicts, and lists of arrays,
        leaf by leaf. Returns the method's output in the same form: numpy arrays, or torch tensors if there was one
        among the arguments. Raises RequestError by its kind, as clients do.
        """
        return await self._main_method().async_run(*args, **kwargs)

    def init_local(self) -> None:
        """Load the model into this process and run it here, in a thread: for notebooks, scripts and tests. Checks,
        batching and errors are those of a server. Raises as a server's start does."""
        if not self._is_bound():
            # By its text: the engine knows of workers, which nothing that a service imports may load.
            engine: _Engine = importlib.import_module("paceline.local_engine").LocalEngine([self._plan])
            self.bind(engine.start())
            self._engine = engine

    def close_local(self) -> None:
        """End what `init_local` began; nothing if there is nothing."""
        if self._engine is not None:
            self._engine.stop()
            self._engine = self._port = None

    def plan(self) -> RunnerPlan:
        """What a server has to start for it."""
        return self._plan

    def bind(self, port: RunnerPort) -> None:
        """Send calls through `port` from now on. Called by services and the local engine."""
        # What is served counts: a version may have been saved since the server started.
        self._methods = port.methods(self.name)
        self._port = port

    def __getattr__(self, name: str) -> RunnerMethod:
        if name.startswith("__") or name in Runner.__slots__:
            raise AttributeError(name)
        if name not in self._methods:
            hint = did_you_mean(name, self._methods)
            raise AttributeError(
                f"runner {self.name!r} has no method {name!r}.{hint} It has {', '.join(self._methods)}."
            )
        return RunnerMethod(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._methods})

    def __repr__(self) -> str:
        return f"Runner({self.name!r}, methods={list(self._methods)})"

    def _set_up(self, plan: RunnerPlan, methods: Mapping[str, MethodSpec]) -> None:
        for name in methods:
            if name != "__call__" and hasattr(Runner, name):
                raise StartError(
                    f"runner {plan.name!r} has a method {name!r}, which is an attribute of every Runner; give the "
                    f"method another name"
                )
        self._plan = plan
        self._methods = methods
        self._measures = Measures(REQUEST_ROWS_MAX)
        self._port = None
        self._engine = None

    def _main_method(self) -> RunnerMethod:
        methods = list(self._methods)
        if "__call__" in methods or len(methods) == 1:
            return RunnerMethod(self, "__call__" if "__call__" in methods else methods[0])
        raise AttributeError(
            f"runner {self.name!r} has several methods and no __call__; name one of them: "
            f"{', '.join(f'runner.{name}.async_run' for name in methods)}"
        )

    def _is_bound(self) -> bool:
        port = self._port
        return port is not None and not port.loop.is_closed()

    def _bound(self) -> RunnerPort:
        port = self._port
        if port is None or port.loop.is_closed():
            raise RuntimeError(
                f"runner {self.name!r} is not connected: in a service, list it in paceline.Service(runners=[...]) and "
                f"start that with `paceline serve`; in a script, notebook or test call runner.init_local() first"
            )
        return port

    def _call(self, method: str, positional: tuple[object, ...], named: dict[str, object]) -> _Call:
        """The call, ready to be sent. Raises RequestError: wrong arguments, or no time left."""
        until = deadline.get()
        left_s = inf if until is None else until - SystemClock.now()
        if left_s <= 0:
            raise DeadlineExceeded(f"runner {self.name!r} was called after the request's deadline")
        spec = self._methods[method]
        args, kwargs = arguments_of(spec, positional, named, tree_argument)
        measured = self._measures.of(self.name, spec, args, kwargs)
        as_torch = has_torch(positional, args) or has_torch(named, kwargs)
        size = payload_bytes(args, kwargs)
        key, rows, length = measured.key, measured.rows, measured.length
        request = RunnerCall(
            self.name, spec, args, kwargs, key, rows, length, size, left_s, request_id=request_id.get()
        )
        return _Call(request, as_torch)


class _Call:
    """A call and what its caller wants back."""

    __slots__ = ("as_torch", "request")

    def __init__(self, request: RunnerCall, as_torch: bool) -> None:
        self.request = request
        self.as_torch = as_torch

    async def answer(self, port: RunnerPort) -> Any:
        return value_of((await port.infer(self.request)).tree(), torch=self.as_torch)


class RunnerMethod:
    """One method of a runner: `runner.encode.async_run(...)`."""

    __slots__ = ("_name", "_runner")

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See Runner.run."""
        port = self._runner._bound()
        if _in_event_loop():
            where = f"runner.{self._name}" if self._name != "__call__" else "runner"
            raise RuntimeError(
                f"{where}.run waits, and would stop the event loop that it was called in; write "
                f"`await {where}.async_run(...)`"
            )
        call = self._runner._call(self._name, args, kwargs)
        future = asyncio.run_coroutine_threadsafe(call.answer(port), port.loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting: the request is called back
            future.cancel()
            raise

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """See Runner.async_run."""
        port = self._runner._bound()
        call = self._runner._call(self._name, args, kwargs)
        if asyncio.get_running_loop() is port.loop:
            return await call.answer(port)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call.answer(port), port.loop))

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises TypeError, since what is called in another process is not called like that."""
        raise TypeError(f"a runner's method is called by run or async_run: await runner.{self._name}.async_run(...)")

    def __repr__(self) -> str:
        return f"RunnerMethod({self._runner.name!r}, {self._name!r})"


def _checked_name(name: object) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise ConfigError(f"the runner name {name!r} is not 1 to 128 letters, digits, '_', '.' and '-'")


def _checked_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """By key, read as the config reads them. Raises ConfigError that names the nearest key, or what was expected."""
    known = [field.name for field in fields(RunnerPlan) if field.name in BY_NAME]
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"unknown setting {name!r} of a runner.{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
    return {name: BY_NAME[name].read(value, "code") for name, value in settings.items() if value is not None}


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
