"""The ceiling: the model called in-process in batches, best size; one torch thread.

python -m benchmarks.ceiling WORKLOAD
"""

from __future__ import annotations

import json
import sys
import time

import torch

from benchmarks.workloads import WORKLOADS

SIZES = (1, 2, 4, 8, 16, 32, 64)
SECONDS_PER_SIZE = 0.25


def rows_per_second(model: torch.nn.Module, shape: tuple[int, ...]) -> dict[int, float]:
    """Rows per second for each batch size."""
    rates = {}
    for size in SIZES:
        batch = torch.rand((size, *shape[1:]))
        with torch.inference_mode():
            model(batch)
            began = time.perf_counter()
            calls = 0
            while (elapsed := time.perf_counter() - began) < SECONDS_PER_SIZE:
                model(batch)
                calls += 1
        rates[size] = calls * size / elapsed
    return rates


def main() -> None:
    torch.set_num_threads(1)
    workload = WORKLOADS[sys.argv[1]]
    print(json.dumps(rows_per_second(workload.model(), workload.shape)))


if __name__ == "__main__":
    main()
