"""The model, in a module of its own that is on the training machine only."""

import layers
import torch
from torch import nn


class Forecast(nn.Module):
    """The next value of a series, from its last four: float32[n, 4] -> float32[n]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = layers.Residual(4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).squeeze(1)
