"""What the other keys leave of the workers to one."""

import pytest

from paceline.runner.dispatcher.shares import Shares


def test_a_key_alone_has_all_workers() -> None:
    shares = Shares(9)
    assert shares.room("a", 0.3, until=1.0, now=0.0) == 1.0
    assert shares.room("a", 5.0, until=1.0, now=0.5) == 1.0


def test_a_key_has_what_the_others_leave() -> None:
    shares = Shares(9)
    shares.room("a", 0.3, until=1.0, now=0.0)
    assert shares.room("b", 0.1, until=1.0, now=0.0) == pytest.approx(0.7)
    assert shares.room("a", 0.2, until=1.0, now=0.0) == pytest.approx(0.9)


def test_where_all_need_too_much_each_has_its_share_of_the_need() -> None:
    shares = Shares(9)
    shares.room("a", 1.5, until=1.0, now=0.0)
    assert shares.room("b", 0.5, until=1.0, now=0.0) == pytest.approx(0.25)
    assert shares.room("none", 0.0, until=1.0, now=0.0) == 0.0


def test_a_key_that_nobody_asks_about_any_more_is_forgotten() -> None:
    shares = Shares(9)
    shares.room("a", 0.6, until=1.0, now=0.0)
    assert shares.room("b", 0.1, until=1.5, now=0.5) == pytest.approx(0.4)
    assert shares.room("b", 0.1, until=2.0, now=1.0) == 1.0


def test_so_many_keys_are_remembered_the_last() -> None:
    shares = Shares(2)
    for key in "abc":
        room = shares.room(key, 0.25, until=9.0, now=0.0)
    assert room == 0.75


def test_a_share_too_small_for_the_sum_to_show_is_no_division_by_nothing() -> None:
    shares = Shares(9)
    shares.room("large", 1e9, until=9.0, now=0.0)
    shares.room("tiny", 1e-9, until=9.0, now=0.0)
    shares.room("large", 0.0, until=9.0, now=0.0)
    assert shares.room("tiny", 1e-9, until=9.0, now=0.0) == pytest.approx(1.0)
