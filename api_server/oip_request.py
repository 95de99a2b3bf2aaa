"""An infer request's bytes -> one checked call of a method. Everything is refused here that can be, before it runs.

A request is a JSON head and, in the binary extension, raw tensor bytes behind it. What the head alone decides (method,
binding, dtypes, shapes, batch key, rows, form of the reply) is a `Plan`; clients that send the same head again
and again (same shapes, no id) hit a cache by its bytes, and only the tensors are new. Called by the infer route.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from paceline.api_server.oip_json import collector_paused, json_too_large, parse_json, shown
from paceline.api_server.oip_outputs import OutputForm, OutputForms
from paceline.api_server.oip_tensors import NAME_CHARS_MAX, InputReader, PlannedInput, read_tensors
from paceline.protocol import limits
from paceline.protocol.catalog import ServedModel
from paceline.protocol.errors import InvalidInput, InvalidParameter, did_you_mean
from paceline.protocol.measure import Measure, measure
from paceline.protocol.signature import MethodSpec, pick_method
from paceline.protocol.tensor import Strings, Tensor
from paceline.protocol.tree import Tree

PLANS_MAX = 256
PLAN_HEAD_BYTES_MAX = 4096
# Half of what a message's tree may hold: its other nodes are containers.
INPUTS_MAX = 256
PRIORITY_MAX = 2**31 - 1
_SMALL_JSON_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Binding:
    """Which input (by index) goes to which parameter, and what the call means to batching."""

    args: tuple[int, ...]
    kwargs: tuple[tuple[str, int], ...]
    measured: Measure


@dataclass(slots=True, eq=False)
class Plan:
    """What a JSON head says. `timeout_s` None = the default."""

    method: MethodSpec
    inputs: tuple[PlannedInput, ...]
    binding: Binding
    form: OutputForm
    timeout_s: float | None = None
    priority: int = 0
    client_id: str | None = None


@dataclass(slots=True)
class Call:
    """One request ready to be submitted; `nbytes` is its payload."""

    plan: Plan
    args: tuple[Tree, ...]
    kwargs: dict[str, Tree]
    nbytes: int


class RequestReader:
    """Reads the infer requests of one served model."""

    def __init__(self, model: ServedModel, rows_max: int) -> None:
        self._model = model
        self._rows_max = rows_max
        self._inputs = {name: InputReader(method) for name, method in model.methods.items()}
        self._forms = OutputForms()
        self._plans: dict[bytes, Plan] = {}
        self._bindings: dict[Hashable, Binding] = {}

    def read(self, body: bytes | bytearray, head_length: bytes | None) -> Call:
        """The call in `body`; `head_length` is the value of Inference-Header-Content-Length.

        Raises InvalidInput, InvalidParameter, TooLarge.
        """
        if head_length is None:
            return self._call(self._new_plan(body), body, len(body))
        size = _head_size(head_length, len(body))
        if size == 0:
            return self._call(self._raw_plan(len(body)), body, 0)
        head = bytes(body[:size])
        plan = self._plans.get(head)
        if plan is None:
            plan = self._new_plan(head)
            self._keep(head, plan)
        return self._call(plan, body, size)

    def _call(self, plan: Plan, body: bytes | bytearray, at: int) -> Call:
        tensors = read_tensors(plan.inputs, body, at)
        binding = plan.binding
        if not binding.kwargs and len(binding.args) == len(tensors) == 1:
            return Call(plan, (tensors[0],), {}, len(body))
        args = tuple([tensors[index] for index in binding.args])
        return Call(plan, args, {name: tensors[index] for name, index in binding.kwargs}, len(body))

    def _keep(self, head: bytes, plan: Plan) -> None:
        fixed = all(spec.value is None for spec in plan.inputs)
        if fixed and plan.client_id is None and len(head) <= PLAN_HEAD_BYTES_MAX:
            if len(self._plans) >= PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[head] = plan

    def _new_plan(self, head: bytes | bytearray) -> Plan:
        if len(head) <= _SMALL_JSON_BYTES:
            return self._plan(head)
        if len(head) > limits.JSON_BYTES_MAX:
            raise json_too_large(limits.JSON_BYTES_MAX, len(head))
        with collector_paused():
            return self._plan(head)

    def _plan(self, head: bytes | bytearray) -> Plan:
        request = parse_json(head)
        if not isinstance(request, dict):
            raise InvalidInput('request is not a JSON object; expected {"inputs": [...]}')
        if head.count(b"[") + head.count(b"{") > limits.JSON_DEPTH_MAX:
            _check_depth(request)
        parameters = _mapping(request, "parameters", "request")
        method = self._method(parameters)
        plan_input = self._inputs[method.name].plan
        inputs = tuple([plan_input(item) for item in _inputs(request, method)])
        return Plan(
            method,
            inputs,
            self._bind(method, inputs),
            self._forms.read(method, request.get("outputs"), parameters),
            _timeout_s(parameters.get("timeout")),
            _priority(parameters.get("priority")),
            _client_id(request.get("id")),
        )

    def _method(self, parameters: dict[str, Any]) -> MethodSpec:
        name = parameters.get("method")
        if name is not None and (not isinstance(name, str) or len(name) > NAME_CHARS_MAX):
            raise InvalidParameter(f"parameters.method is {shown(name)}, expected a string")
        return pick_method(self._model.methods, name)

    def _raw_plan(self, size: int) -> Plan:
        """Header value 0: the whole body is the one input's bytes, and all outputs are binary."""
        method = self._method({})
        inputs = (self._inputs[method.name].plan_raw(size),)
        return Plan(method, inputs, self._bind(method, inputs), self._forms.binary)

    def _bind(self, method: MethodSpec, inputs: tuple[PlannedInput, ...]) -> Binding:
        """What names, dtypes and shapes decide, remembered for the latest combinations."""
        seen = (method.name, *[(spec.name, spec.dtype, spec.shape) for spec in inputs])
        binding = self._bindings.get(seen)
        if binding is None:
            binding = _bind(method, inputs, self._rows_max)
            if len(self._bindings) >= PLANS_MAX:
                del self._bindings[next(iter(self._bindings))]
            self._bindings[seen] = binding
        return binding


def _head_size(value: bytes, body_size: int) -> int:
    if not value.isdigit() or len(value) > 18 or int(value) > body_size:
        raise InvalidInput(
            f"inference-header-content-length is {value[:32].decode('latin-1')!r}, expected 0 to the body's size, "
            f"{body_size}"
        )
    return int(value)


def _check_depth(request: dict[str, Any]) -> None:
    """Refuse deep JSON outside `data`, whose depth its shape bounds (orjson itself stops at 1,024)."""
    level: list[Any] = [request]
    for _ in range(limits.JSON_DEPTH_MAX):
        deeper: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                deeper.extend(v for k, v in node.items() if k != "data" and isinstance(v, (dict, list)))
            else:
                deeper.extend(v for v in node if isinstance(v, (dict, list)))
        if not deeper:
            return
        level = deeper
    raise InvalidInput(f"request is nested deeper than {limits.JSON_DEPTH_MAX} levels")


def _mapping(owner: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = owner.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{key} of the {where} is not a JSON object")
    return value


def _inputs(request: dict[str, Any], method: MethodSpec) -> list[Any]:
    inputs = request.get("inputs", [] if not any(spec.required for spec in method.inputs) else None)
    if not isinstance(inputs, list):
        raise InvalidInput('inputs is missing or not an array; expected [{"name", "shape", "datatype", "data"}]')
    if len(inputs) > INPUTS_MAX:
        raise InvalidInput(f"request has {len(inputs)} inputs, over the limit of {INPUTS_MAX}")
    return inputs


def _bind(method: MethodSpec, inputs: tuple[PlannedInput, ...], rows_max: int) -> Binding:
    """Each input bound to a parameter; the call measured by placeholders without bytes."""
    args, kwargs = _places(method, [spec.name for spec in inputs])
    shells = [Strings(i.shape, ()) if i.dtype is None else Tensor(i.dtype, i.shape, b"") for i in inputs]
    measured = measure(
        method, tuple([shells[index] for index in args]), {name: shells[index] for name, index in kwargs}, rows_max
    )
    if len(measured.key) > limits.KEY_BYTES_MAX:
        raise InvalidInput(f"the inputs' names and shapes take {len(measured.key)} bytes, over {limits.KEY_BYTES_MAX}")
    return Binding(args, kwargs, measured)


def _places(method: MethodSpec, names: list[str]) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    """Positional in parameter order as far as it is gapless, then by name; names unknown to an open method are
    positional in the order of the request."""
    given = {name: index for index, name in enumerate(names)}
    if len(given) != len(names):
        twice = next(name for index, name in enumerate(names) if given[name] != index)
        raise InvalidParameter(f"input {twice!r} is given twice")
    known = [spec.name for spec in method.inputs]
    unknown = [name for name in names if name not in known]
    if unknown and not method.open_inputs:
        hint = did_you_mean(unknown[0], known)
        expected = ", ".join([spec.name for spec in method.request_inputs]) or "no inputs"
        raise InvalidParameter(f"input {unknown[0]!r} is unknown to {method.name}.{hint} Expected {expected}.")
    missing = [spec.name for spec in method.inputs if spec.required and spec.name not in given]
    if missing and not (method.open_inputs and len(unknown) >= len(missing)):
        raise InvalidInput(
            f"request has {len(names)} input(s), {method.name} needs "
            f"{', '.join([spec.name for spec in method.request_inputs])}; missing: {', '.join(missing)}"
        )
    return _positions(known, given, unknown)


def _positions(
    known: list[str], given: dict[str, int], unknown: list[str]
) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    rest = iter(unknown)
    args: list[int] = []
    by_name = list(known)
    while by_name:
        name = by_name[0] if by_name[0] in given else next(rest, None)
        if name is None:
            break
        args.append(given[name])
        del by_name[0]
    args.extend(given[name] for name in rest)
    return tuple(args), tuple((name, given[name]) for name in by_name if name in given)


def _client_id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= limits.REQUEST_ID_CHARS_MAX):
        return value
    raise InvalidParameter(f"id must be a string of at most {limits.REQUEST_ID_CHARS_MAX} characters")


def _timeout_s(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InvalidParameter(f"parameters.timeout is {shown(value)}, expected microseconds > 0")
    return value / 1e6


def _priority(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or abs(value) > PRIORITY_MAX:
        raise InvalidParameter(f"parameters.priority is {shown(value)}, expected an integer (lower = more urgent)")
    return value
