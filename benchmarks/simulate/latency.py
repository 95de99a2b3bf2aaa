"""How long batches take: latency tables of the reference models, with steps, jitter and stalls. Seconds, rows."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp

BATCH_MAX = 256
STALL_SHARE = 0.002
STALL_FACTOR = 3.0
TABLE_ROWS = 4096  # CORK asks for batches larger than any that is dispatched
ROUNDING_S = 1e-9  # sums of floats that mean the same instant differ by less

Service = Callable[[int, float], float]  # (rows, time of the start) -> seconds


@dataclass(frozen=True, slots=True)
class Model:
    """A batch of b rows takes `alpha_ms * b + beta_ms`; with `steps` b is first rounded up to a power of two."""

    name: str
    alpha_ms: float
    beta_ms: float
    steps: bool = False

    def seconds(self, rows: int) -> float:
        padded = 1 << (rows - 1).bit_length() if self.steps else rows
        return (self.alpha_ms * padded + self.beta_ms) / 1000

    def table(self) -> list[float]:
        """Seconds by rows; the entry for 0 rows is 0."""
        return [0.0, *(self.seconds(rows) for rows in range(1, TABLE_ROWS + 1))]


RESNET = Model("resnet", 0.5, 5.0)
MLP = Model("mlp", 0.01, 0.2)
CPU = Model("cpu", 4.0, 1.0)
MODELS = {model.name: model for model in (RESNET, MLP, CPU)}


def rows_within(table: Sequence[float], seconds: float, rows_max: int) -> int:
    """The most rows up to `rows_max` that take at most so long; 0 where not even one does."""
    return bisect_right(table, seconds + ROUNDING_S, 1, rows_max + 1) - 1


def exact(table: Sequence[float]) -> Service:
    """Batches take what the table says."""
    return lambda rows, now: table[rows]


def slower_from(table: Sequence[float], since: float, factor: float) -> Service:
    """Batches that start after `since` take `factor` times as long."""
    return lambda rows, now: table[rows] * (factor if now >= since else 1.0)


def jittered(table: Sequence[float], sigma: float, seed: int) -> Service:
    """Lognormal around the table (its median), and one batch in 500 takes three times as long."""
    if sigma == 0:
        return exact(table)
    chance = random.Random(f"jitter {seed}")

    def service(rows: int, now: float) -> float:
        stall = STALL_FACTOR if chance.random() < STALL_SHARE else 1.0
        return table[rows] * exp(chance.gauss(0.0, sigma)) * stall

    return service
