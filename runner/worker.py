"""The worker process: loads one runner's model on one device and serves it until it is told to drain.

    python -m paceline.runner.worker FD        FD: a pipe with the ChildSpec

It owns the process (signals, control connection, slot, heartbeat, exit code); the Host owns the requests. It imports no
torch: the executor and the frameworks do. Exit codes: 0 drained, 3 the model cannot be loaded, 4 the device is lost.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from paceline.protocol import child, control, limits, log
from paceline.protocol.channel import Channels, ClientSocket, ServerSocket, ipc_address, wait
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import ChildState, Drain, Hello, State
from paceline.protocol.errors import PacelineError, ProtocolError, StoreError
from paceline.protocol.pool import Observation
from paceline.protocol.signals import SignalPipe
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec, RunnerSpec
from paceline.runner.calls import DeviceBroken
from paceline.runner.crossing import Crossing, open_remote
from paceline.runner.dispatcher import Dispatcher, DispatcherConfig
from paceline.runner.execution import Engine
from paceline.runner.host import Host
from paceline.runner.intake import IntakeLimits
from paceline.runner.recorder import recorded
from paceline.runner.recording import Header
from paceline.runner.warm_up import warm_up
from paceline.store import ModelStore, StoredVersion, Tag

logger = logging.getLogger(__name__)

LOAD_FAILED_EXIT = 3
DEVICE_BROKEN_EXIT = 4
REPLY_S = 0.0005  # from the end of a batch until the API server has its answers
DETAIL_CHARS_MAX = 2000
_SLEEP_S_MAX = 60.0


class Worker:
    """One worker's life: `start`, `wait_ready`, `serve` until a `drain` is over, `stop`."""

    _control: ClientSocket
    _sockets: tuple[ServerSocket | ClientSocket, ...]
    _host: Host
    _beat: threading.Event

    def __init__(self, spec: ChildSpec, channels: Channels, signals: SignalPipe) -> None:
        self._spec = spec
        self._runner = spec.serve.runner(spec.runner)
        self._device = device_of(self._runner, spec.index)
        self._channels = channels
        self._slot = Slot(Path(spec.slot_path))
        self._signals = signals
        self._asked_to_end = False

    def start(self) -> None:
        """Beat, and tell the supervisor who this is."""
        spec = self._spec
        self._beat = child.beat_forever(self._slot)
        self._control = self._channels.connect(spec.control_address, spec.incarnation)
        self._control.send(control.encode(Hello("worker", spec.runner, spec.index, spec.incarnation, os.getpid())))

    def wait_ready(self) -> None:
        """Load the model, warm it up, and take requests from now on. Raises whatever the model's code raises."""
        runner = self._runner
        self._say(State.LOADING)
        engine, seen = self._load()
        serve = self._spec.serve
        data = self._channels.bind(ipc_address(Path(serve.run_dir) / f"h-{os.urandom(8).hex()}"))
        remote = open_remote(self._channels, serve, self._spec.runner, self._spec.index)
        self._sockets = (data, self._control) if remote is None else (data, self._control, remote)
        self._host = Host(
            data if remote is None else Crossing(data, remote),
            dispatcher_for(self._spec),
            engine,
            self._slot,
            runner.methods,
            SystemClock,
            IntakeLimits(
                queue_timeout_s=_seconds(runner.queue_timeout_ms),
                rows_max=serve.http.rows_max,
                remote_budget_s=serve.http.timeout_max_ms / 1000,
            ),
            profile=self._device,
        )
        self._host.learn(seen)
        # A full collection of all that torch brings along would stop the worker for 100 ms.
        gc.collect()
        gc.freeze()
        # Not earlier: until now nothing was taken that would have to be answered before going.
        signal.signal(signal.SIGTERM, self._terminate)
        self._say(State.READY, address=data.address, remote_address="" if remote is None else remote.address)
        logger.info("worker ready", extra=self._ids())

    def serve(self) -> None:
        """Until drained. Raises DeviceBroken when the process must end at once."""
        host, now = self._host, SystemClock.now
        while not host.finished:
            left_s = host.wake_at() - now()
            if left_s > 0:
                wait(self._sockets, min(left_s, _SLEEP_S_MAX), (self._signals.fileno(),))
            host.turn()
            self._hear()

    def drain(self, grace_s: float) -> None:
        """Take nothing new, answer the rest within `grace_s`; then `serve` returns."""
        if not self._host.draining:
            self._say(State.DRAINING)
            logger.info("worker draining", extra=self._ids())
        self._host.drain(grace_s)

    def stop(self) -> None:
        """Say goodbye; the channels are closed by who opened them, after what was sent has left."""
        self._say(State.STOPPED)
        self._beat.set()
        logger.info("worker stopped", extra=self._ids())

    def fail(self, error: BaseException) -> None:
        """Tell the supervisor why this worker cannot serve."""
        self._say(State.FAILED, f"{type(error).__name__}: {error}"[:DETAIL_CHARS_MAX])

    def _load(self) -> tuple[Engine, list[Observation]]:
        # Here, because these import torch: Hello and LOADING are said before those seconds.
        from paceline.runner.executor import Executor
        from paceline.runner.frameworks.registry import load_model
        from paceline.runner.frameworks.wire_sample import wire_call

        runner = self._runner
        device = torch_device(self._device)
        model = load_model(stored(runner), device)
        methods = {method.name: method for method in runner.methods}
        executor = Executor(model.bound, methods, device, runner.max_batch_size, runner.threads)
        self._say(State.WARMING)
        samples = {name: call for name, sample in model.samples.items() if (call := wire_call(sample))}
        return executor, warm_up(executor, runner.methods, samples, runner.max_batch_size, SystemClock.now)

    def _hear(self) -> None:
        """What the supervisor says, by message or by signal; a second SIGTERM leaves no grace."""
        self._signals.drain()
        if self._asked_to_end:
            self._asked_to_end = False
            self.drain(0.0 if self._host.draining else self._spec.serve.http.drain_grace_s)
        if not self._control.readable():
            return
        for parts in self._control.drain():
            try:
                message = control.decode(parts)
            except ProtocolError as error:
                logger.warning("malformed control message dropped", extra={**self._ids(), "error": str(error)})
                continue
            if isinstance(message, Drain):
                self.drain(message.grace_s)

    def _terminate(self, number: int, frame: object) -> None:
        self._asked_to_end = True

    def _say(self, state: State, detail: str = "", address: str = "", remote_address: str = "") -> None:
        message = ChildState(self._spec.incarnation, state, detail, address, self._device, remote_address)
        self._control.send(control.encode(message))

    def _ids(self) -> dict[str, object]:
        spec = self._spec
        return {"runner": spec.runner, "index": spec.index, "incarnation": spec.incarnation.hex()}


def device_of(runner: RunnerSpec, index: int) -> str:
    """The device of worker `index`: one entry for each, or one for all."""
    return runner.devices[index] if len(runner.devices) > 1 else runner.devices[0]


def torch_device(device: str) -> str:
    """Torch's name of `device` in this process: a worker whose CUDA_VISIBLE_DEVICES was narrowed to one sees only 0."""
    narrowed = os.environ.get("CUDA_VISIBLE_DEVICES", ",")
    return "cuda:0" if device.startswith("cuda") and "," not in narrowed else device


def stored(runner: RunnerSpec) -> StoredVersion:
    """The version that `runner` serves. Raises StoreError unless it is the very one that the spec was made from."""
    version = ModelStore(Path(runner.store_home)).get(Tag(runner.model, runner.version), trust=runner.trust)
    if version.digest != runner.digest:
        raise StoreError(
            f"{version.tag} has the digest {version.digest}, the server was started with {runner.digest}; restart it"
        )
    return version


def dispatcher_for(spec: ChildSpec) -> Dispatcher:
    """The dispatcher of the child `spec`, which is recorded if the server is."""
    runner = spec.serve.runner(spec.runner)
    config = DispatcherConfig(
        max_batch_size=runner.max_batch_size,
        reply_s=REPLY_S,
        starts_max=limits.STARTS_MAX,
        queue_rows_max=limits.QUEUE_ROWS_MAX,
    )
    path = spec.serve.record_path(spec.runner, spec.index)
    if not path:
        return Dispatcher(config)
    profile = "" if runner.is_central else device_of(runner, spec.index)
    return recorded(path, Header(spec.runner, spec.index, profile, config, SystemClock.now(), time.time()))


def main(argv: list[str]) -> int:
    """The process. Returns its exit code."""
    spec = child.adopt(argv)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    # Ctrl-C reaches the whole process group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.configure()
    with Channels() as channels, SignalPipe() as signals:
        worker = Worker(spec, channels, signals)
        worker.start()
        try:
            worker.wait_ready()
        except (Exception, SystemExit) as error:  # the model's own code runs here, and may well call sys.exit()
            # Our own errors say all; where user code failed, its traceback does.
            trace = not isinstance(error, PacelineError)
            ids = {"runner": spec.runner, "index": spec.index, "error": str(error)}
            logger.error("worker cannot load its model", extra=ids, exc_info=trace)
            worker.fail(error)
            return LOAD_FAILED_EXIT
        try:
            worker.serve()
        except DeviceBroken as error:
            logger.critical("device lost", extra={"runner": spec.runner, "index": spec.index, "error": str(error)})
            # At once: a lost CUDA context can hang every destructor. Answers still in the pipes are sent again.
            os._exit(DEVICE_BROKEN_EXIT)
        worker.stop()
    return 0


def _seconds(value_ms: float | None) -> float | None:
    return None if value_ms is None else value_ms / 1000


if __name__ == "__main__":
    sys.exit(main(sys.argv))
