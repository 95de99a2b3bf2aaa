"""The guide's service in Paceline and in BentoML 1.1.11, over HTTP JSON with 64 requests in flight.

    python -m benchmarks.peers [--quick] [--json]

All servers are up all the time and take turns under the load, so that noise of the machine meets all alike. BentoML is
installed into an environment of its own first; where that fails nothing is compared, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import paceline
from benchmarks.peers.comparison import Pair, table
from benchmarks.peers.environment import Unavailable, ensure_environment
from benchmarks.peers.json_load import JsonLoad, run
from benchmarks.peers.servers import Peer, bentoml_peer, paceline_peer, save_models

IN_FLIGHT = 64
SETTINGS = ("one process", "default")


def an_image() -> str:
    """The body: one image as the guide's transform makes it, 3 x 32 x 32 numbers in -1..1."""
    pixels = np.random.default_rng(1).random((3, 32, 32), np.float32) * 2 - 1
    return json.dumps(pixels.tolist(), separators=(",", ":"))


def measure(python: Path, folder: Path, repetitions: int, duration_s: float) -> list[Pair]:
    """All servers, their answers compared, one run of each that does not count, then the repetitions."""
    body = an_image()
    pairs = [Pair(setting) for setting in SETTINGS]
    with contextlib.ExitStack() as stack:
        ours = [stack.enter_context(paceline_peer(folder, setting)) for setting in SETTINGS]
        theirs = [stack.enter_context(bentoml_peer(python, folder, setting)) for setting in SETTINGS]
        _check_answers([*ours, *theirs], body)
        for repetition in range(-1, repetitions):
            for pair, our, their in zip(pairs, ours, theirs):
                reports = [run(JsonLoad(peer.port, body, IN_FLIGHT, 0.5, duration_s)) for peer in (our, their)]
                if repetition >= 0:  # the first one warms up, and lets both learn
                    pair.paceline.append(reports[0])
                    pair.bentoml.append(reports[1])
            print(f"repetition {repetition + 1}/{repetitions}", file=sys.stderr, flush=True)
    return pairs


def _check_answers(peers: list[Peer], body: str) -> None:
    answers = {peer.name: peer.predict(body) for peer in peers}
    expected = next(iter(answers.values()))
    for name, answer in answers.items():
        if len(answer) != 10 or not np.allclose(answer, expected, atol=1e-4):
            raise SystemExit(f"{name} answers {answer}, the first server {expected}: they do not run the same model")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short repetition: whether it works, not how fast")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        python = ensure_environment()
    except Unavailable as error:
        print(json.dumps({"skipped": str(error)}) if options.json else f"skipped, nothing compared: {error}")
        return 0
    with tempfile.TemporaryDirectory(prefix="pl-peers-", dir="/tmp") as home:
        versions = {
            "bentoml": save_models(python, Path(home)),
            "paceline": {"python": platform.python_version(), "paceline": paceline.__version__}
            | {"torch": torch.__version__, "numpy": np.__version__},
        }
        pairs = measure(python, Path(home), *((1, 1.0) if options.quick else (5, 3.0)))
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    if options.json:
        print(json.dumps({"machine": machine, "versions": versions, "pairs": [pair.to_plain() for pair in pairs]}))
    else:
        print(*[" ".join(f"{name} {found}" for name, found in row.items()) for row in versions.values()], sep="\n")
        print(f"one process: BentoML with max_runner_connections 128; default: 16 ({machine['cores']} cores)\n")
        print(table(pairs))
    return 0 if all(all(pair.bars().values()) for pair in pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
