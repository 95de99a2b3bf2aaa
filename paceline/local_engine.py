"""Runners in this process: the same gateway, dispatcher and executor as on a server, in threads instead of processes.

    callers' threads and loops      the engine's loop             one thread for each runner
    Runner.run, async_run      ->   HostsPort, Hosts, admission   Host: dispatcher, executor, model

Each runner has one worker, on the first of its devices. Nothing is warmed up, and no model is restarted: one that loses
its device stays lost. Called by Runner.init_local and paceline.local.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from paceline.config import Config, load_config
from paceline.config.agreement import agreed
from paceline.local_pipe import HostEnd, PeerEnd
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import FailedRunner, Host, State, Topology
from paceline.protocol.errors import ConfigError, NoWorker
from paceline.protocol.hosts import Hosts
from paceline.protocol.hosts_port import HostsPort
from paceline.protocol.messages import ORIGIN_BYTES
from paceline.protocol.remote import LOCAL_FIRST
from paceline.protocol.service_app import RunnerPlan
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.protocol.tensor import Buffer
from paceline.runner import host as dispatch_host
from paceline.runner.dispatcher import Dispatcher
from paceline.runner.dispatching import config_for
from paceline.runner.intake import limits_for
from paceline.runner.worker import loaded
from paceline.store import ModelStore
from paceline.supervisor.candidates import planned, said
from paceline.supervisor.inspector import places_of, settled

if TYPE_CHECKING:
    from paceline.runner.frameworks.loaded import LoadedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SLEEP_S_MAX = 60.0
_CLOSE_S = 1.0


class LocalEngine:
    """`start`, use the port that it gives, `stop`. Raises ConfigError, StoreError as a server's inspector does."""

    def __init__(self, plans: Sequence[RunnerPlan]) -> None:
        config = load_config({}, None, os.environ)
        self.serve = _serve_spec(plans, config)
        self.loop = asyncio.new_event_loop()
        self.hosts: Hosts
        self.port: HostsPort
        self._incarnation = _incarnation()
        self._thread = threading.Thread(target=self.loop.run_forever, name="paceline-engine", daemon=True)
        self._version = 0
        self._failed: dict[str, str] = {}
        self._workers = {
            runner.name: _Worker(runner, self.serve, _threads(config, plan), self._lost)
            for runner, plan in zip(self.serve.runners, plans)
        }

    def start(self) -> HostsPort:
        """Load the models and let requests in. Raises whatever loading raises; nothing is left then."""
        self._thread.start()
        # Not at the end of the process: a thread inside torch would be stopped in the middle of it.
        atexit.register(self.stop)
        try:
            self.run(self._open())
            for worker in self._workers.values():
                worker.load()
                worker.start()
                worker.ready.result()
            self.run(self._tell())
        except BaseException:
            self.stop()
            raise
        return self.port

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, run in the engine's loop. Not to be called there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self) -> None:
        """Fail what waits, end the threads after what they run."""
        if self.loop.is_closed():
            return
        atexit.unregister(self.stop)
        self.run(self._close())
        for worker in self._workers.values():
            worker.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _open(self) -> None:
        self.hosts = Hosts(self.serve, self._incarnation, self.loop, self._connect)
        self.port = HostsPort(self.hosts, self.serve, self.loop)

    async def _close(self) -> None:
        self.hosts.fail_all("the local engine was stopped", NoWorker)
        # What waits is told so before there is no loop to hear it in.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, late = await asyncio.wait(others, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
        self.hosts.close()

    def _connect(self, address: str, on_message: Callable[[list[Buffer]], None]) -> PeerEnd:
        return self._workers[address].end.connect(self._incarnation, self.loop, on_message)

    async def _tell(self) -> None:
        """The picture that a supervisor would give: who is there, and who is lost."""
        self._version += 1
        there = [worker for name, worker in self._workers.items() if name not in self._failed]
        hosts = tuple(Host(each.name, each.incarnation, each.name, State.READY) for each in there)
        failed = tuple(FailedRunner(name, reason) for name, reason in self._failed.items())
        self.hosts.apply(Topology(self._version, False, hosts, (), failed))

    def _lost(self, runner: str, reason: str) -> None:
        """From the runner's thread."""

        self._failed[runner] = reason
        asyncio.run_coroutine_threadsafe(self._tell(), self.loop)


class _Worker:
    """One runner's model and the thread that serves it: `load`, `start`, and `stop`."""

    _model: LoadedModel

    def __init__(
        self, runner: RunnerSpec, serve: ServeSpec, threads: int | None, lost: Callable[[str, str], None]
    ) -> None:
        self.name = runner.name
        self.incarnation = _incarnation()
        self.end = HostEnd()
        self.ready: Future[None] = Future()
        self._runner = runner
        self._serve = serve
        self._threads = threads
        self._lost = lost
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=f"paceline-{runner.name}", daemon=True)

    def load(self) -> None:
        """In the caller's thread: a module that does this while it is being imported holds a lock that another thread,
        which looks there for a model's class, would wait for."""
        self._model = loaded(self._runner, None, *self._runner.devices)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self.end.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _main(self) -> None:
        try:
            host = self._host()
        except BaseException as error:  # noqa: BLE001  # a device that is not there; whoever started the engine gets it
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        try:
            self._run(host)
        except Exception as error:  # the thread's main: the device is lost, or a bug of ours
            logger.exception("runner lost", extra={"runner": self.name})
            self._lost(self.name, f"{type(error).__name__}: {error}")

    def _host(self) -> dispatch_host.Host:
        from paceline.runner.executor import Executor, kind_of  # torch is there now

        runner = self._runner
        (device,) = runner.devices
        methods = {method.name: method for method in runner.methods}
        executor = Executor(self._model.bound, methods, device, runner.max_batch_size, self._threads, runner.buckets)
        return dispatch_host.Host(
            self.end,
            Dispatcher(config_for(runner)),
            executor,
            _NoSlot(),
            runner.methods,
            SystemClock,
            limits_for(self._serve, runner),
            profile=kind_of(device),
        )

    def _run(self, host: dispatch_host.Host) -> None:
        while not host.finished:
            left_s = host.wake_at() - SystemClock.now()
            if left_s > 0 and not self._stopping:
                self.end.wait(min(left_s, _SLEEP_S_MAX))
            if self._stopping:
                host.drain(0.0)
            host.turn()


class _NoSlot:
    """Nobody asks what was in hand when this process died."""

    def begin(self, batch_id: int, ids: list[tuple[bytes, int]], now_ns: int) -> None: ...

    def end(self) -> None: ...

    def count(self, requests: int, batches: int, rows: int) -> None: ...


def _serve_spec(plans: Sequence[RunnerPlan], config: Config) -> ServeSpec:
    """The spec that an inspector would make, with one worker for each runner."""
    # The store that code means when it names none: where `paceline.pytorch.get` found the model.
    store = ModelStore()
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of the runners {', '.join(names)} have one name; give one another: to_runner(name=...)")
    settings = [agreed(config, plan.name, said(plan)) for plan in plans]
    runners = [
        settled(planned(plan, store, trust=False), chosen, place[:1], 1, "")
        for plan, chosen, place in zip(plans, settings, places_of(names, settings))
    ]
    http = HttpSpec(timeout_max_ms=config.server.timeout_max_ms, rows_max=config.server.rows_max)
    return ServeSpec(tuple(replace(runner, dispatch="worker") for runner in runners), http, run_dir="")


def _threads(config: Config, plan: RunnerPlan) -> int | None:
    """torch's threads are the whole process's here, so they stay as they are unless somebody says otherwise."""
    return config.runner(plan.name, said(plan)).threads


def _incarnation() -> bytes:
    return LOCAL_FIRST + os.urandom(ORIGIN_BYTES - 1)
