"""The requests that a desk holds, from receipt to their one answer, and the bounds that hold for them.

Pure bookkeeping: by (origin, counter) for cancels, duplicates and slots, by age for the longest wait before a start, in
bytes for the memory they pin. It decides no batch; called by the desk and whoever runs its batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from paceline.protocol import limits
from paceline.protocol.messages import InferItem

RequestKey: TypeAlias = tuple[bytes, int]


@dataclass(slots=True, eq=False)
class Held:
    """One request in hand. `key` is (origin, counter), unique among those held; `started` once a batch took it;
    `cancelled` if nobody waits for it since."""

    key: RequestKey
    item: InferItem
    nbytes: int
    started: bool = False
    cancelled: bool = False


class Inbox:
    """Everything that came in and is not answered yet. `wait_max_s`: longest wait before a start, None = any."""

    def __init__(self, wait_max_s: float | None = None, bytes_max: int = limits.QUEUE_BYTES_MAX) -> None:
        self.nbytes = 0
        self._bytes_max = bytes_max
        self._held: dict[RequestKey, Held] = {}
        self._wait_max_ns = None if wait_max_s is None else round(wait_max_s * 1e9)
        self._overdue_ns: list[tuple[int, RequestKey]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._held

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more may be held; one request always may."""
        return self.nbytes + nbytes <= self._bytes_max or not self._held

    def add(self, held: Held) -> None:
        self._held[held.key] = held
        self.nbytes += held.nbytes
        if self._wait_max_ns is not None:
            heapq.heappush(self._overdue_ns, (held.item.arrival_ns + self._wait_max_ns, held.key))

    def start(self, keys: Iterable[RequestKey]) -> list[Held]:
        """These go into a batch now, in this order."""
        batch = [self._held[key] for key in keys]
        for held in batch:
            held.started = True
        return batch

    def wait_again(self, held: Held, item: InferItem) -> None:
        """The batch that had it was lost: it is queued as `item`, with no limit on its wait if it had been started."""
        held.item = item
        held.started = False
        if self._wait_max_ns is not None and not item.starts:
            heapq.heappush(self._overdue_ns, (item.arrival_ns + self._wait_max_ns, held.key))

    def get(self, key: RequestKey) -> Held | None:
        return self._held.get(key)

    def remove(self, key: RequestKey) -> Held:
        """It has its answer."""
        held = self._held.pop(key)
        self.nbytes -= held.nbytes
        return held

    def remove_queued(self, key: RequestKey) -> Held | None:
        """Take it out unless a batch has it, or it is not held at all."""
        held = self._held.get(key)
        return None if held is None or held.started else self.remove(key)

    def remove_all_queued(self) -> list[Held]:
        """Take out everything that no batch has."""
        queued = [key for key, held in self._held.items() if not held.started]
        return [self.remove(key) for key in queued]

    def remove_overdue(self, now_ns: int) -> Iterator[Held]:
        """Take out those that waited longer than allowed."""
        while self._overdue_ns and self._overdue_ns[0][0] <= now_ns:
            _, key = heapq.heappop(self._overdue_ns)
            held = self.remove_queued(key)
            if held is not None:
                yield held

    def next_overdue_s(self) -> float:
        """When `remove_overdue` should be asked next (seconds), inf if nothing waits under a limit."""
        overdue = self._overdue_ns
        while overdue:
            held = self._held.get(overdue[0][1])
            if held is not None and not held.started:
                return overdue[0][0] / 1e9
            heapq.heappop(overdue)
        return inf
