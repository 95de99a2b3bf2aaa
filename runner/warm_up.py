"""Before a worker is ready: run each method that has a stored sample at 1, 2, 4, ... rows up to its cap, or at the
buckets' sizes.

It pays first-call costs before the first request does, and tells the dispatcher what batches take. Bounded in time: the
ladder ends where the next size would not fit; buckets are run all, since each may have to be compiled. Knows no torch;
called by the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Protocol, TypeAlias

from paceline.protocol.errors import RequestError
from paceline.protocol.measure import measure
from paceline.protocol.pool import Observation
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tree import Tree
from paceline.runner.rows import ladder

logger = logging.getLogger(__name__)

WARM_UP_S = 2.0
_NEXT_SIZE_FACTOR = 4.0  # the next size has twice the rows, and each size runs twice

WireCall: TypeAlias = tuple[tuple[Tree, ...], dict[str, Tree]]


class Ladder(Protocol):
    """The executor's part."""

    def warm_up(
        self,
        method_name: str,
        sample_args: tuple[Tree, ...],
        sample_kwargs: dict[str, Tree],
        sizes: Sequence[int],
        now: Callable[[], float],
    ) -> Iterator[tuple[int, float]]: ...


def warm_up(
    engine: Ladder,
    methods: Iterable[MethodSpec],
    samples: Mapping[str, WireCall],
    rows_max: int,
    now: Callable[[], float],
    budget_s: float = WARM_UP_S,
    buckets: Sequence[int] = (),
) -> list[Observation]:
    """What was seen, all methods together within about `budget_s`. A sample that fails is logged and left out.

    buckets: the sizes to run, in rising order; then the time is not bounded.
    """
    sampled = [method for method in methods if method.name in samples]
    seen: list[Observation] = []
    for number, method in enumerate(sampled):
        began = now()
        share_s = inf if buckets else budget_s / (len(sampled) - number)
        cap = min(method.max_batch_size or rows_max, rows_max)
        sizes = ladder(cap, buckets) if method.batchable else (1,)
        try:
            seen += _climb(engine, method, samples[method.name], sizes, now, began + share_s)
        except RequestError as error:
            logger.warning("warm-up failed", extra={"method": method.name, "error": error.message})
        budget_s -= now() - began
    return seen


def _climb(
    engine: Ladder, method: MethodSpec, sample: WireCall, sizes: Sequence[int], now: Callable[[], float], end: float
) -> Iterator[Observation]:
    args, kwargs = sample
    key = measure(method, args, kwargs).key
    for rows, seconds in engine.warm_up(method.name, args, kwargs, sizes, now):
        yield Observation(method.name, key, rows, seconds)
        if now() + _NEXT_SIZE_FACTOR * seconds > end:
            return
