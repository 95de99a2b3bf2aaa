"""The restart policy on a virtual clock."""

from __future__ import annotations

import pytest

from paceline.protocol.clock import VirtualClock
from paceline.supervisor.policy import (
    BACKOFF_MAX_S,
    DEATHS_MAX,
    HEALTHY_S,
    Blame,
    Death,
    Decision,
    GiveUp,
    Restart,
    RestartPolicy,
    blame,
)

CRASH = Death("exit code 7")
LOAD_ERROR = Death("no such file", load_error=True)
EXCUSED = Death("killed by SIGKILL", blame=Blame.NOBODY)
BY_REQUEST = Death("killed by SIGSEGV", blame=Blame.OTHERS)


class Life:
    """A child that dies again and again."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.policy = RestartPolicy()

    def dies(self, death: Death, after_s: float = 0.0, ready: bool = True) -> Decision:
        if ready:
            self.policy.ready(self.clock.now())
        self.clock.advance(after_s)
        return self.policy.died(death, self.clock.now())

    def delay(self, death: Death, after_s: float = 0.0) -> float:
        decision = self.dies(death, after_s)
        assert isinstance(decision, Restart)
        self.clock.advance(decision.delay_s)
        return decision.delay_s


def test_delay_doubles_from_death_to_death() -> None:
    life = Life()
    assert [life.delay(CRASH) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]


def test_delay_has_a_cap() -> None:
    life = Life()
    delays = [life.delay(CRASH, after_s=20.0) for _ in range(20)]
    assert max(delays) == BACKOFF_MAX_S
    assert delays[-1] == BACKOFF_MAX_S


def test_fifth_death_within_a_minute_gives_up_and_says_why() -> None:
    life = Life()
    for _ in range(DEATHS_MAX - 1):
        assert isinstance(life.dies(CRASH, after_s=10.0), Restart)
    decision = life.dies(CRASH, after_s=10.0)
    assert isinstance(decision, GiveUp)
    assert decision.reason == "5 deaths within 60 s, the last one: exit code 7"


def test_deaths_spread_over_more_than_a_minute_never_give_up() -> None:
    life = Life()
    assert all(isinstance(life.dies(CRASH, after_s=16.0), Restart) for _ in range(100))


def test_delay_starts_over_after_a_healthy_time() -> None:
    life = Life()
    life.delay(CRASH)
    life.delay(CRASH)
    assert life.delay(CRASH, after_s=HEALTHY_S) == 0.1


def test_time_before_ready_is_not_healthy() -> None:
    life = Life()
    life.delay(CRASH)
    decision = life.dies(CRASH, after_s=HEALTHY_S, ready=False)
    assert decision == Restart(0.2)


def test_third_load_error_gives_up_with_its_reason() -> None:
    life = Life()
    assert isinstance(life.dies(LOAD_ERROR, ready=False), Restart)
    assert isinstance(life.dies(LOAD_ERROR, ready=False), Restart)
    decision = life.dies(LOAD_ERROR, ready=False)
    assert decision == GiveUp("3 tries to load failed: no such file")


def test_load_errors_are_forgotten_once_ready() -> None:
    life = Life()
    life.dies(LOAD_ERROR, ready=False)
    life.dies(LOAD_ERROR, ready=False)
    life.delay(EXCUSED, after_s=61.0)
    assert isinstance(life.dies(LOAD_ERROR, ready=False), Restart)


def test_excused_deaths_cost_neither_budget_nor_wait() -> None:
    life = Life()
    assert {life.delay(EXCUSED, after_s=0.5) for _ in range(200)} == {0.1}


def test_deaths_by_requests_cost_waits_but_never_the_budget() -> None:
    life = Life()
    assert [life.delay(BY_REQUEST) for _ in range(10)][:4] == [0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("was_ready", "served", "served_before", "in_hand", "from_outside", "blamed"),
    [
        (True, True, False, True, False, Blame.NOBODY),
        (True, False, False, False, True, Blame.NOBODY),
        (True, False, True, True, False, Blame.OTHERS),
        (True, False, False, True, True, Blame.CHILD),
        (True, False, True, False, False, Blame.CHILD),
        (False, False, True, False, True, Blame.CHILD),
    ],
)
def test_blame_is_on_the_child_unless_it_proved_itself(
    was_ready: bool, served: bool, served_before: bool, in_hand: bool, from_outside: bool, blamed: Blame
) -> None:
    assert blame(was_ready, served, served_before, in_hand, from_outside) == blamed
