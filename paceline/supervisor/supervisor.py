"""The process that owns a server: starts all others from one frozen ServeSpec, keeps them alive, ends them in order.

One thread, one loop: it waits on the control socket, process exits, children's output, signals and the next time that
matters, then handles each. Imports no torch, no store and no user code.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from paceline.config.settings import default_run_dir
from paceline.protocol import channel
from paceline.protocol.channel import Channels, ipc_address
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import (
    ChildState,
    Drain,
    Hello,
    ProfileDone,
    ProfileRequest,
    Seen,
    State,
    Status,
    StatusRequest,
)
from paceline.protocol.errors import StartError
from paceline.protocol.keys import load_server
from paceline.protocol.spec import ServeSpec
from paceline.supervisor.census import census
from paceline.supervisor.crew import STOPPED_WITH_SERVER, Crew
from paceline.supervisor.events import Draining, Event, Ready, Recording, Reloading, Starting, Stopped
from paceline.supervisor.interview import interview
from paceline.supervisor.listeners import Listeners, open_listeners
from paceline.supervisor.options import ServeOptions
from paceline.supervisor.profiles import Profiles
from paceline.supervisor.reloading import serve_reloading
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Seat
from paceline.supervisor.signals import Signals
from paceline.supervisor.sources import POLL_S, Sources
from paceline.supervisor.switchboard import Switchboard

# Beyond its grace a child gets this long to exit by itself; brokers and workers get at least WORKER_GRACE_S, as nothing
# is left in their hands once the API servers are gone.
SLACK_S = 2.5
WORKER_GRACE_S = 1.0
# A killed process that the kernel does not let go is not waited for longer.
REAP_S = 5.0
_NEVER = float("inf")


def serve(options: ServeOptions, on_event: Callable[[Event], None]) -> int:
    """Run a server until it is told to stop (SIGINT, SIGTERM, SIGHUP) or nothing can be served; its exit code.

    0: drained. 128 + signal: stopped at once by a second signal. 1: nothing was left to serve. Main thread only.
    Raises StartError: port or run directory in use, unknown model; ConfigError: wrong settings, no keys.

        serve(ServeOptions(("my_model:latest",), load_config({}, None, os.environ)), lambda e: print(describe(e)))
    """
    server = options.config.server
    keys = load_server(server.native_keys) if server.native_listen and server.native_keys else None
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        listeners = stack.enter_context(open_listeners(server.host, server.port, server.api_workers))
        path = options.given_run_dir() or default_run_dir(options.config.store_home, listeners.port)
        run_dir = stack.enter_context(RunDir.acquire(path))
        channels = stack.enter_context(Channels())
        remote = channels.bind_remote(server.native_listen, keys) if server.native_listen and keys else None
        on_event(Starting(options.targets, listeners.url, str(run_dir.path), os.getpid()))
        board = Switchboard(channels.bind(ipc_address(run_dir.control)), remote)
        site = Site(options, run_dir, listeners, signals, board, on_event)
        if options.reload:
            outcome: Stopped | Reloading = serve_reloading(site.serve, options.folder.absolute(), signals, on_event)
        else:
            outcome = site.serve()
    assert isinstance(outcome, Stopped)
    on_event(outcome)
    return outcome.exit_code


@dataclass(frozen=True, slots=True)
class Site:
    """What outlives the servers that one command runs in turn: port, run directory, control sockets."""

    options: ServeOptions
    run_dir: RunDir
    listeners: Listeners
    signals: Signals
    board: Switchboard
    on_event: Callable[[Event], None]

    def serve(self, sources: Sources | None = None) -> Stopped | Reloading:
        """From the inspection to the end of one server; Reloading if a change of `sources` was that."""
        started_at = SystemClock.now()
        spec = interview(self.options, self.run_dir, self.listeners, self.signals)
        if spec is None:
            return Stopped(0, "told to stop before anything was started")
        if sources is not None and spec.service is None:
            raise StartError("--reload watches the sources of a service; models of the store have none")
        if spec.record_paths():
            self.on_event(Recording(spec.record_paths()))
        self.board.renew(spec)
        return Supervisor(self, spec, started_at, sources).run()


class Supervisor:
    """The loop. `run` is startup, main_loop and shutdown in turn."""

    def __init__(self, site: Site, spec: ServeSpec, started_at: float, sources: Sources | None) -> None:
        self._spec = spec
        self._listeners = site.listeners
        self._signals = site.signals
        self._board = site.board
        self._on_event = site.on_event
        self._started_at = started_at
        self._sources = sources
        self._look_at = _NEVER if sources is None else started_at + POLL_S
        self._crew = Crew(spec, site.run_dir, site.listeners, site.options.programs, site.on_event, self._publish)
        self._profiles = Profiles(spec, self._crew.seats, site.board.send, site.run_dir)
        self._stop_signals: list[int] = []
        self._draining = False

    def run(self) -> Stopped | Reloading:
        try:
            self._startup()
            outcome = self._main_loop()
            return self._shutdown(outcome)
        finally:
            self._crew.abandon()

    def _startup(self) -> None:
        self._board.welcome_again(self._crew.pictures.hosts)
        self._crew.start_due(SystemClock.now())

    def _main_loop(self) -> Stopped | Reloading:
        """Until a stop signal, the end of the last runner, or a change of the sources."""
        announced = False
        while True:
            self._turn(self._look_at)
            reason = self._crew.nothing_left()
            if reason:
                return Stopped(1, f"nothing can be served: {reason}")
            if self._stop_signals:
                return Stopped(0, "drained")
            if changed := self._changed():
                return Reloading(changed)
            if not announced and self._crew.settled():
                announced = True
                self._announce()

    def _changed(self) -> tuple[str, ...]:
        """The sources that changed, when it is time to look."""
        now = SystemClock.now()
        if self._sources is None or now < self._look_at:
            return ()
        self._look_at = now + POLL_S
        return self._sources.changes()

    def _announce(self) -> None:
        seconds = SystemClock.now() - self._started_at
        service = self._spec.service
        name, routes = ("", ()) if service is None else (service.name, service.routes)
        native = self._board.remote_address
        self._on_event(Ready(self._listeners.url, self._crew.served(), seconds, native, name, routes))
        # What lives until now lives for ever: later collections need not look at it.
        gc.collect()
        gc.freeze()

    def _shutdown(self, outcome: Stopped | Reloading) -> Stopped | Reloading:
        """Drain in order, from those who send requests to those who run them, and leave nobody behind."""
        self._draining = True
        self._crew.dismiss()
        if isinstance(outcome, Reloading) or outcome.exit_code == 0:
            outcome = self._drain(outcome)
        self._end_all()
        return outcome

    def _drain(self, outcome: Stopped | Reloading) -> Stopped | Reloading:
        grace_s = self._spec.http.drain_grace_s
        deadline = SystemClock.now() + grace_s
        if isinstance(outcome, Reloading):
            self._on_event(Draining("the sources changed", grace_s))
        else:
            self._on_event(Draining(_signal_text(self._stop_signals[0]), grace_s))
            self._listeners.close()
        self._crew.pictures.hosts.drain()
        self._publish()
        self._send_away(API_SERVER, grace_s)
        for kind in (BROKER, WORKER):
            self._send_away(kind, max(WORKER_GRACE_S, deadline - SystemClock.now()))
        if len(self._stop_signals) > 1:
            return Stopped(128 + self._stop_signals[1], "stopped at once by a second signal")
        return Stopped(0, "drained") if self._stop_signals else outcome

    def _send_away(self, kind: str, grace_s: float) -> None:
        """Drain all children of `kind` and wait for their ends; whoever is not READY has nothing to finish."""
        for seat in self._crew.occupied(kind):
            if not self._was_told(seat, grace_s):
                self._crew.kill(seat, STOPPED_WITH_SERVER)
        deadline = SystemClock.now() + grace_s + SLACK_S
        while self._crew.occupied(kind) and len(self._stop_signals) < 2 and SystemClock.now() < deadline:
            self._turn(deadline)
        late = STOPPED_WITH_SERVER if len(self._stop_signals) > 1 else f"it did not finish within {grace_s:g} s"
        for seat in self._crew.occupied(kind):
            self._crew.kill(seat, late)

    def _was_told(self, seat: Seat, grace_s: float) -> bool:
        if seat.occupant is None or seat.state not in (State.READY, State.DRAINING):
            return False
        return self._board.send(seat.occupant.incarnation, Drain(float(grace_s)))

    def _end_all(self) -> None:
        for seat in self._crew.occupied():
            self._crew.kill(seat, STOPPED_WITH_SERVER)
        deadline = SystemClock.now() + REAP_S
        while self._crew.occupied() and SystemClock.now() < deadline:
            self._turn(deadline)

    def _turn(self, until: float) -> None:
        """Wait for the next thing that happens, and handle all that did."""
        now = SystemClock.now()
        wake_at = min(until, self._crew.next_wake())
        channel.wait(self._board.sockets, max(0.0, wake_at - now), [self._signals.fd, *self._crew.fds()])
        self._stop_signals += self._signals.take()
        now = SystemClock.now()
        self._hear(now)
        self._crew.read_output()
        self._crew.bury(now)
        self._profiles.bury()
        self._crew.watch(now)
        self._crew.start_due(now)
        self._publish()

    def _hear(self, now: float) -> None:
        for peer, message in self._board.messages():
            if isinstance(message, Hello):
                self._greet(peer, message)
            elif isinstance(message, ChildState):
                if message.incarnation == peer:
                    self._crew.heard(message, now)
            elif isinstance(message, Seen):
                self._crew.seen(peer, message.version)
            elif isinstance(message, StatusRequest):
                self._board.send(peer, self._status(now))
            elif isinstance(message, ProfileRequest):
                self._profiles.asked(peer, message)
            elif isinstance(message, ProfileDone):
                self._profiles.answered(peer, message)

    def _greet(self, peer: bytes, hello: Hello) -> None:
        if hello.kind == "client":
            self._board.subscribe(peer, True, self._crew.pictures.hosts)
            return
        seat = self._crew.find(peer)
        if seat is None or seat.kind != hello.kind:
            return  # of a process that is dead by now
        if seat.state == State.STARTING:
            seat.state = State.LOADING
        picture = self._crew.pictures.seen_by(seat)
        if picture is not None:
            self._board.subscribe(peer, False, picture)

    def _status(self, now: float) -> Status:
        service = self._spec.service.name if self._spec.service is not None else ""
        return census(self._crew.seats, self._listeners.url, self._draining, service, self._started_at, now)

    def _publish(self) -> None:
        for picture in self._crew.pictures.changed():
            self._board.publish(picture)


def _signal_text(number: int) -> str:
    import signal

    return signal.Signals(number).name
