"""Two models in one service: each has workers and batches of its own, and both work at the same time."""

import asyncio
import dataclasses

import paceline

wear = paceline.pytorch.get("wear").to_runner()
faults_model = paceline.pytorch.get("faults")
faults = faults_model.to_runner(max_batch_size=16)  # settings are each runner's own

svc = paceline.Service(name="machines", runners=[wear, faults])


@dataclasses.dataclass
class Reading:
    temperature: float
    vibration: float
    load: float


@svc.api
async def check(reading: Reading) -> dict:
    """How long a machine will last, and what is wrong with it."""
    x = [[reading.temperature, reading.vibration, reading.load]]
    hundreds, probabilities = await asyncio.gather(wear.async_run(x), faults.async_run(x))
    fault = faults_model.manifest.metadata["faults"][int(probabilities[0].argmax())]
    return {"hours_left": round(float(hundreds[0]) * 100), "fault": fault}
