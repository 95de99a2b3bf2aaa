"""A process's slot: one small mmap'd file in the run directory that survives its owner's SIGKILL.

The owner writes its state, a beat, counters, and before each batch the ids it is about to start; the supervisor reads
it to know who is alive, who hangs, and who had started. Ids stay in a ring when their batch is over: its answers may
still be in the owner's pipe, and die with it. One writer, readers tolerate a torn batch by the sequence number (odd =
being written; a writer killed in between leaves the batch unknown).
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from paceline.protocol.messages import ORIGIN_BYTES

_HEADER = struct.Struct("<8s Q Q Q Q Q Q Q Q Q")
_MAGIC = b"PLSLOT02"
_BEAT, _REQUESTS, _BATCHES, _ROWS, _SEQUENCE, _BATCH_ID, _STARTED_NS, _IN_HAND, _BEGUN = range(8, 80, 8)
_ID = struct.Struct(f"<{ORIGIN_BYTES}s Q")
IDS_MAX = 4096
SLOT_BYTES = _HEADER.size + IDS_MAX * _ID.size
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class SlotView:
    """What a reader sees. Times are CLOCK_MONOTONIC ns; `batch_started_ns` is 0 while idle. `in_hand` is the batch that
    the owner runs; `started` the last IDS_MAX ids of all its batches, oldest first, that one's too. With `known` False
    both are empty, because the owner died (or still is) writing them, or the batch has more than IDS_MAX ids, and then
    all its requests may have started; or because nobody asked (read_head)."""

    beat_ns: int
    requests: int
    batches: int
    rows: int
    batch_id: int
    batch_started_ns: int
    known: bool
    in_hand: tuple[tuple[bytes, int], ...]
    started: tuple[tuple[bytes, int], ...] = ()


class Slot:
    """The writer's side."""

    def __init__(self, path: Path) -> None:
        # Emptied, so that nothing of an owner before is taken for ours. Blocks reserved, because a write to a mapped
        # page that a full disk cannot back is a SIGBUS, while this is an OSError.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, SLOT_BYTES)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, SLOT_BYTES)
            self._map = mmap.mmap(fd, SLOT_BYTES)
        finally:
            os.close(fd)
        self._begun = 0
        self._map[:8] = _MAGIC

    def beat(self, now_ns: int) -> None:
        """Say that the process is alive; called from a thread of its own."""
        _U64.pack_into(self._map, _BEAT, now_ns)

    def count(self, requests: int, batches: int, rows: int) -> None:
        """Set the counters, totals since start."""
        struct.pack_into("<QQQ", self._map, _REQUESTS, requests, batches, rows)

    def begin(self, batch_id: int, ids: list[tuple[bytes, int]], now_ns: int) -> None:
        """A batch with these (origin, counter) ids is about to run."""
        view = self._map
        packed = b"".join([_ID.pack(origin, counter) for origin, counter in ids[-IDS_MAX:]])
        # Forced odd, not counted up: a begin that failed half-way must not turn the parity of all that follow.
        writing: int = _U64.unpack_from(view, _SEQUENCE)[0] | 1
        _U64.pack_into(view, _SEQUENCE, writing)
        begun = self._begun + len(ids)
        struct.pack_into("<QQQQ", view, _BATCH_ID, batch_id, now_ns, len(ids), begun)
        at = _HEADER.size + (begun - len(packed) // _ID.size) % IDS_MAX * _ID.size
        room = SLOT_BYTES - at
        if len(packed) <= room:
            view[at : at + len(packed)] = packed
        else:
            view[at:] = packed[:room]
            view[_HEADER.size : _HEADER.size + len(packed) - room] = packed[room:]
        _U64.pack_into(view, _SEQUENCE, writing + 1)
        self._begun = begun

    def end(self) -> None:
        """The batch is over and its answers handed to the socket: nothing is in hand."""
        struct.pack_into("<QQ", self._map, _STARTED_NS, 0, 0)

    def close(self) -> None:
        self._map.close()


def read_slot(path: Path) -> SlotView | None:
    """The slot at `path`, None if there is none or it is not one."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(SLOT_BYTES + 1)
            after = os.pread(file.fileno(), _HEADER.size, 0)
    except OSError:
        return None
    if len(data) != SLOT_BYTES or len(after) != _HEADER.size or data[:8] != _MAGIC:
        return None
    _, beat, requests, batches, rows, sequence, batch_id, started_ns, in_hand, begun = _HEADER.unpack_from(data)
    # A live owner may begin a batch between our reading of the header and of the ids.
    known = sequence % 2 == 0 and sequence == _U64.unpack_from(after, _SEQUENCE)[0] and in_hand <= IDS_MAX
    started = _last_ids(data, begun) if known else ()
    return SlotView(
        beat, requests, batches, rows, batch_id, started_ns, known, started[len(started) - in_hand :], started
    )


def read_head(path: Path) -> SlotView | None:
    """As read_slot without its ids, which are not `known` then: for who looks often, in a fiftieth of the time."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(_HEADER.size)
    except OSError:
        return None
    if len(data) != _HEADER.size or data[:8] != _MAGIC:
        return None
    _, beat, requests, batches, rows, _, batch_id, started_ns, _, _ = _HEADER.unpack(data)
    return SlotView(beat, requests, batches, rows, batch_id, started_ns, False, ())


def _last_ids(data: bytes, begun: int) -> tuple[tuple[bytes, int], ...]:
    """The ids in the ring, oldest first; `begun` were written in all."""
    ring = data[_HEADER.size :]
    if begun < IDS_MAX:
        return tuple(_ID.iter_unpack(ring[: begun * _ID.size]))
    oldest = begun % IDS_MAX * _ID.size
    return tuple(_ID.iter_unpack(ring[oldest:] + ring[:oldest]))
