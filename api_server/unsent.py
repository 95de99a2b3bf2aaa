"""What all connections together hold of answers that their clients have not read yet, and who is cut off when it is too
much: first whoever has read nothing for longest, so that a client that reads is not hurt by those that do not.

Pure; called by the connections, for those whose transport has paused them.
"""

from __future__ import annotations

from typing import Protocol


class Reader(Protocol):
    """A connection whose client reads slower than it is answered."""

    def stalled_since(self, now: float) -> float:
        """When its client last read something, as far as is known."""

    def cut_off(self) -> None: ...


class UnsentAnswers:
    """At most `limit_bytes`, and the newest answer whatever its size."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[Reader, int] = {}
        self.nbytes = 0

    def hold(self, reader: Reader, nbytes: int, now: float) -> None:
        """`reader` is paused and holds `nbytes`: whole answers, since each is kept until its last byte is out."""
        held = self._held.get(reader, 0)
        size = max(held, nbytes)
        self._held[reader] = size
        self.nbytes += size - held
        if self.nbytes > self._limit_bytes:
            self._make_room(reader, now)

    def release(self, reader: Reader) -> None:
        """It has read, or is gone."""
        self.nbytes -= self._held.pop(reader, 0)

    def _make_room(self, newest: Reader, now: float) -> None:
        others = [(reader.stalled_since(now), reader) for reader in self._held if reader is not newest]
        others.sort(key=lambda other: other[0])
        for _, reader in others:
            if self.nbytes <= self._limit_bytes:
                return
            self.release(reader)
            reader.cut_off()
