"""Train a model, compile it to TorchScript and save that: the class is not needed where it is served."""

import torch
from torch import nn

import paceline


class Smoother(nn.Module):
    """Exponential smoothing, each series by itself: float32[n, 8] -> float32[n, 8]. A script keeps the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trust = torch.sigmoid(self.weight)
        level = x[:, 0]
        levels = [level]
        for step in range(1, x.size(1)):
            level = trust * x[:, step] + (1 - trust) * level
            levels.append(level)
        return torch.stack(levels, 1)


def train(steps: int) -> Smoother:
    """A Smoother of values that drift slowly and are measured badly."""
    model = Smoother()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(steps):
        true = torch.cumsum(0.3 * torch.randn(64, 8), 1)
        measured = true + torch.randn(64, 8)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(measured), true).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    script = torch.jit.script(train(steps=100))
    saved = paceline.torchscript.save(
        script,
        "smoother",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        sample_inputs=torch.zeros(1, 8),
    )
    print("saved", saved)
