"""Programs of torch.export in the store: the bytes of torch.export.save, a `.pt2` archive.

A program is a graph without the user's Python code. Reading an archive can run code: the version is code-bearing.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import cast

import torch
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import MethodSpec, parse_signatures
from paceline.runner.frameworks.custom_objects import dump_custom_objects, write_custom_objects
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.methods import Subject, complete_methods, device_of, eval_mode
from paceline.runner.frameworks.program import Program
from paceline.runner.frameworks.samples import bind_sample, read_samples
from paceline.store import ModelStore, StoredVersion, pickled

FRAMEWORK = "torch_export"
PROGRAM_FILE = "model.pt2"
CALL = "__call__"
_EXPORT_ROWS = 2  # torch.export takes sizes of 0 and 1 for constants


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
    """Store `model` (an ExportedProgram, or an nn.Module, which is exported with its `sample_inputs`) as a new version
    of `name`. Raises ConfigError, StoreError.

    external_modules: whose classes the custom objects need; the program itself needs no class.
    """
    method = only_call(parse_signatures(signatures), "an exported program")
    program = Program(_exported(model, method, sample_inputs))
    method = program.batching(method)
    sample = program.example if sample_inputs is None else sample_inputs
    subject = Subject({CALL: program}, {CALL: program.signature}, program.device, torch.inference_mode)
    tried = complete_methods({CALL: method}, subject, sample, self_test=self_test)
    described = replace(tried.methods[CALL], inputs=program.described(tried.methods[CALL].inputs))
    customs = dump_custom_objects(custom_objects, pickled.check_modules(external_modules))
    with store.create(
        name,
        framework=FRAMEWORK,
        methods={CALL: described},
        labels=labels,
        metadata=metadata,
        context={"torch": torch.__version__},
        code_bearing=True,
    ) as pending:
        torch.export.save(program.exported, pending.path / PROGRAM_FILE)
        tried.write(pending)
        write_custom_objects(pending, customs)
    return pending.saved


def load(version: StoredVersion, device: str, threads: int | None = None) -> LoadedModel:
    """The program of `version` on `device`, called as the module that was exported. threads: as in `pytorch.load`.

    Raises StoreError: not trusted, damaged, unreadable by this torch.
    """
    return LoadedModel(Program(load_program(version, device)), (CALL,), read_samples(version, device))


def load_program(version: StoredVersion, device: str) -> ExportedProgram:
    """The stored program itself, on `device`. Raises as `load` does."""
    version.require_trusted()
    archive = io.BytesIO(version.read(PROGRAM_FILE))
    try:
        with _quiet():
            program: ExportedProgram = torch.export.load(archive)
    except Exception as error:  # of whichever of its readers stumbles
        raise StoreError(f"{version.tag} cannot be read by torch {torch.__version__}: {error}") from error
    return program if Program(program).device == torch.device(device) else move_to_device_pass(program, device)


def only_call(methods: Mapping[str, MethodSpec], what: str) -> MethodSpec:
    """The method `__call__`. Raises ConfigError if there are others: `what` has none."""
    others = [name for name in methods if name != CALL]
    if others:
        raise ConfigError(
            f'signatures names {", ".join(others)}, but {what} has one method, "__call__"; save another model for '
            f"each further one"
        )
    return methods[CALL]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch logs a traceback of what it raises in any case, and warns about the parts of its own that it uses."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
            yield
    finally:
        logger.setLevel(level)


def _exported(model: object, method: MethodSpec, sample_inputs: object) -> ExportedProgram:
    if isinstance(model, ExportedProgram):
        return model
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError("the model is TorchScript; save it with paceline.torchscript.save(model, name)")
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(
            f"the model is a {type(model).__name__}, expected the ExportedProgram that torch.export.export returns, or "
            f"an nn.Module"
        )
    if sample_inputs is None:
        raise ConfigError(
            f"the {type(model).__name__} is exported with its sample_inputs, and none are given; pass the arguments of "
            f"one call, or export it yourself: torch.export.export(model, args)"
        )
    return _export(model, method, sample_inputs)


def _export(module: torch.nn.Module, method: MethodSpec, sample_inputs: object) -> ExportedProgram:
    """`module` with its batch dim free, if the method batches; other dims are as in the sample."""
    if isinstance(sample_inputs, Mapping) and set(sample_inputs) == {CALL}:
        sample_inputs = sample_inputs[CALL]
    given = bind_sample(CALL, sample_inputs, inspect.signature(module.forward), device_of(module))
    args, kwargs = given.args, given.kwargs
    shapes = None
    if method.batchable:
        dim = method.batch_dim[0]
        args, kwargs = cast("tuple[tuple[object, ...], dict[str, object]]", _with_rows((args, kwargs), dim))
        free = {dim: Dim("batch", min=1)}
        names = list(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        tree = dict(zip(names, [*args, *kwargs.values()]))
        shapes = pytree.tree_map(lambda leaf: free if isinstance(leaf, torch.Tensor) else None, tree)
    try:
        with eval_mode(module), torch.no_grad():
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:  # whatever its tracer meets in the user's code
        raise ConfigError(
            f"the {type(module).__name__} cannot be exported with its sample_inputs: {type(error).__name__}: {error}"
        ) from error


def _with_rows(tree: object, dim: int) -> object:
    def tiled(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor) or leaf.dim() <= dim or leaf.shape[dim] >= _EXPORT_ROWS:
            return leaf
        return torch.cat([leaf] * _EXPORT_ROWS, dim)

    return pytree.tree_map(tiled, tree)
