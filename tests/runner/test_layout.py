"""Batches of calls of different length, and batches filled up to buckets: what the method sees, what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ModelRejectedInput, RequestError
from paceline.protocol.measure import measure
from paceline.protocol.padding import element
from paceline.protocol.signature import InputSpec, MethodSpec, parse_signatures
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree
from paceline.runner.calls import BatchRun, Call
from paceline.runner.executor import TORCH_DTYPES, Executor
from paceline.runner.layout import lay_out
from paceline.runner.rows import UnlikeTrees

Array = npt.NDArray[Any]


def spec(**options: Any) -> MethodSpec:
    return parse_signatures({"f": {"batchable": True, **options}})["f"]


def executor(method: Callable[..., object], made: MethodSpec, cap: int = 64, buckets: Sequence[int] = ()) -> Executor:
    return Executor(lambda _: method, {"f": made}, max_batch_size=cap, buckets=buckets)


def now() -> float:
    return 0.0


def ids(*lengths: int, rows: int = 1, start: int = 1) -> list[Call]:
    """Calls of int64[rows, length], of numbers that are not 0 and differ."""
    calls = []
    for length in lengths:
        array = np.arange(start, start + rows * length, dtype=np.int64).reshape(rows, length)
        calls.append(Call((from_numpy(array),), rows=rows))
        start += rows * length
    return calls


def arrays(run: BatchRun) -> list[Any]:
    return [plain(outcome) for outcome in run.outcomes]


def plain(tree: object) -> Any:
    if isinstance(tree, RequestError):
        raise tree
    if isinstance(tree, Tensor):
        return tree.numpy().tolist()
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(plain(item) for item in tree)
    return tree


class Seeing:
    """A method that keeps what it was called with, and returns the rows' sums."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.seen.append((args, kwargs))
        return next(arg for arg in args if isinstance(arg, torch.Tensor)).sum(1)


# Lengths


def test_calls_of_any_length_run_at_once_padded_to_the_longest_ones_multiple() -> None:
    method = Seeing()
    made = spec(pad={1: {"multiple_of": 4, "value": -1}}, mask="mask")
    run = executor(method, made).run("f", ids(2, 5, 1), now)
    ((x,), named) = method.seen[0]
    assert x.tolist() == [[1, 2, *[-1] * 6], [3, 4, 5, 6, 7, -1, -1, -1], [8, *[-1] * 7]]
    assert named["mask"].tolist() == [[at < length for at in range(8)] for length in (2, 5, 1)]
    assert named["mask"].dtype is torch.bool
    assert run.learn
    assert len(method.seen) == 1


def test_a_lone_call_is_padded_too_and_all_its_rows_are_of_one_length() -> None:
    method = Seeing()
    executor(method, spec(pad={1: {"multiple_of": 4}}, mask="mask")).run("f", ids(3, rows=2), now)
    ((x,), named) = method.seen[0]
    assert x.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]
    assert named["mask"].tolist() == [[True, True, True, False]] * 2


def test_the_longest_length_allowed_is_not_passed_by_rounding() -> None:
    method = Seeing()
    executor(method, spec(pad={1: {"multiple_of": 8, "max": 10}})).run("f", ids(9, 3), now)
    assert method.seen[0][0][0].shape == (2, 10)
    assert method.seen[0][1] == {}


@pytest.mark.parametrize("dtype", [dtypes.BOOL, dtypes.I64, dtypes.BF16, dtypes.F32], ids=repr)
def test_the_mask_has_the_dtype_that_its_sample_has_shown(dtype: DType) -> None:
    method = Seeing()
    made = spec(pad={1: {"multiple_of": 4}}, mask="mask")
    made = replace(made, inputs=(InputSpec("ids"), InputSpec("mask", dtype, required=False)))
    executor(method, made).run("f", ids(3, 1), now)
    mask = method.seen[0][1]["mask"]
    assert mask.dtype is TORCH_DTYPES[dtype]
    assert mask.double().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_any_dtype_is_filled_with_the_value(dtype: DType) -> None:
    words = [Tensor(dtype, (1, length), element(dtype, 0).tobytes() * length) for length in (1, 3)]
    layout = lay_out(spec(pad={1: {"value": 1}}), (), [((word,), {}) for word in words], [1, 1])
    ((joined,), _) = layout.batch(lambda nbytes: memoryview(bytearray(nbytes)))
    zero, one = element(dtype, 0).tobytes(), element(dtype, 1).tobytes()
    assert isinstance(joined, Tensor)
    assert (joined.shape, bytes(joined.data)) == ((2, 3), zero + one * 2 + zero * 3)


def test_only_named_inputs_are_padded_and_others_are_joined_as_ever() -> None:
    method = Seeing()
    made = spec(pad={1: {"inputs": ["x", "types"]}})
    made = replace(made, inputs=(InputSpec("x"), InputSpec("scores"), InputSpec("types")))
    calls = [
        Call((from_numpy(np.ones((1, length), np.int64)), from_numpy(np.ones((1, 5), np.float32)), {"deep": tokens}))
        for length, tokens in (
            (1, from_numpy(np.ones((1, 1, 2), np.uint8))),
            (3, from_numpy(np.ones((1, 3, 2), np.uint8))),
        )
    ]
    executor(method, made).run("f", calls, now)
    x, scores, types = method.seen[0][0]
    assert (x.shape, scores.shape, types["deep"].shape) == ((2, 3), (2, 5), (2, 3, 2))
    assert types["deep"][0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_what_has_no_padded_dim_goes_along() -> None:
    method = Seeing()
    calls = [
        Call((call.args[0], Strings((1, 1), (b"a",)), from_numpy(np.ones(1, np.float32)), "plain", None))
        for call in ids(2, 3)
    ]
    executor(method, spec(pad={1: {}})).run("f", calls, now)
    x, texts, weights, text, nothing = method.seen[0][0]
    assert (x.shape, texts.tolist(), weights.tolist(), text, nothing) == (
        (2, 3),
        [[b"a"], [b"a"]],
        [1, 1],
        "plain",
        None,
    )


def test_calls_of_no_length_at_all_are_padded_like_any() -> None:
    method = Seeing()
    run = executor(method, spec(pad={1: {"multiple_of": 2}}, mask="mask")).run("f", ids(0, 1), now)
    assert arrays(run) == [[0], [1]]
    assert method.seen[0][1]["mask"].tolist() == [[False, False], [True, False]]
    run = executor(method, spec(pad={1: {"multiple_of": 2}}, mask="mask")).run("f", ids(0), now)
    assert method.seen[1][1]["mask"].shape == (1, 0)
    assert arrays(run) == [[0]]


def test_a_call_that_lies_about_its_lengths_fails_and_is_not_cut() -> None:
    """A native client measures its calls itself; the join trusts nobody."""
    two = tuple(from_numpy(np.ones((1, length), np.int64)) for length in (2, 3))
    layout = lay_out(spec(pad={1: {}}), (), [(two, {}), (two, {})], [1, 1])
    with pytest.raises(UnlikeTrees, match="they must agree in all but dim 0 and the padded dim 1"):
        layout.batch(lambda nbytes: memoryview(bytearray(nbytes)))


def test_a_call_without_the_dim_that_is_to_be_padded_fails_and_is_not_read_past_its_shape() -> None:
    made = replace(spec(pad={1: {"inputs": ["x"]}}), inputs=(InputSpec("x"),))
    layout = lay_out(made, (), [((from_numpy(np.ones(1, np.int64)),), {})], [1])
    with pytest.raises(UnlikeTrees, match="the padded dim 1"):
        layout.batch(lambda nbytes: memoryview(bytearray(nbytes)))


def test_padding_and_joining_are_one_copy_into_one_buffer() -> None:
    taken: list[int] = []

    def take(nbytes: int) -> memoryview:
        taken.append(nbytes)
        return memoryview(bytearray(nbytes))

    calls = ids(2, 5)
    lay_out(spec(pad={1: {"multiple_of": 8}}, mask="mask"), (), [(c.args, c.kwargs) for c in calls], [1, 1]).batch(take)
    assert taken == [2 * 8 * 8, 2 * 8]


# Outputs


def tokens_and_pooled(x: torch.Tensor, mask: torch.Tensor) -> dict[str, object]:
    """Something for each token, something for each row, and something that is as wide as a batch may happen to be."""
    return {"tokens": x * 2, "deep": [(x * mask).unsqueeze(2).repeat(1, 1, 2)], "wide": torch.ones(len(x), 8)}


def test_outputs_that_follow_the_length_are_cut_back_to_each_calls_own() -> None:
    made = spec(pad={1: {"multiple_of": 4}}, mask="mask", unpad=1)
    run = executor(tokens_and_pooled, made).run("f", ids(2, 3), now)
    assert arrays(run) == [
        {"tokens": [[2, 4]], "deep": [[[[1, 1], [2, 2]]]], "wide": [[1] * 8]},
        {"tokens": [[6, 8, 10]], "deep": [[[[3, 3], [4, 4], [5, 5]]]], "wide": [[1] * 8]},
    ]


def test_without_unpad_outputs_are_left_alone() -> None:
    run = executor(tokens_and_pooled, spec(pad={1: {"multiple_of": 4}}, mask="mask")).run("f", ids(2), now)
    assert arrays(run)[0]["tokens"] == [[2, 4, 0, 0]]


def test_an_output_that_is_as_wide_by_chance_is_not_cut_where_a_sample_has_shown_which_follow() -> None:
    outputs = (
        InputSpec("tokens", shape=(-1, -1)),
        InputSpec("deep.0", shape=(-1, -1, 2)),
        InputSpec("wide", shape=(-1, 8)),
    )
    made = replace(spec(pad={1: {"multiple_of": 8}}, mask="mask", unpad=1), outputs=outputs)
    first, second = arrays(executor(tokens_and_pooled, made).run("f", ids(2, 5), now))
    assert (len(first["tokens"][0]), len(first["deep"][0][0]), len(first["wide"][0])) == (2, 2, 8)
    assert (len(second["tokens"][0]), len(second["deep"][0][0]), len(second["wide"][0])) == (5, 5, 8)


# Buckets


def test_a_batch_is_filled_up_to_its_bucket_with_copies_of_its_last_row() -> None:
    method = Seeing()
    run = executor(method, spec(), buckets=(8, 5, 1)).run("f", [*ids(2), *ids(2, rows=2, start=10)], now)
    assert method.seen[0][0][0].tolist() == [[1, 2], [10, 11], *[[12, 13]] * 3]
    assert arrays(run) == [[3], [21, 25]]
    assert run.learn


def test_batches_beyond_the_largest_bucket_run_as_they_are() -> None:
    method = Seeing()
    executor(method, spec(), buckets=(1, 2)).run("f", ids(2, 2, 2), now)
    assert len(method.seen[0][0][0]) == 3


def test_a_request_over_the_cap_runs_in_slices_each_in_its_bucket() -> None:
    method = Seeing()
    run = executor(method, spec(), cap=4, buckets=(2, 4)).run("f", ids(1, rows=9), now)
    assert [len(args[0]) for args, _ in method.seen] == [4, 4, 2]
    assert arrays(run) == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]


def test_a_method_that_does_not_batch_has_no_buckets() -> None:
    method = Seeing()
    executor(method, MethodSpec("f"), buckets=(4,)).run("f", ids(2, 2), now)
    assert [len(args[0]) for args, _ in method.seen] == [1, 1]


def test_copies_that_fill_a_bucket_are_as_long_as_the_call_they_copy() -> None:
    method = Seeing()
    made = spec(pad={1: {"multiple_of": 4}}, mask="mask", unpad=1)
    executor(method, made, buckets=(4,)).run("f", ids(3, 1), now)
    (x,), named = method.seen[0]
    assert x.tolist() == [[1, 2, 3, 0], *[[4, 0, 0, 0]] * 3]
    assert named["mask"].sum(1).tolist() == [3, 1, 1, 1]


def test_texts_fill_buckets_too() -> None:
    run = executor(lambda texts: texts, spec(), buckets=(4,)).run(
        "f", [Call((Strings((1,), (text,)),)) for text in (b"a", b"b")], now
    )
    assert [cast(Strings, outcome).items for outcome in run.outcomes] == [(b"a",), (b"b",)]


def test_memory_that_does_not_hold_a_bucket_caps_the_size_below_it() -> None:
    def method(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 4:
            raise MemoryError
        return x.sum(1)

    run = executor(method, spec(), buckets=(1, 2, 4, 8)).run("f", ids(*[1] * 5), now)
    assert arrays(run) == [[1], [2], [3], [4], [5]]
    assert run.cap_rows == 4
    run = executor(method, spec(idempotent=False), buckets=(4, 8)).run("f", ids(1, rows=5), now)
    assert run.cap_rows == 4  # half of the 8 that it did not hold


def test_a_bad_call_is_found_among_padded_ones_and_its_neighbours_are_answered() -> None:
    def method(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if bool((x == 4).any()):
            raise ValueError("no fours")
        return (x * mask).sum(1)

    made = spec(pad={1: {"multiple_of": 4, "value": -1}}, mask="mask")
    run = executor(method, made, buckets=(1, 4)).run("f", ids(3, 2, 1), now)
    assert [type(outcome) for outcome in run.outcomes] == [Tensor, ModelRejectedInput, Tensor]
    assert [plain(run.outcomes[at]) for at in (0, 2)] == [[6], [6]]


# Batched equals one by one


@st.composite
def masked_batches(draw: st.DrawFn) -> tuple[MethodSpec, list[Call]]:
    """A method with random dims and multiples, and calls of one random structure of random rows and lengths."""
    batch_dim, pad_dim = draw(st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 1)]))
    rank = max(batch_dim, pad_dim) + 1
    made = spec(
        batch_dim=batch_dim,
        pad={pad_dim: {"multiple_of": draw(st.sampled_from([1, 3, 8])), "value": draw(st.sampled_from([0, 1, 7]))}},
        mask="mask",
        unpad=pad_dim,
    )
    forms = draw(
        st.lists(
            st.tuples(
                st.sampled_from((np.float32, np.int64, np.uint8, np.float16)),
                st.lists(st.integers(1, 3), min_size=rank, max_size=rank + 1),
            ),
            min_size=1,
            max_size=3,
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    calls = []
    for rows, length in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), min_size=1, max_size=6)):
        leaves: list[Tree] = []
        for kind, inner in forms:
            shape = list(inner)
            shape[batch_dim], shape[pad_dim] = rows, length
            leaves.append(from_numpy(rng.integers(0, 9, shape).astype(kind)))
        calls.append(Call((leaves[0],), {"more": {"deep": leaves[1:]}}, rows))
    return made, calls


@settings(max_examples=60, deadline=None)
@given(masked_batches(), st.integers(1, 12), st.sampled_from([(), (2, 4, 8), (5,)]))
def test_a_masked_method_gives_each_call_what_it_gives_it_alone(
    batch: tuple[MethodSpec, list[Call]], cap: int, buckets: tuple[int, ...]
) -> None:
    made, calls = batch
    assert made.padding is not None
    batch_dim, pad_dim = made.batch_dim[0], made.padding.dim

    def method(x: torch.Tensor, more: dict[str, list[torch.Tensor]], mask: torch.Tensor) -> Any:
        """Per leaf: its tokens doubled, and the masked sum of each row, exact in float64."""
        results = []
        for leaf in (x, *more["deep"]):
            wide = leaf.double().movedim((batch_dim, pad_dim), (0, 1))
            masked = wide * mask.reshape(*mask.shape, *[1] * (wide.dim() - 2))
            sums = masked.flatten(1).sum(1)
            results.append((leaf * 2, sums.reshape([-1 if dim == batch_dim else 1 for dim in range(leaf.dim())])))
        return results

    assert len({measure(made, call.args, call.kwargs).key for call in calls}) == 1
    together = executor(method, made, cap, buckets).run("f", calls, now)
    for call, outcome in zip(calls, together.outcomes, strict=True):
        (alone,) = executor(method, replace_multiple(made), cap).run("f", [call], now).outcomes
        assert plain(outcome) == plain(alone)


def replace_multiple(made: MethodSpec) -> MethodSpec:
    """`made` without rounding: a lone call is not padded at all."""
    assert made.padding is not None
    return replace(made, padding=replace(made.padding, multiple_of=1))


def test_warm_up_pads_its_samples_as_requests_are() -> None:
    method = Seeing()
    made = spec(pad={1: {"multiple_of": 4}}, mask="mask")
    ladder = executor(method, made, buckets=(1, 4)).warm_up("f", ids(3)[0].args, {}, (1, 4), now)
    assert [rows for rows, _ in ladder] == [1, 4]
    assert [tuple(args[0].shape) for args, _ in method.seen] == [(1, 4), (1, 4), (4, 4), (4, 4)]
    assert all(named["mask"].shape == args[0].shape for args, named in method.seen)
