"""Serves the model without having its modules: neither my_models nor layers is imported here."""

import numpy as np
import numpy.typing as npt

import paceline
from paceline.io import NumpyNdarray

runner = paceline.pytorch.get("forecast").to_runner()

svc = paceline.Service(name="forecasts", runners=[runner])


@svc.api(input=NumpyNdarray(dtype="float32", shape=(-1, 4)), output=NumpyNdarray())
async def forecast(series: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The next value of each row's four."""
    return await runner.async_run(series)
