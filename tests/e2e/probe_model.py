"""The model of the end-to-end tests: an echo that can be slow, refuse, or kill its process. Saved by value."""

import os
import signal
import time

import torch
from torch import nn

POISON = 666.0
REFUSED = 13.0


class Probe(nn.Module):
    """float32[n, k] -> float32[n, k]: x + 1. A row of POISON kills the process, a row of REFUSED raises ValueError."""

    one: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == POISON).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        if bool((x == REFUSED).any()):
            raise ValueError("13 is refused")
        return x + self.one

    def nap(self, x: torch.Tensor) -> torch.Tensor:
        """Sleeps max(x) seconds, then echoes x."""
        time.sleep(float(x.max()))
        return x

    def subtract(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Two inputs, not batchable."""
        return x - y


SIGNATURES = {
    "__call__": {"batchable": True, "batch_dim": 0},
    "nap": {"batchable": True, "batch_dim": 0},
    "subtract": {"batchable": False},
}
