"""From a function's type hints to the descriptors of its input and output.

One parameter is a body; several are the fields of one JSON object, or of a form if one of them cannot be JSON. Pillow,
pandas and torch are recognised by the names of their classes and never imported for it.
"""

from __future__ import annotations

import collections.abc
import inspect
import io
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paceline.context import Context
from paceline.io import JSON, Descriptor, File, Image, Multipart, NumpyNdarray, PandasDataFrame, Tensor, Text
from paceline.io.file import UploadedFile
from paceline.io.hint_kinds import ANYTHING, Field, dtype_of
from paceline.io.json import JSONFields
from paceline.protocol.errors import StartError

_BYTES = (bytes, bytearray, memoryview)
_FILES = (io.BytesIO, io.IOBase, io.BufferedIOBase, typing.BinaryIO, typing.IO, UploadedFile)
_CLASSES: Mapping[tuple[str, str], Callable[[], Descriptor]] = {
    ("PIL", "Image"): Image,
    ("pandas", "DataFrame"): PandasDataFrame,
    ("torch", "Tensor"): Tensor,
}
_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
    collections.abc.Iterator,
    collections.abc.Generator,
)
_CONTEXT_NAMES = ("ctx", "context")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(function: Callable[..., Any], strict: bool) -> inspect.Signature:
    """The signature with its hints evaluated. Where names in hints cannot be found: StartError if `strict`, else the
    hints as they stand in the source."""
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        if strict:
            raise StartError(
                f"the type hints of {function.__qualname__} cannot be read: {error}. Import what they name at the top "
                "of the "
                f"file, or say input= and output="
            ) from error
        return inspect.signature(function)


def context_parameter(signature: inspect.Signature) -> str | None:
    """The name of the parameter that takes the Context: by its hint, or by its name where it has none."""
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        named = hint is inspect.Parameter.empty and name in _CONTEXT_NAMES
        if hint is Context or named or (isinstance(hint, str) and hint.rpartition(".")[2] == "Context"):
            return name
    return None


def input_of(parameters: Sequence[inspect.Parameter], function: str) -> tuple[Descriptor | None, bool]:
    """The descriptor of these parameters, None for none; and whether it gives them by name."""
    for parameter in parameters:
        if parameter.kind not in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY):
            raise StartError(
                f"{function} takes {parameter}, which no request can fill; name its parameters, or say input="
            )
    if not parameters:
        return None, False
    if len(parameters) == 1 and parameters[0].kind in _POSITIONAL:
        return descriptor_of(parameters[0].annotation, f"{function}({parameters[0].name})"), False
    return _fields(parameters, function), True


def output_of(hint: Any, function: str, streams: bool) -> Descriptor:
    """The descriptor of a return hint; of the items, where the function yields."""
    origin = typing.get_origin(hint) or hint
    if origin in _STREAMS:
        args = typing.get_args(hint)
        hint = args[0] if args else inspect.Parameter.empty
        streams = True
    if streams and hint is inspect.Parameter.empty:
        return Text()
    if hint is Path:
        return File()
    try:
        return descriptor_of(hint, f"the result of {function}")
    except StartError:
        # What comes out is converted as it is, whatever its hint; only what comes in is checked against one.
        if _known_class(hint) is not None:
            raise
        return JSON()


def descriptor_of(hint: Any, what: str) -> Descriptor:
    """The descriptor of one value. Raises StartError for a hint without one."""
    chosen = _annotated(hint)
    if chosen is not None:
        return chosen
    if hint is str:
        return Text()
    if hint in _BYTES:
        return File(as_bytes=True)
    if hint in _FILES:
        return File()
    if (typing.get_origin(hint) or hint) is np.ndarray:
        return NumpyNdarray(dtype=dtype_of(hint))
    known = _known_class(hint)
    if known is not None:
        return known()
    if isinstance(hint, types.ModuleType):
        raise StartError(f"{what} has the hint {hint.__name__}, a module; take a class of it, like PIL.Image.Image")
    try:
        return JSON() if hint in ANYTHING else JSON(model=hint)
    except StartError as error:
        raise StartError(f"{what}: {error}") from error


def _fields(parameters: Sequence[inspect.Parameter], function: str) -> Descriptor:
    if not any(_needs_form(parameter.annotation) for parameter in parameters):
        fields = [Field(each.name, each.annotation, each.default is inspect.Parameter.empty) for each in parameters]
        try:
            return JSONFields(fields)
        except StartError as error:
            raise StartError(f"{function}: {error}") from error
    descriptors = {
        each.name: descriptor_of(_without_none(each.annotation), f"{function}({each.name})") for each in parameters
    }
    optional = [each.name for each in parameters if each.default is not inspect.Parameter.empty]
    return Multipart.of_parameters(descriptors, optional)


def _needs_form(hint: Any) -> bool:
    """Whether a value of `hint` cannot be a field of JSON."""
    hint = _without_none(hint)
    return hint in _BYTES or hint in _FILES or _known_class(hint) is not None or _annotated(hint) is not None


def _without_none(hint: Any) -> Any:
    """X of `X | None`: a form's optional part is absent, not null."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return others[0] if len(others) == 1 else hint
    return hint


def _annotated(hint: Any) -> Descriptor | None:
    """The descriptor in `Annotated[X, descriptor]`."""
    metadata = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    return next((item for item in metadata if isinstance(item, Descriptor)), None)


def _known_class(hint: Any) -> Callable[[], Descriptor] | None:
    if not isinstance(hint, type):
        return None
    return _CLASSES.get((hint.__module__.partition(".")[0], hint.__qualname__))
