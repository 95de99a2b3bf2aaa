"""An engine whose batches can be recorded for a while, on the supervisor's word: what `paceline profile` asks for.

The rules of one recording: when it ends, what is kept of it, what is answered. The worker's loop calls `look` between
batches and wakes at `wake_at`, so that an idle one ends in time too. Knows no torch: the recorder is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Protocol

from paceline.protocol.clock import Clock
from paceline.protocol.control import ProfileDone, Trace
from paceline.protocol.limits import TRACE_EVENTS_MAX
from paceline.runner.calls import BatchRun, Call
from paceline.runner.execution import Engine


class TraceFailed(Exception):
    """The recorder cannot record or write; the message says why."""


class Recording(Protocol):
    """What is being recorded. Both raise TraceFailed."""

    def stop(self) -> int:
        """End it; the number of events in it."""
        ...

    def write(self, path: Path) -> None: ...


class Recorder(Protocol):
    """Where recordings come from: trace_recorder.py."""

    def start(self) -> Recording:
        """Raises TraceFailed."""
        ...


@dataclass(slots=True)
class _Session:
    """One order being carried out. `kept`: a recording that has ended, to write if `recording` gets no batch.
    `batches_max` is 0 until the first batch told how many events one has."""

    order: Trace
    began_at: float
    recording: Recording
    kept: Recording | None = None
    batches: int = 0
    batches_max: int = 0

    @property
    def is_full(self) -> bool:
        return self.batches >= self.batches_max > 0


class Profiling:
    """`begin`, then `look` after each batch and at `wake_at`; either may return the answer. Runs batches meanwhile.

    Ending a recording stops the worker for some microseconds per event, with Python's lock held, and its events cannot
    be counted before. So the first batch is recorded alone, and tells how many batches TRACE_EVENTS_MAX allows.
    """

    def __init__(self, engine: Engine, recorder: Recorder, clock: Clock) -> None:
        self._engine = engine
        self._recorder = recorder
        self._clock = clock
        self._session: _Session | None = None

    def run(self, method_name: str, calls: Sequence[Call], now: Callable[[], float], batch_id: str = "") -> BatchRun:
        """As the engine does."""
        run = self._engine.run(method_name, calls, now, batch_id)
        if self._session is not None:
            self._session.batches += 1
        return run

    def begin(self, order: Trace) -> ProfileDone | None:
        """Record from now on. The answer, if that cannot be."""
        if self._session is not None:
            return _failed(order, "it is being profiled already; try again when that is over")
        try:
            recording = self._recorder.start()
        except TraceFailed as error:
            return _failed(order, str(error))
        self._session = _Session(order, self._clock.now(), recording)
        return None

    def look(self) -> ProfileDone | None:
        """Between batches. The answer, when the time is over or the trace is full."""
        session = self._session
        if session is None:
            return None
        is_over = self._clock.now() >= self.wake_at()
        is_unknown = session.batches > 0 and session.batches_max == 0
        if not (is_over or is_unknown or session.is_full):
            return None
        try:
            events = session.recording.stop()
            if is_unknown:
                session.batches_max = max(1, TRACE_EVENTS_MAX // max(1, events // session.batches))
                if not is_over and not session.is_full:
                    session.kept, session.recording, session.batches = session.recording, self._recorder.start(), 0
                    return None
            return self._finish(session, is_full=not is_over)
        except TraceFailed as error:
            self._session = None
            return _failed(session.order, str(error))

    def close(self) -> ProfileDone | None:
        """The worker ends, and with it what is being recorded: torch crashes at exit while its profiler runs."""
        session = self._session
        if session is None:
            return None
        try:
            session.recording.stop()
            return self._finish(session, is_full=False)
        except TraceFailed as error:
            self._session = None
            return _failed(session.order, str(error))

    def wake_at(self) -> float:
        """When to call `look` even if no batch ran (seconds); inf = never."""
        session = self._session
        return inf if session is None else session.began_at + session.order.seconds

    def _finish(self, session: _Session, is_full: bool) -> ProfileDone:
        self._session = None
        recording, batches = session.recording, session.batches
        if not batches and session.kept is not None:
            recording, batches = session.kept, 1
        seconds = self._clock.now() - session.began_at
        recording.write(Path(session.order.path))
        return ProfileDone(session.order.path, seconds, batches, is_full)


def _failed(order: Trace, reason: str) -> ProfileDone:
    return ProfileDone(order.path, error=reason)
