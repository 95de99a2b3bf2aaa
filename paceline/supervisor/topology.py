"""A picture that others are sent: which hosts there are, which died, which runners were given up.

Pure: changes in, numbered snapshots out. A snapshot replaces all earlier ones; the latest deaths stay in it, so that a
reader that missed one snapshot misses no death.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from paceline.protocol.control import FailedRunner, Host, LostHost, Topology

LOST_MAX = 32
# Of all deaths together, so that a snapshot stays far below the limit of a message's head.
STARTED_MAX = 16_384


class Picture:
    """The present topology. Each change is a version of its own, so that two snapshots of one version are the same."""

    def __init__(self) -> None:
        self._hosts: dict[bytes, Host] = {}
        self._remote_addresses: dict[bytes, str] = {}
        self._lost: deque[LostHost] = deque(maxlen=LOST_MAX)
        self._failed: dict[str, FailedRunner] = {}
        self._draining = False
        self._version = 1
        self._told = 0

    @property
    def version(self) -> int:
        """Of the present snapshot."""
        return self._version

    @property
    def changed(self) -> bool:
        """Whether there is something that not everybody was told yet."""
        return self._version > self._told

    def told(self) -> None:
        """Everybody was sent the present snapshot. Not a matter of `take`: a newcomer takes one for itself alone."""
        self._told = self._version

    def put(self, host: Host, remote_address: str = "") -> None:
        """`host` exists, in this state; other machines reach it at `remote_address`, if they do."""
        if self._hosts.get(host.incarnation) != host:
            self._hosts[host.incarnation] = host
            self._remote_addresses[host.incarnation] = remote_address
            self._version += 1

    def remove(self, incarnation: bytes) -> None:
        """The host left in good order: nothing was in its hands."""
        if self._pop(incarnation):
            self._version += 1

    def lose(self, lost: LostHost, unseen: bool = False) -> None:
        """A process died; it counts as a host only if it was one. `unseen`: also if it was in no snapshot yet."""
        if self._pop(lost.incarnation) or unseen:
            self._lost.append(lost)
            while len(self._lost) > 1 and sum(len(each.started) for each in self._lost) > STARTED_MAX:
                self._lost.popleft()
            self._version += 1

    def fail(self, runner: str, reason: str) -> None:
        self._failed[runner] = FailedRunner(runner, reason)
        self._version += 1

    def drain(self) -> None:
        self._draining = True
        self._version += 1

    def take(self) -> Topology:
        """The snapshot."""
        return Topology(
            self._version, self._draining, tuple(self._hosts.values()), tuple(self._lost), tuple(self._failed.values())
        )

    def take_remote(self, peer: bytes) -> Topology:
        """The same snapshot as the client `peer` on another machine may have it: hosts by their addresses for other
        machines, and of the requests that were lost only its own."""
        topology = self.take()
        hosts = [
            replace(host, address=self._remote_addresses[host.incarnation])
            for host in topology.hosts
            if self._remote_addresses[host.incarnation]
        ]
        lost = [
            replace(each, started=tuple([started for started in each.started if started[0] == peer]))
            for each in topology.lost
        ]
        return replace(topology, hosts=tuple(hosts), lost=tuple(lost))

    def _pop(self, incarnation: bytes) -> bool:
        self._remote_addresses.pop(incarnation, None)
        return self._hosts.pop(incarnation, None) is not None
