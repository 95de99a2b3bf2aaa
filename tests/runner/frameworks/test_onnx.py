"""ONNX models come back from the store as they went in, and say themselves what they take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec
from paceline.runner.executor import Executor
from paceline.runner.frameworks.custom_objects import load_custom_objects
from paceline.runner.frameworks.registry import load_model
from paceline.store import ModelStore, StoredVersion

onnx_package = pytest.importorskip("onnx", reason="the extra of the development environment is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from paceline.runner.frameworks import onnx, onnx_session  # noqa: E402  # only where onnxruntime is
from paceline.runner.frameworks.onnx_file import locations  # noqa: E402

BATCHED: dict[str, dict[str, object]] = {"__call__": {"batchable": True, "batch_dim": 0}}
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
FLOAT, STRING = onnx_package.TensorProto.FLOAT, onnx_package.TensorProto.STRING


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def graph(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    **weights: Any,
) -> Any:
    helper = onnx_package.helper
    made = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [onnx_package.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear(rows: object = "batch", out: object = "batch") -> Any:
    """`x @ w`, of `rows` rows."""
    return graph([("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, [rows, 3])}, {"y": (FLOAT, [out, 4])}, w=WEIGHTS)


def two_outputs(first: str = "x", second: str = "y") -> Any:
    return graph(
        [("Add", [first, second], ["sum"]), ("Mul", [first, second], ["product"])],
        {first: (FLOAT, ["batch", 3]), second: (FLOAT, ["batch", 3])},
        {"sum": (FLOAT, ["batch", 3]), "product": (FLOAT, ["batch", 3])},
    )


def called(version: StoredVersion) -> Any:
    """The stored model, as a worker calls it."""
    return load_model(version).bound("__call__")


def with_weights_beside(folder: Path, location: str = "net.onnx.data") -> Path:
    path = folder / "net.onnx"
    onnx_package.save(
        linear(), path, save_as_external_data=True, all_tensors_to_one_file=True, location=location, size_threshold=0
    )
    return path


def test_bytes_a_proto_and_a_path_are_the_same_model(store: ModelStore, tmp_path: Path) -> None:
    model = linear()
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    x = torch.rand(5, 3)
    for given in (model, model.SerializeToString(), path, str(path)):
        found = called(onnx.save(store, "net", given, signatures=BATCHED))(x)
        np.testing.assert_allclose(found, x.numpy() @ WEIGHTS, rtol=1e-6)


def test_inputs_and_outputs_are_the_models_own_without_a_sample(store: ModelStore) -> None:
    method = onnx.save(store, "net", linear(), signatures=BATCHED).manifest.methods["__call__"]
    assert method.inputs == (InputSpec("x", dtypes.F32, (-1, 3)),)
    assert method.outputs == (InputSpec("output_0", dtypes.F32, (-1, 4)),)
    assert not method.open_inputs


def test_several_outputs_come_by_their_names(store: ModelStore) -> None:
    version = onnx.save(store, "net", two_outputs(), signatures=BATCHED, sample_inputs=(torch.ones(1, 3),) * 2)
    assert [spec.name for spec in version.manifest.methods["__call__"].outputs] == ["sum", "product"]
    call = called(version)
    x, y = torch.full((2, 3), 2.0), torch.full((2, 3), 3.0)
    for found in (call(x, y), call(x, y=y), call(y=y, x=x)):
        assert {name: array[0, 0] for name, array in found.items()} == {"sum": 5.0, "product": 6.0}


def test_names_that_python_does_not_allow_work_by_name(store: ModelStore) -> None:
    sample = {"in:1": np.ones((1, 3), np.float32), "in:2": np.ones((1, 3), np.float32)}
    version = onnx.save(store, "net", two_outputs("in:1", "in:2"), signatures=BATCHED, sample_inputs=sample)
    assert [spec.name for spec in version.manifest.methods["__call__"].inputs] == ["in:1", "in:2"]
    x = torch.ones(2, 3)
    assert called(version)(**{"in:2": x, "in:1": x})["sum"].shape == (2, 3)


@pytest.mark.parametrize("location", ["net.onnx.data", "weights of it/a b.bin"])
def test_weights_in_a_file_beside_it_come_along(store: ModelStore, tmp_path: Path, location: str) -> None:
    path = tmp_path / "net.onnx"
    (tmp_path / location).parent.mkdir(exist_ok=True)
    path = with_weights_beside(tmp_path, location)
    version = onnx.save(store, "net", path, sample_inputs=torch.ones(1, 3))
    for file in (path, tmp_path / location):
        file.unlink()
    assert [entry.path for entry in version.manifest.files if "weights" in entry.path] == ["weights_0.bin"]
    found = called(version)(torch.eye(3))
    np.testing.assert_array_equal(found, WEIGHTS)


def test_a_flipped_bit_in_the_weights_beside_it_stops_the_load(store: ModelStore, tmp_path: Path) -> None:
    version = onnx.save(store, "net", with_weights_beside(tmp_path))
    path = version.path / "weights_0.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"net:1/weights_0.bin is damaged"):
        load_model(version)


def test_a_stored_model_reads_no_file_but_its_own(store: ModelStore, tmp_path: Path) -> None:
    """A stranger's model may name any file of the machine for its weights."""
    with store.create("net", framework="onnx", methods={}) as pending:
        pending.write(onnx.MODEL_FILE, [with_weights_beside(tmp_path).read_bytes()])
    with pytest.raises(StoreError, match=r"net:1 has no file 'weights_0.bin'"):
        load_model(store.get("net"))


def test_weights_beside_cannot_come_with_bytes(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps weights in net.onnx.data, which the bytes cannot bring along"):
        onnx.save(store, "net", with_weights_beside(tmp_path).read_bytes())


def test_weights_outside_the_models_folder_are_refused(store: ModelStore, tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path, "n__onnx.data")
    path.write_bytes(path.read_bytes().replace(b"n__onnx.data", b"../onnx.data"))
    with pytest.raises(ConfigError, match=r"keeps weights in '../onnx.data', outside its own folder"):
        onnx.save(store, "net", path)


def test_weights_that_are_gone_are_named(store: ModelStore, tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read: .*net.onnx.data"):
        onnx.save(store, "net", path)


def test_files_of_tensors_in_nodes_and_inner_graphs_are_found() -> None:
    helper = onnx_package.helper

    def tensor(location: str) -> Any:
        made = onnx_package.numpy_helper.from_array(WEIGHTS, "w")
        made.ClearField("raw_data")
        made.data_location = onnx_package.TensorProto.EXTERNAL
        made.external_data.add(key="offset", value="0")
        made.external_data.add(key="location", value=location)
        return made

    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor("inner.bin"))], "i", [], [])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["z"], value=tensor("node.bin")),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor("first.bin"), tensor("first.bin")]))
    assert sorted(locations(model.SerializeToString())) == ["first.bin", "inner.bin", "node.bin"]


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\xff\x01x", b"\x0b", b"\xff" * 12])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        locations(data)


@pytest.mark.parametrize(
    ("model", "what"), [(linear(1, 1), "input 'x'"), (linear(out=1), "output 'y'")], ids=["input", "output"]
)
def test_a_fixed_batch_says_how_to_export_a_free_one(store: ModelStore, model: Any, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        onnx.save(store, "net", model, signatures=BATCHED)
    assert f"{what} of the ONNX model has a fixed batch of 1 along dim 0; export it with a free one" in str(
        caught.value
    )
    assert "dynamic_shapes={'x': {0: torch.export.Dim(\"batch\")}, ...}" in str(caught.value)
    assert not onnx.save(store, "net", model).manifest.methods["__call__"].batchable


def test_a_batch_dim_that_is_not_there_is_refused(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="input 'x' of the ONNX model has 2 dims, without batch dim 2"):
        onnx.save(store, "net", linear(), signatures={"__call__": {"batchable": True, "batch_dim": 2}})


def test_texts_go_in_and_come_out(store: ModelStore) -> None:
    model = graph([("Identity", ["x"], ["y"])], {"x": (STRING, ["batch"])}, {"y": (STRING, ["batch"])})
    version = onnx.save(store, "net", model, signatures=BATCHED)
    assert version.manifest.methods["__call__"].inputs == (InputSpec("x", None, (-1,)),)
    found = called(version)(np.array([b"caf\xc3\xa9", b"b"], object))
    assert found.tolist() == ["café", "b"]


def test_texts_are_no_sample(store: ModelStore) -> None:
    model = graph([("Identity", ["x"], ["y"])], {"x": (STRING, ["batch"])}, {"y": (STRING, ["batch"])})
    with pytest.raises(ConfigError, match=r"argument 0 is an array of object, expected numbers .* leave it out"):
        onnx.save(store, "net", model, sample_inputs=np.array([b"a"], object))


def test_a_type_that_no_request_carries_is_refused(store: ModelStore) -> None:
    bfloat16 = onnx_package.TensorProto.BFLOAT16
    model = graph([("Identity", ["x"], ["y"])], {"x": (bfloat16, ["batch"])}, {"y": (bfloat16, ["batch"])})
    with pytest.raises(ConfigError, match=r"'x' of the ONNX model is tensor\(bfloat16\), which cannot be served"):
        onnx.save(store, "net", model)


def test_a_request_of_the_wrong_dtype_or_shape_is_the_clients_fault(store: ModelStore) -> None:
    """ValueError is what the worker answers with 422, and the neighbours are not harmed."""
    call = called(onnx.save(store, "net", linear()))
    for bad in (torch.ones(1, 3).double(), torch.ones(1, 5), torch.ones(1, 3).bfloat16()):
        with pytest.raises(ValueError, match=r"INVALID_ARGUMENT|bfloat16"):
            call(bad)
    for args in ((), (torch.ones(1, 3),) * 2):
        with pytest.raises(TypeError, match="the ONNX model takes x; got"):
            call(*args)


def test_a_worker_batches_it_as_any_other_model(store: ModelStore) -> None:
    from paceline.protocol.tensor import from_numpy
    from paceline.runner.calls import Call

    version = onnx.save(store, "net", linear(), signatures=BATCHED, sample_inputs=torch.ones(1, 3))
    executor = Executor(load_model(version).bound, version.manifest.methods)
    calls = [Call((from_numpy(np.full((rows, 3), rows, np.float32)),), rows=rows) for rows in (1, 2)]
    outcomes = executor.run("__call__", calls, lambda: 0.0).outcomes
    assert [outcome.shape for outcome in outcomes] == [(1, 4), (2, 4)]  # type: ignore[union-attr]


def test_the_session_has_the_workers_threads(store: ModelStore) -> None:
    version = onnx.save(store, "net", linear())
    for threads in (1, 3):
        session = load_model(version, "cpu", threads).model
        assert isinstance(session, onnx_session.Session)
        assert session.runtime.get_session_options().intra_op_num_threads == threads
        assert session.runtime.get_providers() == ["CPUExecutionProvider"]


def test_a_gpu_without_the_gpu_build_says_what_to_install(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="install onnxruntime-gpu instead of onnxruntime, or serve it with devices"):
        load_model(onnx.save(store, "net", linear()), "cuda:1")


class FakeGpuRuntime:
    """What onnxruntime is asked for on a GPU, in the order in which it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def get_inputs(self) -> list[object]:
        return [SimpleNamespace(name=name, type="tensor(float)", shape=["b", 3]) for name in ("x", "y")]

    def get_outputs(self) -> list[object]:
        return [SimpleNamespace(name="z", type="tensor(float)", shape=["b", 3])]

    def io_binding(self) -> FakeGpuRuntime:
        return self

    def __getattr__(self, name: str) -> Any:
        def ask(*args: object) -> list[str]:
            self.asked.append((name, *[arg for arg in args if arg is not self]))
            return ["result"]

        return ask


def test_on_a_gpu_inputs_are_bound_where_they_lie_once_torch_has_written_them() -> None:
    """`meta` stands for the GPU: like there, the host cannot read it."""
    runtime = FakeGpuRuntime()
    waits: list[torch.device] = []
    on_gpu = onnx_session._OnGpu(runtime, lambda device: waits.append(device) or runtime.asked.append(("wait",)))  # type: ignore[func-returns-value]
    x, y = torch.ones(2, 3, device="meta"), np.ones((2, 3), np.float32)
    assert on_gpu.run({"x": x, "y": y}) == ["result"]
    assert runtime.asked[0] == ("bind_input", "x", "meta", 0, np.float32, (2, 3), x.data_ptr())
    assert [asked[0] for asked in runtime.asked[1:]] == [
        "bind_cpu_input",
        "bind_output",
        "wait",
        "run_with_iobinding",
        "copy_outputs_to_cpu",
    ]
    assert waits == [torch.device("meta")]
    with pytest.raises(ValueError, match=r"input 'x' is torch.int32, expected tensor\(float\)"):
        on_gpu.run({"x": x.int(), "y": y})


def test_where_onnxruntime_is_missing_the_extra_is_named(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    version = onnx.save(store, "net", linear())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'paceline\[onnx\]'"):
        onnx.save(store, "net", linear())
    with pytest.raises(ConfigError, match=r"pip install 'paceline\[onnx\]'"):
        load_model(version)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "the model is a int, expected the path of an .onnx file, its bytes or an onnx.ModelProto"),
        (b"junk", "no ONNX model in the bytes"),
        ("nowhere.onnx", "the ONNX model 'nowhere.onnx' cannot be read: .*No such file"),
        (b"", "cannot be run by onnxruntime"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(store: ModelStore, model: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onnx.save(store, "net", model)
    assert store.names() == []


def test_a_sample_that_does_not_fit_is_refused(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match="sample_inputs do not fit __call__"):
        onnx.save(store, "net", linear(), sample_inputs={"z": np.ones((1, 3), np.float32)})
    with pytest.raises(ConfigError, match="__call__ fails with its sample_inputs"):
        onnx.save(store, "net", linear(), sample_inputs=np.ones((1, 3)))


def test_another_method_than_call_is_refused(store: ModelStore) -> None:
    with pytest.raises(ConfigError, match='names encode, but an ONNX model has one method, "__call__"'):
        onnx.save(store, "net", linear(), signatures={"encode": {}})


def test_a_graph_needs_no_trust_but_custom_objects_beside_it_do(store: ModelStore) -> None:
    assert not onnx.save(store, "net", linear()).manifest.code_bearing
    assert onnx.save(store, "net", linear(), custom_objects={"classes": ["a"]}).manifest.code_bearing
    assert load_custom_objects(store.get("net:2")) == {"classes": ["a"]}
    (store.home / "store.key").unlink()
    load_model(store.get("net:1"))
    with pytest.raises(StoreError, match="can run code"):
        load_model(store.get("net:2"))


def test_bytes_that_are_no_model_any_more_are_a_store_error(store: ModelStore) -> None:
    with store.create("net", framework="onnx", methods={}) as pending:
        pending.write(onnx.MODEL_FILE, [b"junk"])
    with pytest.raises(StoreError, match="net:1 holds no ONNX model"):
        load_model(store.get("net"))
