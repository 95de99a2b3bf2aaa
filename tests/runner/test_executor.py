"""The executor with real torch on the CPU: joining, splitting, limits, failures, warm-up."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import (
    DeadlineExceeded,
    Internal,
    ModelError,
    ModelRejectedInput,
    RequestError,
)
from paceline.protocol.measure import measure
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree
from paceline.runner import executor as executor_module
from paceline.runner.calls import BatchRun, Call, DeviceBroken, Outcome
from paceline.runner.executor import TORCH_DTYPES, CudaDevice, Executor
from paceline.runner.isolation import OUTPUT_SEARCHES
from paceline.runner.rows import ladder

Method = Callable[..., object]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def clock(time_s: float = 0.0) -> Callable[[], float]:
    return lambda: time_s


def batched(method: Method, cap: int = 64, **options: Any) -> Executor:
    return Executor(lambda _: method, {"f": MethodSpec("f", batchable=True, **options)}, max_batch_size=cap)


def single(method: Method) -> Executor:
    return Executor(lambda _: method, {"f": MethodSpec("f")})


def array(*shape: int, start: float = 0.0) -> npt.NDArray[np.float32]:
    return np.arange(start, start + math.prod(shape), dtype=np.float32).reshape(shape)


def call(*args: Any, rows: int = 1, deadline_s: float = math.inf, request_id: str = "", **kwargs: Any) -> Call:
    return Call(
        tuple(wired(arg) for arg in args),
        {key: wired(value) for key, value in kwargs.items()},
        rows,
        deadline_s,
        request_id,
    )


def wired(value: Any) -> Tree:
    if isinstance(value, np.ndarray):
        return from_numpy(value)
    if isinstance(value, dict):
        return {key: wired(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(wired(item) for item in value)
    return value  # type: ignore[no-any-return]  # a leaf as it is


def numbers(count: int, **options: Any) -> list[Call]:
    """`count` calls of one row, float32[1, 1], that hold 0, 1, 2, ..."""
    return [call(np.array([[index]], np.float32), request_id=f"r{index}", **options) for index in range(count)]


def plain(tree: Outcome) -> Any:
    """`tree` with lists of numbers in place of tensors."""
    if isinstance(tree, RequestError):
        raise tree
    if isinstance(tree, Tensor):
        return tree.numpy().tolist()
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(plain(item) for item in tree)
    return tree


def results(run: BatchRun) -> list[Any]:
    return [plain(outcome) for outcome in run.outcomes]


def error(outcome: Outcome) -> RequestError:
    assert isinstance(outcome, RequestError), outcome
    return outcome


class Counting:
    """A method that remembers the rows of each of its calls."""

    def __init__(self, method: Callable[[torch.Tensor], object]) -> None:
        self.method = method
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor) -> object:
        self.sizes.append(len(x))
        return self.method(x)


def failing_on(bad: set[int], failure: Callable[[], BaseException]) -> Counting:
    def method(x: torch.Tensor) -> torch.Tensor:
        if bad & {int(value) for value in x.flatten()}:
            raise failure()
        return x + 1

    return Counting(method)


def fitting(rows: int, failure: Callable[[], BaseException] = torch.cuda.OutOfMemoryError) -> Counting:
    def method(x: torch.Tensor) -> torch.Tensor:
        if len(x) > rows:
            raise failure()
        return x + 1

    return Counting(method)


# Joining and splitting


def test_a_batch_is_one_call_of_the_method() -> None:
    method = Counting(lambda x: x * 2)
    run = batched(method).run("f", numbers(64), clock())
    assert method.sizes == [64]
    assert results(run) == [[[2.0 * index]] for index in range(64)]
    assert run.learn
    assert run.cap_rows is None


def test_calls_of_several_rows_get_their_own_rows_back() -> None:
    calls = [call(array(rows, 2, start=rows * 10), rows=rows) for rows in (1, 3, 2)]
    run = batched(lambda x: x + 1).run("f", calls, clock())
    assert results(run) == [(array(rows, 2, start=rows * 10) + 1).tolist() for rows in (1, 3, 2)]


def test_positional_keyword_and_nested_arguments_are_joined_leaf_by_leaf() -> None:
    seen: list[Any] = []

    def method(x: torch.Tensor, scale: float, *, extra: dict[str, Any]) -> torch.Tensor:
        seen.append((tuple(x.shape), scale, tuple(extra["a"][0].shape), extra["mode"]))
        result: torch.Tensor = x * scale + extra["a"][0] + extra["a"][1]["b"]
        return result

    calls = [
        call(array(n, 2), 3.0, extra={"a": [array(n, 2), {"b": array(n, 1)}], "mode": "fast"}, rows=n) for n in (1, 2)
    ]
    run = batched(method).run("f", calls, clock())
    assert seen == [((3, 2), 3.0, (3, 2), "fast")]
    assert results(run) == [(array(n, 2) * 4 + array(n, 1)).tolist() for n in (1, 2)]


def test_keys_of_dict_arguments_may_come_in_any_order() -> None:
    calls = [call({"a": array(1, 1), "b": array(1, 1)}), call({"b": array(1, 1, start=5), "a": array(1, 1)})]
    assert results(batched(lambda d: d["b"] - d["a"]).run("f", calls, clock())) == [[[0.0]], [[5.0]]]


def test_strings_are_joined_and_arrive_as_arrays_of_bytes() -> None:
    seen: list[Any] = []

    def method(texts: npt.NDArray[Any]) -> list[str]:
        seen.append((texts.dtype, texts.shape))
        return [text.decode().upper() for text in texts]

    calls = [call(Strings((1,), (b"a",))), call(Strings((2,), (b"b", "ü".encode())), rows=2)]
    run = batched(method).run("f", calls, clock())
    assert seen == [(np.dtype(object), (3,))]
    assert run.outcomes == [Strings((1,), (b"A",)), Strings((2,), (b"B", "Ü".encode()))]


def test_strings_are_joined_and_split_along_any_dim() -> None:
    calls = [call(Strings((2, 1), (b"a", b"b"))), call(Strings((2, 1), (b"c", b"d")))]
    run = batched(lambda texts: texts, batch_dim=(1, 1)).run("f", calls, clock())
    assert run.outcomes == [calls[0].args[0], calls[1].args[0]]


def test_nested_outputs_are_split_leaf_by_leaf() -> None:
    def method(x: torch.Tensor) -> object:
        return OrderedDict(a=x, b=[x + 1, (x + 2,)], c={"d": x.numpy() + 3})

    assert results(batched(method).run("f", numbers(2), clock())) == [
        {"a": [[n]], "b": [[[n + 1]], ([[n + 2]],)], "c": {"d": [[n + 3]]}} for n in (0.0, 1.0)
    ]


def test_an_output_without_leaves_is_everyones() -> None:
    assert results(batched(lambda x: {"a": []}).run("f", numbers(2), clock())) == [{"a": []}, {"a": []}]


def test_the_batch_dim_may_be_another_than_the_first() -> None:
    calls = [call(array(2, n, 3, start=n), rows=n) for n in (1, 2)]
    run = batched(lambda x: x * 2, batch_dim=(1, 1)).run("f", calls, clock())
    assert results(run) == [(array(2, n, 3, start=n) * 2).tolist() for n in (1, 2)]


def test_input_and_output_batch_dims_may_differ() -> None:
    calls = [call(array(2, n), rows=n) for n in (1, 3)]
    run = batched(lambda x: x.T, batch_dim=(1, 0)).run("f", calls, clock())
    assert results(run) == [array(2, n).T.tolist() for n in (1, 3)]


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_every_dtype_arrives_and_returns_as_it_is(dtype: DType, dim: int) -> None:
    seen: list[torch.dtype] = []

    def method(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return x

    rng = np.random.default_rng(1)
    tensors = []
    for _ in range(3):
        data = rng.integers(0, 2 if dtype is dtypes.BOOL else 60, 4 * dtype.itemsize, np.uint8).tobytes()
        tensors.append(Tensor(dtype, (2, 2), data))
    run = batched(method, batch_dim=(dim, dim)).run("f", [call(t, rows=2) for t in tensors], clock())
    assert seen == [TORCH_DTYPES[dtype]]
    for tensor, outcome in zip(tensors, run.outcomes):
        assert isinstance(outcome, Tensor)
        assert (outcome.dtype, outcome.shape, bytes(outcome.data)) == (dtype, (2, 2), tensor.data)


def test_bool_bytes_other_than_0_and_1_become_true() -> None:
    tensor = Tensor(dtypes.BOOL, (1, 4), b"\x00\x01\x02\xff")
    assert results(batched(lambda x: x.sum(1)).run("f", [call(tensor)], clock())) == [[3]]


def test_tensors_without_elements_pass() -> None:
    calls = [call(np.zeros((1, 0), np.float32)), call(np.zeros((2, 0), np.float32), rows=2)]
    run = batched(lambda x: x).run("f", calls, clock())
    assert [outcome.shape for outcome in run.outcomes if isinstance(outcome, Tensor)] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(
    "method",
    [
        lambda x: x.repeat(1, 2)[:, ::2].T.contiguous().T,
        lambda x: x.expand(-1, 1),
        lambda x: torch.nn.Parameter(x.clone(), requires_grad=True),
        lambda x: torch.complex(x, -x).conj().imag,
    ],
    ids=["strided", "expanded", "requires_grad", "negated"],
)
def test_outputs_of_any_layout_are_brought_home(method: Method) -> None:
    assert results(batched(method).run("f", numbers(3), clock())) == [[[0.0]], [[1.0]], [[2.0]]]


def test_conjugated_outputs_are_resolved() -> None:
    run = single(lambda: torch.tensor([1 + 2j], dtype=torch.complex64).conj()).run("f", [call()], clock())
    assert results(run) == [[1 - 2j]]


def test_outputs_made_with_grad_enabled_pass() -> None:
    layer = torch.nn.Linear(1, 1)

    @torch.enable_grad()
    def method(x: torch.Tensor) -> object:
        return layer(torch.ones(len(x), 1))

    assert len(results(batched(method).run("f", numbers(2), clock()))) == 2


def test_the_method_runs_in_inference_mode() -> None:
    assert results(single(torch.is_inference_mode_enabled).run("f", [call()], clock())) == [True]


def test_threads_are_set_when_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    Executor(lambda _: abs, {}, threads=3)
    Executor(lambda _: abs, {})
    assert given == [3]


def test_calls_that_differ_in_a_plain_value_are_our_fault_not_theirs() -> None:
    calls = [call(array(1, 1), 1.0), call(array(1, 1), 2.0)]
    run = batched(lambda x, y: x * y).run("f", calls, clock())
    assert all(isinstance(outcome, Internal) for outcome in run.outcomes)
    assert "1.0 in one and 2.0 in another" in error(run.outcomes[0]).message
    assert not run.learn


@pytest.mark.parametrize(
    "other",
    [array(1, 2), np.zeros((1, 1), np.int32), [array(1, 1)], {"a": array(1, 1)}, None, "text", Strings((1,), (b"a",))],
)
def test_calls_of_different_form_never_share_a_forward(other: Any) -> None:
    for first, second in ((array(1, 1), other), (other, array(1, 1))):
        run = batched(lambda x: x).run("f", [call(first), call(second)], clock())
        assert all(isinstance(outcome, Internal) for outcome in run.outcomes)


def test_a_nan_among_the_plain_values_equals_itself() -> None:
    calls = [call(array(1, 1), math.nan), call(array(1, 1), float("nan"))]
    assert results(batched(lambda x, y: x).run("f", calls, clock())) == [[[0.0]], [[0.0]]]


def test_a_model_that_writes_in_place_leaves_the_message_alone() -> None:
    tensor = from_numpy(array(1, 2))
    before = bytes(tensor.data)
    for count in (1, 2):
        batched(lambda x: x.mul_(0)).run("f", [call(tensor)] * count, clock())
    assert bytes(tensor.data) == before


def test_results_do_not_change_when_the_model_fills_its_output_anew() -> None:
    out = torch.zeros(1, 1)
    executor = batched(lambda x: out.copy_(x))
    first = executor.run("f", [call(np.array([[1.0]], np.float32))], clock())
    executor.run("f", [call(np.array([[2.0]], np.float32))], clock())
    assert results(first) == [[[1.0]]]


def test_large_buffers_are_recycled_but_never_under_a_live_tensor() -> None:
    kept: list[torch.Tensor] = []

    def method(x: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(x)
        return x

    executor = batched(method)
    runs = []
    for value in range(6):
        data = np.full((1, 200_000), value, np.float32)
        runs.append(executor.run("f", [call(data)], clock()))
    assert [outcome.numpy()[0, -1] for run in runs for outcome in run.outcomes if isinstance(outcome, Tensor)] == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert kept[0][0, -1] == 0


# Methods that are not batchable


def test_methods_that_are_not_batchable_run_one_by_one() -> None:
    seen: list[tuple[int, ...]] = []

    def method(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x.sum()

    run = single(method).run("f", [call(array(2)), call(array(3)), call(array())], clock())
    assert seen == [(2,), (3,), ()]
    assert results(run) == [1.0, 3.0, 0.0]
    assert not run.learn


def test_zero_argument_methods_and_scalars_pass() -> None:
    run = single(lambda: torch.tensor(3, dtype=torch.int64)).run("f", [call()], clock())
    (outcome,) = run.outcomes
    assert isinstance(outcome, Tensor)
    assert (outcome.dtype, outcome.shape, plain(outcome)) == (dtypes.I64, (), 3)
    assert run.learn


def test_plain_values_and_arrays_pass_through() -> None:
    output = {
        "none": None, "true": True, "int": 2**63, "float": 0.5, "text": "é", "bytes": b"\x00",
        "array": np.array([[1, 2]], np.int16), "number": np.float64(2.5), "texts": ["a", "b"],
        "words": np.array(["x", "yz"]), "objects": np.array([b"x", "y"], object), "tuple": (1, [2]),
    }  # fmt: skip
    (outcome,) = single(lambda: output).run("f", [call()], clock()).outcomes
    assert isinstance(outcome, dict)
    assert plain(outcome["array"]) == [[1, 2]]
    assert plain(outcome["number"]) == 2.5
    assert outcome["words"] == Strings((2,), (b"x", b"yz"))
    assert outcome["objects"] == Strings((2,), (b"x", b"y"))
    for key in ("none", "true", "int", "float", "text", "bytes", "texts", "tuple"):
        assert outcome[key] == output[key]


def test_a_method_may_take_what_cannot_be_batched() -> None:
    assert results(single(lambda a, *, b: [a, b]).run("f", [call("x", b=[1, None])], clock())) == [["x", [1, None]]]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (object(), "output 'output_0' is a builtins.object"),
        ({"a": [1, {2, 3}]}, "output 'a.1' is a builtins.set"),
        ({1: 2}, "has the key 1, expected string keys"),
        (2**64, "beyond 64 bits"),
        ((torch.zeros(1, dtype=torch.complex128),), "output 'output_0' is a tensor of torch.complex128"),
        (torch.zeros(2).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "on meta"),
        (np.array(["2020-01-01"], "datetime64[D]"), "numpy array of datetime64[D]"),
        (np.array([1, None], object), "an array of int"),
        ([0] * 2000, "more than 1024 nodes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_sent_is_a_model_error_that_names_the_leaf(output: object, text: str) -> None:
    (outcome,) = single(lambda: output).run("f", [call()], clock()).outcomes
    assert type(outcome) is ModelError
    assert text in outcome.message


def test_an_output_that_holds_itself_is_a_model_error() -> None:
    output: list[object] = []
    output.append(output)
    assert type(single(lambda: output).run("f", [call()], clock()).outcomes[0]) is ModelError


# Requests of more rows than a forward takes


def test_a_request_over_the_cap_is_run_in_slices() -> None:
    method = Counting(lambda x: {"a": x + 1, "b": (x[:, 0],)})
    run = batched(method, cap=4).run("f", [call(array(10, 2), rows=10)], clock())
    assert method.sizes == [4, 4, 2]
    assert results(run) == [{"a": (array(10, 2) + 1).tolist(), "b": (array(10, 2)[:, 0].tolist(),)}]
    assert not run.learn
    assert run.cap_rows is None


def test_slices_are_cut_and_joined_along_the_batch_dims() -> None:
    run = batched(lambda x: x.T, cap=2, batch_dim=(1, 0)).run("f", [call(array(2, 5), rows=5)], clock())
    assert results(run) == [array(2, 5).T.tolist()]


def test_the_methods_own_cap_goes_first() -> None:
    method = Counting(lambda x: x)
    batched(method, cap=64, max_batch_size=3).run("f", [call(array(4, 1), rows=4)], clock())
    assert method.sizes == [3, 1]


def test_calls_that_together_exceed_the_cap_are_run_in_turn() -> None:
    method = Counting(lambda x: x)
    calls = [call(array(rows, 1), rows=rows) for rows in (2, 2, 9, 1)]
    run = batched(method, cap=4).run("f", calls, clock())
    assert method.sizes == [4, 4, 4, 1, 1]
    assert results(run) == [array(rows, 1).tolist() for rows in (2, 2, 9, 1)]


def test_slices_whose_outputs_do_not_fit_together_are_a_model_error() -> None:
    run = batched(lambda x: {"a": torch.zeros(len(x), len(x))}, cap=2).run("f", [call(array(3, 1), rows=3)], clock())
    assert type(run.outcomes[0]) is ModelError
    assert "'a' is f32[2, 2] in one and f32[1, 1] in another" in run.outcomes[0].message


def test_slicing_stops_when_the_deadline_has_passed() -> None:
    method = Counting(lambda x: x)
    run = batched(method, cap=1).run("f", [call(array(3, 1), rows=3, deadline_s=1.0)], clock(2.0))
    assert method.sizes == [1]
    assert type(run.outcomes[0]) is DeadlineExceeded


# Outputs that are not a batch


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (lambda x: x.sum(), "output 'output_0' has shape [], expected 3 rows along batch dim 0"),
        (lambda x: {"a": [x, x[:2]]}, "output 'a.1' has shape [2, 1], expected 3 rows along batch dim 0"),
        (lambda x: (x, None), "output 'output_1' is None, expected a tensor with 3 rows"),
        (lambda x: {"n": {"scale": 0.5}}, "output 'n.scale' is a plain float, expected a tensor with 3 rows"),
        (lambda x: ["a", "b"], "output 'output_0' has shape [2], expected 3 rows"),
    ],
)
def test_a_leaf_that_is_not_a_batch_is_a_model_error_that_names_it(method: Method, text: str) -> None:
    counting = Counting(method)
    run = batched(counting, idempotent=False).run("f", numbers(3), clock())
    assert counting.sizes == [3]
    assert not run.learn
    for outcome in run.outcomes:
        assert type(outcome) is ModelError
        assert text in outcome.message
        assert "method 'f'" in outcome.message


@pytest.mark.parametrize("bad", range(16))
def test_one_call_that_spoils_the_output_fails_alone_within_the_bound(bad: int) -> None:
    method = Counting(lambda x: x[x[:, 0] != bad])
    run = batched(method).run("f", numbers(16), clock())
    assert len(method.sizes) - 1 <= 2 * math.log2(16) + 1
    assert [type(outcome) for outcome in run.outcomes] == [ModelError if i == bad else Tensor for i in range(16)]
    assert "has shape [0, 1], expected 1 rows" in error(run.outcomes[bad]).message


def test_a_method_that_never_gives_a_batch_is_soon_run_once_a_batch() -> None:
    method = Counting(lambda x: x.sum())
    executor = batched(method)
    for _ in range(OUTPUT_SEARCHES):
        executor.run("f", numbers(8), clock())
    method.sizes.clear()
    run = executor.run("f", numbers(8), clock())
    assert method.sizes == [8]
    assert [type(outcome) for outcome in run.outcomes] == [ModelError] * 8


def test_a_method_that_only_works_alone_is_not_searched_for_ever() -> None:
    method = Counting(lambda x: x.mean(0, keepdim=True))
    executor = batched(method)
    for _ in range(OUTPUT_SEARCHES):
        assert len(results(executor.run("f", numbers(8), clock()))) == 8
    method.sizes.clear()
    executor.run("f", numbers(8), clock())
    assert method.sizes == [8]


def test_after_a_batch_that_passed_a_spoiled_output_is_searched_again() -> None:
    executor = batched(lambda x: x[x[:, 0] != 3])
    for _ in range(OUTPUT_SEARCHES):
        executor.run("f", [numbers(4)[3]] * 4, clock())
    assert [type(outcome) for outcome in executor.run("f", numbers(4), clock()).outcomes] == [ModelError] * 4
    executor.run("f", numbers(3), clock())
    assert [type(outcome) for outcome in executor.run("f", numbers(4), clock()).outcomes] == [Tensor] * 3 + [ModelError]


def test_a_leaf_too_short_for_the_output_dim_names_it() -> None:
    run = batched(lambda x: x[:, 0], batch_dim=(0, 1)).run("f", numbers(2), clock())
    assert "expected 1 rows along batch dim 1" in error(run.outcomes[0]).message


# Failures


@pytest.mark.parametrize("bad", range(16))
def test_one_bad_call_fails_alone_within_the_bound(bad: int) -> None:
    method = failing_on({bad}, lambda: ValueError("no such thing"))
    run = batched(method).run("f", numbers(16), clock())
    assert len(method.sizes) - 1 <= 2 * math.log2(16) + 1
    for index, outcome in enumerate(run.outcomes):
        if index == bad:
            assert type(outcome) is ModelRejectedInput
            assert outcome.message == "ValueError: no such thing"
        else:
            assert plain(outcome) == [[index + 1.0]]
    assert not run.learn
    assert run.cap_rows is None


def test_a_batch_in_which_all_fail_gives_each_its_own_error() -> None:
    def method(x: torch.Tensor) -> object:
        raise ValueError(f"bad {x.flatten().tolist()}")

    run = batched(method).run("f", numbers(4), clock())
    assert [error(outcome).message for outcome in run.outcomes] == [f"ValueError: bad [{n}.0]" for n in range(4)]


def test_a_failure_that_does_not_come_back_answers_everyone() -> None:
    failures = [RuntimeError("once")]

    def method(x: torch.Tensor) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return x

    run = batched(method).run("f", numbers(4), clock())
    assert results(run) == [[[0.0]], [[1.0]], [[2.0]], [[3.0]]]
    assert not run.learn


def test_calls_past_their_deadline_are_not_run_again() -> None:
    now = [0.0]

    def method(x: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        if 3 in x.flatten().tolist():
            raise ValueError("three")
        return x

    counting = Counting(method)
    calls = numbers(4, deadline_s=10.0)
    calls[0] = call(np.zeros((1, 1), np.float32), deadline_s=0.5)
    calls[2] = call(np.full((1, 1), 2, np.float32), deadline_s=0.5)
    run = batched(counting).run("f", calls, lambda: now[0])
    assert [type(outcome) for outcome in run.outcomes] == [
        DeadlineExceeded,
        Tensor,
        DeadlineExceeded,
        ModelRejectedInput,
    ]
    assert counting.sizes == [4, 1, 1]


def test_the_first_forward_does_not_ask_the_clock() -> None:
    def never() -> float:
        raise AssertionError

    assert len(results(batched(lambda x: x).run("f", numbers(2, deadline_s=-1.0), never))) == 2


def test_a_method_that_is_not_idempotent_is_not_run_again() -> None:
    method = failing_on({1}, lambda: ValueError("one"))
    run = batched(method, idempotent=False).run("f", numbers(4), clock())
    assert method.sizes == [4]
    assert [type(outcome) for outcome in run.outcomes] == [ModelError] * 4
    alone = batched(method, idempotent=False).run("f", [numbers(2)[1]], clock())
    assert type(alone.outcomes[0]) is ModelRejectedInput


def test_one_call_of_many_rows_that_fails_is_run_once() -> None:
    method = failing_on({1}, lambda: ValueError("one"))
    run = batched(method).run("f", [call(array(4, 1), rows=4)], clock())
    assert method.sizes == [4]
    assert type(run.outcomes[0]) is ModelRejectedInput


def test_a_failing_call_of_a_method_that_is_not_batchable_fails_alone() -> None:
    run = single(lambda x: 1 // x).run("f", [call(1), call(0), call(2)], clock())
    assert run.outcomes[0] == 1
    assert type(run.outcomes[1]) is ModelError
    assert run.outcomes[2] == 0


@pytest.mark.parametrize(
    "method",
    [
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: x.view(7),
        lambda x: x + torch.zeros(5, 5),
        lambda x: torch.cat([x, torch.zeros(2, 4)]),
        lambda x: torch.nn.Conv2d(3, 2, 3)(x[None, None]),
        lambda x: torch.nn.Embedding(3, 2)(x),
        lambda x: torch.nn.Embedding(3, 2)(torch.tensor([7])),
        lambda x: x.squeeze(9),
        lambda x: x @ torch.zeros(1, 1, dtype=torch.float64),
        lambda x: x & x,
        lambda x: torch.linalg.inv(x[:, :0].expand(2, 0)),
        lambda x: x["mask"],
        lambda x: {"a": 1}["b"],
        lambda x: int("x"),
        lambda: 1,
    ],
)
def test_shape_type_and_value_errors_are_the_requests_fault(method: Method) -> None:
    (outcome,) = single(method).run("f", [call(array(2, 1))], clock()).outcomes
    assert type(outcome) is ModelRejectedInput


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("lost the database connection"),
        RuntimeError("expected a session"),
        ZeroDivisionError("division by zero"),
        AttributeError("no attribute 'head'"),
        FileNotFoundError("labels.txt"),
        RecursionError("too deep"),
        NotImplementedError("later"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_every_other_exception_is_the_models_fault(failure: BaseException) -> None:
    def method() -> object:
        raise failure

    (outcome,) = single(method).run("f", [call()], clock()).outcomes
    assert type(outcome) is ModelError
    assert outcome.message.startswith(type(failure).__name__)


def test_the_message_is_one_line_without_addresses() -> None:
    def method() -> object:
        raise ValueError(f"bad\n  thing\x1b[31m {object()!r}\tand 0x7f00deadbeef")

    (outcome,) = single(method).run("f", [call()], clock()).outcomes
    assert error(outcome).message == "ValueError: bad thing [31m <object object> and"


def test_the_message_is_at_most_2000_characters() -> None:
    def method() -> object:
        raise ValueError("x" * 10_000_000)

    message = error(single(method).run("f", [call()], clock()).outcomes[0]).message
    assert len(message) == 2000
    assert message.endswith("x...")


def test_an_exception_whose_text_cannot_be_read_still_answers() -> None:
    class Broken(ValueError):
        def __str__(self) -> str:
            raise RuntimeError

    def method() -> object:
        raise Broken

    outcome = single(method).run("f", [call()], clock()).outcomes[0]
    assert type(outcome) is ModelRejectedInput
    assert outcome.message == "Broken: (its text cannot be read)"


def test_a_torchscript_error_is_told_without_its_traceback() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(torch.nn.Linear(3, 2))
    outcome = single(scripted).run("f", [call(array(2, 4))], clock()).outcomes[0]
    assert type(outcome) is ModelRejectedInput
    assert outcome.message.startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


def test_the_traceback_goes_to_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    method = failing_on({1, 5}, lambda: ValueError("no"))
    with caplog.at_level(logging.DEBUG, "paceline.runner"):
        batched(method).run("f", numbers(8), clock(), batch_id="b7")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    fields = record.__dict__
    assert (fields["method"], fields["batch_id"], fields["rows"]) == ("f", "b7", 8)
    assert fields["request_ids"] == [f"r{index}" for index in range(8)]


# Memory


@pytest.mark.parametrize(
    "failure",
    [
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        lambda: MemoryError(),
        lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: ..."),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_out_of_memory_halves_the_batch_and_lowers_the_cap(failure: Callable[[], BaseException]) -> None:
    method = fitting(4, failure)
    run = batched(method).run("f", numbers(16), clock())
    assert results(run) == [[[index + 1.0]] for index in range(16)]
    assert method.sizes == [16, 8, 4, 4, 8, 4, 4]
    assert run.cap_rows == 4
    assert not run.learn


def test_one_request_that_memory_does_not_hold_is_cut_into_pieces() -> None:
    method = fitting(3)
    run = batched(method).run("f", [call(array(10, 1), rows=10)], clock())
    assert results(run) == [(array(10, 1) + 1).tolist()]
    assert method.sizes == [10, 5, 2, 2, 2, 2, 2]
    assert run.cap_rows == 2


def test_a_call_that_runs_out_alone_is_a_model_error_and_lowers_no_cap() -> None:
    method = failing_on({5}, lambda: MemoryError("a tensor as large as your number"))
    run = batched(method).run("f", numbers(8), clock())
    assert [type(outcome) for outcome in run.outcomes] == [Tensor] * 5 + [ModelError] + [Tensor] * 2
    assert run.cap_rows is None


def test_a_method_that_is_not_idempotent_is_not_halved() -> None:
    method = fitting(4)
    run = batched(method, idempotent=False).run("f", numbers(8), clock())
    assert method.sizes == [8]
    assert [type(outcome) for outcome in run.outcomes] == [ModelError] * 8
    assert run.cap_rows == 4


def test_the_cache_is_emptied_when_the_failed_forward_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large:
        pass

    held: list[weakref.ref[Large]] = []
    alive: list[bool] = []

    def method(x: torch.Tensor) -> torch.Tensor:
        large = Large()
        held.append(weakref.ref(large))
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return x

    monkeypatch.setattr(
        executor_module.PlainDevice, "empty_cache", lambda self: alive.append(any(ref() is not None for ref in held))
    )
    batched(method).run("f", numbers(2), clock())
    assert alive == [False]


# The device


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
    ],
)
def test_a_lost_device_ends_the_run(text: str) -> None:
    method = failing_on({1}, lambda: RuntimeError(text))
    with pytest.raises(DeviceBroken, match="RuntimeError: CUDA error"):
        batched(method).run("f", numbers(2), clock())
    assert method.sizes == [2]


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("CUDA error: device-side assert triggered"),
        RuntimeError("cannot parse 'CUDA error: device-side assert triggered'"),
        RuntimeError("CUDA error: invalid device ordinal"),
    ],
)
def test_a_text_that_only_quotes_a_lost_device_does_not_end_the_run(failure: Exception) -> None:
    run = batched(failing_on({1}, lambda: failure)).run("f", numbers(2), clock())
    assert isinstance(run.outcomes[0], Tensor)
    assert isinstance(run.outcomes[1], RequestError)


class FakeCuda:
    """torch.cuda's part that CudaDevice uses, on the CPU; remembers what was asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.broken = False
        fake = self

        class Event:
            def record(self, stream: object) -> None:
                fake.asked.append("record")

            def synchronize(self) -> None:
                fake.asked.append("wait")

        @contextlib.contextmanager
        def stream(stream: object) -> Iterator[None]:
            fake.asked.append("stream")
            yield

        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.asked.append("empty"))
        monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **kwargs: empty(*args, **kwargs))
        monkeypatch.setattr(executor_module, "device_named", lambda name: CudaDevice(torch.device("cpu")))

    def synchronize(self, device: object) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")


def test_cuda_waits_for_one_event_before_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    run = batched(lambda x: (x, x + 1)).run("f", numbers(3), clock())
    assert cuda.asked == ["stream", "record", "wait"]
    assert results(run) == [([[float(n)]], [[n + 1.0]]) for n in range(3)]


def test_cuda_empties_its_cache_when_it_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    run = batched(fitting(1)).run("f", numbers(2), clock())
    assert cuda.asked.count("empty") == 1
    assert run.cap_rows == 1


def test_any_failure_on_a_lost_cuda_context_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)

    def method(x: torch.Tensor) -> torch.Tensor:
        cuda.broken = True
        raise ValueError("a text that says nothing of the device")

    with pytest.raises(DeviceBroken):
        batched(method).run("f", numbers(2), clock())


def test_the_cpu_never_asks_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch.cuda was called")

    for name in ("Stream", "Event", "stream", "synchronize", "empty_cache", "is_available", "current_stream", "init"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    run = batched(fitting(2)).run("f", numbers(8), clock())
    assert len(results(run)) == 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_cuda_device_answers_like_the_cpu() -> None:
    layer = torch.nn.Linear(16, 4).cuda().eval()
    executor = Executor(lambda _: layer, {"f": MethodSpec("f", batchable=True)}, device="cuda")
    calls = [call(array(1, 16, start=index)) for index in range(8)]
    run = executor.run("f", calls, clock())
    for index, outcome in enumerate(run.outcomes):
        with torch.inference_mode():
            expected = layer(torch.from_numpy(array(1, 16, start=index)).cuda()).cpu().numpy()
        assert isinstance(outcome, Tensor)
        np.testing.assert_allclose(outcome.numpy(), expected, rtol=1e-3)


# Warm-up


def test_warm_up_times_every_size_of_the_ladder() -> None:
    method = Counting(lambda x: x)
    ticks = iter(range(1000))
    timed = list(batched(method).warm_up("f", (from_numpy(array(2, 3)),), {}, ladder(6), lambda: float(next(ticks))))
    assert [rows for rows, _ in timed] == [1, 2, 4, 6]
    assert all(duration_s == 1.0 for _, duration_s in timed)
    assert method.sizes == [1, 1, 2, 2, 4, 4, 6, 6]


def test_warm_up_of_a_method_that_is_not_batchable_is_one_row() -> None:
    assert [rows for rows, _ in single(lambda x: x).warm_up("f", ("text",), {}, (1, 2, 4), clock())] == [1]


def test_warm_up_repeats_nested_and_keyword_samples_along_the_batch_dim() -> None:
    shapes: list[Any] = []

    def method(x: dict[str, torch.Tensor], *, y: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(x["a"].shape), tuple(y.shape)))
        return y

    executor = batched(method, batch_dim=(1, 1))
    sample: tuple[Tree, ...] = ({"a": from_numpy(array(3, 1))},)
    assert len(list(executor.warm_up("f", sample, {"y": from_numpy(array(2, 1))}, (1, 3), clock()))) == 2
    assert shapes[::2] == [((3, 1), (2, 1)), ((3, 3), (2, 3))]


def test_warm_up_ends_at_the_size_that_memory_does_not_hold() -> None:
    timed = list(batched(fitting(2)).warm_up("f", (from_numpy(array(1, 1)),), {}, ladder(8), clock()))
    assert [rows for rows, _ in timed] == [1, 2]


def test_warm_up_with_a_sample_that_fails_says_so() -> None:
    with pytest.raises(ModelRejectedInput):
        list(batched(lambda x: x.view(99)).warm_up("f", (from_numpy(array(1, 1)),), {}, (1,), clock()))


def test_the_ladder_ends_at_the_cap() -> None:
    assert ladder(1) == (1,)
    assert ladder(8) == (1, 2, 4, 8)
    assert ladder(10) == (1, 2, 4, 8, 10)


# Batched equals one by one


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[Call]]:
    """(batch dim, calls) of one random argument structure, with random dtypes, shapes and rows."""
    dim = draw(st.integers(0, 2))
    forms: st.SearchStrategy[Any] = st.tuples(
        st.just("tensor"),
        st.sampled_from((np.float32, np.int64, np.uint8, np.bool_, np.float16)),
        st.lists(st.integers(0, 3), min_size=dim, max_size=dim + 2),
    )
    for _ in range(3):
        forms = forms | st.tuples(st.sampled_from(("list", "dict")), st.lists(forms, max_size=2), st.just(None))
    form = ("list", [("tensor", np.float32, [1] * dim), draw(forms)], None)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def fill(form: Any, rows: int) -> Any:
        kind, inner, shape = form
        if kind == "tensor":
            full = [*shape[:dim], rows, *shape[dim:]]
            return rng.integers(0, 100, full).astype(inner)
        items = [fill(item, rows) for item in inner]
        return items if kind == "list" else {f"k{index}": item for index, item in enumerate(items)}

    counts: Sequence[int] = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    return dim, [call(fill(form, rows), rows=rows) for rows in counts]


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(1, 12))
def test_batched_results_equal_one_by_one_results(batch: tuple[int, list[Call]], cap: int) -> None:
    def rowwise(tree: Any) -> Any:
        if isinstance(tree, torch.Tensor):
            return (tree, tree.logical_not())
        if isinstance(tree, dict):
            return {key: rowwise(item) for key, item in tree.items()}
        return [rowwise(item) for item in tree]

    dim, calls = batch
    executor = batched(rowwise, cap=cap, batch_dim=(dim, dim))
    together = executor.run("f", calls, clock())
    assert len({measure(MethodSpec("f", True, (dim, dim)), one.args, one.kwargs).key for one in calls}) == 1
    for one, outcome in zip(calls, together.outcomes):
        (alone,) = executor.run("f", [one], clock()).outcomes
        assert plain(outcome) == plain(alone)


def test_a_random_storm_of_failures_answers_every_call_exactly_once() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        count = rng.randint(1, 12)
        bad = {index for index in range(count) if rng.random() < 0.3}
        memory = rng.choice((1, 3, 64))
        now = [0.0]

        def method(x: torch.Tensor, bad: set[int] = bad, memory: int = memory, now: list[float] = now) -> torch.Tensor:
            now[0] += 1.0
            if len(x) > memory:
                raise MemoryError
            if bad & {int(value) for value in x.flatten()}:
                raise ValueError
            return x + 1

        deadlines = [rng.choice((2.0, 4.0, math.inf)) for _ in range(count)]
        calls = [call(np.array([[index]], np.float32), deadline_s=deadline) for index, deadline in enumerate(deadlines)]
        run = batched(method).run("f", calls, lambda now=now: now[0])  # type: ignore[misc]  # a lambda with a default
        assert len(run.outcomes) == count, f"seed {seed}"
        for index, outcome in enumerate(run.outcomes):
            if isinstance(outcome, Tensor):
                assert index not in bad, f"seed {seed}"
                assert plain(outcome) == [[index + 1.0]], f"seed {seed}"
            elif isinstance(outcome, ModelRejectedInput):
                assert index in bad, f"seed {seed}"
            else:
                assert isinstance(outcome, DeadlineExceeded), f"seed {seed}"
                assert deadlines[index] < now[0], f"seed {seed}"
