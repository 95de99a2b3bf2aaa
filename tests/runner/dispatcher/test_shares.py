"""What the other keys leave of the workers to one."""

import pytest

from paceline.runner.dispatcher.shares import Shares


def test_a_key_alone_has_all_workers() -> None:
    shares = Shares()
    assert shares.room("a", 0.3, until=1.0, now=0.0) == 1.0
    assert shares.room("a", 5.0, until=1.0, now=0.5) == 1.0


def test_a_key_has_what_the_others_leave() -> None:
    shares = Shares()
    shares.room("a", 0.3, until=1.0, now=0.0)
    assert shares.room("b", 0.1, until=1.0, now=0.0) == pytest.approx(0.7)
    assert shares.room("a", 0.2, until=1.0, now=0.0) == pytest.approx(0.9)


def test_where_all_need_too_much_each_has_its_share_of_the_need() -> None:
    shares = Shares()
    shares.room("a", 1.5, until=1.0, now=0.0)
    assert shares.room("b", 0.5, until=1.0, now=0.0) == pytest.approx(0.25)
    assert shares.room("none", 0.0, until=1.0, now=0.0) == 0.0


def test_a_key_that_nobody_asks_about_any_more_is_forgotten() -> None:
    shares = Shares()
    shares.room("a", 0.6, until=1.0, now=0.0)
    assert shares.room("b", 0.1, until=1.5, now=0.5) == pytest.approx(0.4)
    assert shares.room("b", 0.1, until=2.0, now=1.0) == 1.0
