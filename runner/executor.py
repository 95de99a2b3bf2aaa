"""Runs batches of a model's methods: trees of wire tensors in, torch tensors on the device, trees out.

The only module but the frameworks that knows torch. It knows no socket, no queue and no policy: the worker hands it
what the dispatcher chose and sends what it returns; what a failure means for whom is batch.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import RequestError
from paceline.protocol.limits import BATCH_ROWS_DEFAULT, TENSOR_RANK_MAX, TREE_DEPTH_MAX, TREE_LEAVES_MAX
from paceline.protocol.measure import measure
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree
from paceline.runner.batch import Batch, Clock
from paceline.runner.buffers import RecycledMemory
from paceline.runner.calls import BatchRun, Call
from paceline.runner.isolation import OutputSearches
from paceline.runner.layout import Layout
from paceline.runner.rows import BadTree, Path, as_objects, leaf_name, tile

TORCH_DTYPES: dict[DType, torch.dtype] = {
    dtypes.BOOL: torch.bool,
    dtypes.U8: torch.uint8,
    dtypes.U16: torch.uint16,
    dtypes.U32: torch.uint32,
    dtypes.U64: torch.uint64,
    dtypes.I8: torch.int8,
    dtypes.I16: torch.int16,
    dtypes.I32: torch.int32,
    dtypes.I64: torch.int64,
    dtypes.F16: torch.float16,
    dtypes.BF16: torch.bfloat16,
    dtypes.F32: torch.float32,
    dtypes.F64: torch.float64,
    dtypes.C64: torch.complex64,
}
_WIRE_DTYPES = {torch_dtype: dtype for dtype, torch_dtype in TORCH_DTYPES.items()}
_NO_STREAM = nullcontext()

Method = Callable[..., object]


class Executor:
    """Calls a model's methods for batches of requests.

    `bound(name)` gives the model's bound method, looked up once for each of `methods`. `device` is torch's name of
    where the model lies. `max_batch_size` (rows) holds for methods that set none. `threads`: torch's threads within
    one operation; None leaves them. `buckets`: a batch is filled up to the next of these sizes with copies of its last
    row; larger ones run as they are. One executor is used by one thread.

        executor = Executor(lambda name: getattr(model, name), {"__call__": MethodSpec("__call__", batchable=True)})
        batch = executor.run("__call__", [Call(args=(tensor,), rows=1)], time.monotonic)
    """

    def __init__(
        self,
        bound: Callable[[str], Method],
        methods: Mapping[str, MethodSpec],
        device: str = "cpu",
        max_batch_size: int = BATCH_ROWS_DEFAULT,
        threads: int | None = None,
        buckets: Sequence[int] = (),
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        on_device = device_named(device)
        self._methods = {
            name: _BoundMethod(spec, bound(name), on_device, OutputSearches()) for name, spec in methods.items()
        }
        self._max_batch_size = max_batch_size
        self._buckets = tuple(sorted(buckets))

    def run(self, method_name: str, calls: Sequence[Call], now: Clock, batch_id: str = "") -> BatchRun:
        """Call the method for all `calls` at once (one by one where it is not batchable).

        The method gets torch tensors on the device, dtypes as sent, joined along `batch_dim[0]` and padded as its
        signature says, under inference_mode; Strings arrive as numpy object arrays of bytes. Its output is split along
        `batch_dim[1]`. Every call gets one
        outcome: a tree, or the RequestError that answers it. A failing batch is bisected, unless the method is not
        idempotent; `now` (seconds, the clock of the calls' deadlines) stops re-runs that would come too late.
        Raises DeviceBroken when the device's context is lost, nothing else.
        """
        method = self._methods[method_name]
        cap = method.spec.max_batch_size or self._max_batch_size
        return Batch(method.spec, method, cap, self._buckets, calls, now, batch_id, method.searches).run()

    def warm_up(
        self,
        method_name: str,
        sample_args: tuple[Tree, ...],
        sample_kwargs: dict[str, Tree],
        sizes: Sequence[int],
        now: Clock,
    ) -> Iterator[tuple[int, float]]:
        """(rows, seconds) of one batch of each of `sizes` (see `rows.ladder`), made by repeating the sample.

        Each size runs twice and the second is timed: the first pays for what is tuned or compiled per shape. Ends early
        at a size that memory does not hold. A method that is not batchable runs the sample as it is, as one row.
        Raises the sample's RequestError when it fails.
        """
        spec = self._methods[method_name].spec
        dim = spec.batch_dim[0]
        sample_rows = measure(spec, sample_args, sample_kwargs).rows
        for rows in sizes if spec.batchable else (1,):
            call = Call(sample_args, sample_kwargs)
            if spec.batchable:
                call = _tiled(call, sample_rows, rows, dim)
            for _ in range(2):
                start_s = now()
                batch = self.run(method_name, [call], now, batch_id=f"warm-up-{rows}")
                duration_s = now() - start_s
                outcome = batch.outcomes[0]
                if isinstance(outcome, RequestError):
                    raise outcome
                if batch.cap_rows is not None:
                    return
            yield rows, duration_s


@dataclass(frozen=True, slots=True)
class _BoundMethod:
    """One method on its device: what a Batch knows as its `Model`."""

    spec: MethodSpec
    call: Method
    device: Device
    searches: OutputSearches

    def forward(self, layout: Layout) -> Tree:
        device = self.device
        with torch.inference_mode(), device.running():
            args, kwargs = layout.batch(device.take)
            arguments = [_to_torch(arg, device) for arg in args]
            named = {name: _to_torch(value, device) for name, value in kwargs.items()}
            output = _Fetching(device, self.spec.batchable).fetch(self.call(*arguments, **named))
            device.wait()
        return output

    def take(self, nbytes: int) -> memoryview:
        return self.device.take(nbytes)

    def empty_cache(self) -> None:
        self.device.empty_cache()

    def is_broken(self) -> bool:
        return self.device.is_broken()


class _Fetching:
    """One output tree's way to the wire's types in host memory: bounds its size, names what cannot be sent.

    Every tensor is copied, also on the CPU: a model may return its own state, or an array that it fills anew in each
    call, while results may still be on their way out of this process when the next batch runs.
    """

    __slots__ = ("_batched", "_device", "_nodes")

    def __init__(self, device: Device, batched: bool) -> None:
        self._device = device
        self._batched = batched
        self._nodes = 0

    def fetch(self, value: object, path: Path = ()) -> Tree:
        self._nodes += 1
        if self._nodes > TREE_LEAVES_MAX or len(path) > TREE_DEPTH_MAX:
            raise BadTree(
                f"output has more than {TREE_LEAVES_MAX} nodes or {TREE_DEPTH_MAX} levels; return a tensor or an array "
                f"where it holds many numbers"
            )
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, Mapping):
            return {self._key(key, path): self.fetch(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            if self._batched and value and all(isinstance(item, (str, bytes)) for item in value):
                return _strings(np.array(value, object), path)  # a list of texts is how a batch of texts is returned
            return [self.fetch(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple([self.fetch(item, (*path, index)) for index, item in enumerate(value)])
        if isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, (str, bytes)):
            return _from_array(np.array(value), path)
        return _plain(value, path)

    def _tensor(self, tensor: torch.Tensor, path: Path) -> Tensor:
        dtype = _WIRE_DTYPES.get(tensor.dtype)
        if dtype is None or tensor.layout is not torch.strided or tensor.is_meta or tensor.ndim > TENSOR_RANK_MAX:
            known = ", ".join(str(known).removeprefix("torch.") for known in _WIRE_DTYPES)
            raise BadTree(
                f"output {leaf_name(path)!r} is a tensor of {tensor.dtype}, {tensor.layout}, {tensor.ndim} dims on "
                f"{tensor.device}, which cannot be sent; expected a dense one of {known}, of at most "
                f"{TENSOR_RANK_MAX} dims"
            )
        shape = tuple(tensor.shape)
        data = self._device.take(tensor.numel() * dtype.itemsize)
        if data.nbytes:
            # One copy: from the device, from any strides, out of autograd.
            self._device.fetch(tensor, torch.frombuffer(data, dtype=tensor.dtype).view(shape))
        return Tensor(dtype, shape, data)

    def _key(self, key: object, path: Path) -> str:
        if isinstance(key, str):
            return key
        raise BadTree(f"output {leaf_name(path)!r} has the key {key!r}, expected string keys only")


class Device(Protocol):
    """Where the model lies, and how bytes get there and back."""

    def running(self) -> AbstractContextManager[object]:
        """Surrounds everything that is queued on the device for one forward."""
        ...

    def take(self, nbytes: int) -> memoryview:
        """Writable host memory that `send` and `fetch` can work with."""
        ...

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, which views host memory, on the device."""
        ...

    def fetch(self, tensor: torch.Tensor, into: torch.Tensor) -> None:
        """Begin to copy `tensor` to `into`, which views host memory; it is there after `wait`."""
        ...

    def wait(self) -> None: ...

    def empty_cache(self) -> None: ...

    def is_broken(self) -> bool:
        """Whether the device's context is lost. Waits for all that is queued."""
        ...


class PlainDevice:
    """The CPU, or any device that is used synchronously."""

    def __init__(self, device: torch.device) -> None:
        self._device = None if device.type == "cpu" else device
        self._memory = RecycledMemory()
        self.take = self._memory.take

    def running(self) -> AbstractContextManager[object]:
        return _NO_STREAM

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._device is None else tensor.to(self._device)

    def fetch(self, tensor: torch.Tensor, into: torch.Tensor) -> None:
        into.copy_(tensor)

    def wait(self) -> None:
        pass

    def empty_cache(self) -> None:
        self._memory.release()

    def is_broken(self) -> bool:
        return False


class CudaDevice:
    """One CUDA device: pinned host memory, copies that overlap, one stream of its own, one event to wait for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not annotate it
        # The weights were copied on another stream.
        torch.cuda.synchronize(device)

    def running(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def take(self, nbytes: int) -> memoryview:
        # torch keeps pinned blocks and gives them out again: pinning fresh ones takes milliseconds.
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy().data

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor, into: torch.Tensor) -> None:
        into.copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
        event.record(self._stream)
        event.synchronize()

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def is_broken(self) -> bool:
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:  # a lost context refuses every call
            return True
        return False


def device_named(name: str) -> Device:
    """The device that torch calls `name`. Raises RuntimeError for a name that torch does not know."""
    device = torch.device(name)
    return CudaDevice(device) if device.type == "cuda" else PlainDevice(device)


def kind_of(name: str) -> str:
    """What the device that torch calls `name` shares its speed with: its model, or its type."""
    device = torch.device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _to_torch(tree: Tree, device: Device) -> object:
    """`tree` as user code gets it: torch tensors on the device, numpy object arrays of bytes for Strings."""
    if isinstance(tree, Tensor):
        return device.send(_tensor_of(tree))
    if isinstance(tree, dict):
        return {key: _to_torch(item, device) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_to_torch(item, device) for item in tree]
    if isinstance(tree, tuple):
        return tuple([_to_torch(item, device) for item in tree])
    return as_objects(tree) if isinstance(tree, Strings) else tree


def _tensor_of(tensor: Tensor) -> torch.Tensor:
    dtype = TORCH_DTYPES[tensor.dtype]
    if not tensor.data:
        return torch.empty(tensor.shape, dtype=dtype)  # frombuffer refuses to view nothing
    if dtype is torch.bool:
        # A client's byte may be neither 0 nor 1; kernels that count and index by bools rely on it.
        return torch.frombuffer(tensor.data, dtype=torch.uint8).view(tensor.shape).ne(0)
    return torch.frombuffer(tensor.data, dtype=dtype).view(tensor.shape)


def _from_array(array: npt.NDArray[Any], path: Path) -> Tensor | Strings:
    if array.dtype.kind in "OUS":
        return _strings(array, path)
    if dtypes.from_numpy(array.dtype) is None or array.ndim > TENSOR_RANK_MAX:
        raise BadTree(
            f"output {leaf_name(path)!r} is a numpy array of {array.dtype}, {array.ndim} dims, which cannot be sent; "
            f"convert it with .astype()"
        )
    return from_numpy(array)


def _strings(array: npt.NDArray[Any], path: Path) -> Strings:
    items: list[bytes] = []
    for item in array.reshape(-1).tolist():
        if not isinstance(item, (str, bytes)):
            raise BadTree(f"output {leaf_name(path)!r} is an array of {type(item).__name__}, expected str or bytes")
        items.append(item.encode(errors="replace") if isinstance(item, str) else bytes(item))
    return Strings(array.shape, tuple(items))


def _plain(value: object, path: Path) -> Tree:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise BadTree(f"output {leaf_name(path)!r} is an int beyond 64 bits; return it as a string")
    if isinstance(value, str):
        # A lone surrogate cannot be encoded; every other text stays what it is.
        return str(value) if value.isascii() else value.encode(errors="replace").decode()
    if value is None or isinstance(value, (bool, int, float, bytes, Tensor, Strings)):
        return value
    kind = type(value)
    raise BadTree(
        f"output {leaf_name(path)!r} is a {kind.__module__}.{kind.__qualname__}, which cannot be sent; expected "
        f"tensors, numpy arrays, numbers, text, bytes, None, and lists, tuples or dicts of them"
    )


def _tiled(call: Call, sample_rows: int, rows: int, dim: int) -> Call:
    args = tile(call.args, sample_rows, rows, dim)
    kwargs = tile(call.kwargs, sample_rows, rows, dim)
    assert isinstance(args, tuple), "a tiled tree keeps its form"
    assert isinstance(kwargs, dict), "a tiled tree keeps its form"
    return Call(args, kwargs, rows)
