"""Tensor: as NumpyNdarray, and the function gets a torch tensor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from paceline.io.numpy_ndarray import NumpyNdarray
from paceline.io.payload import Payload
from paceline.protocol.errors import StartError

if TYPE_CHECKING:
    import torch


class Tensor(NumpyNdarray):
    """A torch tensor in and out, on the CPU; in HTTP the same as NumpyNdarray, with the same parameters; `dtype` may be
    torch's. bfloat16 and half come out as float32 numbers in JSON; bfloat16 does so in .npy files, too.

    It needs torch in the API server's process, which it does not import: do so in your service's file. Where a runner
    does the work, NumpyNdarray saves the API server torch's memory.

    Example::

        import torch

        @svc.api(input=Tensor(dtype=torch.float32, shape=(-1, 4)), output=Tensor())
        async def predict(x: torch.Tensor) -> torch.Tensor: ...
    """

    def __init__(
        self, dtype: Any = None, shape: tuple[int, ...] | None = None, *, enforce: bool = True, example: Any = None
    ) -> None:
        self._torch = _torch()
        super().__init__(self._numpy_dtype(dtype), shape, enforce=enforce, example=example)

    @classmethod
    def from_sample(cls, sample: torch.Tensor, *, enforce: bool = True) -> Tensor:
        shape = (-1, *sample.shape[1:]) if sample.ndim else ()
        return cls(sample.dtype, shape, enforce=enforce, example=sample)

    async def decode(self, payload: Payload) -> torch.Tensor:
        # What the array was made of is ours alone, so sharing its memory is safe.
        tensor: torch.Tensor = self._torch.from_numpy(self.checked(payload))
        return tensor

    def _numpy_dtype(self, dtype: Any) -> np.dtype[Any] | None:
        if not isinstance(dtype, self._torch.dtype):
            return None if dtype is None else np.dtype(dtype)
        try:
            numpy_dtype: np.dtype[Any] = self._torch.empty(0, dtype=dtype).numpy().dtype
        except TypeError as error:
            raise StartError(f"Tensor(dtype={dtype}) has no numbers that JSON or numpy know; take float32") from error
        return numpy_dtype


def _torch() -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        raise StartError(
            "Tensor() hands torch tensors to your function, and torch is not imported: add `import torch` at the top "
            "of your service's file, or take NumpyNdarray()"
        )
    return torch
