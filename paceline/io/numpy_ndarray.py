"""NumpyNdarray: a numpy array, as JSON's nested lists or as a .npy file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.io import arrays, json_text
from paceline.io.arrays import NPY_MAGIC, NPY_TYPE, Array
from paceline.io.descriptor import Descriptor, MediaTypes
from paceline.io.json import described
from paceline.io.payload import Encoded, Payload, accepted_type, preferred_type
from paceline.protocol.errors import InvalidInput, ModelError, StartError

_JSON = "application/json"


class NumpyNdarray(Descriptor):
    """A numpy array in and out: `application/json` (nested lists), or `application/x-npy` (NumPy's file format, many
    times faster for large arrays). Output is a .npy file if the request's `Accept` says `application/x-npy`, else JSON.

    - `dtype`: what the function gets. JSON's numbers are converted to it; a .npy file has to have it, unless `enforce`
      is False: then it is converted. Without one, JSON's fractions become float32 and integers int64.
    - `shape`: -1 for any size. Another shape is refused; with `enforce=False` it is reshaped, if the number of elements
      fits.

    Raises InvalidInput for what is not such an array, naming what was given and what is expected.

    Example::

        @svc.api(input=NumpyNdarray(dtype="float32", shape=(-1, 4)), output=NumpyNdarray())
        async def predict(x: np.ndarray) -> np.ndarray: ...
    """

    def __init__(
        self,
        dtype: npt.DTypeLike | None = None,
        shape: tuple[int, ...] | None = None,
        *,
        enforce: bool = True,
        example: Any = None,
    ) -> None:
        self._dtype = None if dtype is None else np.dtype(dtype)
        if self._dtype is not None and self._dtype.kind not in "biufc":
            raise StartError(f"NumpyNdarray(dtype={dtype!r}) is no dtype of numbers")
        if shape is not None and any(not isinstance(dim, int) or dim < -1 for dim in shape):
            raise StartError(f"NumpyNdarray(shape={shape!r}) has a dimension that is neither a size nor -1")
        self._shape = None if shape is None else tuple(shape)
        self._enforce = enforce
        self._example = example

    @classmethod
    def from_sample(cls, sample: Any, *, enforce: bool = True) -> NumpyNdarray:
        """The dtype of `sample`, its shape with the first dimension free, and `sample` as the documentation's
        example."""
        array = np.asarray(sample)
        return cls(array.dtype, (-1, *array.shape[1:]) if array.ndim else (), enforce=enforce, example=array)

    async def decode(self, payload: Payload) -> Any:
        return self.checked(payload)

    def checked(self, payload: Payload) -> Array:
        """The array of `payload`, of the declared dtype and shape."""
        kind = accepted_type(payload, (*json_text.JSON_TYPES, NPY_TYPE))
        if kind == NPY_TYPE or (not kind and payload.data.startswith(NPY_MAGIC)):
            array = self._typed(arrays.read_npy(payload.data, payload.where), payload.where)
        else:
            array = arrays.array_of_json(json_text.loads(payload), payload.where, self._dtype)
        return self._shaped(array, payload.where)

    def _typed(self, array: Array, where: str) -> Array:
        if self._dtype is None or array.dtype == self._dtype:
            return array
        if self._enforce:
            raise InvalidInput(f"{where} has the dtype {array.dtype}, expected {self._dtype}")
        return arrays.cast(array, where, self._dtype)

    def _shaped(self, array: Array, where: str) -> Array:
        if self._shape is None:
            return array
        if not self._enforce:
            try:
                return array.reshape(self._shape)
            except ValueError:
                pass  # the next line says it better
        return arrays.checked_shape(array, self._shape, where)

    def encode(self, value: Any, accept: str = "") -> Encoded:
        array = np.asarray(self.plain(value))
        if array.dtype.kind not in "biufc":
            raise ModelError(f"the result is {array.dtype} data, expected an array of numbers")
        if preferred_type(accept, (_JSON, NPY_TYPE)) == NPY_TYPE:
            return Encoded(arrays.write_npy(array), NPY_TYPE)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                "the result holds NaN or Infinity, which JSON does not know; replace them (numpy.nan_to_num), or ask "
                f"with the header accept: {NPY_TYPE}"
            )
        return Encoded(json_text.dumps(array), _JSON)

    def plain(self, value: Any) -> Any:
        """`value`, a tensor made an array."""
        return json_text.array_of_tensor(value) if json_text.is_tensor(value) else value

    def schema(self) -> MediaTypes:
        npy = {"schema": {"type": "string", "contentMediaType": NPY_TYPE}}
        return {_JSON: described(arrays.array_schema(self._dtype, self._shape), self._example), NPY_TYPE: npy}
