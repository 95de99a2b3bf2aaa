"""The four models that the overhead is measured with, and their one-row inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


class Add(nn.Module):
    """float32[n, 16] + constant: nothing but overhead."""

    constant: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.arange(16, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.constant


class Net(nn.Module):
    """The guide's CIFAR-10 network: float32[n, 3, 32, 32] -> float32[n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        scores: torch.Tensor = self.fc3(x)
        return scores


class Pixels(nn.Module):
    """Mean of float32[n, 3, 224, 224]: large inputs, no computation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3))


class Wide(nn.Module):
    """float32[n, 3, 64, 64] -> float32[n, 10]: reading the weights bounds it, so a batch of 8 costs little over one."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(5) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 8, stride=8), nn.Flatten(), nn.Linear(4096, 1024), nn.ReLU(), *hidden, nn.Linear(1024, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(x)
        return scores


@dataclass(frozen=True, slots=True)
class Workload:
    """One model and the shape of one request (batch dim included)."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self) -> nn.Module:
        """The same weights in every process."""
        torch.manual_seed(11)
        return self.build().eval()


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("add", Add, (1, 16)),
        Workload("net", Net, (1, 3, 32, 32)),
        Workload("pixels", Pixels, (1, 3, 224, 224)),
        Workload("wide", Wide, (1, 3, 64, 64)),
    )
}
