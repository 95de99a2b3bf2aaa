"""TorchScript modules come back from the store as they went in, without upstream's deprecation warnings."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec
from paceline.runner.frameworks import torchscript
from paceline.runner.frameworks.custom_objects import load_custom_objects
from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore

BATCHED = {"batchable": True, "batch_dim": 0}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.drop = nn.Dropout()

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return torch.mul(self.drop(self.fc(x)), scale)

    @torch.jit.export
    def encode(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def scripted(kind: str = "scripted") -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "traced":
            traced: torch.jit.ScriptModule = torch.jit.trace(Net().eval(), torch.ones(1, 3))  # type: ignore[no-untyped-call]
            return traced
        script: torch.jit.ScriptModule = torch.jit.script(Net())
        return torch.jit.freeze(script.eval()) if kind == "frozen" else script


@pytest.mark.parametrize("kind", ["scripted", "traced", "frozen"])
def test_a_module_comes_back_equal_and_evaluating(store: ModelStore, kind: str) -> None:
    module = scripted(kind)
    x = torch.rand(4, 3)
    torchscript.save(store, "net", module, signatures={"__call__": BATCHED}, sample_inputs=x)
    found = load_model(store.get("net"))
    assert torch.equal(found.bound("__call__")(x), module.eval()(x))  # type: ignore[arg-type]
    assert found.sample_inputs is not None
    assert torch.equal(found.sample_inputs[0], x)  # type: ignore[arg-type]


def test_inputs_come_from_the_schema_and_the_sample(store: ModelStore) -> None:
    sample = {"__call__": torch.ones(2, 3), "encode": (torch.ones(1), torch.ones(1))}
    signatures = {"__call__": BATCHED, "encode": BATCHED}
    methods = torchscript.save(store, "net", scripted(), signatures=signatures, sample_inputs=sample).manifest.methods
    assert methods["__call__"].inputs == (InputSpec("x", dtypes.F32, (-1, 3)), InputSpec("scale", required=False))
    assert methods["__call__"].outputs == (InputSpec("output_0", dtypes.F32, (-1, 2)),)
    assert [spec.name for spec in methods["encode"].inputs] == ["a", "b"]
    assert not methods["encode"].open_inputs


def test_saving_leaves_the_training_mode(store: ModelStore) -> None:
    module = scripted()
    torchscript.save(store, "net", module, sample_inputs=torch.ones(1, 3))
    assert module.training


def test_no_warning_is_shown(store: ModelStore) -> None:
    module = scripted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchscript.save(store, "net", module)
        load_model(store.get("net"))


def test_custom_objects_come_back(store: ModelStore) -> None:
    torchscript.save(store, "net", scripted(), custom_objects={"classes": ["a", "b"]})
    assert load_custom_objects(store.get("net")) == {"classes": ["a", "b"]}


def test_a_flipped_bit_stops_the_load_and_names_the_file(store: ModelStore) -> None:
    path = torchscript.save(store, "net", scripted()).path / torchscript.SCRIPT_FILE
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"net:1/model.ts is damaged"):
        load_model(store.get("net"))


def test_a_script_of_another_store_is_not_loaded_without_trust(store: ModelStore) -> None:
    torchscript.save(store, "net", scripted())
    (store.home / "store.key").unlink()
    with pytest.raises(StoreError, match=r"net:1 \(torchscript\) can run code"):
        load_model(store.get("net"))
    load_model(store.get("net", trust=True))


def test_bytes_that_torch_cannot_read_are_a_store_error(store: ModelStore) -> None:
    with store.create("net", framework="torchscript", methods={}) as pending:
        pending.write(torchscript.SCRIPT_FILE, [b"not an archive"])
    with pytest.raises(StoreError, match="net:1 cannot be read by torch"):
        load_model(store.get("net"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(1, 1), r"plain Linear; save it with paceline.pytorch.save\(model, name\), or script it first"),
        (3, r"the model is a int, expected a torch.jit.ScriptModule"),
    ],
)
def test_what_is_no_script_module_is_refused_with_the_remedy(store: ModelStore, model: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        torchscript.save(store, "net", model)


def test_a_method_that_was_not_exported_names_the_nearest(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match='"encode"'):
        torchscript.save(store, "net", scripted(), signatures={"encod": {}})
