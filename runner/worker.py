"""The worker process: loads one runner's model on one device and serves it until it is told to drain.

    python -m paceline.runner.worker FD        FD: a pipe with the ChildSpec

It owns the process (signals, control connection, slot, heartbeat, exit code); the requests belong to a Host or,
where the runner has one queue for several workers, a Station. It imports no torch: the executor and the frameworks do.
Exit codes: 0 drained, 3 the model cannot be loaded or its broker refuses it, 4 the device is lost.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.protocol import child, log
from paceline.protocol.channel import Channels, ClientSocket, ServerSocket, ipc_address, wait
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Drain, ProfileDone, State, Topology, Trace
from paceline.protocol.errors import PacelineError, StartError, StoreError
from paceline.protocol.pool import Join, Observation
from paceline.protocol.signals import SignalPipe
from paceline.protocol.spec import ChildSpec, RunnerSpec, ServiceSpec
from paceline.protocol.target import code_digest, enter
from paceline.runner.calls import DeviceBroken
from paceline.runner.crossing import Crossing, open_remote
from paceline.runner.dispatching import device_of, dispatcher_for
from paceline.runner.execution import Engine
from paceline.runner.host import Host
from paceline.runner.intake import limits_for
from paceline.runner.profiling import Profiling
from paceline.runner.station import Station
from paceline.runner.supervision import START_FAILED_EXIT, Supervision
from paceline.runner.warm_up import warm_up
from paceline.store import ModelStore, StoredVersion, Tag

if TYPE_CHECKING:
    from paceline.runner.frameworks.loaded import LoadedModel

logger = logging.getLogger(__name__)

DEVICE_BROKEN_EXIT = 4
_SLEEP_S_MAX = 60.0


class Worker:
    """One worker's life: `start`, `wait_ready`, `serve` until it is drained, `stop`."""

    _post: Host | Station[ClientSocket]
    _profile: str
    _profiling: Profiling

    def __init__(self, spec: ChildSpec, channels: Channels, signals: SignalPipe) -> None:
        self._spec = spec
        self._runner = spec.serve.runner(spec.runner)
        self._device = device_of(self._runner, spec.index)
        self._channels = channels
        self._supervision = Supervision(spec, channels, signals, self._device)
        self._bound: list[ServerSocket] = []

    def start(self) -> None:
        """Tell the supervisor who this is."""
        self._supervision.start()

    def wait_ready(self) -> None:
        """Load the model, warm it up, and take requests from now on. Raises whatever the model's code raises."""
        supervision = self._supervision
        supervision.say(State.LOADING)
        engine, seen = self._load()
        address = remote_address = ""
        if self._runner.is_central:
            self._post = self._station(engine, seen)
        else:
            self._post, address, remote_address = self._host(engine, seen)
        # A full collection of all that torch brings along would stop the worker for 100 ms.
        gc.collect()
        gc.freeze()
        supervision.heed_sigterm()
        supervision.say(State.READY, "", address, remote_address)

    def serve(self) -> None:
        """Until drained. Raises DeviceBroken when the process must end at once, StartError when a broker refuses it."""
        post, supervision, profiling, now = self._post, self._supervision, self._profiling, SystemClock.now
        while not post.finished:
            left_s = min(post.wake_at(), profiling.wake_at()) - now()
            if left_s > 0:
                wait(self._sockets(), min(left_s, _SLEEP_S_MAX), supervision.fds())
            post.turn()
            self._tell(profiling.look())
            for order in supervision.hear():
                if isinstance(order, Drain):
                    post.drain(order.grace_s)
                elif isinstance(order, Trace):
                    self._tell(profiling.begin(order))
                elif isinstance(order, Topology) and isinstance(post, Station):
                    post.look(order)

    def stop(self) -> None:
        self._tell(self._profiling.close())
        self._supervision.stop()

    def fail(self, error: BaseException) -> None:
        """Tell the supervisor why this worker cannot serve."""
        self._supervision.fail(error)

    def _tell(self, done: ProfileDone | None) -> None:
        if done is not None:
            self._supervision.tell(done)

    def _sockets(self) -> list[ServerSocket | ClientSocket]:
        pipe = self._post.pipe if isinstance(self._post, Station) else None
        return [self._supervision.socket, *self._bound, *([pipe] if pipe is not None else [])]

    def _load(self) -> tuple[Engine, list[Observation]]:
        # Here, because these import torch: Hello and LOADING are said before those seconds.
        from paceline.runner.executor import Executor, kind_of
        from paceline.runner.frameworks.wire_sample import wire_call
        from paceline.runner.trace_recorder import TraceRecorder

        runner = self._runner
        device = torch_device(self._device)
        model = loaded(runner, self._spec.serve.service, device)
        self._profile = kind_of(device)
        methods = {method.name: method for method in runner.methods}
        executor = Executor(model.bound, methods, device, runner.max_batch_size, runner.threads, runner.buckets)
        self._profiling = Profiling(executor, TraceRecorder(device), SystemClock)
        self._supervision.say(State.WARMING)
        samples = {name: call for name, sample in model.samples.items() if (call := wire_call(sample))}
        rows_max, buckets = runner.max_batch_size, tuple(sorted(runner.buckets))
        seen = warm_up(executor, runner.methods, samples, rows_max, SystemClock.now, buckets=buckets)
        return self._profiling, seen

    def _host(self, engine: Engine, seen: list[Observation]) -> tuple[Host, str, str]:
        """This worker's own queue, and its addresses on this machine and for others."""
        spec, runner = self._spec, self._runner
        data = self._channels.bind(ipc_address(Path(spec.serve.run_dir) / f"h-{os.urandom(8).hex()}"))
        remote = open_remote(self._channels, spec.serve, spec.runner, spec.index)
        self._bound = [data] if remote is None else [data, remote]
        host = Host(
            data if remote is None else Crossing(data, remote),
            dispatcher_for(spec),
            engine,
            self._supervision.slot,
            runner.methods,
            SystemClock,
            limits_for(spec.serve, runner),
            profile=self._device,
        )
        host.learn(seen)
        return host, data.address, "" if remote is None else remote.address

    def _station(self, engine: Engine, seen: list[Observation]) -> Station[ClientSocket]:
        """A place in the pool of the runner's broker."""
        incarnation = self._spec.incarnation
        return Station(
            lambda address: self._channels.connect(address, incarnation),
            lambda address: os.path.exists(address.removeprefix("ipc://")),
            Join(self._profile, self._runner.digest, tuple(seen)),
            engine,
            self._supervision.slot,
            SystemClock,
        )


def torch_device(device: str) -> str:
    """Torch's name of `device` in this process: a worker whose CUDA_VISIBLE_DEVICES was narrowed to one sees only 0."""
    narrowed = os.environ.get("CUDA_VISIBLE_DEVICES", ",")
    return "cuda:0" if device.startswith("cuda") and "," not in narrowed else device


def loaded(runner: RunnerSpec, service: ServiceSpec | None, device: str) -> LoadedModel:
    """What `runner` serves, on `device`: a stored version, or a Runnable of `service`. Its folder is where modules are
    looked for either way: a saved model's class may be there too."""
    from paceline.runner.frameworks.registry import load_model

    if service is not None:
        enter(service.folder, service.store_home)
    if runner.runnable:
        from paceline.runner.frameworks.runnable import load_runnable

        model = load_runnable(runner.runnable, runner.init, device)
        if code_digest(runner.runnable, runner.init) != runner.digest:
            raise StartError(f"the source of {runner.runnable} is another than when the server was started; restart it")
        return model
    return load_model(stored(runner), device, runner.threads)


def stored(runner: RunnerSpec) -> StoredVersion:
    """The version that `runner` serves. Raises StoreError unless it is the very one that the spec was made from."""
    version = ModelStore(Path(runner.store_home)).get(Tag(runner.model, runner.version), trust=runner.trust)
    if version.digest != runner.digest:
        raise StoreError(
            f"{version.tag} has the digest {version.digest}, the server was started with {runner.digest}; restart it"
        )
    return version


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
            return START_FAILED_EXIT
        try:
            worker.serve()
        except StartError as error:
            ids = {"runner": spec.runner, "index": spec.index, "error": str(error)}
            logger.error("worker cannot serve", extra=ids)
            worker.fail(error)
            return START_FAILED_EXIT
        except DeviceBroken as error:
            logger.critical("device lost", extra={"runner": spec.runner, "index": spec.index, "error": str(error)})
            # At once: a lost CUDA context can hang every destructor. Answers still in the pipes are sent again.
            os._exit(DEVICE_BROKEN_EXIT)
        worker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
