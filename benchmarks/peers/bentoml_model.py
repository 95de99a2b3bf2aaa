"""Saves the guide's network with BentoML. Runs in BentoML's environment, so it imports nothing of Paceline.

    python -m benchmarks.peers.bentoml_model        # prints the versions as JSON

BentoML 1.1.11 gives the model the service's list as it is and has no JSON for a tensor: with the guide's Net itself,
the guide's service answers 500. So the Net that is saved here turns lists into a tensor and its result into an array,
the cheapest way that keeps the service file the same.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform

import numpy as np
import torch

from benchmarks.workloads import WORKLOADS, Net

PRINTED = ("bentoml", "torch", "numpy", "starlette", "uvicorn", "aiohttp")


class ListNet(Net):
    """The guide's Net for lists of numbers."""

    def forward(self, x: list[object]) -> np.ndarray:  # type: ignore[override]  # lists are the point
        return super().forward(torch.from_numpy(np.asarray(x, np.float32))).numpy()


def versions() -> dict[str, str]:
    """What is installed here, of what matters for speed."""
    found = {"python": platform.python_version()}
    for name in PRINTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    import bentoml  # type: ignore[import-not-found]  # in its own environment

    net = ListNet()
    net.load_state_dict(WORKLOADS["net"].model().state_dict())
    bentoml.pytorch.save_model(
        "my_torch_model", net.eval(), signatures={"__call__": {"batchable": True, "batch_dim": 0}}
    )
    print(json.dumps(versions()))


if __name__ == "__main__":
    main()
