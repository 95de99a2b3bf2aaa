"""All children of a server: fills the seats, hears what the processes say of themselves, buries the dead, kills what
hangs, and keeps the pictures of it all that the others are sent.

Decides nothing itself: policy.py says when to restart, watchdog.py what hangs, pictures.py who is shown what.
Driven by the supervisor's loop; knows no ZeroMQ.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.protocol.channel import fresh_incarnation
from paceline.protocol.control import ChildState, LostHost, State
from paceline.protocol.slot import SlotView, read_head, read_slot
from paceline.protocol.spec import RunnerSpec, ServeSpec
from paceline.supervisor.burial import begun_in_pool, death_of, remains_of
from paceline.supervisor.children import Child
from paceline.supervisor.events import (
    ChildDied,
    ChildReady,
    Event,
    GivenUp,
    Recovered,
    Restarting,
    RunnerLoading,
    Served,
    Stalled,
)
from paceline.supervisor.launcher import Launcher
from paceline.supervisor.listeners import Listeners
from paceline.supervisor.obituary import Remains, explain, own_oom_kills
from paceline.supervisor.options import Programs
from paceline.supervisor.output import Forwarder
from paceline.supervisor.pictures import Pictures
from paceline.supervisor.policy import Blame, Death, GiveUp
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Occupant, Seat, seats_of
from paceline.supervisor.watchdog import LOOK_S, Health

logger = logging.getLogger(__name__)

STOPPED_WITH_SERVER = "stopped with the server"
STOPPED_WITH_RUNNER = "stopped with its runner, which was given up"
# A child that said FAILED has this long to exit by itself.
LEAVE_S = 2.0
# A killed process that the kernel does not let go is not waited for longer.
ABANDON_S = 5.0
# A hanging child has this long to write its stacks down.
DUMP_S = 0.3
# An API server that comes back later than this leaves its connections to the others.
AWAY_S = 1.0
# A loop that was away this much longer than it slept cannot blame children for old beats.
ABSENCE_S = 1.0
# How often a slot is read that its owner is just writing, which takes it microseconds unless it loses the core.
TORN_READS_MAX = 50


class Crew:
    """`publish` sends the pictures on at once: a death must be known before its successor is started."""

    def __init__(
        self,
        spec: ServeSpec,
        run_dir: RunDir,
        listeners: Listeners,
        programs: Programs,
        emit: Callable[[Event], None],
        publish: Callable[[], None],
    ) -> None:
        self.seats = seats_of(spec)
        self.pictures = Pictures(spec, self.seats)
        self._spec = spec
        self._run_dir = run_dir
        self._listeners = listeners
        self._launcher = Launcher(spec, run_dir, listeners, programs)
        self._emit = emit
        self._publish = publish
        self._forwarder = Forwarder()
        self._looked_at = 0.0
        self._next_look = 0.0
        self._oom_kills = own_oom_kills()

    # What the loop waits for

    def fds(self) -> Iterator[int]:
        for seat in self.seats:
            if seat.occupant is not None:
                child = seat.occupant.child
                if child.output.open:
                    yield child.output.fd
                if child.exit_fd >= 0:
                    yield child.exit_fd

    def next_wake(self) -> float:
        times = [seat.start_at for seat in self.seats if seat.start_at is not None]
        times += [seat.leave_by for seat in self.seats if seat.leave_by is not None]
        return min([*times, self._next_look])

    # What the loop asks

    def occupied(self, kind: str = "") -> list[Seat]:
        """Seats (of `kind`) with a process in them."""
        return [seat for seat in self.seats if seat.occupant is not None and kind in ("", seat.kind)]

    def find(self, incarnation: bytes) -> Seat | None:
        """The seat whose present process is `incarnation`."""
        for seat in self.seats:
            if seat.occupant is not None and seat.occupant.incarnation == incarnation:
                return seat
        return None

    def settled(self) -> bool:
        """Whether every runner is up or given up, and the same for the API servers; those that are READY know of it, so
        that none answers "not ready" to whoever was told that the server is."""
        servers = self._group(API_SERVER, "")
        ready = [server for server in servers if server.is_ready]
        if not ready and not all(server.given_up for server in servers):
            return False
        if any(server.seen < self.pictures.hosts.version for server in ready):
            return False
        return all(self._is_up(runner.name) or self._is_lost(runner.name) for runner in self._spec.runners)

    def seen(self, incarnation: bytes, version: int) -> None:
        """An API server goes by this version of the picture now."""
        seat = self.find(incarnation)
        if seat is not None:
            seat.seen = version

    def served(self) -> tuple[Served, ...]:
        """The runners that are up."""
        return tuple(self._served(runner) for runner in self._spec.runners if self._is_up(runner.name))

    def nothing_left(self) -> str:
        """Why the server cannot serve anything ever again, empty while it can."""
        servers = self._group(API_SERVER, "")
        if all(server.given_up for server in servers):
            return f"no API server: {servers[0].given_up}"
        runners = [runner.name for runner in self._spec.runners]
        if runners and all(self._is_lost(name) for name in runners):
            return "; ".join(f"{name}: {self._why_lost(name)}" for name in runners)
        return ""

    # What the loop has done

    def start_due(self, now: float) -> None:
        for seat in self.seats:
            if seat.start_at is not None and seat.start_at <= now:
                self._start(seat, now)

    def heard(self, said: ChildState, now: float) -> None:
        """A child's own word on its state."""
        seat = self.find(said.incarnation)
        if seat is None or seat.occupant is None or seat.killed_for:
            return
        try:
            seat.state = State(said.state)
        except ValueError:
            logger.warning("unknown state", extra={"child": seat.name, "state": said.state})
            return
        if seat.state != State.READY:
            seat.stalled = ""
        if seat.state == State.READY and not seat.was_ready:
            seat.was_ready = True
            seat.address = said.address
            seat.remote_address = said.remote_address
            seat.pool_address = said.pool_address
            seat.policy.ready(now)
            seconds = now - seat.occupant.started_at
            self._emit(ChildReady(seat.kind, seat.name, seat.occupant.child.pid, seat.device, seconds))
            if seat.kind == API_SERVER:
                self._take_over(now)
        elif seat.state == State.FAILED:
            seat.said = said.detail or "it said FAILED without a reason"
            seat.leave_by = now + LEAVE_S
        self.pictures.show(seat)

    def read_output(self) -> None:
        for seat in self.occupied():
            if seat.occupant is not None and seat.occupant.child.output.open:
                self._forwarder.pass_on(seat.name, seat.occupant.child.output.read())

    def bury(self, now: float) -> None:
        """Reap whoever is dead, tell the others, then decide on successors."""
        for seat in self.occupied():
            if seat.occupant is not None and seat.occupant.child.has_exited():
                self._bury(seat, seat.occupant, now)

    def watch(self, now: float) -> None:
        """Look after hangs, when it is time to."""
        for seat in self.occupied():
            if seat.leave_by is not None and now >= seat.leave_by:
                self.kill(seat, seat.said)
        if now < self._next_look:
            return
        absent = self._looked_at > 0.0 and now - self._looked_at > LOOK_S + ABSENCE_S
        self._looked_at = now
        self._next_look = now + LOOK_S
        for seat in self.occupied():
            if absent:
                seat.watchdog.excuse(now)
            self._look(seat, now)

    def kill(self, seat: Seat, reason: str) -> None:
        """SIGKILL, and out of rotation at once: a process in the kernel's hands may take its time to die."""
        if seat.occupant is not None:
            self._condemn(seat, reason)
            seat.leave_by = None
            seat.occupant.child.kill()

    def dismiss(self) -> None:
        """From now on nobody has a successor."""
        for seat in self.seats:
            seat.dismissed = True
            seat.start_at = None

    def abandon(self) -> None:
        """Kill and reap whoever is left, without a word: after an orderly shutdown nobody is."""
        for seat in self.occupied():
            if seat.occupant is not None:
                seat.occupant.child.bury(ABANDON_S)
                seat.empty(State.STOPPED)

    # Private

    def _start(self, seat: Seat, now: float) -> None:
        if seat.kind == WORKER and seat.index == 0 and seat.restarts == 0:
            runner = self._spec.runner(seat.runner)
            model, version = (runner.runnable, "") if runner.runnable else (runner.model, runner.version)
            self._emit(RunnerLoading(runner.name, model, version, runner.devices))
        incarnation, slot = fresh_incarnation(), self._run_dir.fresh_slot()
        if seat.kind == API_SERVER:
            self._listeners.set_away(seat.index, False)
        try:
            child = Child.spawn(self._launcher.launch(seat, incarnation, slot))
        except OSError as error:
            seat.start_at = None
            seat.last_death = f"cannot be started: {error.strerror or error}"
            self._emit(ChildDied(seat.kind, seat.name, 0, seat.last_death, seat.last_death))
            self._succeed(seat, Death(seat.last_death, blame=Blame.OTHERS), now)
            return
        seat.fill(Occupant(child, incarnation, slot, now))
        self._next_look = min(self._next_look, now + LOOK_S)
        logger.info("child started", extra={"child": seat.name, "pid": child.pid, "incarnation": incarnation.hex()})

    def _look(self, seat: Seat, now: float) -> None:
        if seat.occupant is None or seat.killed_for or (seat.dismissed and not seat.is_ready):
            return
        found = seat.watchdog.look(read_head(seat.occupant.slot), seat.is_ready, now)
        if found.health == Health.HANGING:
            self._end_hang(seat, found.reason, now)
        else:
            self._set_stalled(seat, found.reason)
        self._next_look = min(self._next_look, seat.watchdog.next_look(seat.is_ready, now))

    def _end_hang(self, seat: Seat, reason: str, now: float) -> None:
        if seat.occupant is not None and seat.occupant.child.dump_stacks():
            self._condemn(seat, reason)
            seat.leave_by = now + DUMP_S
        else:
            self.kill(seat, reason)

    def _set_stalled(self, seat: Seat, reason: str) -> None:
        """Out of rotation while there is a reason."""
        if seat.occupant is None or bool(reason) == bool(seat.stalled):
            return
        seat.stalled = reason
        pid = seat.occupant.child.pid
        self._emit(Stalled(seat.kind, seat.name, pid, reason) if reason else Recovered(seat.kind, seat.name, pid))
        self.pictures.show(seat)

    def _condemn(self, seat: Seat, reason: str) -> None:
        """It is going to be killed: out of rotation."""
        seat.killed_for = seat.killed_for or reason
        if seat.state == State.READY:
            seat.state = State.DRAINING
            self.pictures.show(seat)
            self._publish()

    def _bury(self, seat: Seat, occupant: Occupant, now: float) -> None:
        self._forwarder.pass_on(seat.name, occupant.child.output.read_rest())
        returncode = occupant.child.bury()
        view = read_slot(occupant.slot)
        oom_before, self._oom_kills = self._oom_kills, own_oom_kills()
        remains = remains_of(seat, occupant, returncode, view, self._oom_kills - oom_before)
        self._forget_files(seat, occupant)
        death = death_of(seat, remains, view)
        seat.has_served = seat.has_served or (view is not None and view.batches > 0)
        in_good_order = seat.dismissed and returncode == 0
        seat.empty(State.STOPPED)
        if in_good_order:
            self.pictures.remove(seat, occupant.incarnation)
            return
        self.pictures.lose(seat, self._loss(seat, occupant, death.reason, remains))
        self._publish()
        seat.last_death = death.reason
        if seat.killed_for in (STOPPED_WITH_SERVER, STOPPED_WITH_RUNNER):
            return
        self._emit(
            ChildDied(seat.kind, seat.name, occupant.child.pid, death.reason, explain(remains), remains.last_lines)
        )
        if not seat.dismissed:
            self._succeed(seat, death, now)

    def _forget_files(self, seat: Seat, occupant: Occupant) -> None:
        self._run_dir.forget(occupant.slot)
        for address in (seat.pool_address, seat.address):
            if address.startswith("ipc://"):
                self._run_dir.forget(Path(address.removeprefix("ipc://")))

    def _loss(self, seat: Seat, occupant: Occupant, reason: str, remains: Remains) -> LostHost:
        """What the others are told of a death. Of a broker's after its pool socket's file was removed: a worker writes
        its slot and then looks for that file before it runs a batch, so what is in no slot by now will never run."""
        if seat.kind != BROKER:
            known = remains.in_hand is not None
            return LostHost(seat.runner, occupant.incarnation, reason, known, True, remains.started)
        views = [self._slot_of(worker) for worker in self._group(WORKER, seat.runner)]
        dead = self.pictures.pool(seat.runner).take().lost
        begun = begun_in_pool(views, dead, self._spec.runner(seat.runner).max_batch_size)
        return LostHost(seat.runner, occupant.incarnation, reason, begun is not None, False, begun or ())

    def _slot_of(self, worker: Seat) -> SlotView | None:
        """What the living `worker` has begun; None if it has no slot, and so has begun nothing."""
        view = None
        for _ in range(TORN_READS_MAX):
            view = read_slot(worker.occupant.slot) if worker.occupant is not None else None
            if view is None or view.known:
                break
            os.sched_yield()
        return view

    def _succeed(self, seat: Seat, death: Death, now: float) -> None:
        """Whether and when the dead process gets a successor."""
        decision = seat.policy.died(death, now)
        if isinstance(decision, GiveUp):
            self._give_up(seat, decision.reason)
            return
        seat.restarts += 1
        seat.start_at = now + decision.delay_s
        self._emit(Restarting(seat.kind, seat.name, decision.delay_s))
        if decision.delay_s >= AWAY_S:
            self._set_away(seat)

    def _give_up(self, seat: Seat, reason: str) -> None:
        seat.state = State.FAILED
        seat.given_up = reason
        self._emit(GivenUp(seat.kind, seat.name, reason))
        if seat.kind == API_SERVER:
            self._set_away(seat)
        elif self._is_lost(seat.runner):
            self._end_runner(seat.runner, reason)

    def _end_runner(self, runner: str, reason: str) -> None:
        """Whoever is left of it is of no use: a broker without workers, or workers without a broker."""
        self.pictures.hosts.fail(runner, reason)
        for seat in self.seats:
            if seat.runner == runner and not seat.given_up:
                seat.dismissed = True
                seat.start_at = None
                self.kill(seat, STOPPED_WITH_RUNNER)

    def _set_away(self, seat: Seat) -> None:
        if seat.kind == API_SERVER and any(other.is_ready for other in self._group(API_SERVER, "")):
            self._listeners.set_away(seat.index, True)

    def _take_over(self, now: float) -> None:
        """An API server is ready: those that died while none was, and are not soon back, leave it their connections."""
        for other in self._group(API_SERVER, ""):
            late = other.start_at is not None and other.start_at - now >= AWAY_S
            if other.given_up or late:
                self._set_away(other)

    def _group(self, kind: str, runner: str) -> list[Seat]:
        return [seat for seat in self.seats if seat.kind == kind and seat.runner == runner]

    def _served(self, runner: RunnerSpec) -> Served:
        ready = sum(worker.is_ready for worker in self._group(WORKER, runner.name))
        return Served(runner.name, runner.workers, ready, runner.dispatch)

    def _is_up(self, runner: str) -> bool:
        """Whether requests find a READY worker, through its broker where it has one."""
        brokers = self._group(BROKER, runner)
        return all(seat.is_ready for seat in brokers) and any(seat.is_ready for seat in self._group(WORKER, runner))

    def _is_lost(self, runner: str) -> bool:
        return bool(self._why_lost(runner))

    def _why_lost(self, runner: str) -> str:
        """Why no request of `runner` will ever be served again, empty while one may be."""
        for group in (self._group(BROKER, runner), self._group(WORKER, runner)):
            if group and all(seat.given_up for seat in group):
                return group[0].given_up
        return ""
