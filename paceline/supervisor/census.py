"""The answer to `paceline status`: the supervisor and every seat, counters from slots, memory from the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import psutil

from paceline.protocol.control import ProcessStatus, State, Status
from paceline.protocol.slot import read_head
from paceline.supervisor.seat import Seat


def census(seats: Iterable[Seat], url: str, draining: bool, service: str, started_at: float, now: float) -> Status:
    """Everybody's state at `now`; `service` is the name of the one that is served."""
    own = ProcessStatus(
        kind="supervisor",
        runner="",
        index=0,
        pid=os.getpid(),
        state=State.DRAINING if draining else State.READY,
        device="",
        uptime_s=now - started_at,
        restarts=0,
        requests=0,
        batches=0,
        rows=0,
        rss_bytes=_rss_bytes(os.getpid()),
        last_death="",
    )
    return Status(_version(), url, draining, service, (own, *[_process(seat, now) for seat in seats]))


def _process(seat: Seat, now: float) -> ProcessStatus:
    occupant = seat.occupant
    view = read_head(occupant.slot) if occupant is not None else None
    return ProcessStatus(
        kind=seat.kind,
        runner=seat.runner,
        index=seat.index,
        pid=occupant.child.pid if occupant is not None else 0,
        state="stalled" if seat.is_ready and seat.stalled else seat.state,
        device=seat.device,
        uptime_s=now - occupant.started_at if occupant is not None else 0.0,
        restarts=seat.restarts,
        requests=view.requests if view is not None else 0,
        batches=view.batches if view is not None else 0,
        rows=view.rows if view is not None else 0,
        rss_bytes=_rss_bytes(occupant.child.pid) if occupant is not None else 0,
        last_death=seat.given_up or seat.last_death,
    )


def _rss_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0  # it died meanwhile


def _version() -> str:
    try:
        return version("paceline")
    except PackageNotFoundError:  # a bare checkout
        return "unknown"
