"""A call as the dispatch host takes it: the model, version and method it means, its arguments as tensors, checked.

The same refusals as the server's own, made here, because a native client speaks to the workers directly. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.client.arguments import Measures, arguments_of, payload_bytes, tensor_argument
from paceline.client.arrays import array_of
from paceline.client.call import Call, Outputs
from paceline.protocol.catalog import Catalog, model_metadata
from paceline.protocol.measure import Measure
from paceline.protocol.messages import Result
from paceline.protocol.signature import MethodSpec, pick_method
from paceline.protocol.spec import ServeSpec
from paceline.protocol.tensor import Tensor
from paceline.protocol.tree import Tree, named_leaves


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
        self._measures = Measures(serve.http.rows_max)
        self._timeout_max_s = serve.http.timeout_max_ms / 1e3
        self._catalog = Catalog(serve)

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
        args, kwargs = arguments_of(method, call.args, call.named, tensor_argument)
        measured = self._measures.of(call.model, method, args, kwargs)
        return NativeCall(call.model, method, args, kwargs, measured, payload_bytes(args, kwargs))

    def metadata(self, name: str, version: str | None) -> dict[str, object]:
        """As the server describes the model over HTTP."""
        return model_metadata(self._catalog.find(name, version))


def outputs_of(result: Result) -> Outputs:
    """The arrays of a result by output name, each the caller's own. Raises ProtocolError if it is not well-formed."""
    tree = result.tree()
    if type(tree) is Tensor:
        return Outputs((("output_0", array_of(tree)),), result.batch_rows)
    named = [(name, array_of(leaf)) for name, leaf in named_leaves(tree) if leaf is not None]
    return Outputs(named, result.batch_rows)
