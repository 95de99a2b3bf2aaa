"""What saving and loading a large model costs: in time beside a plain write and fsync, in memory beside the page cache.

python -m benchmarks.saving [--megabytes 500] [--folder DIR] [--json]

Saves and plain writes take turns in one process, in `--folder`, which must be on a real disk: on tmpfs a sync is free.
The load is another process, whose anonymous memory (/proc/self/smaps_rollup) says what is not the mapped file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import paceline.pytorch

MEGABYTE = 10**6
REPETITIONS = 5
LAYER_BYTES = 20 * MEGABYTE


def a_model(megabytes: int) -> nn.Module:
    """Linear layers of 20 MB each."""
    side = int((LAYER_BYTES / 4) ** 0.5)
    layers = max(1, megabytes * MEGABYTE // LAYER_BYTES)
    return nn.Sequential(*[nn.Linear(side, side, bias=False) for _ in range(layers)])


def write_plainly(model: nn.Module, path: Path) -> float:
    """Seconds to write the model's tensors, one after the other, and to sync them: what no save can do without."""
    began = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for tensor in model.parameters():
        data = memoryview(tensor.detach().numpy().data).cast("B")
        while data.nbytes:
            data = data[os.write(fd, data) :]
    os.fsync(fd)
    os.close(fd)
    took = time.perf_counter() - began
    path.unlink()
    return took


def save(model: nn.Module) -> float:
    """Seconds of one save."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        paceline.pytorch.save(model, "large")
    return time.perf_counter() - began


def anonymous_bytes() -> int:
    """What this process holds that is backed by no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell a process's anonymous memory")


def load() -> dict[str, float]:
    """In a process of its own: load, use every weight, say what that took."""
    torch.zeros(1).sum()
    before = anonymous_bytes()
    began = time.perf_counter()
    model = paceline.pytorch.load_model("large", trust=True)
    took = time.perf_counter() - began
    total = sum(float(tensor.detach().sum()) for tensor in model.parameters())
    return {"load_s": took, "anonymous_bytes": anonymous_bytes() - before, "sum": total}


def measure(megabytes: int, folder: str | None) -> dict[str, float]:
    """Medians of interleaved repetitions, and the load."""
    model = a_model(megabytes)
    model_bytes = sum(tensor.nbytes for tensor in model.parameters())
    plain, saved = [], []
    with tempfile.TemporaryDirectory(dir=folder) as home:
        os.environ["PACELINE_HOME"] = home
        for repetition in range(REPETITIONS):
            for is_save in (True, False) if repetition % 2 else (False, True):
                os.sync()  # what an earlier one left to the disk is not the next one's
                if is_save:
                    saved.append(save(model))
                else:
                    plain.append(write_plainly(model, Path(home) / "plain"))
        loaded = json.loads(subprocess.check_output([sys.executable, "-m", "benchmarks.saving", "--load"]))
    return {
        "model_bytes": model_bytes,
        "write_s": round(statistics.median(plain), 3),
        "save_s": round(statistics.median(saved), 3),
        "ratio": round(statistics.median(saved) / statistics.median(plain), 3),
        "ratio_best": round(min(saved) / min(plain), 3),
        "load_s": round(loaded["load_s"], 3),
        "load_anonymous_ratio": round(loaded["anonymous_bytes"] / model_bytes, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", help="where to write; a folder on a real disk (default: the temporary one)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load()))
        return
    found = measure(options.megabytes, options.folder)
    if options.json:
        print(json.dumps(found))
        return
    print(f"write and fsync  {found['write_s']:.3f} s for {found['model_bytes'] / MEGABYTE:.0f} MB")
    print(
        f"save             {found['save_s']:.3f} s, {found['ratio']:.2f} x (best of each: {found['ratio_best']:.2f} x)"
    )
    print(f"load             {found['load_s']:.3f} s, verified")
    print(f"memory           {100 * found['load_anonymous_ratio']:.2f} % of the weights beside the mapped file")


if __name__ == "__main__":
    main()
