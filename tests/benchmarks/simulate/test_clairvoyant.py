"""The clairvoyant bound against a search through every schedule."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from benchmarks.simulate.clairvoyant import fewest_misses, peak_rate, staggered_rate, staggered_rows
from benchmarks.simulate.latency import RESNET, ROUNDING_S, Model


def most_served(
    arrivals: list[float], budget_s: float, table: list[float], batch_max: int, free_at: float = float("-inf")
) -> int:
    """Tries every subset, contiguous or not, as the next batch, and every order of batches."""
    best = 0
    for size in range(1, min(batch_max, len(arrivals)) + 1):
        for members in combinations(arrivals, size):
            end = max(free_at, members[-1]) + table[size]
            if end <= members[0] + budget_s + ROUNDING_S:
                rest = list(arrivals)
                for member in members:
                    rest.remove(member)
                best = max(best, size + most_served(rest, budget_s, table, batch_max, end))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_the_bound_is_what_an_exhaustive_search_finds(seed: int) -> None:
    chance = random.Random(seed)
    model = Model("any", chance.uniform(0.1, 4), chance.uniform(0.1, 6), steps=seed % 3 == 0)
    table = model.table()
    batch_max = chance.choice([1, 2, 3, 6])
    budget_s = chance.uniform(0.8, 3) * table[1]
    gap_s = chance.uniform(0.05, 1.2) * table[1]
    arrivals = sorted(chance.uniform(0, 6 * gap_s) for _ in range(6))
    served = most_served(arrivals, budget_s, table, batch_max)
    assert fewest_misses(arrivals, budget_s, table, batch_max) == len(arrivals) - served, f"seed {seed}"


def test_two_at_once_share_a_batch() -> None:
    assert fewest_misses([0.0, 0.0], 0.006, RESNET.table()) == 0
    assert fewest_misses([0.0, 0.0], 0.0059, RESNET.table()) == 1


def test_knowing_the_next_arrival_saves_a_batch() -> None:
    """An eager worker would start the first alone and be late for the second."""
    assert fewest_misses([0.0, 0.001], 0.0072, RESNET.table()) == 0


def test_the_band_grows_where_it_is_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = [number * 0.0001 for number in range(300)]
    wide = fewest_misses(arrivals, 0.02, RESNET.table())
    monkeypatch.setattr("benchmarks.simulate.clairvoyant.BAND", 2)
    assert fewest_misses(arrivals, 0.02, RESNET.table()) == wide > 0


def test_a_proof_of_too_many_misses_ends_it() -> None:
    arrivals = [number * 0.0001 for number in range(300)]
    assert fewest_misses(arrivals, 0.02, RESNET.table(), misses_max=5) == 6


def test_the_staggered_rule_is_that_of_the_reference() -> None:
    table = RESNET.table()
    assert round(staggered_rate(2 * table[1], table, 8)) == 7579
    assert round(staggered_rate(5 * table[1], table, 2)) == 2889
    assert staggered_rows(2 * table[1], table, 8) == 9


def test_the_peak_rate_is_that_of_the_best_batch_within_the_budget() -> None:
    table = RESNET.table()
    assert peak_rate(3 * table[1], table) == pytest.approx(23 / 0.0165)
