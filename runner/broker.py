"""The broker process: the one queue of a runner with several workers, until it is told to drain.

    python -m paceline.runner.broker FD        FD: a pipe with the ChildSpec

It owns the process (signals, control connection, slot, heartbeat, exit code); the Exchange owns the requests. No torch
and no user code: whatever a model does, its queue lives on. Exit codes: 0 drained, 3 it could not start.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from paceline.protocol import child, log
from paceline.protocol.channel import Channels, ClientSocket, ServerSocket, ipc_address, wait
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Drain, State, Topology
from paceline.protocol.errors import StartError
from paceline.protocol.signals import SignalPipe
from paceline.protocol.spec import ChildSpec
from paceline.runner.crossing import Crossing, open_remote
from paceline.runner.desk import Desk
from paceline.runner.dispatching import dispatcher_for
from paceline.runner.exchange import Exchange
from paceline.runner.intake import limits_for
from paceline.runner.supervision import START_FAILED_EXIT, Supervision

logger = logging.getLogger(__name__)

_SLEEP_S_MAX = 60.0


class Broker:
    """One broker's life: `start`, `wait_ready`, `serve` until it is drained, `stop`."""

    _exchange: Exchange
    _sockets: tuple[ServerSocket | ClientSocket, ...]

    def __init__(self, spec: ChildSpec, channels: Channels, signals: SignalPipe) -> None:
        self._spec = spec
        self._channels = channels
        self._supervision = Supervision(spec, channels, signals)

    def start(self) -> None:
        """Tell the supervisor who this is."""
        self._supervision.start()

    def wait_ready(self) -> None:
        """Take requests and workers from now on. Raises StartError if the sockets cannot be bound."""
        spec, supervision = self._spec, self._supervision
        data, workers = self._bind("h"), self._bind("p")
        remote = open_remote(self._channels, spec.serve, spec.runner, spec.index)
        self._sockets = (data, workers, supervision.socket, *([remote] if remote is not None else []))
        runner = spec.serve.runner(spec.runner)
        port = data if remote is None else Crossing(data, remote)
        desk = Desk(port, dispatcher_for(spec), runner.methods, SystemClock, limits_for(spec.serve, runner))
        self._exchange = Exchange(desk, workers, runner.digest, SystemClock, supervision.slot.count)
        gc.collect()
        gc.freeze()
        supervision.heed_sigterm()
        remote_address = "" if remote is None else remote.address
        supervision.say(State.READY, "", data.address, remote_address, workers.address)

    def serve(self) -> None:
        """Until drained."""
        exchange, supervision, now = self._exchange, self._supervision, SystemClock.now
        while not exchange.finished:
            left_s = exchange.wake_at() - now()
            if left_s > 0:
                wait(self._sockets, min(left_s, _SLEEP_S_MAX), supervision.fds())
            exchange.turn()
            for order in supervision.hear():
                if isinstance(order, Drain):
                    exchange.drain(order.grace_s)
                elif isinstance(order, Topology):
                    exchange.look(order)

    def stop(self) -> None:
        self._supervision.stop()

    def fail(self, error: StartError) -> None:
        """Tell the supervisor why this broker cannot serve."""
        self._supervision.fail(error)

    def _bind(self, kind: str) -> ServerSocket:
        return self._channels.bind(ipc_address(Path(self._spec.serve.run_dir) / f"{kind}-{os.urandom(8).hex()}"))


def main(argv: list[str]) -> int:
    """The process. Returns its exit code."""
    spec = child.adopt(argv)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    # Ctrl-C reaches the whole process group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.configure()
    with Channels() as channels, SignalPipe() as signals:
        broker = Broker(spec, channels, signals)
        broker.start()
        try:
            broker.wait_ready()
        except StartError as error:
            logger.error("broker cannot start", extra={"runner": spec.runner, "error": str(error)})
            broker.fail(error)
            return START_FAILED_EXIT
        broker.serve()
        broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
