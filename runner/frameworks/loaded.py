"""A model ready to be called, as every framework returns it. Names no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from paceline.protocol.errors import InvalidParameter, did_you_mean


@dataclass(frozen=True, slots=True)
class Sample:
    """Arguments of one call, as the framework's own tensors; kwargs holds what cannot be given by position."""

    args: tuple[object, ...]
    kwargs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`model` is in eval mode and on its device, as are the tensors of `samples` (by method, where one was saved)."""

    model: object
    methods: tuple[str, ...]
    samples: dict[str, Sample] = field(default_factory=dict)

    def bound(self, method: str) -> Callable[..., object]:
        """The callable behind the signature `method`. Raises InvalidParameter if the model was saved without it."""
        if method not in self.methods:
            hint = did_you_mean(method, self.methods)
            raise InvalidParameter(f"method {method!r} is unknown.{hint} Expected one of {', '.join(self.methods)}.")
        return cast("Callable[..., object]", self.model if method == "__call__" else getattr(self.model, method))

    @property
    def sample_inputs(self) -> tuple[object, ...] | None:
        """Positional arguments of a sample call of `__call__`, else of the first method; None if none was saved."""
        sample = self.samples.get("__call__" if "__call__" in self.methods else self.methods[0])
        return sample.args if sample else None
