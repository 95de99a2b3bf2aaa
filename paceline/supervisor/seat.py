"""One place in the server's plan: a worker, a broker or an API server, whichever process fills it now.

Owns what outlives a restart (policy, watchdog, counts) and what belongs to the present process (child, incarnation,
state). The supervisor fills and empties it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paceline.protocol.control import State, process_name
from paceline.protocol.spec import RunnerSpec, ServeSpec
from paceline.supervisor.children import Child
from paceline.supervisor.policy import RestartPolicy
from paceline.supervisor.watchdog import Watchdog

WORKER, BROKER, API_SERVER = "worker", "broker", "api_server"


@dataclass(frozen=True, slots=True)
class Occupant:
    """The process in a seat."""

    child: Child
    incarnation: bytes
    slot: Path
    started_at: float


@dataclass(slots=True)
class Seat:
    """`start_at`: when the next process is due, None while there is one or none is to come. `killed_for`: why we sent
    SIGKILL. `stalled`: why it gets nothing new for now, though it is READY. `said`: the process's own FAILED message;
    from then on it has until `leave_by` to exit. `dismissed`: it was told to leave, and has no successor. `has_served`:
    this or an earlier process served requests. `pool_address`: where the workers of a broker join it. `seen`: which
    version of the picture an API server goes by."""

    kind: str
    runner: str
    index: int
    device: str
    watchdog: Watchdog
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    occupant: Occupant | None = None
    state: State = State.STOPPED
    address: str = ""
    remote_address: str = ""
    pool_address: str = ""
    start_at: float | None = 0.0
    killed_for: str = ""
    stalled: str = ""
    said: str = ""
    leave_by: float | None = None
    was_ready: bool = False
    has_served: bool = False
    dismissed: bool = False
    given_up: str = ""
    restarts: int = 0
    last_death: str = ""
    seen: int = -1

    @property
    def name(self) -> str:
        return process_name(self.kind, self.runner, self.index)

    @property
    def is_ready(self) -> bool:
        return self.state == State.READY

    @property
    def takes_requests(self) -> bool:
        return self.is_ready and not self.stalled

    def fill(self, occupant: Occupant) -> None:
        self.occupant = occupant
        self.state = State.STARTING
        self.seen = -1
        self.address = self.remote_address = self.pool_address = ""
        self.killed_for = self.stalled = self.said = ""
        self.leave_by = self.start_at = None
        self.was_ready = False
        self.watchdog.started(occupant.started_at)

    def empty(self, state: State) -> None:
        self.occupant = None
        self.state = state
        self.address = self.pool_address = self.stalled = ""
        self.leave_by = None


def seats_of(spec: ServeSpec) -> list[Seat]:
    """All places of a server, API servers first: they answer while the models load. Then each runner's broker, so that
    it is there when the workers are."""
    seats = [Seat(API_SERVER, "", index, "", Watchdog()) for index in range(spec.http.api_workers)]
    for runner in spec.runners:
        if runner.is_central:
            seats.append(Seat(BROKER, runner.name, 0, "", Watchdog()))
        seats += [_worker_seat(runner, index) for index in range(runner.workers)]
    return seats


def _worker_seat(runner: RunnerSpec, index: int) -> Seat:
    limit_s = None if runner.execution_timeout_ms is None else runner.execution_timeout_ms / 1000
    watchdog = Watchdog(limit_s, runner.latency_budget_ms / 1000)
    return Seat(WORKER, runner.name, index, runner.devices[index % len(runner.devices)], watchdog)
