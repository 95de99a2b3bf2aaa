"""The largest rate that still meets a condition, by bisection."""

from __future__ import annotations

from collections.abc import Callable

STEPS = 8


def capacity(meets: Callable[[float], bool], ceiling: float, floor: float = 0.0, steps: int = STEPS) -> float:
    """Between 0 and `ceiling`, to within ceiling / 2**steps. `meets(rate)` says whether the rate is served.

    `floor`, if given, is tried first: near the ceiling that saves the long runs, which are those that meet it.
    """
    low, high = 0.0, ceiling
    if floor:
        low, high = (floor, ceiling) if meets(floor) else (0.0, floor)
    while high - low > ceiling / 2**steps:
        middle = (low + high) / 2
        if meets(middle):
            low = middle
        else:
            high = middle
    return low
