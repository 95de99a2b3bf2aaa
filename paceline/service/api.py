"""One API of a service: a function, how its argument is read and its result written, and how it is called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paceline.context import Context
from paceline.io import Descriptor, Multipart
from paceline.protocol.errors import StartError
from paceline.service import hints

_ROUTE = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?|/")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Api:
    """`spread`: the input is a dict whose items are keyword arguments. `on_loop`: a function of the event loop; all
    others run in threads."""

    name: str
    route: str
    doc: str
    function: Callable[..., Any]
    input: Descriptor | None
    output: Descriptor
    spread: bool
    context_name: str | None
    on_loop: bool

    def call(self, value: Any, ctx: Context) -> Any:
        """What the function returns: a result, an awaitable of one, or an iterator of pieces."""
        context = {} if self.context_name is None else {self.context_name: ctx}
        if self.input is None:
            return self.function(**context)
        return self.function(**value, **context) if self.spread else self.function(value, **context)


def make_api(
    function: Callable[..., Any],
    input: Descriptor | None = None,  # the word that users write
    output: Descriptor | None = None,
    route: str | None = None,
    name: str | None = None,
    doc: str | None = None,
) -> Api:
    """The API of `function`; what is not given comes from its type hints, name and docstring. Raises StartError."""
    name = _checked_name(name or str(getattr(function, "__name__", "")))
    signature = hints.signature_of(function, strict=input is None or output is None)
    context_name = hints.context_parameter(signature)
    if input is None:
        parameters = [each for each in signature.parameters.values() if each.name != context_name]
        input, spread = hints.input_of(parameters, name)
    else:
        spread = isinstance(_descriptor(input, f"{name}(input=)"), Multipart)
        _check_call(signature, input, context_name, name)
    streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if output is None:
        output = hints.output_of(signature.return_annotation, name, streams)
    if streams:
        _ = _descriptor(output, f"{name}(output=)").stream_type  # one that cannot stream says so now
    return Api(
        name=name,
        route=_checked_route(route, name),
        doc=inspect.cleandoc(doc or function.__doc__ or ""),
        function=function,
        input=input,
        output=_descriptor(output, f"{name}(output=)"),
        spread=spread,
        context_name=context_name,
        on_loop=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
    )


def _descriptor(given: Any, what: str) -> Descriptor:
    if isinstance(given, type) and issubclass(given, Descriptor):
        raise StartError(f"{what} is the class {given.__name__}, expected an object: {given.__name__}()")
    if not isinstance(given, Descriptor):
        raise StartError(f"{what} is {given!r}, expected a descriptor of paceline.io")
    return given


def _check_call(signature: inspect.Signature, given: Descriptor, context_name: str | None, name: str) -> None:
    """That the function can be called with what the descriptor gives."""
    context = {} if context_name is None else {context_name: None}
    fields = given.fields if isinstance(given, Multipart) else None
    try:
        if fields is not None:
            signature.bind(**fields, **context)
        else:
            signature.bind(None, **context)
    except TypeError as error:
        gives = f"the keyword arguments {', '.join(fields)}" if fields is not None else "one argument"
        raise StartError(f"{name}{signature} cannot be called with {given!r}, which gives {gives}: {error}") from error


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StartError(f"the API name {name!r} is not of letters, digits, '_', '.' and '-'; say @svc.api(name=...)")
    return name


def _checked_route(route: str | None, name: str) -> str:
    path = f"/{(route if route is not None else name).lstrip('/')}"
    if not _ROUTE.fullmatch(path) or ".." in path:
        raise StartError(
            f"the route {route!r} of {name} is no path; expected segments of letters, digits, '-', '_' and '.', "
            "without "
            f"parameters: what varies belongs into the body, or the query (ctx.request.query_params)"
        )
    return path.rstrip("/") or "/"
