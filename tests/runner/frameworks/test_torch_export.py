"""Programs of torch.export come back from the store as they went in, and say themselves what they take."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec
from paceline.runner.frameworks import torch_export
from paceline.runner.frameworks.custom_objects import load_custom_objects
from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore

BATCHED: dict[str, dict[str, object]] = {"__call__": {"batchable": True, "batch_dim": 0}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.drop(self.fc(x)) + y, "x": x}


class Nested(nn.Module):
    def forward(self, batch: dict[str, list[torch.Tensor]], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        return batch["a"][0] * scale, batch["a"][1]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def exported(rows: Dim | None = None, by_name: bool = False) -> ExportedProgram:
    x, y = torch.ones(2 if rows else 1, 3), torch.ones(2 if rows else 1, 2)
    shapes = {"x": {0: rows}, "y": {0: rows}} if rows else None
    args, kwargs = ((x,), {"y": y}) if by_name else ((x, y), None)
    return torch.export.export(Net().eval(), args, kwargs, dynamic_shapes=shapes)


def sums(found: object) -> torch.Tensor:
    assert isinstance(found, dict)
    tensor: torch.Tensor = found["sum"]
    return tensor


@pytest.mark.parametrize("by_name", [False, True])
def test_a_program_comes_back_equal_and_is_called_by_position_and_by_name(store: ModelStore, by_name: bool) -> None:
    program = exported(Dim("batch"), by_name)
    torch_export.save(store, "net", program, signatures=BATCHED)
    call = load_model(store.get("net")).bound("__call__")
    x, y = torch.rand(5, 3), torch.rand(5, 2)
    expected = sums(program.module()(x, y=y) if by_name else program.module()(x, y))
    for found in (call(x, y), call(x, y=y), call(y=y, x=x)):
        assert torch.equal(sums(found), expected)


def test_inputs_outputs_and_the_sample_are_the_programs_own(store: ModelStore) -> None:
    version = torch_export.save(store, "net", exported(Dim("batch")), signatures=BATCHED)
    method = version.manifest.methods["__call__"]
    assert method.inputs == (InputSpec("x", dtypes.F32, (-1, 3)), InputSpec("y", dtypes.F32, (-1, 2)))
    assert method.outputs == (InputSpec("sum", dtypes.F32, (-1, 2)), InputSpec("x", dtypes.F32, (-1, 3)))
    assert not method.open_inputs
    found = load_model(version)
    assert found.sample_inputs is not None
    assert [tensor.shape for tensor in found.sample_inputs] == [(2, 3), (2, 2)]  # type: ignore[attr-defined]


def test_without_signatures_it_does_not_batch_and_may_have_a_fixed_batch(store: ModelStore) -> None:
    method = torch_export.save(store, "net", exported()).manifest.methods["__call__"]
    assert not method.batchable
    assert method.inputs[0].shape == (1, 3)


def test_a_fixed_batch_says_how_to_export_a_free_one(store: ModelStore) -> None:
    with pytest.raises(ConfigError) as caught:
        torch_export.save(store, "net", exported(), signatures=BATCHED)
    assert (
        "input 'x' was exported with a fixed batch of 1 along dim 0; export it with a free one, "
        "torch.export.export(model, args, dynamic_shapes={'x': {0: torch.export.Dim(\"batch\")}, ...})"
    ) in str(caught.value)
    assert store.names() == []


def test_the_remedy_of_that_message_works(store: ModelStore) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}, "y": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Net().eval(), (torch.ones(2, 3), torch.ones(2, 2)), dynamic_shapes=shapes)
    version = torch_export.save(store, "net", program, signatures=BATCHED)
    call = load_model(version).bound("__call__")
    for rows in (1, 2, 7):
        assert sums(call(torch.ones(rows, 3), torch.ones(rows, 2))).shape == (rows, 2)


def test_the_most_rows_of_the_program_are_the_methods(store: ModelStore) -> None:
    program = exported(Dim("batch", min=1, max=8))
    assert torch_export.save(store, "net", program, signatures=BATCHED).manifest.methods["__call__"].max_batch_size == 8
    smaller = {"__call__": BATCHED["__call__"] | {"max_batch_size": 4}}
    assert torch_export.save(store, "net", program, signatures=smaller).manifest.methods["__call__"].max_batch_size == 4
    larger = {"__call__": BATCHED["__call__"] | {"max_batch_size": 9}}
    with pytest.raises(ConfigError, match=r'"max_batch_size"\] is 9, but the program takes 8 rows at most'):
        torch_export.save(store, "net", program, signatures=larger)


def test_a_program_that_takes_no_lone_request_is_refused(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="'x' was exported for 4 rows or more along dim 0, and a request may have"):
        torch_export.save(
            store,
            "net",
            torch.export.export(
                Net().eval(),
                (torch.ones(5, 3), torch.ones(5, 2)),
                dynamic_shapes={"x": {0: Dim("batch", min=4)}, "y": {0: Dim("batch", min=4)}},
            ),
            signatures=BATCHED,
        )


@pytest.mark.parametrize("dim", [Dim.AUTO, Dim.DYNAMIC])
def test_a_dim_without_a_name_is_free_too(store: ModelStore, dim: object) -> None:
    shapes = ({0: dim}, {0: dim})
    program = torch.export.export(Net().eval(), (torch.ones(2, 3), torch.ones(2, 2)), dynamic_shapes=shapes)
    call = load_model(torch_export.save(store, "net", program, signatures=BATCHED)).bound("__call__")
    assert sums(call(torch.ones(1, 3), torch.ones(1, 2))).shape == (1, 2)


def test_a_module_is_exported_with_its_sample_and_a_free_batch(store: ModelStore) -> None:
    net = Net()
    version = torch_export.save(
        store, "net", net, signatures=BATCHED, sample_inputs={"y": np.ones((1, 2), "f4"), "x": torch.ones(1, 3)}
    )
    assert net.training
    assert net.drop.training
    assert version.manifest.methods["__call__"].inputs[0] == InputSpec("x", dtypes.F32, (-1, 3))
    x, y = torch.rand(6, 3), torch.rand(6, 2)
    torch.testing.assert_close(sums(load_model(version).bound("__call__")(x, y)), sums(net.eval()(x, y)))


def test_a_module_with_a_tree_of_inputs_is_exported(store: ModelStore) -> None:
    sample = ({"a": [torch.ones(1, 3), torch.ones(1, 2)]}, 2.0)
    version = torch_export.save(store, "net", Nested(), signatures=BATCHED, sample_inputs=sample)
    found = load_model(version).bound("__call__")({"a": [torch.ones(4, 3), torch.ones(4, 2)]}, 2.0)
    assert [tuple(tensor.shape) for tensor in found] == [(4, 3), (4, 2)]  # type: ignore[attr-defined]


def test_a_module_that_does_not_batch_keeps_its_shapes(store: ModelStore) -> None:
    version = torch_export.save(store, "net", Net(), sample_inputs=(torch.ones(1, 3), torch.ones(1, 2)))
    assert version.manifest.methods["__call__"].inputs[0].shape == (1, 3)


def test_a_module_that_torch_cannot_export_says_why(store: ModelStore) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match="the Branching cannot be exported with its sample_inputs"):
        torch_export.save(store, "net", Branching(), sample_inputs=torch.ones(1, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "the model is a int, expected the ExportedProgram that torch.export.export returns, or an nn.Module"),
        (nn.Linear(1, 1), "the Linear is exported with its sample_inputs, and none are given"),
    ],
)
def test_what_is_no_program_is_refused_with_the_remedy(store: ModelStore, model: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        torch_export.save(store, "net", model)


def test_a_script_is_sent_to_torchscript(store: ModelStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"paceline.torchscript.save"):
        torch_export.save(store, "net", script, sample_inputs=torch.ones(1, 2))


def test_another_method_than_call_is_refused(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match='names encode, but an exported program has one method, "__call__"'):
        torch_export.save(store, "net", exported(), signatures={"__call__": {}, "encode": {}})


def test_a_program_exported_in_training_mode_shows_when_it_is_saved(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="returns something else each time"):
        torch_export.save(store, "net", torch.export.export(nn.Dropout(), (torch.ones(1, 100),)))


def test_a_program_moves_to_the_device_that_serves_it(store: ModelStore) -> None:
    """`meta` stands for a GPU."""
    version = torch_export.save(store, "net", exported(Dim("batch")), signatures=BATCHED)
    call = torch_export.load(version, "meta").bound("__call__")
    found = sums(call(torch.ones(3, 3, device="meta"), torch.ones(3, 2, device="meta")))
    assert (found.device.type, found.shape) == ("meta", (3, 2))


def test_padding_needs_the_padded_dim_free(store: ModelStore) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)

    batch, length = Dim("batch"), Dim("length")
    shapes = {"x": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    program = torch.export.export(Mean(), (torch.ones(2, 5), torch.ones(2, 5)), dynamic_shapes=shapes)
    pads: dict[str, dict[str, object]] = {
        "__call__": {"batchable": True, "pad": {1: {"multiple_of": 8}}, "mask": "mask"}
    }
    version = torch_export.save(store, "net", program, signatures=pads)
    assert version.manifest.methods["__call__"].inputs[0].shape == (-1, -1)
    load_model(version)


def test_a_stored_program_needs_no_trust_here_and_some_elsewhere(store: ModelStore) -> None:
    assert torch_export.save(store, "net", exported()).manifest.code_bearing
    (store.home / "store.key").unlink()
    with pytest.raises(StoreError, match=r"net:1 \(torch_export\) can run code"):
        load_model(store.get("net"))
    load_model(store.get("net", trust=True))


def test_a_flipped_bit_stops_the_load_and_names_the_file(store: ModelStore) -> None:
    path = torch_export.save(store, "net", exported()).path / torch_export.PROGRAM_FILE
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"net:1/model.pt2 is damaged"):
        load_model(store.get("net"))


def test_bytes_that_torch_cannot_read_are_a_store_error(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    with store.create("net", framework="torch_export", methods={}) as pending:
        pending.write(torch_export.PROGRAM_FILE, [b"no archive"])
    with pytest.raises(StoreError, match="net:1 cannot be read by torch"):
        load_model(store.get("net"))
    assert caplog.text == ""


def test_no_warning_is_shown(store: ModelStore) -> None:
    program = exported()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch_export.save(store, "net", program)
        load_model(store.get("net"))


def test_custom_objects_come_back(store: ModelStore) -> None:
    torch_export.save(store, "net", exported(), custom_objects={"classes": ["a", "b"]})
    assert load_custom_objects(store.get("net")) == {"classes": ["a", "b"]}
