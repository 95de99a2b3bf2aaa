"""The load generator's native side: a closed loop over paceline.AsyncClient on ipc."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter

import numpy as np

from benchmarks.report import Sample
from paceline.client import AsyncClient
from paceline.protocol.errors import RequestError


async def native_closed(
    url: str, model: str, arrays: list[np.ndarray], in_flight: int, warmup_s: float, duration_s: float
) -> Sample:
    """Keep `in_flight` requests in flight over one native client."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    async with AsyncClient(url) as client:
        await client.predict(model, *arrays)
        measure_from = time.perf_counter() + warmup_s
        stop_at = measure_from + duration_s

        async def one() -> None:
            now = time.perf_counter()
            while now < stop_at:
                sent = now
                try:
                    await client.predict(model, *arrays)
                except RequestError as error:
                    errors[error.code] += 1
                now = time.perf_counter()
                if sent >= measure_from:
                    latencies.append(now - sent)

        tasks = [asyncio.create_task(one()) for _ in range(in_flight)]
        await asyncio.sleep(warmup_s)
        cpu_from = _cpu_s()
        await asyncio.sleep(duration_s)
        cpu_s = _cpu_s() - cpu_from
        await asyncio.gather(*tasks)
    return Sample(np.array(latencies), errors, Counter(), duration_s, cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
