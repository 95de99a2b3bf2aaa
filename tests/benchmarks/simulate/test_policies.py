"""Each policy in a scene small enough to follow by hand: resnet takes 5 + 0.5 b milliseconds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.simulate.contenders import CONTENDERS, contender
from benchmarks.simulate.latency import RESNET, exact
from benchmarks.simulate.policy import Decision, Queue, Setting

MS = 0.001

Scene = list[tuple[float, list[int]]]  # (start in ms, requests)


def batches(name: str, arrivals_ms: list[float], budget_ms: float, workers: int = 1) -> Scene:
    setting = Setting(RESNET.table(), budget_ms * MS, workers, 128)
    arrivals = [at * MS for at in arrivals_ms]
    outcome = CONTENDERS[name](setting, arrivals, exact(setting.table))
    return [(round(batch.start / MS, 6), list(batch.requests)) for batch in outcome.batches]


def dropped(name: str, arrivals_ms: list[float], budget_ms: float) -> list[int]:
    setting = Setting(RESNET.table(), budget_ms * MS, 1, 128)
    outcome = CONTENDERS[name](setting, [at * MS for at in arrivals_ms], exact(setting.table))
    return [number for _, requests in outcome.drops for number in requests]


def test_none_serves_one_at_a_time_and_drops_the_hopeless() -> None:
    assert batches("none", [0, 0, 0], 12) == [(0, [0]), (5.5, [1])]
    assert dropped("none", [0, 0, 0], 12) == [2]


def test_eager_greedy_takes_all_that_waits() -> None:
    assert batches("eager greedy", [0, 1, 2, 3], 100) == [(0, [0]), (5.5, [1, 2, 3])]


def test_eager_greedy_drops_only_what_is_late_already() -> None:
    assert batches("eager greedy", [0, 1, 2], 5.4) == [(0, [0]), (5.5, [1, 2])]
    assert dropped("eager greedy", [0, 0.05, 2], 5.4) == [1]


def test_the_timeout_is_paid_even_when_idle() -> None:
    assert batches("timeout S/4", [0, 2, 9], 20) == [(5, [0, 1]), (14, [2])]


def test_clipper_grows_its_cap_by_one_a_batch() -> None:
    sizes = [len(requests) for _, requests in batches("Clipper AIMD", [0] * 9, 1000)]
    assert sizes == [1, 2, 3, 3]


def test_deadline_fit_cuts_the_batch_to_the_head() -> None:
    """At 5.5 the head has 6.5 ms left, enough for 3 rows; then 7 ms are too late for the others."""
    assert batches("eager fit", [0, 0.5, 1, 1, 1], 12) == [(0, [0]), (5.5, [1, 2, 3, 4])]
    assert batches("eager fit", [0, 0.5, 1, 1, 1], 11.9) == [(0, [0]), (5.5, [1, 2, 3])]


def test_early_drop_slides_to_a_head_that_allows_the_window() -> None:
    """A budget of 12 ms has a target of 2. At 11.5 there is time for the fourth alone, but not for a batch of two."""
    arrivals = [0, 0.1, 2, 5.2, 6, 6]
    assert batches("early drop", arrivals, 12) == [(0, [0]), (5.5, [1, 2]), (11.5, [4, 5])]
    assert dropped("early drop", arrivals, 12) == [3]


def test_deferral_waits_until_one_more_would_not_fit() -> None:
    """The window of one row opens at 20 - l(2) = 14; with the second there it opens at 20 - l(3) = 13.5."""
    assert batches("deferred", [0], 20) == [(14, [0])]
    assert batches("deferred", [0, 2], 20) == [(13.5, [0, 1])]


def test_cork_drops_heads_until_the_whole_queue_fits() -> None:
    """At 5.5 seven wait and l(7) = 8.5, too long for what came by 2.0; without three of them l(4) = 7 is in time for
    what came after 0.5."""
    arrivals = [0, 0.5, 1.2, 3, 3, 3, 3]
    assert batches("CORK drop rule", arrivals, 12) == [(0, [0]), (5.5, [2, 3, 4, 5, 6])]
    assert dropped("CORK drop rule", arrivals, 12) == [1]


def test_cork_holds_while_the_mean_wait_is_longer() -> None:
    """The second waits 5 ms for the worker, so the fifth is held for company; the first ever is not."""
    name = "CORK event driven"
    assert batches(name, [0, 0.5, 30], 100) == [(0, [0]), (5.5, [1]), (31.875, [2])]
    assert batches("CORK 1 ms polls", [0, 0.5, 30], 100)[-1] == (31, [2])


def test_several_workers_share_one_queue() -> None:
    assert batches("eager fit", [0, 1, 2, 3], 20, workers=2) == [(0, [0]), (1, [1]), (5.5, [2, 3])]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("per-worker rr", [[0, 2], [1, 3]]),
        ("per-worker jsq", [[0, 2, 3], [1]]),
    ],
)
def test_routers_deal_out_on_arrival(name: str, expected: list[list[int]]) -> None:
    """Workers are free again at 5.5 and 6.5; the fourth comes at 12, when both are idle."""
    setting = Setting(RESNET.table(), 1.0, 2, 128)
    outcome = CONTENDERS[name](setting, [0, 0.001, 0.006, 0.012], exact(setting.table))
    shares: list[list[int]] = [[], []]
    for batch in outcome.batches:
        shares[batch.worker] += batch.requests
    assert shares == expected


def test_a_policy_plugs_in_by_its_name() -> None:
    setting = Setting(RESNET.table(), 0.1)
    outcome = contender(f"{__name__}:Pairs")(setting, [0.0, 0.001, 0.002, 0.003], exact(setting.table))
    assert [len(batch.requests) for batch in outcome.batches] == [2, 2]


class Pairs:
    """Always two at a time."""

    def __init__(self, setting: Setting) -> None:
        pass

    def decide(self, queue: Queue, now: float) -> Decision:
        return Decision(0, 2 if queue.tail - queue.head >= 2 else 0)


def test_the_example_of_the_readme_runs() -> None:
    readme = (Path(__file__).parents[3] / "benchmarks" / "simulate" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
