"""Who is shown what: API servers and clients a picture of the hosts, each broker and its workers one of their pool.

A runner with a broker looks like one host from outside: READY while the broker is and a worker takes requests. Pure:
told of seats that changed and of deaths, it changes the pictures that these show in.
"""

from __future__ import annotations

from collections.abc import Iterable

from paceline.protocol.control import Host, LostHost, State
from paceline.protocol.spec import ServeSpec
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Seat
from paceline.supervisor.topology import Picture


class Pictures:
    """`seats`: all of the server, whose states decide what is shown."""

    def __init__(self, spec: ServeSpec, seats: Iterable[Seat]) -> None:
        self.hosts = Picture()
        self._pools = {runner.name: Picture() for runner in spec.runners if runner.is_central}
        self._brokers = {seat.runner: seat for seat in seats if seat.kind == BROKER}
        self._workers = {
            name: [seat for seat in seats if (seat.kind, seat.runner) == (WORKER, name)] for name in self._pools
        }

    def changed(self) -> list[Picture]:
        """Those in which something is that not everybody was told yet."""
        return [picture for picture in (self.hosts, *self._pools.values()) if picture.changed]

    def seen_by(self, seat: Seat) -> Picture | None:
        """What the process in `seat` is sent; a worker with its own queue needs to see nobody."""
        return self.hosts if seat.kind == API_SERVER else self._pools.get(seat.runner)

    def pool(self, runner: str) -> Picture:
        """The picture of a pool: its broker, its workers and their deaths."""
        return self._pools[runner]

    def show(self, seat: Seat) -> None:
        """The state of `seat` may have changed. Who never was READY is not shown."""
        if seat.kind == API_SERVER or not seat.was_ready or seat.occupant is None:
            return
        state = State.READY if seat.takes_requests else State.DRAINING
        pool = self._pools.get(seat.runner)
        if pool is None:
            self.hosts.put(Host(seat.runner, seat.occupant.incarnation, seat.address, state), seat.remote_address)
            return
        pool.put(Host(seat.runner, seat.occupant.incarnation, seat.pool_address, state))
        self._show_broker(seat.runner)

    def remove(self, seat: Seat, incarnation: bytes) -> None:
        """The process that was in `seat` left in good order."""
        self.hosts.remove(incarnation)
        if seat.runner in self._pools:
            self._pools[seat.runner].remove(incarnation)
            self._show_broker(seat.runner)

    def lose(self, seat: Seat, lost: LostHost) -> None:
        """The process that was in `seat` died. Its pool is told of every worker, since a broker may have heard of it
        before we did, and of a broker only that it is gone: what it held is the business of those who sent it."""
        pool = self._pools.get(seat.runner)
        if pool is None or seat.kind == BROKER:
            self.hosts.lose(lost)
        if pool is not None and seat.kind == BROKER:
            pool.remove(lost.incarnation)
        elif pool is not None:
            pool.lose(lost, unseen=True)
            self._show_broker(seat.runner)

    def _show_broker(self, runner: str) -> None:
        broker = self._brokers[runner]
        if broker.occupant is None or not broker.was_ready:
            return
        served = broker.takes_requests and any(worker.takes_requests for worker in self._workers[runner])
        state = State.READY if served else State.DRAINING
        self.hosts.put(Host(runner, broker.occupant.incarnation, broker.address, state), broker.remote_address)
