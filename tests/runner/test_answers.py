"""Answers are cut into messages that the other side's decoder accepts."""

from __future__ import annotations

from paceline.protocol import dtypes, limits, messages
from paceline.protocol.messages import Answers, Failure, Result, pack_result
from paceline.protocol.tensor import Tensor
from paceline.protocol.tree import Tree
from paceline.runner.answers import answer_messages

ORIGIN = b"\x01" * 16


def result(counter: int, tree: Tree) -> Result:
    packed, frames = pack_result(tree)
    return Result(counter, 0, 1, 0, 0, packed, frames)


def floats(nbytes: int) -> Tensor:
    return Tensor(dtypes.U8, (nbytes,), memoryview(bytes(nbytes)))


def sent(results: list[Result], failures: list[Failure] | None = None) -> list[Answers]:
    answers = []
    for parts in answer_messages(ORIGIN, results, failures or []):
        message = messages.decode(parts)
        assert isinstance(message, Answers)
        answers.append(message)
    return answers


def test_small_results_and_failures_leave_in_one_message() -> None:
    (only,) = sent([result(number, floats(64)) for number in range(256)], [Failure(999, 0, "internal", "x")])
    assert [one.counter for one in only.results] == list(range(256))
    assert [one.counter for one in only.failures] == [999]


def test_large_results_are_cut_at_a_megabyte() -> None:
    answers = sent([result(number, floats(300_000)) for number in range(7)])
    assert [len(one.results) for one in answers] == [3, 3, 1]


def test_result_over_a_megabyte_travels_alone() -> None:
    answers = sent([result(1, floats(64)), result(2, floats(2_000_000)), result(3, floats(64))])
    assert [one.counter for message in answers for one in message.results] == [1, 2, 3]


def test_many_frames_are_cut_at_the_decoders_limit() -> None:
    leaf = floats(limits.INLINE_BYTES_MAX + 1)
    answers = sent([result(number, [leaf] * 500) for number in range(10)])
    assert sum(len(one.results) for one in answers) == 10


def test_large_head_is_halved_until_it_fits() -> None:
    answers = sent([result(number, ["x" * 4000] * 4) for number in range(1000)])
    assert len(answers) > 1
    assert [one.counter for message in answers for one in message.results] == list(range(1000))


def test_thousands_of_long_failures_all_arrive() -> None:
    answers = sent([], [Failure(number, 0, "internal", "\N{SNOWMAN}" * 2000) for number in range(2000)])
    assert [one.counter for message in answers for one in message.failures] == list(range(2000))
