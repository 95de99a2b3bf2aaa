"""A child's side of its supervisor: it says what state it is in, and hears what it is to do, by message or by signal.

What the mains of worker and broker have in common; it knows nothing of their work.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from paceline.protocol import child, control
from paceline.protocol.channel import Channels, ClientSocket
from paceline.protocol.control import ChildState, Drain, Hello, ProfileDone, State, Topology, Trace
from paceline.protocol.errors import ProtocolError
from paceline.protocol.signals import SignalPipe
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec

logger = logging.getLogger(__name__)

DETAIL_CHARS_MAX = 2000
START_FAILED_EXIT = 3  # after `fail`


class Supervision:
    """`start`, `say` each state, `hear` in every round, `stop`. `device` is told with each state."""

    socket: ClientSocket
    _beat: threading.Event

    def __init__(self, spec: ChildSpec, channels: Channels, signals: SignalPipe, device: str = "") -> None:
        self.slot = Slot(Path(spec.slot_path))
        self._spec = spec
        self._device = device
        self._channels = channels
        self._signals = signals
        self._asked_to_end = False
        self._drained = False

    def start(self) -> None:
        """Beat, and say who this is."""
        spec = self._spec
        self._beat = child.beat_forever(self.slot)
        self.socket = self._channels.connect(spec.control_address, spec.incarnation)
        self._send(Hello(spec.kind, spec.runner, spec.index, spec.incarnation, os.getpid()))

    def say(
        self, state: State, detail: str = "", address: str = "", remote_address: str = "", pool_address: str = ""
    ) -> None:
        """This is the state now, and it goes into the log where somebody will look for it."""
        incarnation, device = self._spec.incarnation, self._device
        self._send(ChildState(incarnation, state, detail, address, device, remote_address, pool_address))
        if state in (State.READY, State.DRAINING, State.STOPPED):
            logger.info("%s %s", self._spec.kind, state, extra=self.ids())

    def fail(self, error: BaseException) -> None:
        """Say why this process cannot serve."""
        self.say(State.FAILED, f"{type(error).__name__}: {error}"[:DETAIL_CHARS_MAX])

    def heed_sigterm(self) -> None:
        """From now on it drains. Not earlier than there is anything that would have to be answered before going."""
        signal.signal(signal.SIGTERM, self._terminate)

    def fds(self) -> tuple[int, ...]:
        """What to wait for beside `socket`."""
        return (self._signals.fileno(),)

    def tell(self, done: ProfileDone) -> None:
        """What became of a Trace."""
        self._send(done)

    def hear(self) -> Iterator[Drain | Topology | Trace]:
        """What the supervisor said, or a signal; a second SIGTERM leaves no grace."""
        self._signals.drain()
        if self._asked_to_end:
            self._asked_to_end = False
            yield self._drain(Drain(0.0 if self._drained else self._spec.serve.http.drain_grace_s))
        if not self.socket.readable():
            return
        for parts in self.socket.drain():
            try:
                message = control.decode(parts)
            except ProtocolError as error:
                logger.warning("malformed control message dropped", extra={**self.ids(), "error": str(error)})
                continue
            if isinstance(message, Drain):
                yield self._drain(message)
            elif isinstance(message, (Topology, Trace)):
                yield message

    def stop(self) -> None:
        """Say goodbye; the channels are closed by who opened them, after what was sent has left."""
        self.say(State.STOPPED)
        self._beat.set()

    def ids(self) -> dict[str, object]:
        spec = self._spec
        return {"runner": spec.runner, "index": spec.index, "incarnation": spec.incarnation.hex()}

    def _drain(self, drain: Drain) -> Drain:
        if not self._drained:
            self._drained = True
            self.say(State.DRAINING)
        return drain

    def _terminate(self, number: int, frame: object) -> None:
        self._asked_to_end = True

    def _send(self, message: Hello | ChildState | ProfileDone) -> None:
        self.socket.send(control.encode(message))
