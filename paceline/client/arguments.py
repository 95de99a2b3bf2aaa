"""The arguments of one call: bound to the method's parameters, converted, checked against what is declared, measured.

The same refusals as the server's own, made where the call is made. Clients send one tensor for each argument, as the
Open Inference Protocol has it; runner handles also send trees of them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from paceline.client.arrays import nbytes, tensor_of, tree_of
from paceline.client.call import option_hint
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, InvalidParameter, did_you_mean
from paceline.protocol.measure import Measure, mask_given, measure
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tensor import Strings, Tensor
from paceline.protocol.tree import Tree

_MEASURED_MAX = 256

Convert: TypeAlias = Callable[[object, InputSpec, MethodSpec], Tree]
Arguments: TypeAlias = tuple[tuple[Tree, ...], dict[str, Tree]]


def arguments_of(
    method: MethodSpec, positional: tuple[object, ...], named: Mapping[str, object], convert: Convert
) -> Arguments:
    """(args, kwargs) as they travel; `convert` is `tensor_argument` or `tree_argument`.

    Raises InvalidInput, InvalidParameter: the method does not take these, or not in this form.
    """
    check_binding(method, len(positional), named)
    specs = {spec.name: spec for spec in method.inputs}
    args = [
        convert(value, method.inputs[at] if at < len(method.inputs) else InputSpec(method.argument_name(at)), method)
        for at, value in enumerate(positional)
    ]
    return tuple(args), {
        name: convert(value, specs.get(name) or InputSpec(name), method) for name, value in named.items()
    }


def check_binding(method: MethodSpec, positional: int, named: Mapping[str, object]) -> None:
    """Raise InvalidInput or InvalidParameter unless the method takes so many arguments and these names."""
    known = [spec.name for spec in method.inputs]
    expected = ", ".join([spec.name for spec in method.request_inputs]) or "no inputs"
    if positional > len(known) and not method.open_inputs:
        raise InvalidInput(f"request has {positional} input(s), {method.name} takes {expected}")
    for name in named:
        if name in known[:positional]:
            raise InvalidParameter(f"input {name!r} is given twice, by position and by name")
        if name not in known and not method.open_inputs:
            hint = option_hint((name,), known) or did_you_mean(name, known)
            raise InvalidParameter(f"input {name!r} is unknown to {method.name}.{hint} Expected {expected}.")
    missing = [spec.name for spec in method.inputs[positional:] if spec.required and spec.name not in named]
    if missing:
        raise InvalidInput(
            f"request has {positional + len(named)} input(s), {method.name} needs {expected}; "
            f"missing: {', '.join(missing)}"
        )


def tensor_argument(value: object, spec: InputSpec, method: MethodSpec) -> Tensor | Strings:
    """`value` as one tensor, as declared."""
    _refuse_mask(spec, method)
    tensor = tensor_of(value, spec.name, spec.dtype)
    _check_tensor(tensor, spec, method)
    return tensor


def tree_argument(value: object, spec: InputSpec, method: MethodSpec) -> Tree:
    """`value` as a tensor, a plain value, or a tree of them, as declared."""
    _refuse_mask(spec, method)
    tree = tree_of(value, spec.name, spec.dtype, method.integers)
    if isinstance(tree, (Tensor, Strings)):
        _check_tensor(tree, spec, method)
    elif spec.dtype is not None and (tree is not None or spec.required):
        hint = "; join its arrays into one, as numpy.stack does" if isinstance(value, (list, tuple)) else ""
        raise InvalidInput(
            f"input {spec.name!r} is a {type(value).__name__}, expected one tensor of {spec.dtype.oip}{hint}"
        )
    return tree


def payload_bytes(args: tuple[Tree, ...], kwargs: Mapping[str, Tree]) -> int:
    """What the tensors among the arguments weigh."""
    return sum([_tree_bytes(tree) for tree in args]) + sum([_tree_bytes(tree) for tree in kwargs.values()])


class Measures:
    """Measures of calls with one positional tensor: most callers send the same shape again and again."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._known: dict[tuple[str, str, DType, tuple[int, ...]], Measure] = {}

    def of(self, model: str, method: MethodSpec, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> Measure:
        """See `measure`."""
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            return measure(method, args, kwargs, self._rows_max)
        tensor = args[0]
        shape = (model, method.name, tensor.dtype, tensor.shape)
        known = self._known.get(shape)
        if known is None:
            known = measure(method, args, kwargs, self._rows_max)
            if len(self._known) >= _MEASURED_MAX:
                self._known.clear()
            self._known[shape] = known
        return known


def _refuse_mask(spec: InputSpec, method: MethodSpec) -> None:
    if spec.name == method.mask:
        raise mask_given(spec.name)


def _check_tensor(tensor: Tensor | Strings, spec: InputSpec, method: MethodSpec) -> None:
    spec.check(tensor.dtype if isinstance(tensor, Tensor) else None, tensor.shape)
    dim = method.batch_dim[0]
    if method.batchable and len(tensor.shape) <= dim:  # `measure` refuses it too, but knows no names
        raise InvalidInput(
            f"input {spec.name!r} has shape {list(tensor.shape)}, without the batch dim {dim}; expected at least "
            f"{dim + 1} dims (add a leading dim of 1 for a single row)"
        )


def _tree_bytes(tree: Tree) -> int:
    if isinstance(tree, (Tensor, Strings)):
        return nbytes(tree)
    if isinstance(tree, (list, tuple)):
        return sum([_tree_bytes(item) for item in tree])
    if isinstance(tree, dict):
        return sum([_tree_bytes(item) for item in tree.values()])
    return len(tree) if isinstance(tree, (str, bytes)) else 0
