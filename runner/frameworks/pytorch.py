"""PyTorch modules in the store: tensors as safetensors, the module object around them pickled without them.

The object keeps everything that a state_dict does not: plain attributes, hooks, the class itself. Its tensors are
replaced by references into `model.safetensors`, which is mapped at load and never copied. The class goes by reference
where it can be imported, by value where it cannot (`__main__`, external_modules).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch

from paceline.protocol.errors import ConfigError, StoreError, did_you_mean
from paceline.protocol.signature import parse_signatures
from paceline.runner.frameworks.custom_objects import dump_custom_objects, write_custom_objects
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.methods import Subject, complete_methods, device_of, evaluating, integers_of
from paceline.runner.frameworks.samples import read_samples
from paceline.runner.frameworks.self_test import allowance_for
from paceline.runner.frameworks.tensors import can_store, file_chunks, read_tensors
from paceline.store import ModelStore, StoredVersion, pickled

FRAMEWORK = "pytorch"
TENSORS_FILE = "model.safetensors"
OBJECT_FILE = "module.pkl"
_METHODS_SHOWN_MAX = 20


def save(
    store: ModelStore,
    name: str,
    model: object,
    *,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> StoredVersion:
    """Store `model` (an nn.Module) as a new version of `name`; its training mode and device stay as they are.

    See `paceline.pytorch.save` for the arguments. Raises ConfigError (model, signatures, sample, what cannot be
    pickled), StoreError (name, disk).
    """
    module = _checked_module(model)
    modules = pickled.check_modules(external_modules)
    methods = parse_signatures(signatures)
    calls = {method: _callable(module, method) for method in methods}
    signatures_known = {method: _signature(call) for method, call in calls.items()}
    subject = Subject(
        calls,
        signatures_known,
        device_of(module),
        lambda: evaluating(module),
        allowance_for(module),
        integers_of(module),
    )
    tried = complete_methods(methods, subject, sample_inputs, self_test=self_test)
    tensors = _TensorsOut(module)
    what = f"the {type(module).__name__}"
    skeleton = pickled.dump(module, what=what, by_value=modules, persistent_id=tensors.reference)
    customs = dump_custom_objects(custom_objects, modules)
    with store.create(
        name,
        framework=FRAMEWORK,
        methods=tried.methods,
        labels=labels,
        metadata=metadata,
        context={"torch": torch.__version__},
        code_bearing=True,
    ) as pending:
        pending.write(TENSORS_FILE, file_chunks(tensors.by_name, {"format": "pt"}))
        pending.write(OBJECT_FILE, [skeleton])
        tried.write(pending)
        write_custom_objects(pending, customs)
    return pending.saved


def load(version: StoredVersion, device: str, threads: int | None = None) -> LoadedModel:
    """The module of `version`, in eval mode, on `device`. On the CPU its tensors are views of the mapped file.

    threads: nothing here has threads but torch itself, whose the executor sets.

    Raises StoreError: not trusted, damaged, a class that cannot be imported, another Python's bytecode.
    """
    version.require_trusted()
    tensors, _ = read_tensors(version.map(TENSORS_FILE), f"{version.tag}/{TENSORS_FILE}")
    with _no_removal_warnings():
        module = pickled.load(
            version.read(OBJECT_FILE),
            what=str(version.tag),
            saved_python=version.manifest.context.get("python", ""),
            persistent_load=_TensorsIn(tensors).resolve,
        )
    if not isinstance(module, torch.nn.Module):
        raise StoreError(f"{version.tag} holds a {type(module).__name__}, expected an nn.Module")
    module.to(device).eval()
    return LoadedModel(module, tuple(version.manifest.methods), read_samples(version, device))


@contextmanager
def _no_removal_warnings() -> Iterator[None]:
    """Quantized modules are rebuilt by parts of torch that say at each use that they will go; who serves one has been
    told when it was made."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
        yield


def _checked_module(model: object) -> torch.nn.Module:
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ConfigError("the model is TorchScript; save it with paceline.torchscript.save(model, name)")
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise ConfigError(f"the model is the class {model.__name__}, expected an instance: {model.__name__}(...)")
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"the model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
        raise ConfigError("the model is a torch.compile result, which cannot be stored; save model._orig_mod instead")
    return model


def _callable(module: torch.nn.Module, method: str) -> Callable[..., object]:
    if method == "__call__":
        if type(module).forward is torch.nn.Module.forward and "forward" not in vars(module):
            raise ConfigError(f"{type(module).__name__} has no forward method, so it has no __call__")
        return module
    found = getattr(module, method, None)
    if not callable(found):
        own = [name for name in dir(type(module)) if not name.startswith("_") and not hasattr(torch.nn.Module, name)]
        hint = did_you_mean(method, [*own, "__call__", "forward"])
        callables = sorted(name for name in own if callable(getattr(type(module), name)) and name != "forward")
        methods = ", ".join(["__call__", *callables][:_METHODS_SHOWN_MAX])
        raise ConfigError(
            f"signatures: {type(module).__name__} has no method {method!r}.{hint} Its methods: {methods}."
        )
    bound: Callable[..., object] = found
    return bound


def _signature(call: Callable[..., object]) -> inspect.Signature | None:
    """Of a module its `forward`'s: `__call__` itself says (*args, **kwargs)."""
    try:
        return inspect.signature(call.forward if isinstance(call, torch.nn.Module) else call)
    except (ValueError, TypeError):  # written in C
        return None


class _TensorsOut:
    """Gives every tensor that the pickler meets a name in the file, and remembers which share their values."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.by_name: dict[str, torch.Tensor] = {}
        self._names: dict[int, str] = {}
        for name, tensor in [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]:
            self._names.setdefault(id(tensor), name)
        # Tensors are kept, so that no id is used twice while the pickler runs.
        self._references: dict[int, tuple[torch.Tensor, tuple[object, ...]]] = {}
        self._by_memory: dict[tuple[object, ...], str] = {}

    def reference(self, value: object) -> object:
        """For the pickler: what stands for `value`, None to pickle it as it is (no tensor, sparse, quantized, ...)."""
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            return None
        assert isinstance(value, torch.Tensor)
        known = self._references.get(id(value))
        if known is not None:
            return known[1]
        if not can_store(value):
            return None
        is_parameter = isinstance(value, torch.nn.Parameter)
        reference = (len(self._references), self._file_name(value), is_parameter, value.requires_grad, _strides(value))
        self._references[id(value)] = (value, reference)
        return reference

    def _file_name(self, tensor: torch.Tensor) -> str:
        memory = (
            tensor.untyped_storage()._cdata,
            tensor.storage_offset(),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            tensor.is_conj(),
            tensor.is_neg(),
        )
        known = self._by_memory.get(memory)
        if known is not None:
            return known
        name = self._names.get(id(tensor), f"attribute.{len(self._by_memory)}")
        while name in self.by_name:
            name += "_"
        self.by_name[name] = tensor
        self._by_memory[memory] = name
        return name


class _TensorsIn:
    """Turns references back into tensors: equal references into the same object, equal names into shared memory."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._strided: dict[str, torch.Tensor] = {}
        self._made: dict[int, torch.Tensor] = {}

    def resolve(self, reference: object) -> object:
        assert isinstance(reference, tuple)
        index, name, is_parameter, requires_grad, strides = reference
        if index not in self._made:
            values = self._values(name, strides)
            self._made[index] = (
                torch.nn.Parameter(values, requires_grad) if is_parameter else values.requires_grad_(requires_grad)
            )
        return self._made[index]

    def _values(self, name: str, strides: tuple[int, ...] | None) -> torch.Tensor:
        tensor = self._tensors[name]
        if strides is None:
            return tensor.view(tensor.shape)
        if name not in self._strided:
            # The only weights that are copied: channels_last and the like, whose layout makes them fast.
            self._strided[name] = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
        shared = self._strided[name]
        return shared.as_strided(shared.shape, shared.stride())


def _strides(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The strides of a tensor that is dense in another order than C's; None = C order, or gaps not worth keeping."""
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: -strides[dim])
    return strides if tensor.permute(order).is_contiguous() else None
