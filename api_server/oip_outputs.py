"""Which outputs a request asks for, and in which form. Called by oip_request (to read) and oip_response (to write)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paceline.api_server.oip_json import shown
from paceline.api_server.oip_tensors import NAME_CHARS_MAX
from paceline.protocol.errors import InvalidInput, InvalidParameter, did_you_mean
from paceline.protocol.signature import MethodSpec

FORMS_MAX = 256


@dataclass(frozen=True, slots=True, eq=False)
class OutputForm:
    """`names` in the order asked for, None = all; `binary` of each, else `binary_default`.

    `heads` caches reply heads by what else decides them (oip_response owns its keys and values): an identical form of
    later requests is the same object.
    """

    names: tuple[str, ...] | None = None
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_default: bool = False
    heads: dict[Hashable, Any] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        return self.binary.get(name, self.binary_default)


class OutputForms:
    """The forms seen so far, bounded."""

    def __init__(self) -> None:
        self.json = OutputForm()
        self.binary = OutputForm(binary_default=True)
        self._named: dict[Hashable, OutputForm] = {}

    def read(self, method: MethodSpec, outputs: object, parameters: dict[str, Any]) -> OutputForm:
        """The form that `outputs` and `parameters.binary_data_output` of a request mean."""
        default = _flag(parameters.get("binary_data_output", False), "parameters.binary_data_output")
        if outputs is None or outputs == []:
            return self.binary if default else self.json
        if not isinstance(outputs, list):
            raise InvalidInput('outputs is not an array; expected [{"name": ...}]')
        wanted = [_wanted(item, default) for item in outputs]
        binary = dict(wanted)
        if len(binary) != len(wanted):
            raise InvalidParameter(f"outputs names {_twice(wanted)!r} twice")
        known = [spec.name for spec in method.outputs]
        for name in binary:
            if known and name not in known:
                raise unknown_output(name, known)
        return self._intern(tuple(binary), binary, default)

    def _intern(self, names: tuple[str, ...], binary: dict[str, bool], default: bool) -> OutputForm:
        key = (names, tuple(binary.values()), default)
        form = self._named.get(key)
        if form is None:
            form = OutputForm(names, binary, default)
            if len(self._named) >= FORMS_MAX:
                del self._named[next(iter(self._named))]
            self._named[key] = form
        return form


def unknown_output(name: str, known: list[str]) -> InvalidParameter:
    hint = did_you_mean(name, known)
    return InvalidParameter(f"output {name!r} is unknown.{hint} Expected one of {', '.join(known)}.")


def _wanted(item: object, default: bool) -> tuple[str, bool]:
    if not isinstance(item, dict):
        item = {}
    name = item.get("name")
    if not isinstance(name, str) or len(name) > NAME_CHARS_MAX:
        raise InvalidInput('an item of outputs is not an object with a name; expected {"name": ...}')
    parameters = item.get("parameters")
    if parameters is None:
        return name, default
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters of output {name!r} is not a JSON object")
    for refused in ("classification", "shared_memory_region"):
        if parameters.get(refused):
            raise InvalidParameter(f"output {name!r} asks for {refused}, which this server does not offer")
    return name, _flag(parameters.get("binary_data", default), f"binary_data of output {name!r}")


def _flag(value: object, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidParameter(f"{what} is {shown(value)}, expected true or false")


def _twice(wanted: list[tuple[str, bool]]) -> str:
    names = [name for name, _ in wanted]
    return next(name for name in names if names.count(name) > 1)
