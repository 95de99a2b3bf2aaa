"""A call as the dispatch host takes it: the model, version and method it means, its arguments as tensors, checked.

The same refusals as the server's own, made here, because a native client speaks to the workers directly. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.client.arrays import array_of, nbytes, tensor_of
from paceline.client.call import Call, Outputs, option_hint
from paceline.protocol.catalog import Catalog, model_metadata
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, InvalidParameter, did_you_mean
from paceline.protocol.measure import Measure, mask_given, measure
from paceline.protocol.messages import Result
from paceline.protocol.signature import InputSpec, MethodSpec, pick_method
from paceline.protocol.spec import ServeSpec
from paceline.protocol.tensor import Strings, Tensor
from paceline.protocol.tree import Tree, named_leaves

_MEASURED_MAX = 256


@dataclass(frozen=True, slots=True)
class NativeCall:
    """Ready to be submitted; `nbytes` is its payload."""

    runner: str
    method: MethodSpec
    args: tuple[Tree, ...]
    kwargs: dict[str, Tree]
    measured: Measure
    nbytes: int


class NativeCalls:
    """The calls that one server takes, by its ServeSpec."""

    def __init__(self, serve: ServeSpec) -> None:
        self._rows_max = serve.http.rows_max
        self._timeout_max_s = serve.http.timeout_max_ms / 1e3
        self._catalog = Catalog(serve)
        # Of calls with one positional tensor: most clients send the same shape again and again.
        self._measures: dict[tuple[str, str, DType, tuple[int, ...]], Measure] = {}

    def knows(self, model: str, version: str | None) -> bool:
        served = self._catalog.models.get(model)
        return served is not None and (version is None or version in served.versions)

    def budget_s(self, call: Call, native: NativeCall) -> float:
        """Seconds until the deadline, as the server would set it. Raises DeadlineExceeded if none are left."""
        left_s = min(call.remaining_s(), self._timeout_max_s)
        if call.given:
            return left_s
        of_method = native.method.latency_budget_ms
        budget_ms = self._catalog.models[native.runner].spec.latency_budget_ms if of_method is None else of_method
        return min(left_s, budget_ms / 1e3)

    def prepare(self, call: Call) -> NativeCall:
        """Raises ModelNotFound, VersionNotFound, InvalidInput, InvalidParameter, TooLarge."""
        model = self._catalog.find(call.model, call.version)
        method = pick_method(model.methods, call.method)
        inputs = method.inputs
        if len(call.args) == 1 and not call.named and inputs:
            tensor = _checked(call.args[0], inputs[0], method)
            if isinstance(tensor, Tensor) and not any(spec.required for spec in inputs[1:]):
                measured = self._measured(call.model, method, tensor)
                return NativeCall(call.model, method, (tensor,), {}, measured, nbytes(tensor))
        check_binding(method, len(call.args), call.named)
        args, kwargs = _tensors(method, call)
        measured = measure(method, args, kwargs, self._rows_max)
        size = sum([nbytes(leaf) for leaf in (*args, *kwargs.values()) if isinstance(leaf, (Tensor, Strings))])
        return NativeCall(call.model, method, args, kwargs, measured, size)

    def metadata(self, name: str, version: str | None) -> dict[str, object]:
        """As the server describes the model over HTTP."""
        return model_metadata(self._catalog.find(name, version))

    def _measured(self, model: str, method: MethodSpec, tensor: Tensor) -> Measure:
        shape = (model, method.name, tensor.dtype, tensor.shape)
        known = self._measures.get(shape)
        if known is None:
            known = measure(method, (tensor,), {}, self._rows_max)
            if len(self._measures) >= _MEASURED_MAX:
                self._measures.clear()
            self._measures[shape] = known
        return known


def outputs_of(result: Result) -> Outputs:
    """The arrays of a result by output name, each the caller's own. Raises ProtocolError if it is not well-formed."""
    tree = result.tree()
    if type(tree) is Tensor:
        return Outputs((("output_0", array_of(tree)),), result.batch_rows)
    named = [(name, array_of(leaf)) for name, leaf in named_leaves(tree) if leaf is not None]
    return Outputs(named, result.batch_rows)


def check_binding(method: MethodSpec, positional: int, named: dict[str, object]) -> None:
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


def _tensors(method: MethodSpec, call: Call) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
    specs = {spec.name: spec for spec in method.inputs}
    args = [
        _checked(value, method.inputs[at] if at < len(method.inputs) else InputSpec(f"input_{at}"), method)
        for at, value in enumerate(call.args)
    ]
    kwargs = {name: _checked(value, specs.get(name) or InputSpec(name), method) for name, value in call.named.items()}
    return tuple(args), kwargs  # type: ignore[return-value]  # a tensor or strings: leaves of a Tree


def _checked(value: object, spec: InputSpec, method: MethodSpec) -> Tensor | Strings:
    if spec.name == method.mask:
        raise mask_given(spec.name)
    tensor = tensor_of(value, spec.name, spec.dtype)
    spec.check(tensor.dtype if isinstance(tensor, Tensor) else None, tensor.shape)
    dim = method.batch_dim[0]
    if method.batchable and len(tensor.shape) <= dim:  # `measure` refuses it too, but knows no names
        raise InvalidInput(
            f"input {spec.name!r} has shape {list(tensor.shape)}, without the batch dim {dim}; expected at least "
            f"{dim + 1} dims (add a leading dim of 1 for a single row)"
        )
    return tensor
