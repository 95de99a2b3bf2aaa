"""Batches between broker and worker are cut into messages that the other side's decoder accepts."""

from __future__ import annotations

from paceline.protocol import pool
from paceline.protocol.limits import MESSAGE_FRAMES_MAX
from paceline.protocol.messages import Result
from paceline.protocol.pool import Addressed, Done
from paceline.runner.answers import answer_messages
from paceline.runner.execution import Ran
from paceline.runner.parcels import PARCEL_BYTES_CUT, done_messages

ALICE, BOB = b"\x01" * 16, b"\x02" * 16


def dones(answers: list[Addressed]) -> list[Done]:
    """As the broker reads them."""
    found = []
    for parts in done_messages(3, answers, 0.5, Ran(True, 8)):
        message = pool.decode(parts)
        assert isinstance(message, Done)
        found.append(message)
    return found


def test_batch_without_an_answer_is_ended_too() -> None:
    assert dones([]) == [Done(3, True, 0.5, True, 8, ())]


def test_answers_of_a_batch_are_one_message() -> None:
    answers = [Addressed(ALICE, (b"head", b"x")), Addressed(BOB, (b"head",))]
    assert dones(answers) == [Done(3, True, 0.5, True, 8, tuple(answers))]


def test_answers_with_as_many_frames_as_a_message_may_have_fit_a_done() -> None:
    counts = [1023, 1023, 1023, 1023, 3]
    assert sum(counts) + 1 == MESSAGE_FRAMES_MAX
    results = [Result(number, 0, 1, 0, 0, None, (b"x",) * count) for number, count in enumerate(counts)]
    answers = [Addressed(ALICE, tuple(message)) for message in answer_messages(ALICE, results, [])]
    found = dones(answers)
    assert [answer for done in found for answer in done.answers] == answers
    assert [done.final for done in found] == [False] * (len(found) - 1) + [True]


def test_answers_are_cut_where_the_bytes_are_too_many_and_one_alone_may_have_more() -> None:
    large, small = bytes(PARCEL_BYTES_CUT + 1), b"x"
    found = dones([Addressed(ALICE, (data,)) for data in (small, large, small, small)])
    assert [[len(answer.parts[0]) for answer in done.answers] for done in found] == [[1], [len(large)], [1, 1]]
