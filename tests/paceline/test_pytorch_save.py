"""`paceline.pytorch` and `paceline.torchscript` as a user calls them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import paceline.pytorch
import paceline.torchscript
from paceline.protocol.errors import ConfigError, ModelNotFound, StoreError

BATCHED = {"__call__": {"batchable": True, "batch_dim": 0}}
OPEN = (
    "inputs of {} are OPEN: not tried, not checked, workers not warmed up (pass sample_inputs=, the arguments of one "
    "call, to change that)\n"
)
OFF = 'batching is OFF for {} (pass signatures={{"{}": {{"batchable": True, "batch_dim": 0}}}} to turn it on)\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    return tmp_path


def model_for(front: ModuleType) -> nn.Module:
    if front is paceline.pytorch:
        return nn.Linear(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script: nn.Module = torch.jit.script(nn.Linear(3, 2))
        return script


FRONTS = pytest.mark.parametrize("front", [paceline.pytorch, paceline.torchscript], ids=lambda front: front.__name__)


@FRONTS
def test_save_get_and_load_go_round(front: ModuleType, home: Path) -> None:
    model = model_for(front)
    saved = front.save(model, "my_torch_model", BATCHED, labels={"stage": "dev"}, metadata={"accuracy": 0.97})
    assert str(saved) == "my_torch_model:1"
    found = front.get("my_torch_model:latest")
    assert str(found) == str(front.save_model("my_torch_model", model, signatures=BATCHED)).replace(":2", ":1")
    assert found.path == home / "models" / "my_torch_model" / "1"
    assert (found.manifest.labels, found.manifest.metadata) == ({"stage": "dev"}, {"accuracy": 0.97})
    assert found.manifest.methods["__call__"].batchable
    x = torch.ones(1, 3)
    assert torch.equal(front.load_model("my_torch_model")(x), model(x))


def test_both_spellings_of_the_batch_dim_are_taken() -> None:
    for key in ("batch_dim", "batchdim"):
        saved = paceline.pytorch.save(nn.Linear(1, 1), "net", signatures={"__call__": {"batchable": True, key: 1}})
        assert saved.manifest.methods["__call__"].batch_dim == (1, 1)


@FRONTS
def test_saving_without_batching_or_sample_says_so_once(front: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    front.save(model_for(front), "my_model")
    assert capsys.readouterr().out == OFF.format("my_model.__call__", "__call__") + OPEN.format("my_model")
    front.save(model_for(front), "my_model", BATCHED, sample_inputs=torch.zeros(1, 3))
    assert capsys.readouterr().out == ""


@FRONTS
def test_swapped_arguments_are_an_error_that_says_the_order(front: ModuleType) -> None:
    with pytest.raises(ConfigError, match=rf"swapped: expected {front.__name__}.save\(model, name\)"):
        front.save("net", model_for(front))
    with pytest.raises(ConfigError, match=rf"swapped: expected {front.__name__}.save_model\(name, model\)"):
        front.save_model(model_for(front), "net")


@FRONTS
def test_a_name_that_is_none_is_refused(front: ModuleType) -> None:
    with pytest.raises(StoreError, match='Try "my_net"'):
        front.save(model_for(front), "My_Net")
    with pytest.raises(ConfigError, match="the name is a NoneType, expected a string"):
        front.save(model_for(front), None)


def test_a_typo_in_a_signature_names_the_right_key() -> None:
    with pytest.raises(ConfigError, match='Did you mean "batchable"'):
        paceline.pytorch.save(nn.Linear(1, 1), "net", signatures={"__call__": {"batchabel": True}})


def test_a_model_of_the_other_framework_says_where_to_get_it() -> None:
    paceline.torchscript.save(model_for(paceline.torchscript), "net")  # type: ignore[arg-type]  # it is a script
    with pytest.raises(StoreError, match=r"net:1 is a torchscript model; use paceline.torchscript instead of"):
        paceline.pytorch.load_model("net")


def test_an_unknown_model_names_the_nearest() -> None:
    paceline.pytorch.save(nn.Linear(1, 1), "my_model")
    with pytest.raises(ModelNotFound, match='Did you mean "my_model"'):
        paceline.pytorch.get("my_modl")


def test_custom_objects_come_back() -> None:
    paceline.pytorch.save(nn.Linear(1, 1), "net", custom_objects={"classes": ["plane"]})
    assert paceline.pytorch.load_custom_objects("net") == {"classes": ["plane"]}


def test_importing_a_front_door_imports_no_torch() -> None:
    program = "import sys, paceline.pytorch, paceline.torchscript; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout == "False\n"
