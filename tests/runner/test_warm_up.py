"""The warm-up climbs its ladder within its time, and a sample that fails stops nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from paceline.protocol import dtypes
from paceline.protocol.clock import VirtualClock
from paceline.protocol.errors import ModelRejectedInput
from paceline.protocol.measure import measure
from paceline.protocol.pool import Observation
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Tensor, from_numpy
from paceline.protocol.tree import Tree
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.wire_sample import wire_call
from paceline.runner.warm_up import WireCall, warm_up

ROW = from_numpy(np.zeros((1, 2), np.float32))
CALL: WireCall = ((ROW,), {})


class FakeLadder:
    """A batch of n rows takes n * `row_s` seconds, and runs twice."""

    def __init__(self, clock: VirtualClock, row_s: float) -> None:
        self.clock = clock
        self.row_s = row_s

    def warm_up(
        self,
        method_name: str,
        sample_args: tuple[Tree, ...],
        sample_kwargs: dict[str, Tree],
        sizes: Sequence[int],
        now: Callable[[], float],
    ) -> Iterator[tuple[int, float]]:
        for rows in sizes:
            if method_name == "broken":
                raise ModelRejectedInput("no")
            self.clock.advance(2 * rows * self.row_s)
            yield rows, rows * self.row_s


def climbed(
    row_s: float, *methods: MethodSpec, rows_max: int = 8, buckets: Sequence[int] = ()
) -> tuple[list[Observation], float]:
    """What was seen, and how long it took."""
    clock = VirtualClock()
    began = clock.now()
    samples = {method.name: CALL for method in methods}
    seen = warm_up(FakeLadder(clock, row_s), methods, samples, rows_max, clock.now, 2.0, buckets)
    return seen, clock.now() - began


def test_every_size_up_to_the_cap_is_seen_under_the_key_of_requests() -> None:
    method = MethodSpec("__call__", batchable=True)
    seen, _ = climbed(0.001, method)
    assert [one.rows for one in seen] == [1, 2, 4, 8]
    assert {one.key for one in seen} == {measure(method, (ROW,), {}).key}


def test_cap_of_the_method_ends_its_ladder() -> None:
    seen, _ = climbed(0.001, MethodSpec("__call__", batchable=True, max_batch_size=2))
    assert [one.rows for one in seen] == [1, 2]


def test_method_that_is_not_batchable_runs_as_it_is() -> None:
    seen, _ = climbed(0.001, MethodSpec("__call__"))
    assert [one.rows for one in seen] == [1]


def test_slow_model_stops_climbing_before_the_time_is_over() -> None:
    seen, took_s = climbed(0.2, MethodSpec("a", batchable=True), MethodSpec("b", batchable=True), rows_max=64)
    assert {one.method for one in seen} == {"a", "b"}
    assert took_s <= 2.0


def test_buckets_are_the_sizes_that_are_seen_all_of_them_and_no_other() -> None:
    method = MethodSpec("__call__", batchable=True)
    seen, took_s = climbed(10.0, method, MethodSpec("single"), rows_max=32, buckets=(2, 6, 32))
    assert [(one.method, one.rows) for one in seen] == [
        ("__call__", 2),
        ("__call__", 6),
        ("__call__", 32),
        ("single", 1),
    ]
    assert took_s > 2.0


@pytest.mark.parametrize(("cap", "rows"), [(4, [4]), (6, [4, 6]), (8, [4, 8]), (64, [4, 8])])
def test_buckets_beyond_the_cap_are_seen_as_the_cap(cap: int, rows: list[int]) -> None:
    seen, _ = climbed(0.001, MethodSpec("__call__", batchable=True, max_batch_size=cap), rows_max=64, buckets=(4, 8))
    assert [one.rows for one in seen] == rows


def test_sample_that_fails_leaves_the_other_methods_warm() -> None:
    seen, _ = climbed(0.001, MethodSpec("broken", batchable=True), MethodSpec("__call__", batchable=True))
    assert {one.method for one in seen} == {"__call__"}


def test_sample_travels_in_the_dtype_it_was_saved_in() -> None:
    sample = Sample((torch.ones(2, 3, dtype=torch.bfloat16).t(), [1, "a"]), {"mask": torch.tensor(True)})
    call = wire_call(sample)
    assert call is not None
    (tensor, plain), kwargs = call
    assert isinstance(tensor, Tensor)
    assert (tensor.dtype, tensor.shape, bytes(tensor.data)) == (dtypes.BF16, (3, 2), b"\x80\x3f" * 6)
    assert plain == [1, "a"]
    assert isinstance(kwargs["mask"], Tensor)
    assert kwargs["mask"].shape == ()


def test_sample_that_cannot_travel_is_left_out() -> None:
    assert wire_call(Sample((torch.ones(1, dtype=torch.complex128),))) is None
