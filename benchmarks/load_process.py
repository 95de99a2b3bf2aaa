"""One load process: a JSON spec on stdin, a Sample as JSON on stdout. Started by benchmarks.load, several at once."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import numpy as np
import uvloop

from benchmarks.http_load import HttpLoad, infer_request
from benchmarks.report import Sample


async def run(spec: dict[str, Any]) -> Sample:
    """Run the load that `spec` (see load.LoadSpec) asks of one process."""
    rng = np.random.default_rng(1)
    tensors = {name: rng.random(shape, np.float32).astype(dtype) for name, (dtype, shape) in spec["inputs"].items()}
    if spec["url"].startswith("ipc://"):
        from benchmarks.native_load import native_closed, native_open  # the HTTP side stays small without it

        target = spec["url"], spec["model"], list(tensors.values())
        spans = spec["warmup_s"], spec["duration_s"]
        if spec["rate"]:
            return await native_open(*target, spec["rate"], spec["seed"], *spans, spec["timeout_s"])
        return await native_closed(*target, spec["in_flight"], *spans)
    host, port = spec["url"].removeprefix("http://").rstrip("/").rsplit(":", 1)
    request = infer_request(f"{host}:{port}", spec["model"], tensors, spec["headers"])
    load = HttpLoad(host, int(port), request, spec["warmup_s"], spec["duration_s"])
    if spec["rate"]:
        return await load.open(spec["rate"], spec["seed"])
    return await load.closed(spec["in_flight"])


def main() -> None:
    spec = json.load(sys.stdin)
    gc.collect()
    gc.freeze()
    sample = uvloop.run(run(spec))
    json.dump(sample.to_plain(), sys.stdout)


if __name__ == "__main__":
    main()
