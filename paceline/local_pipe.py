"""Both ends of a pipe within one process: the dispatch host's in its thread, and that of Hosts in its event loop.

What a socket does between processes, without one: messages arrive in order, and each side gets bytes of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from paceline.protocol.tensor import Buffer


class HostEnd:
    """A host's data socket, see runner.desk.Port: any number of peers, by identity."""

    def __init__(self) -> None:
        self._inbound: deque[tuple[bytes, list[Buffer]]] = deque()  # append and popleft are atomic
        self._peers: dict[bytes, PeerEnd] = {}
        self._woken = threading.Event()

    def connect(
        self, peer: bytes, loop: asyncio.AbstractEventLoop, on_message: Callable[[list[Buffer]], None]
    ) -> PeerEnd:
        """The other end, for the peer `peer` that lives in `loop`."""
        end = self._peers[peer] = PeerEnd(self, peer, loop, on_message)
        return end

    def drain(self) -> Iterator[tuple[bytes, list[Buffer]]]:
        self._woken.clear()  # before the look: what comes after it wakes again
        while self._inbound:
            yield self._inbound.popleft()

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool:
        end = self._peers.get(peer)
        return end is not None and end.take(_copied(parts))

    def settle(self) -> None:
        """What was sent is there already."""

    def take(self, peer: bytes, parts: list[Buffer]) -> None:
        self._inbound.append((peer, parts))
        self.wake()

    def wake(self) -> None:
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Until something comes, or somebody wakes it."""
        self._woken.wait(seconds)


class PeerEnd:
    """One connection to a host, see protocol.host_pipe.Pipe. Lives in its peer's loop but for `take`."""

    def __init__(
        self,
        host: HostEnd,
        identity: bytes,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[list[Buffer]], None],
    ) -> None:
        self._host = host
        self._identity = identity
        self._loop = loop
        self._on_message = on_message
        self._inbound: deque[list[Buffer]] = deque()

    def send(self, parts: list[Buffer]) -> bool:
        self._host.take(self._identity, _copied(parts))
        return True

    def deliver(self) -> None:
        while self._inbound:
            self._on_message(self._inbound.popleft())

    def close(self) -> None:
        self._inbound.clear()

    def take(self, parts: list[Buffer]) -> bool:
        """From the host's thread. False if nobody is there any more."""
        self._inbound.append(parts)
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.deliver)
            return True
        return False


def _copied(parts: Sequence[Buffer]) -> list[Buffer]:
    """As a socket does: the sender may fill its memory anew, the receiver may write into what it got."""
    return [bytes(part) for part in parts]
