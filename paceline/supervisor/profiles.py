"""Who is waiting for a profile of which worker: passes requests on to workers and their answers back.

At most one for each worker at a time. Everyone who asks is answered, also when the worker dies: by the loop's `bury`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from paceline.protocol.control import ControlMessage, ProfileDone, ProfileRequest, Trace
from paceline.protocol.errors import InvalidParameter, ModelNotFound, NoWorker, RequestError, WorkerLost
from paceline.protocol.limits import TRACE_S_MAX, TRACE_S_MIN
from paceline.protocol.slot import read_head
from paceline.protocol.spec import ServeSpec
from paceline.supervisor.seat import WORKER, Occupant, Seat


class TraceFiles(Protocol):
    """Where traces lie: the run directory."""

    def fresh_trace(self) -> Path: ...

    def forget(self, file: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    peer: bytes
    seat: Seat
    path: Path


class Profiles:
    """`send` gives a message to a peer of the control socket, False if it is gone."""

    def __init__(
        self,
        spec: ServeSpec,
        seats: Sequence[Seat],
        send: Callable[[bytes, ControlMessage], bool],
        files: TraceFiles,
    ) -> None:
        self._spec = spec
        self._seats = seats
        self._send = send
        self._files = files
        # By the incarnation of the worker.
        self._waiting: dict[bytes, _Waiting] = {}

    def asked(self, peer: bytes, request: ProfileRequest) -> None:
        """`peer` wants a profile: the worker is told to make it, or `peer` why not."""
        try:
            seat, incarnation = self._chosen(request)
        except RequestError as error:
            self._send(peer, _refusal(error))
            return
        path = self._files.fresh_trace()
        if incarnation in self._waiting:
            reason = f"{seat.name} is being profiled already; try again when that is over"
            self._send(peer, ProfileDone(worker=seat.name, error=reason))
        elif self._send(incarnation, Trace(request.seconds, str(path))):
            self._waiting[incarnation] = _Waiting(peer, seat, path)
        else:
            self._send(peer, _refusal(WorkerLost(f"{seat.name} cannot be reached; try again in a moment")))

    def answered(self, worker: bytes, done: ProfileDone) -> None:
        """What `worker` made of it. A trace that nobody takes is removed."""
        waiting = self._waiting.pop(worker, None)
        if waiting is None:
            return
        told = self._send(waiting.peer, replace(done, worker=waiting.seat.name))
        if done.error or not told:
            self._files.forget(waiting.path)

    def bury(self) -> None:
        """Whoever waits for a worker that is gone hears so."""
        for incarnation, waiting in list(self._waiting.items()):
            seat = waiting.seat
            if seat.occupant is not None and seat.occupant.incarnation == incarnation:
                continue
            why = f": {seat.last_death}" if seat.last_death else ""
            error = WorkerLost(f"{seat.name} ended while it was being profiled{why}")
            self.answered(incarnation, _refusal(error))

    def _chosen(self, request: ProfileRequest) -> tuple[Seat, bytes]:
        """The worker to profile, and its incarnation."""
        if not TRACE_S_MIN <= request.seconds <= TRACE_S_MAX:
            raise InvalidParameter(f"{request.seconds:g} s, expected {TRACE_S_MIN:g} to {TRACE_S_MAX:g} seconds")
        runner = self._spec.runner(request.runner)
        if request.index is not None and not 0 <= request.index < runner.workers:
            count = f"worker 0 to {runner.workers - 1}" if runner.workers > 1 else "worker 0 alone"
            raise ModelNotFound(f"there is no worker {request.index} of {runner.name}; it has {count}")
        ready = [
            (_requests(seat.occupant), seat, seat.occupant.incarnation)
            for seat in self._seats
            if (seat.kind, seat.runner) == (WORKER, runner.name)
            and request.index in (None, seat.index)
            and seat.is_ready
            and seat.occupant is not None
        ]
        if ready:
            _, seat, incarnation = max(ready, key=lambda each: each[0])
            return seat, incarnation
        which = runner.name if request.index is None else f"{runner.name}/{request.index}"
        raise NoWorker(f"no worker of {which} is ready; `paceline status` says what they do")


def _requests(occupant: Occupant) -> int:
    """How many it has served: a queue in a broker may leave the others idle."""
    head = read_head(occupant.slot)
    return 0 if head is None else head.requests


def _refusal(error: RequestError) -> ProfileDone:
    return ProfileDone(error=str(error), code=error.code)
