"""What serving costs: the same model in-process (ceiling), inline in bare uvicorn (baseline), and through Paceline.

    python -m benchmarks.overhead [--workload add ...] [--repetitions 5] [--json]

Repetitions are interleaved, so that noise of the machine meets all alike; each figure is the median. Ratios are against
the baseline of the same run. One API server, one worker, one torch thread, the load generator on the same machine.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paceline.pytorch
from benchmarks import workloads
from benchmarks.load import LoadSpec, run_load
from benchmarks.report import Report
from benchmarks.servers import Running, baseline_server, paceline_server
from benchmarks.workloads import WORKLOADS, Workload

# The bars: requests/s at 64 in flight against the baseline's.
THROUGHPUT_BARS = {"add": 0.9, "net": 2.0, "wide": 6.0, "pixels": 0.5}
ADDED_P50_MS_MAX = 0.3
TAIL_RATIO_MAX = 4.0
NATIVE_ADD_RATE_MIN = 20_000.0


@dataclass(frozen=True, slots=True)
class Runs:
    """All repetitions of one workload. `solo`: one in flight; `full`: 64 in flight."""

    workload: str
    ceiling: list[float]
    ready_s: float
    baseline_solo: list[Report]
    baseline_full: list[Report]
    http_solo: list[Report]
    http_full: list[Report]
    native_full: list[Report]

    def row(self) -> dict[str, Any]:
        """The medians, the ratios, and whether each bar is met."""
        baseline, http, native = (_rate(runs) for runs in (self.baseline_full, self.http_full, self.native_full))
        added_ms = _latency(self.http_solo, "p50") - _latency(self.baseline_solo, "p50")
        tail = statistics.median(r.latency_ms["p99"] / r.latency_ms["p50"] for r in self.http_full)
        errors = sum(sum(r.errors.values()) for r in [*self.http_solo, *self.http_full, *self.native_full])
        row = {
            "workload": self.workload,
            "ceiling_rows_per_s": round(statistics.median(self.ceiling)),
            "baseline_per_s": round(baseline),
            "http_per_s": round(http),
            "native_per_s": round(native),
            "http_ratio": round(statistics.median(_ratios(self.http_full, self.baseline_full)), 2),
            "native_ratio": round(native / baseline, 2),
            "baseline_p50_ms": round(_latency(self.baseline_solo, "p50"), 3),
            "http_p50_ms": round(_latency(self.http_solo, "p50"), 3),
            "added_p50_ms": round(added_ms, 3),
            "http_full_p50_ms": round(_latency(self.http_full, "p50"), 3),
            "http_full_p99_ms": round(_latency(self.http_full, "p99"), 3),
            "tail_ratio": round(tail, 2),
            "mean_batch": round(statistics.median(r.mean_batch for r in self.http_full), 1),
            "client_cpu_us": round(statistics.median(r.client_cpu_us for r in self.http_full), 1),
            "errors": errors,
            "ready_s": round(self.ready_s, 2),
        }
        return row | {"bars": _bars(row)}


def _bars(row: dict[str, Any]) -> dict[str, bool]:
    bars = {
        f"requests/s >= {THROUGHPUT_BARS[row['workload']]}x baseline": row["http_ratio"]
        >= THROUGHPUT_BARS[row["workload"]],
        f"added p50 <= {ADDED_P50_MS_MAX} ms": row["added_p50_ms"] <= ADDED_P50_MS_MAX,
        f"p99 <= {TAIL_RATIO_MAX:g}x p50": row["tail_ratio"] <= TAIL_RATIO_MAX,
        "no error": row["errors"] == 0,
    }
    if row["workload"] == "add":
        bars[f"native >= {NATIVE_ADD_RATE_MIN:,.0f}/s"] = row["native_per_s"] >= NATIVE_ADD_RATE_MIN
    return bars


def measure(workload: Workload, store_home: Path, repetitions: int, duration_s: float) -> Runs:
    """Save the model, start both servers, and run the repetitions interleaved."""
    _save(workload, store_home)
    runs = Runs(workload.name, [], 0.0, [], [], [], [], [])
    with baseline_server(workload) as baseline, paceline_server(workload, store_home) as server:
        for _ in range(repetitions):
            runs.ceiling.append(_ceiling(workload))
            runs.baseline_solo.append(_load(baseline, workload, 1, duration_s))
            runs.http_solo.append(_load(server, workload, 1, duration_s))
            runs.baseline_full.append(_load(baseline, workload, 64, duration_s))
            runs.http_full.append(_load(server, workload, 64, duration_s))
            runs.native_full.append(_load(server, workload, 64, duration_s, native=True))
            _progress(workload.name, len(runs.ceiling), repetitions)
        return Runs(
            runs.workload,
            runs.ceiling,
            server.ready_s,
            runs.baseline_solo,
            runs.baseline_full,
            runs.http_solo,
            runs.http_full,
            runs.native_full,
        )


def _save(workload: Workload, store_home: Path) -> None:
    os.environ["PACELINE_HOME"] = str(store_home)
    import torch

    paceline.pytorch.save(
        workload.model(),
        workload.name,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        external_modules=[workloads],
        sample_inputs=torch.zeros(workload.shape),
    )


def _load(server: Running, workload: Workload, in_flight: int, duration_s: float, native: bool = False) -> Report:
    url = f"ipc://{server.run_dir}" if native else server.url
    inputs = {"x": ("float32", workload.shape)}
    return run_load(LoadSpec(url, workload.name, inputs, in_flight, warmup_s=0.5, duration_s=duration_s))


def _ceiling(workload: Workload) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ceiling", workload.name], check=True, capture_output=True, text=True
    )
    return max(json.loads(done.stdout).values())


def _rate(reports: list[Report]) -> float:
    return statistics.median(report.rate for report in reports)


def _ratios(reports: list[Report], against: list[Report]) -> list[float]:
    return [report.rate / base.rate for report, base in zip(reports, against)]


def _latency(reports: list[Report], percentile: str) -> float:
    return statistics.median(report.latency_ms[percentile] for report in reports)


def _progress(name: str, done: int, of: int) -> None:
    print(f"\r{name}: repetition {done}/{of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = {
        "workload": "workload",
        "ceiling_rows_per_s": "ceiling rows/s",
        "baseline_per_s": "baseline/s",
        "http_per_s": "http/s",
        "http_ratio": "ratio",
        "native_per_s": "native/s",
        "baseline_p50_ms": "base p50 ms",
        "http_p50_ms": "http p50 ms",
        "added_p50_ms": "added ms",
        "http_full_p50_ms": "p50@64 ms",
        "http_full_p99_ms": "p99@64 ms",
        "mean_batch": "batch",
        "errors": "errors",
    }
    cells = [[*columns.values()], *[[str(row[key]) for key in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells]
    verdicts = [
        f"{row['workload']}: {bar}: {'met' if ok else 'MISSED'}" for row in rows for bar, ok in row["bars"].items()
    ]
    return "\n".join([*lines, "", *verdicts])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="default: all four")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--duration", type=float, default=2.0, help="seconds measured per run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="pl-store-") as home:
        rows = [
            measure(WORKLOADS[name], Path(home), options.repetitions, options.duration).row()
            for name in options.workload or WORKLOADS
        ]
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "rows": rows}) if options.json else _table(rows))
    return 0 if all(all(row["bars"].values()) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
