"""Runnable: a class of the user's own whose methods a runner serves, beside models of the store.

All that crosses to the workers is where a class is defined: they import it by name and make it there. Imports no
torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, overload

import msgpack

from paceline.protocol.errors import ConfigError, StartError, did_you_mean
from paceline.protocol.signature import InputSpec, MethodSpec, parse_signatures

Function = TypeVar("Function", bound=Callable[..., Any])

CPU, GPU = "cpu", "nvidia.com/gpu"
_MARK = "__paceline_options__"
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Runnable:
    """Base of classes that a `Runner` serves. A worker makes one object of it and calls its marked methods with torch
    tensors on the worker's device, batches joined, inside inference mode.

    `resources`: what its workers can run on, of "cpu" and "nvidia.com/gpu"; without the second they are not put on
    GPUs. An `__init__` parameter named `device` gets torch's name of the worker's device, unless `init` gives it.

    Example::

        class Toxicity(paceline.Runnable):
            resources = ("cpu",)

            def __init__(self, threshold: float = 0.5) -> None:
                self.model, self.threshold = load(), threshold

            @paceline.Runnable.method(batchable=True, batch_dim=0)
            def classify(self, embeddings: torch.Tensor) -> torch.Tensor:
                return self.model(embeddings) > self.threshold

        runner = paceline.Runner(Toxicity, name="toxicity", init={"threshold": 0.7})
        await runner.classify.async_run(embeddings)
    """

    resources: ClassVar[tuple[str, ...]] = (CPU, GPU)

    @overload
    @staticmethod
    def method(function: Function, /) -> Function: ...

    @overload
    @staticmethod
    def method(
        *,
        batchable: bool = False,
        batch_dim: int | tuple[int, int] = 0,
        idempotent: bool = True,
        max_batch_size: int | None = None,
        latency_budget_ms: float | None = None,
        pad: object = None,
        mask: str | None = None,
        unpad: object = None,
    ) -> Callable[[Function], Function]: ...

    @staticmethod
    def method(function: Callable[..., Any] | None = None, /, **options: object) -> Any:
        """Mark a method as one that the runner offers, bare or with the options of a signature (docs/models.md).

        Raises ConfigError that names the method and the option, when the class is defined.
        """

        def mark(function: Callable[..., Any]) -> Callable[..., Any]:
            if not inspect.isfunction(function):
                raise ConfigError(f"@Runnable.method marks methods, got a {type(function).__name__}")
            given = {key: value for key, value in options.items() if value is not None}
            parse_signatures({function.__name__: given})
            setattr(function, _MARK, given)
            return function

        return mark if function is None else mark(function)

    @classmethod
    def __paceline_methods__(cls) -> dict[str, MethodSpec]:
        """What it offers, by name. A method that is defined anew keeps the options of the class above."""
        marked: dict[str, Mapping[str, object]] = {}
        for parent in reversed(cls.__mro__):
            for name, value in vars(parent).items():
                if hasattr(value, _MARK):
                    marked[name] = getattr(value, _MARK)
        offered = {name: options for name, options in marked.items() if callable(getattr(cls, name))}
        if not offered:
            raise ConfigError(
                f"{cls.__name__} offers no method; mark those that requests may call with @paceline.Runnable.method"
            )
        methods = parse_signatures(offered)
        return {name: _with_inputs(method, getattr(cls, name)) for name, method in methods.items()}


def target_of(runnable: type[Runnable]) -> str:
    """ "module:qualname", by which workers find the class. Raises StartError where they could not."""
    if "<locals>" in runnable.__qualname__:
        raise StartError(
            f"{runnable.__qualname__} is defined inside a function, where a worker cannot find it; define it at the "
            f"top of a module"
        )
    return f"{runnable.__module__}:{runnable.__qualname__}"


def pack_init(runnable: type[Runnable], init: Mapping[str, object]) -> bytes:
    """The parameters of `__init__` as they travel. Raises ConfigError: it does not take them, or they are not plain."""
    signature = inspect.signature(runnable)
    known = list(signature.parameters)
    for name in init:
        if name not in known and not any(each.kind in _VARIABLE for each in signature.parameters.values()):
            raise ConfigError(
                f"init has {name!r}, which {runnable.__name__} does not take.{did_you_mean(name, known)} It takes "
                f"{', '.join(known) or 'nothing'}."
            )
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if name not in init and name != "device" and parameter.default is parameter.empty
        if parameter.kind not in _VARIABLE
    ]
    if missing:
        raise ConfigError(f"{runnable.__name__} needs init={{...}} with {', '.join(missing)}")
    try:
        packed: bytes = msgpack.packb(dict(init))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"init of {runnable.__name__} cannot travel to the workers: {error}; expected numbers, strings, bytes, and "
            f"lists or dicts of them"
        ) from error
    return packed


def devices_for(runnable: type[Runnable], devices: object) -> object:
    """What code says of the devices: those given, else what the resources leave. Raises ConfigError: they disagree."""
    resources: object = runnable.resources
    if not isinstance(resources, (tuple, list)) or not resources or not {*resources} <= {CPU, GPU}:
        raise ConfigError(f'{runnable.__name__}.resources is {resources!r}, expected a tuple of "{CPU}" and "{GPU}"')
    if devices is None:
        return None if len(set(resources)) > 1 else ("cpu",) if CPU in resources else ("cuda",)
    if GPU not in resources and "cuda" in str(devices):
        raise ConfigError(f'devices is {devices!r}, but {runnable.__name__}.resources has no "{GPU}"')
    return devices


def _with_inputs(method: MethodSpec, function: Callable[..., object]) -> MethodSpec:
    parameters = list(inspect.signature(function).parameters.values())[1:]  # without self
    named = [parameter for parameter in parameters if parameter.kind not in _VARIABLE]
    inputs = tuple(
        InputSpec(parameter.name, required=parameter.default is parameter.empty and parameter.name != method.mask)
        for parameter in named
    )
    return replace(method, inputs=inputs, open_inputs=len(named) < len(parameters))
