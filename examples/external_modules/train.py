"""Train a model whose classes live in modules of your own, and save it with their code."""

import layers
import my_models
import torch
from torch import nn

import paceline


def train(steps: int) -> my_models.Forecast:
    """A Forecast of straight lines: 1, 2, 3, 4 goes on with 5."""
    model = my_models.Forecast()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        lines = torch.rand(64, 1) * 4 + (torch.rand(64, 1) - 0.5) * 2 * torch.arange(5)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(lines[:, :4]), lines[:, 4]).backward()
        optimizer.step()
    return model


if __name__ == "__main__":
    torch.manual_seed(0)
    saved = paceline.pytorch.save(
        train(steps=500),
        "forecast",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        external_modules=[my_models, layers],  # the modules themselves: their code is stored with the model
        sample_inputs=torch.zeros(1, 4),
    )
    print("saved", saved)
