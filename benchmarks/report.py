"""What one load run measured, merged over its processes: pure numbers, JSON and a readable form."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


@dataclass(slots=True)
class Sample:
    """What one load process saw: latencies in seconds (from the intended send time in an open loop), errors by kind,
    batch sizes as the answers report them, its own CPU seconds and the measured span."""

    latencies_s: npt.NDArray[np.float64]
    errors: Counter[str] = field(default_factory=Counter)
    batch_rows: Counter[int] = field(default_factory=Counter)
    span_s: float = 0.0
    cpu_s: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        return {
            "latencies_s": self.latencies_s.tolist(),
            "errors": dict(self.errors),
            "batch_rows": {str(rows): count for rows, count in self.batch_rows.items()},
            "span_s": self.span_s,
            "cpu_s": self.cpu_s,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Sample:
        return cls(
            np.array(plain["latencies_s"], np.float64),
            Counter(plain["errors"]),
            Counter({int(rows): count for rows, count in plain["batch_rows"].items()}),
            plain["span_s"],
            plain["cpu_s"],
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `rate` in answered requests per second; latencies in milliseconds; `client_cpu_us` per request."""

    requests: int
    rate: float
    latency_ms: dict[str, float]
    errors: dict[str, int]
    mean_batch: float
    batch_rows: dict[int, int]
    client_cpu_us: float
    client_cpu_cores: float

    def to_plain(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "rate": round(self.rate, 1),
            "latency_ms": {name: round(value, 4) for name, value in self.latency_ms.items()},
            "errors": self.errors,
            "mean_batch": round(self.mean_batch, 2),
            "batch_rows": {str(rows): count for rows, count in sorted(self.batch_rows.items())},
            "client_cpu_us": round(self.client_cpu_us, 2),
            "client_cpu_cores": round(self.client_cpu_cores, 3),
        }

    def lines(self) -> list[str]:
        latency = "  ".join(f"{name} {value:.3f}" for name, value in self.latency_ms.items())
        errors = ", ".join(f"{kind}: {count}" for kind, count in self.errors.items()) or "none"
        return [
            f"answered   {self.requests} requests, {self.rate:,.0f}/s",
            f"latency    {latency} ms",
            f"errors     {errors}",
            f"mean batch {self.mean_batch:.2f} rows",
            f"client CPU {self.client_cpu_us:.1f} us a request, {self.client_cpu_cores:.2f} cores",
        ]


def merge(samples: list[Sample]) -> Report:
    """One report from all processes of one run."""
    latencies = np.concatenate([sample.latencies_s for sample in samples]) if samples else np.zeros(0)
    errors: Counter[str] = Counter()
    batch_rows: Counter[int] = Counter()
    for sample in samples:
        errors.update(sample.errors)
        batch_rows.update(sample.batch_rows)
    span_s = max((sample.span_s for sample in samples), default=0.0)
    cpu_s = sum(sample.cpu_s for sample in samples)
    count = len(latencies)
    # Each batch of b rows is reported by its b requests, so the mean over batches weighs each answer by 1 / b.
    batches = sum(seen / rows for rows, seen in batch_rows.items())
    return Report(
        requests=count,
        rate=count / span_s if span_s else 0.0,
        latency_ms={
            name: float(np.percentile(latencies, q)) * 1e3 if count else float("nan") for name, q in PERCENTILES.items()
        },
        errors=dict(errors),
        mean_batch=sum(batch_rows.values()) / batches if batches else 0.0,
        batch_rows=dict(batch_rows),
        client_cpu_us=cpu_s / count * 1e6 if count else 0.0,
        client_cpu_cores=cpu_s / span_s if span_s else 0.0,
    )
