"""A model that no longer returns what it did when it was saved does not load, and says by how much."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from paceline.protocol.errors import ConfigError, StoreError
from paceline.runner.frameworks import pytorch
from paceline.runner.frameworks.registry import load_model
from paceline.runner.frameworks.self_test import (
    EXPECTED_FILE,
    Allowance,
    allowance_for,
    check_outputs,
    comparable,
    difference,
)
from paceline.runner.frameworks.tensors import _FILE_DTYPES
from paceline.store import ModelStore

BATCHED: dict[str, dict[str, object]] = {"__call__": {"batchable": True}}
DRIFT = 0.0


class Drifting(nn.Module):
    """Returns what the module's DRIFT says, as if a library had changed since it was saved."""

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"values": x + DRIFT, "best": x.argmax(1), "label": "a"}


class Two(Drifting):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x + DRIFT


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x)


class Raising(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if DRIFT:
            raise RuntimeError("kernel is gone")
        return x


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.DRIFT", 0.5)


def test_a_model_that_returns_the_same_loads(store: ModelStore) -> None:
    pytorch.save(store, "net", Drifting(), sample_inputs=torch.tensor([[1.0, 2.0]]))
    assert store.get("net").manifest.has_file(EXPECTED_FILE)
    load_model(store.get("net"))


def test_another_output_stops_the_load_with_the_largest_difference(
    store: ModelStore, request: pytest.FixtureRequest
) -> None:
    version = pytorch.save(store, "net", Drifting(), sample_inputs=torch.tensor([[1.0, 2.0]]))
    request.getfixturevalue("drift")
    with pytest.raises(StoreError) as caught:
        load_model(version)
    assert (
        "net:1 fails its self-test: __call__ does not return what it did when it was saved: values differs by up to "
        "0.5, at [0, 0]: 1.5 instead of 1 (tolerated: 0.002)." in str(caught.value)
    )
    assert f"saved with torch {torch.__version__} on cpu" in str(caught.value)
    assert "self_test=False" in str(caught.value)


def test_a_sample_that_raises_stops_the_load(store: ModelStore, request: pytest.FixtureRequest) -> None:
    version = pytorch.save(store, "net", Raising(), sample_inputs=torch.ones(1, 2))
    request.getfixturevalue("drift")
    with pytest.raises(StoreError, match="with its stored sample raises RuntimeError: kernel is gone"):
        load_model(version)


def test_damaged_weights_that_verify_are_found(store: ModelStore) -> None:
    """As after a change of what the weights mean: the files are intact, the answer is not."""
    version = pytorch.save(store, "net", nn.Linear(3, 2), sample_inputs=torch.ones(1, 3))
    model = load_model(version)
    check_outputs(version, model, "cpu")
    with torch.no_grad():
        model.model.bias += 1  # type: ignore[attr-defined]  # it is a Linear
    with pytest.raises(StoreError, match="output_0 differs by up to 1"):
        check_outputs(version, model, "cpu")


def test_a_model_that_is_random_is_told_when_it_is_saved(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match=r"__call__ returns something else each time .* pass self_test=False"):
        pytorch.save(store, "net", Random(), sample_inputs=torch.ones(1, 2))
    assert store.names() == []
    version = pytorch.save(store, "net", Random(), sample_inputs=torch.ones(1, 2), self_test=False)
    assert not version.manifest.has_file(EXPECTED_FILE)
    load_model(version)


def test_without_a_sample_there_is_nothing_to_test(store: ModelStore) -> None:
    assert not pytorch.save(store, "net", Random()).manifest.has_file(EXPECTED_FILE)


def test_any_method_with_a_sample_is_tested(store: ModelStore, request: pytest.FixtureRequest) -> None:
    version = pytorch.save(
        store, "net", Two(), signatures={"__call__": {}, "encode": {}}, sample_inputs={"encode": torch.ones(1, 2)}
    )
    assert load_model(version).samples.keys() == {"encode"}
    request.getfixturevalue("drift")
    with pytest.raises(StoreError, match="fails its self-test: encode does not return"):
        load_model(version)


def test_a_padded_method_is_tested_at_the_length_it_was_saved_with(store: ModelStore) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True) + x.shape[1]

    Mean.__module__ = "__main__"
    pads: dict[str, dict[str, object]] = {
        "__call__": {"batchable": True, "pad": {1: {"multiple_of": 8}}, "mask": "mask"}
    }
    load_model(pytorch.save(store, "net", Mean(), signatures=pads, sample_inputs=torch.ones(1, 3)))


@pytest.mark.parametrize(
    ("dtype", "same_device", "off", "is_told"),
    [
        (torch.float32, True, 1e-4, False),
        (torch.float32, True, 1e-2, True),
        (torch.float32, False, 1e-2, False),
        (torch.float32, False, 1e-1, True),
        (torch.float64, True, 1e-4, True),
        (torch.float16, True, 5e-3, False),
        (torch.bfloat16, True, 3e-2, False),
        (torch.bfloat16, True, 2e-1, True),
    ],
)
def test_the_tolerance_follows_precision_and_device(
    dtype: torch.dtype, same_device: bool, off: float, is_told: bool
) -> None:
    expected = comparable(torch.tensor([100.0, 1.0]).to(dtype))
    found = comparable((torch.tensor([100.0, 1.0]) + 100 * off).to(dtype))
    assert (difference(expected, found, Allowance(same_device=same_device)) is not None) is is_told


def test_a_model_of_low_precision_may_be_as_far_off_whatever_it_returns() -> None:
    expected, found = comparable(torch.tensor([1.0])), comparable(torch.tensor([1.02]))
    assert difference(expected, found, allowance_for(nn.Linear(1, 1))) is not None
    assert difference(expected, found, allowance_for(nn.Linear(1, 1).bfloat16())) is None


@pytest.mark.parametrize(
    ("expected", "found", "text"),
    [
        (torch.tensor([1, 2]), torch.tensor([1, 3]), r"output_0 differs by up to 1, at \[1\]: 3 instead of 2"),
        (torch.tensor([True]), torch.tensor([False]), "output_0 differs"),
        (torch.ones(2), torch.ones(3), r"output_0 is float32\[3\] instead of float32\[2\]"),
        (torch.ones(2), torch.ones(2).double(), "output_0 is float64"),
        (torch.ones(2), torch.tensor([1.0, math.nan]), r"up to inf, at \[1\]: nan instead of 1"),
        (torch.tensor([math.inf]), torch.tensor([-math.inf]), "output_0 differs"),
        ("a", "b", "output_0 is 'b' instead of 'a'"),
        (1.0, 2.0, "output_0 differs by up to 1"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, "it returned b instead of a"),
        (torch.ones(1), 3, "output_0 is 3 instead of a tensor"),
    ],
)
def test_what_differs_is_said(expected: object, found: object, text: str) -> None:
    assert re.search(text, difference(comparable(expected), comparable(found), Allowance()) or "")


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, math.nan, math.inf]),
        torch.zeros(0, 3),
        torch.tensor([1 + 2j]),
        torch.tensor([1e-9]),
        {"a": (torch.ones(1), [None, "x", True])},
        torch.tensor([255], dtype=torch.uint8),
    ],
)
def test_equal_values_do_not_differ(value: object) -> None:
    assert difference(comparable(value), comparable(value), Allowance()) is None


@pytest.mark.parametrize("dtype", sorted(_FILE_DTYPES, key=str), ids=str)
def test_every_dtype_is_compared(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(3).to(dtype), torch.ones(3).to(dtype)
    assert difference(comparable(ones), comparable(ones.clone()), Allowance()) is None
    told = difference(comparable(zeros), comparable(ones), Allowance()) or ""
    assert told.startswith("output_0 differs by up to 1, at [0]: 1")


def test_a_few_pixels_may_be_rounded_the_other_way() -> None:
    wanted = torch.zeros(1, 300, dtype=torch.uint8)
    found = wanted.clone()
    found[0, :3] = 1
    assert difference(comparable(wanted), comparable(found), Allowance()) is None
    found[0, 3] = 1
    assert difference(comparable(wanted), comparable(found), Allowance()) is not None


def test_the_worst_leaf_is_the_one_that_is_named() -> None:
    expected = comparable({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)})
    found = comparable({"a": torch.ones(2) + 0.1, "b": torch.ones(2) + 0.9, "c": torch.ones(2)})
    assert (difference(expected, found, Allowance()) or "").startswith("b differs by up to 0.9")


def test_indices_are_not_compared_between_kinds_of_device() -> None:
    """Who wins a near tie may differ there."""
    expected, found = comparable(torch.tensor([1])), comparable(torch.tensor([2]))
    assert difference(expected, found, Allowance(same_device=False)) is None


def test_an_output_that_the_model_writes_over_is_kept_as_it_was(store: ModelStore) -> None:
    class Reusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("out", torch.zeros(1, 2))
            self.count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return self.out.copy_(x * self.count)  # type: ignore[operator]  # a buffer

    Reusing.__module__ = "__main__"
    with pytest.raises(ConfigError, match="something else each time"):
        pytorch.save(store, "net", Reusing(), sample_inputs=torch.ones(1, 2))


def test_a_damaged_file_of_outputs_is_named(store: ModelStore) -> None:
    path = pytorch.save(store, "net", nn.Linear(2, 2), sample_inputs=torch.ones(1, 2)).path / EXPECTED_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StoreError, match=f"net:1/{EXPECTED_FILE} is damaged"):
        load_model(store.get("net"))
