"""The load generator's native side: a closed and an open loop over paceline.AsyncClient on ipc."""

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


async def native_open(
    url: str,
    model: str,
    arrays: list[np.ndarray],
    rate: float,
    seed: int,
    warmup_s: float,
    duration_s: float,
    timeout_s: float | None = None,
) -> Sample:
    """Poisson arrivals at `rate` per second; latencies count from the scheduled time, and a late answer is an error."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    count = int(rate * (warmup_s + duration_s))
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count)).tolist()
    loop = asyncio.get_running_loop()
    async with AsyncClient(url) as client:
        await client.predict(model, *arrays)
        begin = loop.time() + 0.05
        measure_from = begin + warmup_s

        async def one(due: float) -> None:
            kind = ""
            try:
                await client.predict(model, *arrays, timeout_s=timeout_s)
            except RequestError as error:
                kind = error.code
            if due < measure_from:
                return
            latency_s = loop.time() - due
            if kind:
                errors[kind] += 1
            elif timeout_s is not None and latency_s > timeout_s:
                errors["late"] += 1
            else:
                latencies.append(latency_s)

        tasks = set[asyncio.Task[None]]()
        cpu_from = 0.0
        for offset in times:
            due = begin + offset
            pause_s = due - loop.time()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            if not cpu_from and due >= measure_from:
                cpu_from = _cpu_s()
            task = loop.create_task(one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        span_s, cpu_s = loop.time() - measure_from, _cpu_s() - cpu_from
        await asyncio.gather(*tasks)
    return Sample(np.array(latencies), errors, Counter(), span_s, cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
