"""Models that pad, saved: names are checked, samples tried as they will be served, outputs that follow are known."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tensor import Tensor, from_numpy
from paceline.runner.calls import Call
from paceline.runner.executor import Executor
from paceline.runner.frameworks import pytorch, torchscript
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.padded_sample import other_length
from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore

PAD = {"multiple_of": 4}
IDS = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


class Encoder(nn.Module):
    """Pools embeddings over what the mask lets through; knows 16 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.positions = nn.Embedding(16, 8)
        self.lengths: list[tuple[int, ...]] = []

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        self.lengths.append(tuple(input_ids.shape))
        tokens = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        if types is not None:
            tokens = tokens + types.unsqueeze(2)
        mask = attention_mask.unsqueeze(2)
        return {"tokens": tokens, "pooled": (tokens * mask).sum(1) / mask.sum(1)}

    def kernel(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] < 5:
            raise ValueError("the kernel is 5 wide")
        return x.unfold(1, 5, 1).sum(2)

    def any(self, *parts: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return named["x"]

    def by_place(self, x: torch.Tensor, mask: torch.Tensor, /) -> torch.Tensor:
        return x


def save(
    store: ModelStore, sample: object = None, method: str = "__call__", model: Any = None, **options: Any
) -> MethodSpec:
    signatures = {method: {"batchable": True, **options}}
    version = pytorch.save(store, "net", model or Encoder(), signatures=signatures, sample_inputs=sample)
    return store.get(version.tag).manifest.methods[method]


MASKED: dict[str, Any] = {"pad": {1: PAD}, "mask": "attention_mask"}


def test_padded_dims_are_open_and_what_follows_the_length_is_known(store: ModelStore) -> None:
    method = save(store, IDS, **MASKED, unpad=1)
    assert method.inputs == (
        InputSpec("input_ids", dtypes.I64, (-1, -1)),
        InputSpec("attention_mask", required=False),
        InputSpec("types", required=False),
    )
    assert method.outputs == (InputSpec("tokens", dtypes.F32, (-1, -1, 8)), InputSpec("pooled", dtypes.F32, (-1, 8)))


def test_the_sample_is_tried_as_it_will_be_served(store: ModelStore) -> None:
    model = Encoder()
    save(store, IDS, model=model, **MASKED)
    assert model.lengths == [(1, 8), (1, 4), (1, 8)]  # the last to see that it returns the same again


def test_without_another_length_outputs_of_that_one_follow_it(store: ModelStore) -> None:
    method = save(store, IDS, pad={1: {"multiple_of": 8, "max": 8}}, mask="attention_mask", unpad=1)
    assert [spec.shape for spec in method.outputs] == [(-1, -1, 8), (-1, -1)]


@pytest.mark.parametrize(
    ("padding", "padded", "other"),
    [
        (Padding(1, 64), 128, 64),
        (Padding(1, 64), 64, 128),
        (Padding(1, 64, length_max=100), 100, 64),
        (Padding(1, 64, length_max=100), 64, 100),
        (Padding(1, 64, length_max=64), 64, None),
        (Padding(1), 5, 4),
        (Padding(1), 1, 2),
        (Padding(1), 0, 1),
    ],
)
def test_the_other_length_is_one_that_batches_may_have(padding: Padding, padded: int, other: int | None) -> None:
    assert other_length(padding, padded) == other


@pytest.mark.parametrize(
    "sample",
    [
        IDS,
        (IDS, torch.ones(1, 5, dtype=torch.int64)),
        {"input_ids": IDS, "attention_mask": torch.ones(1, 5, dtype=torch.int64)},
    ],
    ids=["without", "by place", "by name"],
)
def test_a_sample_of_the_mask_says_its_dtype_and_is_not_kept(store: ModelStore, sample: object) -> None:
    method = save(store, sample, **MASKED)
    given = None if sample is IDS else dtypes.I64
    assert method.inputs[1] == InputSpec("attention_mask", given, required=False)
    found = load_model(store.get("net")).samples["__call__"]
    assert torch.equal(cast(torch.Tensor, found.args[0]), IDS)
    assert (len(found.args), found.kwargs) == (1, {})


def test_what_comes_behind_the_mask_in_a_sample_is_kept_by_name(store: ModelStore) -> None:
    method = save(store, {"input_ids": IDS, "types": IDS}, **MASKED)
    assert method.inputs[2] == InputSpec("types", dtypes.I64, (-1, -1), required=False)
    assert list(load_model(store.get("net")).samples["__call__"].kwargs) == ["types"]


def test_only_the_mask_may_be_missing_from_a_sample(store: ModelStore) -> None:
    with pytest.raises(
        ConfigError, match=r"sample_inputs do not fit __call__.*missing a required argument: 'input_ids'"
    ):
        save(store, {"types": IDS}, **MASKED)


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        (
            "__call__",
            {"pad": {1: {}}, "mask": "atention_mask"},
            '["mask"]: __call__ has no parameter \'atention_mask\'. Did you mean "attention_mask"? Its parameters: inp',
        ),
        (
            "__call__",
            {"pad": {1: {"inputs": ["inputs_ids"]}}},
            '["pad"]: __call__ has no parameter \'inputs_ids\'. Did you mean "input_ids"?',
        ),
        (
            "any",
            {"pad": {1: {"inputs": ["x"]}}, "mask": "named"},
            "any has no parameter 'named'. Its parameters: none.",
        ),
        (
            "by_place",
            {"pad": {1: {}}, "mask": "mask"},
            "'mask' can only be given by position; the mask is given by name",
        ),
    ],
)
def test_names_that_the_method_does_not_have_are_refused(
    store: ModelStore, method: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        save(store, None, method, **options)
    assert text in str(caught.value)
    assert not store.home.exists()


def test_keywords_of_any_name_may_be_padded(store: ModelStore) -> None:
    method = save(store, None, "any", pad={1: {"inputs": ["x"]}})
    assert method.padding is not None
    assert method.padding.inputs == ("x",)


@pytest.mark.parametrize(
    ("sample", "options", "text"),
    [
        (torch.ones(1), {}, "sample_inputs of __call__: method '__call__' got no tensor with the padded dim 1"),
        (torch.ones(1, 5), {"pad": {1: {"max": 4}}}, "have the length 5 along dim 1, over the limit of 4"),
        (IDS, {"pad": {1: {"value": 0.5}}}, "input 'input_ids' cannot be padded: i64 cannot hold 0.5"),
        (
            {"input_ids": IDS, "types": torch.ones(1, 4)},
            {},
            "input 'types' has length 4 along the padded dim 1, another has 5",
        ),
    ],
)
def test_a_sample_that_would_be_refused_as_a_request_is_refused(
    store: ModelStore, sample: object, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        save(store, sample, **{**MASKED, **options})
    assert text in str(caught.value)


def test_a_length_that_the_model_does_not_take_is_named_with_what_helps(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match=r"the kernel is 5 wide.*tried at length 4.*give a longer sample") as caught:
        save(store, torch.ones(1, 5), "kernel", pad={1: {}}, unpad=1)
    assert "f32[1, 4]" in str(caught.value)
    assert save(store, torch.ones(1, 6), "kernel", pad={1: {}}, unpad=1).outputs[0].shape == (-1, -1)


def runs_alike_alone_and_together(found: LoadedModel, method: MethodSpec) -> bool:
    executor = Executor(found.bound, {method.name: method}, buckets=(4,))
    calls = [Call((from_numpy(np.arange(1, length + 1)[None]),)) for length in (2, 7, 3)]
    together = executor.run(method.name, calls, lambda: 0.0).outcomes
    alone = [executor.run(method.name, [call], lambda: 0.0).outcomes[0] for call in calls]
    return all(_is_close(one, other) for one, other in zip(together, alone, strict=True))


def _is_close(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[key], other[key]) for key in one)
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    return one.shape == other.shape and np.allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_a_saved_model_gives_each_request_what_it_gives_it_alone(store: ModelStore) -> None:
    method = save(store, IDS, **MASKED, unpad=1)
    assert runs_alike_alone_and_together(load_model(store.get("net")), method)


class Sums(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (x * mask).sum(1)


@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_torchscript_takes_its_mask_by_name_too(store: ModelStore, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: Any = (
            torch.jit.script(Sums())
            if kind == "scripted"
            else torch.jit.trace(Sums(), (IDS, torch.ones(1, 5, dtype=torch.bool)))  # type: ignore[no-untyped-call]
        )
    signatures = {"__call__": {"batchable": True, "pad": {1: PAD}, "mask": "mask"}}
    torchscript.save(store, "net", script, signatures=signatures, sample_inputs=IDS)
    version = store.get("net")
    method = version.manifest.methods["__call__"]
    assert method.mask == "mask"
    assert runs_alike_alone_and_together(load_model(version), method)
