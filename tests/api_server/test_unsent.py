"""Who is cut off when answers pile up that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.api_server.unsent import UnsentAnswers


@dataclass(eq=False)
class Fake:
    nbytes: int
    since: float = 0.0
    cut: bool = False

    def stalled_since(self, now: float) -> float:
        return self.since

    def cut_off(self) -> None:
        self.cut = True


def test_within_the_limit_nobody_is_cut_off() -> None:
    unsent, readers = UnsentAnswers(30), [Fake(10), Fake(10), Fake(10)]
    for reader in readers:
        unsent.hold(reader, reader.nbytes, 1.0)
    assert (unsent.nbytes, [reader.cut for reader in readers]) == (30, [False] * 3)


def test_over_the_limit_those_who_read_nothing_for_longest_go_until_it_holds() -> None:
    unsent, readers = UnsentAnswers(30), [Fake(10, 3.0), Fake(10, 1.0), Fake(10, 2.0), Fake(15, 0.0)]
    for reader in readers:
        unsent.hold(reader, reader.nbytes, 4.0)
    assert [reader.cut for reader in readers] == [False, True, True, False]
    assert unsent.nbytes == 25


def test_an_answer_over_the_limit_alone_is_sent() -> None:
    unsent, reader = UnsentAnswers(30), Fake(100)
    unsent.hold(reader, reader.nbytes, 1.0)
    assert (unsent.nbytes, reader.cut) == (100, False)


def test_what_was_read_or_is_gone_counts_no_more() -> None:
    unsent, reader = UnsentAnswers(30), Fake(10)
    unsent.hold(reader, reader.nbytes, 1.0)
    reader.nbytes = 5
    unsent.hold(reader, reader.nbytes, 2.0)
    assert unsent.nbytes == 10
    unsent.release(reader)
    unsent.release(reader)
    assert unsent.nbytes == 0
