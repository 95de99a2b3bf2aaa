"""Load a server and say what came back.

    python -m benchmarks.load http://127.0.0.1:8000 my_model --input x=float32[1,3,32,32] --in-flight 64
    python -m benchmarks.load http://127.0.0.1:8000 my_model --input x=float32[1,16] --rate 500 --duration 20

`--in-flight N` is a closed loop (N requests always open); `--rate R` an open loop with Poisson arrivals whose latency
counts from the scheduled time, so a slow server cannot slow the schedule down. `ipc://RUN_DIR` uses the native client.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.report import Report, Sample, merge

_INPUT = re.compile(r"^(?P<name>[^=]+)=(?P<dtype>[a-z0-9]+)\[(?P<shape>[0-9, ]*)\]$")


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One run: `inputs` maps input names to (dtype, shape); `rate` 0 means a closed loop of `in_flight`. `timeout_s`:
    of each request in an open loop of the native client, where an answer after it counts as an error."""

    url: str
    model: str
    inputs: dict[str, tuple[str, tuple[int, ...]]]
    in_flight: int = 64
    rate: float = 0.0
    warmup_s: float = 1.0
    duration_s: float = 5.0
    processes: int = 1
    seed: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


def run_load(spec: LoadSpec) -> Report:
    """Run `spec` in processes of its own and merge what they saw."""
    shares = [spec.in_flight // spec.processes + (n < spec.in_flight % spec.processes) for n in range(spec.processes)]
    children = []
    for index, share in enumerate(shares):
        part = asdict(spec) | {"in_flight": share, "rate": spec.rate / spec.processes, "seed": spec.seed + index}
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(part))
        child.stdin.close()
        children.append(child)
    return merge([_collect(child) for child in children])


def _collect(child: subprocess.Popen[str]) -> Sample:
    assert child.stdout is not None
    output = child.stdout.read()
    if child.wait() != 0:
        raise SystemExit(f"load process {child.pid} exited with {child.returncode}; its error is above")
    return Sample.from_plain(json.loads(output))


def parse_input(text: str) -> tuple[str, tuple[str, tuple[int, ...]]]:
    """`x=float32[1,16]` as (name, (dtype, shape))."""
    match = _INPUT.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DTYPE[DIM,...], e.g. x=float32[1,3,32,32]")
    shape = tuple(int(dim) for dim in match["shape"].split(",") if dim.strip())
    return match["name"], (match["dtype"], shape)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--input", action="append", type=parse_input, required=True, metavar="NAME=DTYPE[DIMS]")
    loop = parser.add_mutually_exclusive_group()
    loop.add_argument("--in-flight", type=int, default=64)
    loop.add_argument("--rate", type=float, default=0.0, help="requests per second, open loop")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds measured")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before measuring")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--timeout-ms", type=float, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    headers = {"x-request-timeout-ms": f"{options.timeout_ms:g}"} if options.timeout_ms else {}
    spec = LoadSpec(
        options.url,
        options.model,
        dict(options.input),
        options.in_flight,
        options.rate,
        options.warmup,
        options.duration,
        options.processes,
        headers=headers,
        timeout_s=options.timeout_ms / 1000 if options.timeout_ms else None,
    )
    report = run_load(spec)
    result: dict[str, Any] = {"spec": asdict(spec), **report.to_plain()}
    print(json.dumps(result) if options.json else "\n".join(report.lines()))
    return 1 if report.errors or not report.requests else 0


if __name__ == "__main__":
    sys.exit(main())
