"""Answers on their way out: one batch's outcomes for one API server, cut into messages that its decoder accepts.

Pure: dataclasses in, multipart messages out. That each result alone can travel, `pack_result` has seen to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paceline.protocol.limits import HEAD_BYTES_MAX, MESSAGE_BYTES_CUT, MESSAGE_FRAMES_MAX
from paceline.protocol.messages import Answers, Failure, Result, encode
from paceline.protocol.tensor import Buffer

_FAILURES_PER_MESSAGE = 512
_HEADS = 2  # its own, and that of the Done in which it may go to a broker


def answer_messages(origin: bytes, results: Sequence[Result], failures: Sequence[Failure]) -> Iterator[list[Buffer]]:
    """The Answers for `origin`, encoded: one message wherever the limits allow."""
    parts = list(_cut(results))
    rest = failures[_FAILURES_PER_MESSAGE:]
    yield from _encoded(Answers(origin, parts[0] if parts else (), tuple(failures[:_FAILURES_PER_MESSAGE])))
    for part in parts[1:]:
        yield from _encoded(Answers(origin, part))
    for at in range(0, len(rest), _FAILURES_PER_MESSAGE):
        yield from _encoded(Answers(origin, (), tuple(rest[at : at + _FAILURES_PER_MESSAGE])))


def _cut(results: Sequence[Result]) -> Iterator[tuple[Result, ...]]:
    """`results` in order, a new part wherever the frames reach MESSAGE_BYTES_CUT or MESSAGE_FRAMES_MAX."""
    part: list[Result] = []
    part_bytes, part_frames = 0, _HEADS
    for result in results:
        if result.frames:
            nbytes = sum(map(len, result.frames))  # frames are bytes or flat views of bytes
            frames = len(result.frames)
            if part and (part_bytes + nbytes > MESSAGE_BYTES_CUT or part_frames + frames > MESSAGE_FRAMES_MAX):
                yield tuple(part)
                part, part_bytes, part_frames = [], 0, _HEADS
            part_bytes += nbytes
            part_frames += frames
        part.append(result)
    if part:
        yield tuple(part)


def _encoded(answers: Answers) -> Iterator[list[Buffer]]:
    """`answers` as one message, or halved until each half's head fits."""
    message = encode(answers)
    results, failures = answers.results, answers.failures
    if len(message[0]) <= HEAD_BYTES_MAX or len(results) + len(failures) == 1:
        yield message
        return
    middle, cut = len(results) // 2, len(failures) // 2
    yield from _encoded(Answers(answers.origin, results[:middle], failures[:cut]))
    yield from _encoded(Answers(answers.origin, results[middle:], failures[cut:]))
