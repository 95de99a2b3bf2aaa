"""Train two models that look at the same measurements of a machine, and save both."""

import torch
from torch import nn

import paceline

FAULTS = ["none", "bearing", "overload"]


def measurements(count: int) -> torch.Tensor:
    """float32[count, 3]: temperature in °C, vibration in mm/s, load from 0 to 1."""
    return torch.rand(count, 3) * torch.tensor([60.0, 8.0, 1.0]) + torch.tensor([30.0, 0.0, 0.0])


def hours_left(x: torch.Tensor) -> torch.Tensor:
    """The truth that `wear` learns: float32[n]."""
    return 900 - 4 * x[:, 0] - 40 * x[:, 1] - 100 * x[:, 2]


def fault(x: torch.Tensor) -> torch.Tensor:
    """The truth that `faults` learns: int64[n], numbers in FAULTS."""
    return torch.where(x[:, 1] > 5, 1, torch.where(x[:, 2] > 0.8, 2, 0))


class Normalized(nn.Module):
    """A network that gets each measurement at about the same scale."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("middle", torch.tensor([60.0, 4.0, 0.5]))
        self.register_buffer("spread", torch.tensor([30.0, 4.0, 0.5]))
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.middle) / self.spread)


def train(network: nn.Module, loss, truth, steps: int) -> nn.Module:
    model = Normalized(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        x = measurements(128)
        optimizer.zero_grad()
        loss(model(x), truth(x)).backward()
        optimizer.step()
    return model


def save(model: nn.Module, name: str, **metadata: object) -> None:
    saved = paceline.pytorch.save(
        model,
        name,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        metadata=metadata,
        sample_inputs=torch.tensor([[60.0, 4.0, 0.5]]),
    )
    print("saved", saved)


if __name__ == "__main__":
    torch.manual_seed(0)
    wear = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    hundreds = train(wear, nn.functional.mse_loss, lambda x: hours_left(x) / 100, steps=500)
    save(hundreds, "wear")
    faults = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, len(FAULTS)), nn.Softmax(1))
    chances = train(faults, lambda y, true: nn.functional.nll_loss(y.log(), true), fault, steps=500)
    save(chances, "faults", faults=FAULTS)  # metadata: the service reads the names back
