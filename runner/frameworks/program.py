"""A program of torch.export as a callable: names, dtypes and free dims of its inputs are its own.

Knows no store; `torch_export` saves, loads and exports.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from paceline.protocol.errors import ConfigError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.runner.frameworks.tensors import wire_dtype

# torch lets 0 and 1 through where it says 2: it has not looked at programs of one row.
_LEAST_ROWS = 2


class Program:
    """Called as the module was that was exported, by position or by name: the program itself insists on what was
    positional then, and on the order of the names."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self._module = exported.module()
        positional, named = exported.call_spec.in_spec.children()
        self._positional_count = positional.num_children
        self._named = tuple(named.context)
        self.signature = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in inspect.signature(self._module.forward).parameters
            ]
        )

    def __call__(self, *args: object, **kwargs: object) -> object:
        bound = self.signature.bind(*args, **kwargs)
        named = {name: bound.arguments[name] for name in self._named}
        return self._module(*bound.args[: self._positional_count], **named)

    @property
    def device(self) -> torch.device:
        """Where its first tensor is; the CPU if it has none."""
        values = [*self.exported.state_dict.values(), *self.exported.constants.values()]
        return next((value.device for value in values if isinstance(value, torch.Tensor)), torch.device("cpu"))

    @property
    def example(self) -> dict[str, object] | None:
        """The arguments that it was exported with, by name; None if it was not given any to keep."""
        if self.exported.example_inputs is None:
            return None
        args, kwargs = self.exported.example_inputs
        return dict(self.signature.bind(*args, **kwargs).arguments)

    def batching(self, method: MethodSpec) -> MethodSpec:
        """`method`, with its rows limited to what the program takes. Raises ConfigError: its batch dim is not free."""
        if not method.batchable:
            return method
        most = [self._rows_max(name, leaf, method.batch_dim[0]) for name, leaf in self._tensors()]
        limit = min((rows for rows in most if rows is not None), default=None)
        given = method.max_batch_size
        if limit is None or (given is not None and given <= limit):
            return method
        if given is not None:
            raise ConfigError(
                f'signatures["{method.name}"]["max_batch_size"] is {given}, but the program takes {limit} rows at '
                f"most; export it with a larger max of its torch.export.Dim"
            )
        return replace(method, max_batch_size=limit)

    def described(self, inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
        """`inputs` with dtype and shape of the program, -1 where a dim is free."""
        known = self._values()
        return tuple(
            replace(spec, dtype=wire_dtype(value), shape=_shape(value))
            if isinstance(value := known.get(spec.name), torch.Tensor)
            else spec
            for spec in inputs
        )

    def _values(self) -> dict[str, object]:
        """Each parameter's tree, its tensors without values and with symbolic sizes, None for anything else."""
        of_node = {node.name: node.meta.get("val") for node in self.exported.graph.nodes if node.op == "placeholder"}
        flat = [of_node.get(cast(str, name)) for name in self.exported.graph_signature.user_inputs]
        args, kwargs = pytree.tree_unflatten(flat, self.exported.call_spec.in_spec)
        return dict(self.signature.bind(*args, **kwargs).arguments)

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in self._values().items():
            for leaf in pytree.tree_leaves(value):
                if isinstance(leaf, torch.Tensor):
                    yield name, leaf

    def _rows_max(self, name: str, tensor: torch.Tensor, dim: int) -> int | None:
        """The most rows of an input, None = any. Raises ConfigError where it does not take any number from 1 on."""
        remedy = (
            f"export it with a free one, torch.export.export(model, args, dynamic_shapes={{{name!r}: {{{dim}: "
            f'torch.export.Dim("batch")}}, ...}}), with args of 2 rows or more; or save it with "batchable": False'
        )
        if dim >= tensor.dim():
            raise ConfigError(f"input {name!r} was exported with {tensor.dim()} dims, without the batch dim {dim}")
        size: object = tensor.shape[dim]
        if not isinstance(size, torch.SymInt):
            raise ConfigError(f"input {name!r} was exported with a fixed batch of {size} along dim {dim}; {remedy}")
        rows = self.exported.range_constraints.get(size.node.expr)
        if rows is None:
            raise ConfigError(f"the batch of input {name!r} along dim {dim} depends on another size ({size}); {remedy}")
        if rows.lower > _LEAST_ROWS:
            raise ConfigError(
                f"input {name!r} was exported for {rows.lower} rows or more along dim {dim}, and a request may have "
                f"one; {remedy}"
            )
        return int(rows.upper) if rows.upper.is_Integer else None


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
