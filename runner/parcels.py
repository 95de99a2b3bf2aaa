"""A batch between broker and worker, as messages that the wire takes: Work on the way there, Done on the way back.

Pure. One message wherever the limits allow; of several, the last says that it ends the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from paceline.protocol.limits import MESSAGE_FRAMES_MAX, MESSAGE_REQUESTS_MAX
from paceline.protocol.messages import Infer, InferItem
from paceline.protocol.pool import Addressed, Done, Work, encode
from paceline.protocol.tensor import Buffer
from paceline.runner.execution import Ran
from paceline.runner.inbox import Held

PARCEL_BYTES_CUT = 64 * 1024 * 1024
WORK_FRAMES_CUT = 1024

T = TypeVar("T")


def work_messages(batch_id: int, rows: int, members: Sequence[Held]) -> Iterator[list[Buffer]]:
    """The Work of one batch, encoded."""
    weighed = [(held, len(held.item.frames), held.nbytes) for held in members]
    for part, final in _cut(weighed, MESSAGE_REQUESTS_MAX, WORK_FRAMES_CUT):
        yield encode(Work(batch_id, final, rows, _by_origin(part)))


def done_messages(batch_id: int, answers: Sequence[Addressed], duration_s: float, ran: Ran) -> Iterator[list[Buffer]]:
    """The Done of one batch, encoded."""
    weighed = [(answer, len(answer.parts), sum(map(len, answer.parts))) for answer in answers]
    for part, final in _cut(weighed, MESSAGE_FRAMES_MAX, MESSAGE_FRAMES_MAX - 1):
        yield encode(Done(batch_id, final, duration_s, ran.learn, ran.cap_rows, tuple(part)))


def _by_origin(members: Sequence[Held]) -> tuple[Infer, ...]:
    groups: dict[bytes, list[InferItem]] = {}
    for held in members:
        groups.setdefault(held.key[0], []).append(held.item)
    return tuple([Infer(origin, tuple(items)) for origin, items in groups.items()])


def _cut(weighed: Iterable[tuple[T, int, int]], items_max: int, frames_max: int) -> Iterator[tuple[list[T], bool]]:
    """Items with their (frames, bytes) in order, a new part where one would be too large; and whether it ends them."""
    part: list[T] = []
    part_frames = part_bytes = 0
    for item, frames, nbytes in weighed:
        too_large = part_frames + frames > frames_max or part_bytes + nbytes > PARCEL_BYTES_CUT
        if part and (too_large or len(part) == items_max):
            yield part, False
            part, part_frames, part_bytes = [], 0, 0
        part.append(item)
        part_frames += frames
        part_bytes += nbytes
    yield part, True
