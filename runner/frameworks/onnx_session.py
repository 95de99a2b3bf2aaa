"""An ONNX Runtime session as a callable: what its inputs and outputs are, and tensors in and out of it.

The only module that imports onnxruntime (the extra `onnx`), and only when a session is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec
from paceline.runner.frameworks.tensors import wire_dtype

_STRING = "tensor(string)"
_DTYPES: dict[str, DType | None] = {
    "tensor(bool)": dtypes.BOOL,
    "tensor(uint8)": dtypes.U8,
    "tensor(uint16)": dtypes.U16,
    "tensor(uint32)": dtypes.U32,
    "tensor(uint64)": dtypes.U64,
    "tensor(int8)": dtypes.I8,
    "tensor(int16)": dtypes.I16,
    "tensor(int32)": dtypes.I32,
    "tensor(int64)": dtypes.I64,
    "tensor(float16)": dtypes.F16,
    "tensor(float)": dtypes.F32,
    "tensor(double)": dtypes.F64,
    _STRING: None,
}
_CUDA = "CUDAExecutionProvider"
_ONLY_ERRORS = 3  # of onnxruntime's log levels


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of the graph: `shape` has -1 where a dim is free, and is None where the rank is not known."""

    name: str
    type: str
    shape: tuple[int, ...] | None

    def spec(self, name: str) -> InputSpec:
        """As part of a method. Raises ConfigError: a type that no request can carry."""
        if self.type not in _DTYPES:
            raise ConfigError(
                f"{self.name!r} of the ONNX model is {self.type}, which cannot be served; expected one of "
                f"{', '.join(_DTYPES)}. Convert it in the graph (of scikit-learn models: export with zipmap=False)."
            )
        return InputSpec(name, _DTYPES[self.type], self.shape)


class Session:
    """Calls the graph: inputs by position or by name, torch tensors or arrays; one output as it is, several as a dict
    by their names. Results are numpy arrays in host memory."""

    def __init__(self, runtime: Any, device: str = "cpu") -> None:
        self.runtime = runtime
        self.inputs = [_port(node) for node in runtime.get_inputs()]
        self.outputs = [_port(node) for node in runtime.get_outputs()]
        self._names = [port.name for port in self.outputs]
        on_gpu = _gpu_index(device) is not None
        self._run: Callable[[Mapping[str, object]], list[object]] = (
            _OnGpu(runtime, _wait_for_torch).run if on_gpu else self._run_on_cpu
        )

    def __call__(self, *args: object, **kwargs: object) -> object:
        values = self._bound(args, kwargs)
        try:
            found = self._run(values)
        except _invalid_argument() as error:  # a class of its own, below Exception alone
            raise ValueError(str(error)) from error
        return found[0] if len(found) == 1 else dict(zip(self._names, found))

    def _bound(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        names = [port.name for port in self.inputs]
        given = dict(zip(names, args)) | dict(kwargs)
        if len(args) > len(names) or set(given) != set(names) or len(given) != len(args) + len(kwargs):
            raise TypeError(
                f"the ONNX model takes {', '.join(names) or 'nothing'}; got {len(args)} by position"
                + "".join(f", {name!r}" for name in kwargs)
            )
        return given

    def _run_on_cpu(self, values: Mapping[str, object]) -> list[object]:
        found: list[object] = self.runtime.run(
            None, {port.name: _array(values[port.name], port) for port in self.inputs}
        )
        return found


class _OnGpu:
    """Inputs where they lie on the GPU, outputs fetched by the runtime. `wait`: until torch has written them: the
    runtime has a stream of its own."""

    def __init__(self, runtime: Any, wait: Callable[[torch.device], None]) -> None:
        self._runtime = runtime
        self._wait = wait
        self._ports = [_port(node) for node in runtime.get_inputs()]

    def run(self, values: Mapping[str, object]) -> list[object]:
        binding = self._runtime.io_binding()
        kept = []  # alive until the run is over
        for port in self._ports:
            value = values[port.name]
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                value = value.contiguous()
                kept.append(value)
                self._bind(binding, port, value)
            else:
                binding.bind_cpu_input(port.name, _array(value, port))
        for node in self._runtime.get_outputs():
            binding.bind_output(node.name, "cpu")
        for device in {value.device for value in kept}:
            self._wait(device)
        self._runtime.run_with_iobinding(binding)
        found: list[object] = binding.copy_outputs_to_cpu()
        return found

    def _bind(self, binding: Any, port: Port, value: torch.Tensor) -> None:
        dtype = _DTYPES[port.type]
        if dtype is None or wire_dtype(value) is not dtype:
            raise ValueError(f"input {port.name!r} is {value.dtype}, expected {port.type}")
        index = value.device.index or 0
        shape = tuple(value.shape)
        binding.bind_input(port.name, value.device.type, index, dtype.numpy.type, shape, value.data_ptr())


def try_session(model: bytes | Path) -> Session:
    """A session of a model that is being saved, with as few copies of its weights as can be: a file's stay mapped.

    Raises ConfigError: onnxruntime is missing, or cannot run the model.
    """
    ort = _onnxruntime()
    options = _options(ort)
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return _started(ort, str(model) if isinstance(model, Path) else model, options, "cpu")
    except StoreError as error:
        raise ConfigError(str(error)) from error


def make_session(
    model: bytes, beside: Mapping[str, memoryview], device: str = "cpu", threads: int | None = None
) -> Session:
    """A session of `model` on `device` ("cpu", "cuda:0").

    beside: the bytes of the files that the model names. threads: of one operation, None = as many as cores. Raises
    ConfigError: onnxruntime or its GPU part is missing. Raises StoreError: not a model that it can run.
    """
    ort = _onnxruntime()
    options = _options(ort)
    if threads is not None:
        options.intra_op_num_threads = threads
    if beside:
        options.add_external_initializers_from_files_in_memory(
            list(beside), list(beside.values()), [data.nbytes for data in beside.values()]
        )
    return _started(ort, model, options, device)


def runtime_version() -> str:
    """Of onnxruntime. Raises ConfigError if it is missing."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> ModuleType:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            f"ONNX models need onnxruntime, which cannot be imported ({error}): pip install 'paceline[onnx]', or on a "
            f"GPU onnxruntime-gpu"
        ) from error


def _options(ort: ModuleType) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    return options


def _started(ort: ModuleType, model: bytes | str, options: Any, device: str) -> Session:
    providers = _providers(ort, device)
    try:
        runtime = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its classes share nothing but Exception
        raise StoreError(f"the ONNX model cannot be run by onnxruntime {ort.__version__}: {error}") from error
    if _gpu_index(device) is not None and _CUDA not in runtime.get_providers():
        raise ConfigError(f"onnxruntime {ort.__version__} cannot use {device}: its {_CUDA} did not start (see its log)")
    return Session(runtime, device)


def _invalid_argument() -> type[Exception]:
    state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    found: type[Exception] = state.InvalidArgument
    return found


def _providers(ort: ModuleType, device: str) -> list[object]:
    gpu = _gpu_index(device)
    if gpu is None:
        return ["CPUExecutionProvider"]
    if _CUDA not in ort.get_available_providers():
        raise ConfigError(
            f"onnxruntime {ort.__version__} here runs on CPUs only and the model is to run on {device}: install "
            f"onnxruntime-gpu instead of onnxruntime, or serve it with devices = cpu"
        )
    return [(_CUDA, {"device_id": gpu}), "CPUExecutionProvider"]


def _gpu_index(device: str) -> int | None:
    kind, _, index = device.partition(":")
    return int(index or 0) if kind == "cuda" else None


def _wait_for_torch(device: torch.device) -> None:
    torch.cuda.current_stream(device).synchronize()


def _port(node: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return Port(node.name, node.type, shape or None)  # of an unknown rank it says () too


def _array(value: object, port: Port) -> object:
    """`value` as the runtime takes it: a tensor in host memory without a copy, texts as str."""
    if isinstance(value, torch.Tensor):
        if value.dtype is torch.bfloat16:  # numpy has none
            raise ValueError(f"input {port.name!r} is bfloat16, expected {port.type}")
        return value.numpy(force=True)
    dtype = _DTYPES[port.type]
    array = np.asarray(value, dtype.numpy if dtype is not None and not isinstance(value, np.ndarray) else None)
    if port.type == _STRING:
        texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1).tolist()]
        return np.array(texts, object).reshape(array.shape)
    return array
