"""Four real workers with a model that sleeps 18 + 2b ms, held against the simulator and against a queue per worker.

    python -m benchmarks.serving [--json] [--quick]

Poisson arrivals over the native client, each with a latency budget; capacity is the largest rate at which 99 % are
answered within it, found by bisection on real runs. Also: what the broker adds, and a lone request after an overload.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import paceline.pytorch
from benchmarks import sleeper, workloads
from benchmarks.load import LoadSpec, run_load
from benchmarks.report import Report
from benchmarks.servers import Running, paceline_server
from benchmarks.simulate.bars.serving import GAIN_OVER_PER_WORKER, WORKERS
from benchmarks.simulate.bars.serving import SLEEPER as LATENCY
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import OURS
from benchmarks.sleeper import Sleeper
from benchmarks.workloads import WORKLOADS, Workload

ATTAINMENT = 0.99
SEEDS = (1, 2, 3, 4, 5)
STEPS = 5
ROW = (1, 16)
LONE = 15  # requests, one after the other, of which the median counts
ADD = WORKLOADS["add"]
MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure and what it must reach: `at_least` or `at_most` the limit; no limit = reported only."""

    what: str
    value: float
    limit: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def text(self) -> str:
        if self.limit is None:
            return f"         {self.what}: {self.value:.4g}"
        sign = ">=" if self.at_least else "<="
        return f"{'met     ' if self.met else 'MISSED  '} {self.what}: {self.value:.4g} ({sign} {self.limit:g})"


@dataclass(frozen=True, slots=True)
class Setting:
    """How long the runs are. `trials`: of each rate, of which the median counts."""

    duration_s: float = 8.0
    steps: int = STEPS
    trials: int = 1
    rounds: int = 5


def bars(store_home: Path, setting: Setting) -> Iterator[Bar]:
    """All figures, each as soon as it is known."""
    yield _calibrated(store_home)
    yield from _capacities(store_home, setting)
    yield from _after_overload(store_home, setting)
    yield from _broker_cost(store_home, setting)


def _calibrated(store_home: Path) -> Bar:
    """The simulator's l(b) is all that a batch costs; a real one costs transport and collation too. So the model sleeps
    as much less as a lone request takes longer than l(1)."""
    _save(_sleeper(0.0), sleeper, store_home)
    with _serve_sleeper(store_home, "central") as server, paceline.Client(f"ipc://{server.run_dir}") as client:
        overhead_ms = (_lone_s(client) - LATENCY.seconds(1)) * 1000
    _save(_sleeper(overhead_ms), sleeper, store_home)
    return Bar("calibration: the model sleeps so much less: ms", overhead_ms)


# Capacity


def _capacities(store_home: Path, setting: Setting) -> Iterator[Bar]:
    roomy, tight = (Cell(LATENCY, "poisson", budgets, WORKERS) for budgets in (5, 2))
    simulated = {cell: _simulated(cell) for cell in (roomy, tight)}
    with _serve_sleeper(store_home, "central") as server:
        central = {cell: _capacity(server, cell, simulated[cell], setting) for cell in (roomy, tight)}
    with _serve_sleeper(store_home, "worker") as server:
        per_worker = _capacity(server, tight, simulated[tight], setting)
    ratio = central[roomy] / simulated[roomy]
    yield Bar("4 workers at 5 l(1), simulated: requests/s", simulated[roomy])
    yield Bar("4 workers at 5 l(1), real: requests/s", central[roomy])
    yield Bar("4 workers at 5 l(1): real / simulated", ratio, 0.9)
    yield Bar("4 workers at 5 l(1): real / simulated", ratio, 1.1, at_least=False)
    yield Bar("4 workers at 2 l(1), simulated: requests/s", simulated[tight])
    yield Bar("4 workers at 2 l(1), one queue: requests/s", central[tight])
    yield Bar("4 workers at 2 l(1), a queue per worker: requests/s", per_worker)
    yield Bar(
        "4 workers at 2 l(1): one queue / a queue per worker",
        central[tight] / max(per_worker, 1.0),
        GAIN_OVER_PER_WORKER,
    )


def _simulated(cell: Cell) -> float:
    return statistics.fmean(cell.capacity(OURS, seed, cell.staggered_rate) for seed in SEEDS)


def _capacity(server: Running, cell: Cell, expected: float, setting: Setting) -> float:
    """By bisection between 0 and 1.3 times what is expected, first down from the top in halves."""
    low, high = 0.0, 1.3 * expected
    for _ in range(setting.steps + 2):
        middle = expected if low == 0.0 and high > expected else (low + high) / 2
        attained = statistics.median(
            _attainment(server, middle, cell.setting.budget_s, seed, setting) for seed in SEEDS[: setting.trials]
        )
        _progress(f"{cell.name}: {middle:.0f}/s -> {attained:.4f} in time")
        if attained >= ATTAINMENT:
            low = middle
        else:
            high = middle
    return low


def _attainment(server: Running, rate: float, budget_s: float, seed: int, setting: Setting) -> float:
    report = _load(server, _sleeper(), rate=rate, timeout_s=budget_s, seed=seed, duration_s=setting.duration_s)
    return report.requests / max(1, report.requests + sum(report.errors.values()))


# After an overload


def _after_overload(store_home: Path, setting: Setting) -> Iterator[Bar]:
    """The latency of one request when the load that was twice too high has just stopped, and that of one at rest."""
    budget_s = 5 * LATENCY.seconds(1)
    with _serve_sleeper(store_home, "central") as server, paceline.Client(f"ipc://{server.run_dir}") as client:
        cold: list[float] = []
        after: list[float] = []
        for seed in range(setting.rounds):
            cold.append(_lone_s(client))
            rate = 2 * Cell(LATENCY, "poisson", 5, WORKERS).staggered_rate
            _load(server, _sleeper(), rate=rate, timeout_s=budget_s, seed=seed, duration_s=2.0)
            after.append(_lone_s(client, 1))
    added_ms = (statistics.median(after) - statistics.median(cold)) * 1000
    yield Bar("a lone request at rest: ms", statistics.median(cold) * 1000)
    yield Bar("a lone request after an overload: ms more", added_ms, 1.0, at_least=False)


def _lone_s(client: paceline.Client, count: int = LONE) -> float:
    """Seconds of one request while nothing else is there: the median of `count`."""
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        client.predict("sleeper", np.zeros(ROW, np.float32))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


# What the broker costs


def _broker_cost(store_home: Path, setting: Setting) -> Iterator[Bar]:
    """One worker of the model "add", with its own queue and behind a broker, in turn."""
    alone: list[float] = []
    brokered: list[float] = []
    cpu_us: list[float] = []
    with (
        paceline_server(ADD, store_home, dispatch="worker") as direct,
        paceline_server(ADD, store_home, dispatch="central") as central,
    ):
        broker = _broker(central)
        for _ in range(setting.rounds):
            alone.append(_load(direct, ADD, in_flight=1, duration_s=2.0).latency_ms["p50"])
            brokered.append(_load(central, ADD, in_flight=1, duration_s=2.0).latency_ms["p50"])
            before = _cpu_s(broker)
            report = _load(central, ADD, in_flight=64, duration_s=2.0, warmup_s=0.0)
            cpu_us.append((_cpu_s(broker) - before) / max(1, report.requests) / MICROSECOND)
    added_us = (statistics.median(brokered) - statistics.median(alone)) * 1000
    yield Bar("p50 of a lone request, the worker's own queue: ms", statistics.median(alone))
    yield Bar("p50 of a lone request, the broker adds: us", added_us, 150.0, at_least=False)
    yield Bar("CPU of the broker at 64 in flight: us a request", statistics.median(cpu_us), 15.0, at_least=False)


def _broker(server: Running) -> psutil.Process:
    command = [sys.executable, "-m", "paceline", "status", "--json", "--run-dir", str(server.run_dir)]
    status = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    (pid,) = [process["pid"] for process in status["processes"] if process["kind"] == "broker"]
    return psutil.Process(pid)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# Servers and load


def _serve_sleeper(store_home: Path, dispatch: str) -> AbstractContextManager[Running]:
    return paceline_server(_sleeper(), store_home, workers=WORKERS, dispatch=dispatch)


def _sleeper(less_ms: float = 0.0) -> Workload:
    return Workload("sleeper", partial(Sleeper, LATENCY.alpha_ms, LATENCY.beta_ms - less_ms), ROW)


def _load(server: Running, workload: Workload, **changes: Any) -> Report:
    spec = {"inputs": {"x": ("float32", workload.shape)}, "warmup_s": 1.0, **changes}
    return run_load(LoadSpec(f"ipc://{server.run_dir}", workload.name, **spec))


def _save(workload: Workload, module: object, store_home: Path) -> None:
    os.environ["PACELINE_HOME"] = str(store_home)
    paceline.pytorch.save(
        workload.model(),
        workload.name,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        external_modules=[module],
        sample_inputs=torch.zeros(workload.shape),
    )


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """0 = every bar was met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer of them")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(argv)
    setting = Setting(3.0, 3, 1, 2) if options.quick else Setting()
    found: list[Bar] = []
    with tempfile.TemporaryDirectory(prefix="pl-store-") as home:
        _save(ADD, workloads, Path(home))
        for bar in bars(Path(home), setting):
            found.append(bar)
            print(bar.text(), file=sys.stderr if options.json else sys.stdout, flush=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    if options.json:
        print(json.dumps({"machine": machine, "bars": [{**asdict(bar), "met": bar.met} for bar in found]}))
    return 0 if all(bar.met for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
