"""A model that costs time and no CPU: so that four workers on two shared cores are as fast as four devices would be."""

from __future__ import annotations

import time

import torch
from torch import nn


class Sleeper(nn.Module):
    """float32[n, 16] -> the same, after `batch_ms` and `row_ms` for each row."""

    def __init__(self, row_ms: float, batch_ms: float) -> None:
        super().__init__()
        self.row_ms = row_ms
        self.batch_ms = batch_ms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep((self.batch_ms + self.row_ms * len(x)) / 1000)
        return x
