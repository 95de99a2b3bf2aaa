"""What a training script saves is what another process, without that script, loads: to the bit, with every kind of
module in one script and one server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TRAIN = """
import json
import sys
import warnings

warnings.simplefilter("error")  # saving shows none of upstream's

import torch
from torch import nn

import helper_models
import paceline

OFFSET = 0.5  # a global that a method needs


def shifted(x):  # and a function
    return x + OFFSET


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout()

    def forward(self, x):
        return shifted(self.drop(self.fc(x)))

    def encode(self, x):
        return self.fc(x) * 2


class Buffered(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("secret", torch.rand(4), persistent=False)
        self.norm(torch.rand(8, 4))  # running mean and variance of its own

    def forward(self, x):
        return self.norm(super().forward(x)) * self.scale + self.secret


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 4, bias=False)
        self.down = nn.Linear(4, 4, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x):
        return self.down(self.up(x))


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantize_dynamic itself says that it will go
        model = nn.Sequential(Net(), nn.Linear(4, 2))
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def script(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(net)


MODELS = {
    "main": Net(),
    "inside": nn.Sequential(nn.ReLU(), Net()),
    "buffers": Buffered(),
    "tied": Tied(),
    "half": Net().half(),
    "bfloat16": Net().bfloat16(),
    "mixed": nn.Sequential(Net().double(), Net().double()),
    "quantized": quantized(),
    "imported": helper_models.Scaled(3),
    "external": helper_models.Scaled(5),
}
torch.manual_seed(1)
answers = {}
for name, model in MODELS.items():
    x = torch.rand(3, 4).to(next(model.parameters(), torch.zeros(1)).dtype)
    external = [helper_models] if name == "external" else None
    paceline.pytorch.save(
        model, name, signatures={"__call__": {"batchable": True}}, sample_inputs=x, external_modules=external
    )
    answers[name] = [x.tolist(), model.eval()(x).tolist()]
paceline.pytorch.save(MODELS["main"], "method", signatures={"encode": {}}, sample_inputs=torch.ones(1, 4))
x = torch.rand(3, 4)
paceline.torchscript.save(script(nn.Sequential(nn.Linear(4, 4), nn.Dropout())), "script", sample_inputs=x)
program = torch.export.export(Net().eval(), (x,))
paceline.torch_export.save(program, "program")
answers["program"] = [x.tolist(), program.module()(x).tolist()]
json.dump(answers, open(sys.argv[1], "w"))
"""

LOAD = """
import json
import sys
import warnings

warnings.simplefilter("error")

import torch

from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore

store, found = ModelStore(), {}
for name, (x, _) in json.load(open(sys.argv[1])).items():
    loaded = load_model(store.get(name))  # with its self-test
    sample = loaded.sample_inputs[0]
    with torch.inference_mode():
        output = loaded.bound("__call__")(torch.tensor(x, dtype=sample.dtype))
    found[name] = [x, output.tolist()]
assert load_model(store.get("method")).bound("encode")(torch.ones(1, 4)).shape == (1, 4)
load_model(store.get("script"))
tied = load_model(store.get("tied")).model
assert tied.up.weight is tied.down.weight
print(json.dumps(found))
"""

HELPER = """
import torch


class Scaled(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by
"""


def run(*command: object, home: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PACELINE_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)])}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=home.parent,
        timeout=100,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Where a training script has saved all of its models; the script itself is gone."""
    users = tmp_path / "users"
    users.mkdir()
    (users / "helper_models.py").write_text(HELPER)
    (users / "train.py").write_text(TRAIN)
    done = run(users / "train.py", tmp_path / "answers.json", home=tmp_path / "home", path=users)
    assert done.returncode == 0, done.stderr
    (users / "train.py").unlink()
    return tmp_path


def test_every_kind_of_module_comes_back_equal_where_its_script_never_was(saved: Path) -> None:
    served = run("-c", LOAD, saved / "answers.json", home=saved / "home", path=saved / "users")
    assert served.returncode == 0, served.stderr
    found, expected = json.loads(served.stdout), json.loads((saved / "answers.json").read_text())
    assert len(found) == 11
    for name, answer in expected.items():
        assert found[name] == answer, name
    (saved / "users" / "helper_models.py").unlink()
    expected.pop("imported")
    (saved / "answers.json").write_text(json.dumps(expected))
    without = run("-c", LOAD, saved / "answers.json", home=saved / "home", path=saved / "users")
    assert without.returncode == 0, without.stderr
    assert json.loads(without.stdout) == expected


WEIGH = """
import sys
import warnings

warnings.simplefilter("ignore")

import torch
from torch import nn

import paceline

MB = 1024


def peak_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // MB for line in status if line.startswith("VmHWM"))


def saving_adds(front, model):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = peak_mb()
    front.save(model, "net", sample_inputs=x)
    return peak_mb() - before


def nets(size, count):
    net = nn.Sequential(*[nn.Linear(size, size, bias=False) for _ in range(count)]).eval()
    yield paceline.pytorch, net
    yield paceline.torchscript, torch.jit.script(net)
    yield paceline.torch_export, torch.export.export(net, (x,))


x = torch.ones(1, 16)
for front, model in nets(16, 2):
    saving_adds(front, model)  # what is imported at the first call
x = torch.ones(1, 1024)
for front, model in nets(1024, 20):
    print(front.__name__, saving_adds(front, model))
"""


def test_saving_holds_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    """80 MB of them, 4 MB each."""
    done = run("-c", WEIGH, home=tmp_path / "home", path=tmp_path)
    assert done.returncode == 0, done.stderr
    added = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines() if len(line.split()) == 2}
    assert added.keys() == {"paceline.pytorch", "paceline.torchscript", "paceline.torch_export"}
    assert max(added.values()) < 40, added
