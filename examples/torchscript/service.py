"""Eight measurements in, the same smoothed out."""

import numpy as np
import numpy.typing as npt

import paceline

runner = paceline.torchscript.get("smoother").to_runner()

svc = paceline.Service(name="smoothing", runners=[runner])


@svc.api
async def smooth(series: list[float]) -> npt.NDArray[np.float32]:
    """Exponential smoothing of eight values."""
    batch = await runner.async_run([series])
    return batch[0]
