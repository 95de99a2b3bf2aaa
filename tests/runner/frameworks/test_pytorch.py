"""PyTorch models come back from the store as they went in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import safetensors.torch
import torch
from torch import nn

from paceline.protocol.errors import ConfigError, InvalidParameter, StoreError
from paceline.runner.frameworks import pytorch
from paceline.runner.frameworks.custom_objects import load_custom_objects
from paceline.runner.frameworks.registry import framework, load_model
from paceline.store import ModelStore, StoredVersion

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


class Holder(nn.Module):
    """Whatever a test puts into it."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.same = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.embed(x)))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def round_trip(store: ModelStore, model: nn.Module) -> nn.Module:
    pytorch.save(store, "net", model)
    return loaded(store)


def loaded(store: ModelStore) -> nn.Module:
    return cast(nn.Module, load_model(store.get("net")).model)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def test_every_parameter_and_buffer_comes_back_equal(store: ModelStore) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 5), nn.BatchNorm2d(6), nn.LSTM(4, 3, num_layers=2), nn.Embedding(3, 2))
    found = round_trip(store, model).state_dict()
    assert list(found) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_every_dtype_and_shape_is_kept(store: ModelStore, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = (torch.rand(shape) * 100).to(dtype)
    found = round_trip(store, Holder(plain=values, kept=nn.Buffer(values.clone())))
    for tensor in (found.plain, found.kept):
        assert isinstance(tensor, torch.Tensor)
        assert (tensor.dtype, tensor.shape) == (dtype, torch.Size(shape))
        assert bits(tensor) == bits(values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_stays_in_it(store: ModelStore, dtype: torch.dtype) -> None:
    model = nn.Linear(4, 3).to(dtype)
    x = torch.rand(2, 4).to(dtype)
    assert torch.equal(cast(nn.Linear, round_trip(store, model))(x), model(x))


def test_tied_weights_stay_tied(store: ModelStore) -> None:
    found = cast(Tied, round_trip(store, Tied()))
    assert found.head.weight is found.embed.weight
    assert found.same is found.head
    assert sum(entry.bytes for entry in store.get("net").manifest.files if entry.path == pytorch.TENSORS_FILE) < 400


def test_two_tensors_over_the_same_memory_share_it_again(store: ModelStore) -> None:
    weight = torch.rand(4, 4)
    found = round_trip(store, Holder(a=nn.Parameter(weight), b=nn.Parameter(weight)))
    cast(nn.Parameter, found.a).data[0, 0] = 7.0
    assert cast(nn.Parameter, found.b)[0, 0] == 7.0
    assert found.a is not found.b


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(4, 6).t(),
        torch.rand(4, 6)[:, ::2],
        torch.rand(1, 3).expand(4, 3),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(3, dtype=torch.complex64).conj(),
        torch.rand(8)[3:5],
    ],
    ids=["transposed", "gaps", "expanded", "channels_last", "conjugate", "slice"],
)
def test_a_tensor_of_any_layout_comes_back_equal(store: ModelStore, tensor: torch.Tensor) -> None:
    found = cast(nn.Parameter, round_trip(store, Holder(weight=nn.Parameter(tensor))).weight)
    assert torch.equal(found, tensor)


def test_a_memory_format_is_kept_for_it_makes_convolutions_fast(store: ModelStore) -> None:
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    weight = cast(nn.Conv2d, round_trip(store, model)).weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, model.weight)


def test_what_a_state_dict_does_not_hold_comes_back_too(store: ModelStore) -> None:
    model = Holder(
        names=["plane", "car"],
        scale=3.5,
        table={"mean": torch.tensor([1.0, 2.0])},
        frozen=nn.Parameter(torch.ones(2), requires_grad=False),
        parts=nn.ModuleDict({"a": nn.Linear(2, 2)}),
    )
    model.register_buffer("mask", torch.tensor([True, False]), persistent=False)
    model.register_forward_hook(double_output)
    found = round_trip(store, model)
    assert vars(found)["names"] == ["plane", "car"]
    assert vars(found)["scale"] == 3.5
    assert torch.equal(cast("dict[str, torch.Tensor]", found.table)["mean"], torch.tensor([1.0, 2.0]))
    assert torch.equal(cast(torch.Tensor, found.mask), torch.tensor([True, False]))
    assert not cast(nn.Parameter, found.frozen).requires_grad
    assert torch.equal(found(torch.ones(1)), torch.tensor([4.0]))


def double_output(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def test_quantized_modules_come_back_equal(store: ModelStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]  # torch's
            nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), {nn.Linear}, dtype=torch.qint8
        )
        x = torch.rand(3, 8)
        assert torch.equal(round_trip(store, model)(x), model(x))


def test_sparse_tensors_come_back_equal(store: ModelStore) -> None:
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(cast(torch.Tensor, round_trip(store, Holder(eye=sparse)).eye).to_dense(), torch.eye(3))


def test_the_weights_file_is_read_by_the_safetensors_library(store: ModelStore) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    version = pytorch.save(store, "net", model)
    found = safetensors.torch.load_file(version.path / pytorch.TENSORS_FILE)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }


def test_a_loaded_model_evaluates_and_the_saved_one_still_trains(store: ModelStore) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.Dropout())
    model[2].eval()
    pytorch.save(store, "net", model, sample_inputs=torch.ones(1, 2))
    assert [part.training for part in model] == [True, True, False]
    assert not any(part.training for part in loaded(store).modules())


def test_loading_maps_the_weights_instead_of_copying_them(store: ModelStore) -> None:
    pytorch.save(store, "net", nn.Linear(512, 1024))
    weight = cast(nn.Linear, loaded(store)).weight
    (line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if _covers(line, weight.data_ptr())]
    assert line.endswith(f"net/1/{pytorch.TENSORS_FILE}")


def _covers(line: str, address: int) -> bool:
    begin, end = (int(text, 16) for text in line.split()[0].split("-"))
    return begin <= address < end


def test_training_a_loaded_model_leaves_the_store_as_it_is(store: ModelStore) -> None:
    pytorch.save(store, "net", nn.Linear(2, 2))
    with torch.no_grad():
        cast(nn.Linear, loaded(store)).weight.zero_()
    store.verify("net")
    assert cast(nn.Linear, loaded(store)).weight.abs().sum() > 0


@pytest.mark.parametrize("file", [pytorch.TENSORS_FILE, pytorch.OBJECT_FILE])
def test_a_flipped_bit_in_any_file_stops_the_load_and_names_it(store: ModelStore, file: str) -> None:
    path = pytorch.save(store, "net", nn.Linear(2, 2)).path / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=f"net:1/{file} is damaged"):
        loaded(store)


def test_a_model_of_another_store_is_not_loaded_without_trust(store: ModelStore) -> None:
    pytorch.save(store, "net", nn.Linear(2, 2))
    (store.home / "store.key").unlink()
    with pytest.raises(
        StoreError, match=r"net:1 \(pytorch\) can run code when it is loaded, and this store did not save"
    ):
        loaded(store)
    load_model(store.get("net", trust=True))


def test_a_manifest_that_denies_its_code_does_not_help(store: ModelStore) -> None:
    """The loader asks for trust whatever the manifest says: it is the one thing a stranger can write."""
    version = pytorch.save(store, "net", nn.Linear(2, 2))
    manifest = version.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"code_bearing": true', '"code_bearing": false'))
    assert not store.get("net").manifest.code_bearing
    with pytest.raises(StoreError, match="can run code"):
        loaded(store)


# What cannot be saved


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, r"the model is a int, expected a torch.nn.Module"),
        (nn.Linear, r"the model is the class Linear, expected an instance: Linear\(...\)"),
        (nn.Module(), "Module has no forward method"),
        (Holder(lock=threading.Lock()), r"the Holder cannot be saved: cannot pickle '_thread.lock' object"),
    ],
    ids=["number", "class", "no forward", "lock"],
)
def test_what_is_no_servable_module_is_refused_with_the_reason(store: ModelStore, model: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pytorch.save(store, "net", model)
    assert store.names() == []


def test_a_compiled_module_says_what_to_save_instead(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match=r"save model._orig_mod instead"):
        pytorch.save(store, "net", torch.compile(nn.Linear(2, 2)))


def test_a_script_module_is_sent_to_torchscript(store: ModelStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"save it with paceline.torchscript.save\(model, name\)"):
        pytorch.save(store, "net", script)


def test_external_modules_must_be_modules_in_a_list(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="expected a list: external_modules="):
        pytorch.save(store, "net", nn.Linear(1, 1), external_modules=os)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds 'os', expected imported modules"):
        pytorch.save(store, "net", nn.Linear(1, 1), external_modules=["os"])  # type: ignore[list-item]


# Where classes come from

TRAIN = """
import torch
from torch import nn
import paceline.pytorch

FACTOR = 3

def scaled(x):
    return x * FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return scaled(self.fc(x))

model = Net()
saved = paceline.pytorch.save(model, "net", custom_objects={"scaled": scaled})
x = torch.ones(1, 2)
print(saved, model(x).tolist())
"""

SERVE = """
import torch
import paceline.pytorch
model = paceline.pytorch.load_model("net")
print(paceline.pytorch.get("net"), model(torch.ones(1, 2)).tolist())
"""


def run(program: str | Path, home: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """`program` (a script's path, or its text) in a fresh Python, with `path` importable."""
    command = [str(program)] if isinstance(program, Path) else ["-c", program]
    python_path = os.pathsep.join(map(str, [Path(__file__).parents[3], *path]))
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": python_path, "PACELINE_HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=home.parent,
        timeout=60,
    )


def test_a_class_of_the_training_script_loads_where_the_script_never_was(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    trained = run(script, tmp_path / "home")
    script.unlink()
    served = run(SERVE, tmp_path / "home")
    assert trained.stdout.splitlines()[-1:] == served.stdout.splitlines(), trained.stderr + served.stderr
    assert served.stdout.startswith("net:1 [[")


@pytest.fixture
def my_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package of the user's, importable in this test only."""
    package = tmp_path / "users" / "my_models"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from my_models.layers import Doubled\n")
    (package / "layers.py").write_text(
        "import torch\nFACTOR = 2\n"
        "class Doubled(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * FACTOR\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    import my_models  # type: ignore[import-not-found]  # made above

    yield my_models
    for name in [name for name in sys.modules if name.split(".")[0] == "my_models"]:
        del sys.modules[name]


def test_external_modules_load_where_they_are_gone(tmp_path: Path, my_models: types.ModuleType) -> None:
    pytorch.save(ModelStore(tmp_path / "home"), "net", my_models.Doubled(), external_modules=[my_models])
    served = run(SERVE, tmp_path / "home")
    assert served.stdout == "net:1 [[2.0, 2.0]]\n", served.stderr


def test_a_module_that_is_importable_is_stored_by_reference(tmp_path: Path, my_models: types.ModuleType) -> None:
    version = pytorch.save(ModelStore(tmp_path / "home"), "net", my_models.Doubled())
    assert b"cloudpickle" not in version.read(pytorch.OBJECT_FILE)
    served = run(SERVE, tmp_path / "home", tmp_path / "users")
    assert served.stdout == "net:1 [[2.0, 2.0]]\n", served.stderr


def test_a_class_that_is_not_importable_any_more_is_named_with_the_remedy(
    tmp_path: Path, my_models: types.ModuleType
) -> None:
    pytorch.save(ModelStore(tmp_path / "home"), "net", my_models.Doubled())
    served = run(SERVE, tmp_path / "home")
    assert (
        "StoreError: net:1 needs my_models.layers.Doubled, which this process cannot import: No module named "
        "'my_models'. Install my_models.layers or put it on PYTHONPATH, or save the model again with "
        "external_modules=[my_models] to store the code with it." in served.stderr
    )


def test_bytecode_of_another_python_is_refused_before_it_runs(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    Local = type("Local", (nn.Linear,), {"__module__": "__main__"})
    pytorch.save(store, "net", Local(2, 2))
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    with pytest.raises(StoreError, match=r"saved by Python 3\.\d+\.\d+; this is Python 3.99.0"):
        loaded(store)


def test_custom_objects_come_back(store: ModelStore) -> None:
    version = pytorch.save(store, "net", nn.Linear(1, 1), custom_objects={"classes": ["a"], "half": lambda x: x / 2})
    found = load_custom_objects(store.get("net"))
    assert found["classes"] == ["a"]
    assert found["half"](3) == 1.5  # type: ignore[operator]
    assert load_custom_objects(pytorch.save(store, "net", nn.Linear(1, 1))) == {}
    assert isinstance(version, StoredVersion)


# The loaded model


def test_a_method_is_bound_by_its_signatures_name(store: ModelStore) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    Two.__module__ = "__main__"
    pytorch.save(store, "net", Two(), signatures={"__call__": {}, "encode": {}})
    found = load_model(store.get("net"))
    assert found.bound("__call__")(1) == 1
    assert found.bound("encode")(1) == 2
    with pytest.raises(InvalidParameter, match='"encode"'):
        found.bound("encod")


def test_an_unknown_framework_names_the_nearest() -> None:
    with pytest.raises(StoreError, match='"pytorch"'):
        framework("pytroch")
