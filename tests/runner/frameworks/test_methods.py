"""What is learnt of a model's methods when it is saved: names, dtypes, shapes, and that they run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.runner.frameworks import pytorch
from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore

BATCHED = {"__call__": {"batchable": True, "batch_dim": 0}}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


class Net(nn.Module):
    """Two inputs, one of them optional, and methods of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return cast(torch.Tensor, self.fc(x)) * scale

    def many(self, *parts: torch.Tensor, **options: object) -> torch.Tensor:
        return torch.cat(parts)

    def tree(self, x: torch.Tensor, *, ids: torch.Tensor) -> dict[str, object]:
        return {"logits": x, "states": [x.half(), (ids, x)]}

    def constant(self) -> int:
        return 3

    def across(self, x: torch.Tensor) -> torch.Tensor:
        return x.t()

    def total(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()

    def pair(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x, None


def save(store: ModelStore, signatures: object = None, sample_inputs: object = None) -> dict[str, MethodSpec]:
    version = pytorch.save(store, "net", Net(), signatures=signatures, sample_inputs=sample_inputs)  # type: ignore[arg-type]
    return store.get(version.tag).manifest.methods


def test_without_a_sample_names_and_defaults_are_known_and_dtypes_are_open(store: ModelStore) -> None:
    method = save(store)["__call__"]
    assert method.inputs == (InputSpec("x"), InputSpec("scale", required=False))
    assert (method.open_inputs, method.outputs) == (False, ())


def test_a_method_of_any_number_of_arguments_is_open(store: ModelStore) -> None:
    method = save(store, {"many": {}})["many"]
    assert (method.inputs, method.open_inputs) == ((), True)


def test_a_method_without_arguments_has_no_inputs(store: ModelStore) -> None:
    method = save(store, {"constant": {}})["constant"]
    assert (method.inputs, method.open_inputs) == ((), False)


@pytest.mark.parametrize(
    "sample",
    [
        torch.ones(2, 3),
        np.ones((2, 3), np.float32),
        (torch.ones(2, 3),),
        {"x": torch.ones(2, 3)},
        {"__call__": torch.ones(2, 3)},
    ],
    ids=["tensor", "array", "tuple", "by name", "by method"],
)
def test_a_sample_in_any_form_gives_dtype_shape_and_output(store: ModelStore, sample: object) -> None:
    method = save(store, BATCHED, sample)["__call__"]
    assert method.inputs == (InputSpec("x", dtypes.F32, (-1, 3)), InputSpec("scale", required=False))
    assert method.outputs == (InputSpec("output_0", dtypes.F32, (-1, 2)),)
    found = load_model(store.get("net"))
    assert found.sample_inputs is not None
    (x,) = found.sample_inputs
    assert torch.equal(cast(torch.Tensor, x), torch.ones(2, 3))
    found.bound("__call__")(*found.sample_inputs)


def test_without_batching_the_samples_shape_is_the_shape(store: ModelStore) -> None:
    method = save(store, None, torch.ones(1, 3))["__call__"]
    assert method.inputs[0].shape == (1, 3)
    assert method.outputs[0].shape == (1, 2)


def test_batch_dims_may_differ_between_input_and_output(store: ModelStore) -> None:
    method = save(store, {"across": {"batchable": True, "batch_dim": (0, 1)}}, torch.ones(4, 3))["across"]
    assert method.inputs[0].shape == (-1, 3)
    assert method.outputs[0].shape == (3, -1)


def test_outputs_of_a_tree_are_named_as_the_protocol_names_them(store: ModelStore) -> None:
    sample = {"x": torch.ones(2, 3), "ids": torch.tensor([1, 2])}
    method = save(store, {"tree": {"batchable": True}}, sample)["tree"]
    assert [(spec.name, spec.dtype, spec.shape) for spec in method.outputs] == [
        ("logits", dtypes.F32, (-1, 3)),
        ("states.0", dtypes.F16, (-1, 3)),
        ("states.1.0", dtypes.I64, (-1,)),
        ("states.1.1", dtypes.F32, (-1, 3)),
    ]
    found = load_model(store.get("net")).samples["tree"]
    assert torch.equal(cast(torch.Tensor, found.kwargs["ids"]), torch.tensor([1, 2]))


def test_each_method_may_have_its_own_sample(store: ModelStore) -> None:
    methods = save(
        store, {"__call__": {}, "total": {}, "many": {}}, {"__call__": (torch.ones(1, 3), 2.0), "total": torch.ones(5)}
    )
    assert methods["__call__"].outputs[0].shape == (1, 2)
    assert methods["total"].inputs[0].shape == (5,)
    assert methods["many"].outputs == ()
    assert load_model(store.get("net")).samples["__call__"].args[1] == 2.0


def test_nested_samples_come_back_as_they_were(store: ModelStore) -> None:
    class Nested(nn.Module):
        def forward(self, parts: object) -> torch.Tensor:
            return torch.zeros(1)

    Nested.__module__ = "__main__"
    parts = [torch.tensor([1], dtype=torch.bfloat16), ("a", None, True), {"k": 1.5}]
    pytorch.save(store, "net", Nested(), sample_inputs=(parts,))
    (found,) = load_model(store.get("net")).sample_inputs or ()
    assert found == parts
    assert cast("list[torch.Tensor]", found)[0].dtype == torch.bfloat16


def test_the_stored_sample_does_not_change_with_the_users_array(store: ModelStore) -> None:
    class Spoiling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    Spoiling.__module__ = "__main__"
    array = np.ones(3, np.float32)[::-1]
    pytorch.save(store, "net", Spoiling(), sample_inputs=array)
    assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("signatures", "sample", "message"),
    [
        ({"__cal__": {}}, None, r'Net has no method \'__cal__\'. Did you mean "__call__"'),
        ({"tre": {}}, None, r'Net has no method \'tre\'. Did you mean "tree"\? Its methods: __call__, '),
        ({"fc": {"batchabel": True}}, None, "batchable"),
        (None, (1, 2, 3), r"sample_inputs do not fit __call__\(x: .*too many positional arguments"),
        (None, {"y": torch.ones(1)}, r"sample_inputs do not fit __call__.*missing a required argument: 'x'"),
        (None, "text", "sample_inputs of __call__ is a str, expected an array or tensor, a tuple"),
        (None, (object(),), "argument 0 is a object, expected an array or a tensor"),
        (None, torch.ones(1, dtype=torch.complex128), "is torch.complex128, which no request can carry"),
        (
            None,
            torch.ones(1, 4),
            r"__call__ fails with its sample_inputs, so it is not saved: RuntimeError: .*f32\[1, 4\]",
        ),
        (None, np.ones((1, 3)), r"fails with its sample_inputs.*argument 0: f64\[1, 3\]"),
        (BATCHED, torch.tensor(1.0), r"has shape \[\], without the batch dim 0; add it"),
        (BATCHED, torch.ones(0, 3), "hold no row along batch dim 0"),
        ({"total": {"batchable": True}}, torch.ones(2, 3), r"output_0 has shape \[\] for 2 rows of input"),
        ({"across": {"batchable": True}}, torch.ones(2, 3), r"output_0 has shape \[3, 2\] for 2 rows.*batch_dim=\("),
        ({"pair": {"batchable": True}}, torch.ones(2, 3), "output_1 is None, which cannot be split by rows"),
        (
            {"tree": {"batchable": True}},
            {"x": torch.ones(2, 3), "ids": torch.ones(3)},
            "have 2 and 3 rows along batch dim 0; expected the same",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_saved(
    store: ModelStore, signatures: object, sample: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        save(store, signatures, sample)
    assert not store.home.exists()
