"""`paceline.pytorch`, `.torchscript`, `.torch_export` and `.onnx` as a user calls them: one contract for all four."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import paceline.onnx
import paceline.pytorch
import paceline.torch_export
import paceline.torchscript
from paceline.protocol.errors import ConfigError, ModelNotFound, StoreError

BATCHED = {"__call__": {"batchable": True, "batch_dim": 0}}
OPEN = (
    "inputs of {} are OPEN: not tried, not checked, workers not warmed up (pass sample_inputs=, the arguments of one "
    "call, to change that)\n"
)
NOT_TRIED = (
    "{} was NOT TRIED, and workers are not warmed up (pass sample_inputs=, the arguments of one call, to change that)\n"
)
OFF = 'batching is OFF for {} (pass signatures={{"{}": {{"batchable": True, "batch_dim": 0}}}} to turn it on)\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    return tmp_path


class Front:
    """One of the four modules, and its kind of `nn.Linear(3, 2)`."""

    def __init__(self, module: Any, make: Callable[[nn.Module], Any], call: Callable[[Any, torch.Tensor], Any]) -> None:
        self.module, self.make, self.call = module, make, call

    @property
    def name(self) -> str:
        return str(self.module.__name__)


def script(net: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(net)


def program(net: nn.Module) -> Any:
    return torch.export.export(net, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def graph(net: nn.Module) -> Any:
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    state = {name: onnx.numpy_helper.from_array(value.numpy(), name) for name, value in net.state_dict().items()}
    ports = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])]
        for name, size in (("x", 3), ("y", 2))
    ]
    node = onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    made = onnx.helper.make_graph([node], "g", *ports, list(state.values()))
    opset = onnx.helper.make_operatorsetid("", 17)
    return onnx.helper.make_model(made, opset_imports=[opset], ir_version=8).SerializeToString()


FRONTS = pytest.mark.parametrize(
    "front",
    [
        Front(paceline.pytorch, lambda net: net, lambda model, x: model(x)),
        Front(paceline.torchscript, script, lambda model, x: model(x)),
        Front(paceline.torch_export, program, lambda model, x: model.module()(x)),
        Front(paceline.onnx, graph, lambda model, x: torch.from_numpy(model.run(None, {"x": x.numpy()})[0])),
    ],
    ids=lambda front: front.name,
)


@FRONTS
def test_save_get_and_load_go_round(front: Front, home: Path) -> None:
    net = nn.Linear(3, 2)
    model = front.make(net)
    saved = front.module.save(
        model, "my_torch_model", BATCHED, labels={"stage": "dev"}, metadata={"accuracy": 0.97}, custom_objects={"a": 1}
    )
    assert str(saved) == "my_torch_model:1"
    found = front.module.get("my_torch_model:latest")
    assert str(front.module.save_model("my_torch_model", model, signatures=BATCHED)) == "my_torch_model:2"
    assert str(found) == "my_torch_model:1"
    assert found.path == home / "models" / "my_torch_model" / "1"
    assert (found.manifest.labels, found.manifest.metadata) == ({"stage": "dev"}, {"accuracy": 0.97})
    assert found.manifest.methods["__call__"].batchable
    assert front.module.load_custom_objects("my_torch_model:1") == {"a": 1}
    x = torch.rand(4, 3)
    torch.testing.assert_close(front.call(front.module.load_model("my_torch_model"), x), net(x))


@FRONTS
def test_both_ways_to_save_take_the_same_arguments(front: Front) -> None:
    save, save_model = (inspect.signature(way).parameters for way in (front.module.save, front.module.save_model))
    assert list(save)[2:] == list(save_model)[2:]
    assert (list(save)[:2], list(save_model)[:2]) == (["model", "name"], ["name", "model"])
    assert list(save) == list(inspect.signature(paceline.pytorch.save).parameters)


@FRONTS
def test_the_default_signature_does_not_batch(front: Front) -> None:
    methods = front.module.save(front.make(nn.Linear(3, 2)), "net").manifest.methods
    assert {name: method.batchable for name, method in methods.items()} == {"__call__": False}


@FRONTS
def test_a_model_that_is_random_on_purpose_is_saved_without_its_self_test(front: Front) -> None:
    sample = torch.zeros(1, 3)
    for self_test in (True, False):
        saved = front.module.save(front.make(nn.Linear(3, 2)), "net", sample_inputs=sample, self_test=self_test)
        assert saved.manifest.has_file("expected_outputs.safetensors") is self_test


@FRONTS
def test_both_spellings_of_the_batch_dim_are_taken(front: Front) -> None:
    for key in ("batch_dim", "batchdim"):
        signatures = {"__call__": {"batchable": True, key: (0, 0)}}
        saved = front.module.save(front.make(nn.Linear(3, 2)), "net", signatures=signatures)
        assert saved.manifest.methods["__call__"].batch_dim == (0, 0)
    twice = {"__call__": {"batchable": True, "batch_dim": 0, "batchdim": 0}}
    with pytest.raises(ConfigError, match="gives batch_dim twice"):
        front.module.save(front.make(nn.Linear(3, 2)), "net", signatures=twice)


@FRONTS
def test_saving_without_batching_or_sample_says_so_once(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    model = front.make(nn.Linear(3, 2))
    front.module.save(model, "my_model")
    open_inputs = {paceline.torch_export: "", paceline.onnx: NOT_TRIED.format("my_model")}
    assert capsys.readouterr().out == OFF.format("my_model.__call__", "__call__") + open_inputs.get(
        front.module, OPEN.format("my_model")
    )
    front.module.save(model, "my_model", BATCHED, sample_inputs=torch.zeros(1, 3))
    assert capsys.readouterr().out == ""


@FRONTS
def test_swapped_arguments_are_an_error_that_says_the_order(front: Front) -> None:
    model = front.make(nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=rf"swapped: expected {front.name}.save\(model, name\)"):
        front.module.save("net", model)
    with pytest.raises(ConfigError, match=rf"swapped: expected {front.name}.save_model\(name, model\)"):
        front.module.save_model(model, "net")


@pytest.mark.parametrize(
    ("save", "arguments"), [(paceline.onnx.save, ("net", "n.onnx")), (paceline.onnx.save_model, ("n.onnx", "net"))]
)
def test_a_path_where_the_name_goes_is_found_too(save: Callable[..., object], arguments: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"swapped: expected .*, got the path 'n.onnx' where the name goes"):
        save(*arguments)


@FRONTS
def test_a_name_that_is_none_is_refused(front: Front) -> None:
    with pytest.raises(StoreError, match='Try "my_net"'):
        front.module.save(front.make(nn.Linear(3, 2)), "My_Net")
    with pytest.raises(ConfigError, match="the name is a NoneType, expected a string"):
        front.module.save(front.make(nn.Linear(3, 2)), None)


@FRONTS
def test_a_typo_in_a_signature_names_the_right_key(front: Front) -> None:
    with pytest.raises(ConfigError, match='Did you mean "batchable"'):
        front.module.save(front.make(nn.Linear(3, 2)), "net", signatures={"__call__": {"batchabel": True}})


def test_a_model_of_the_other_framework_says_where_to_get_it() -> None:
    paceline.torchscript.save(script(nn.Linear(3, 2)), "net")
    with pytest.raises(StoreError, match=r"net:1 is a torchscript model; use paceline.torchscript instead of"):
        paceline.pytorch.load_model("net")


def test_an_unknown_model_names_the_nearest() -> None:
    paceline.pytorch.save(nn.Linear(1, 1), "my_model")
    with pytest.raises(ModelNotFound, match='Did you mean "my_model"'):
        paceline.pytorch.get("my_modl")


def test_importing_a_front_door_imports_no_torch() -> None:
    program = (
        "import sys, paceline.pytorch, paceline.torchscript, paceline.torch_export, paceline.onnx; "
        "print({'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout == "set()\n"
