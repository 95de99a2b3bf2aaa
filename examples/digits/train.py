"""Train the guide's CIFAR-10 network on handwritten digits for some seconds and save it to the model store.

    python examples/digits/train.py [--epochs 25]

The images (examples/digits/digits.npz) are upscaled to the network's 3x32x32 input. Every fifth image is held out.
The class is defined here, in the training script itself, as in the guide: a worker loads it all the same.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import paceline

DIGITS = Path(__file__).with_name("digits.npz")


class Net(nn.Module):
    """The network of PyTorch's CIFAR-10 tutorial: float32[n, 3, 32, 32] -> float32[n, 10]."""

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
        return self.fc3(x)


def load_digits(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """(float32[n, 3, 32, 32] in -1..1, int64[n]): the held-out fifth of the digits, or the rest."""
    data = np.load(DIGITS)
    mask = (np.arange(len(data["labels"])) % 5 == 0) == held_out
    grey = torch.from_numpy(data["images"][mask].astype(np.float32) / 8.0 - 1.0)
    images = F.interpolate(grey[:, None], size=(32, 32), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)
    return images.numpy(), data["labels"][mask].astype(np.int64)


def train(epochs: int) -> Net:
    """A trained Net in eval mode; prints one JSON line an epoch."""
    torch.manual_seed(7)
    torch.set_num_threads(1)  # batches this small lose more time to a second thread than it saves
    images, labels = (torch.from_numpy(array) for array in load_digits(held_out=False))
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            loss = criterion(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(json.dumps({"epoch": epoch + 1, "epochs": epochs, "loss": round(total / len(images), 4)}), flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--name", default="digits_net")
    options = parser.parse_args()
    saved = paceline.pytorch.save(
        train(options.epochs),
        options.name,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        labels={"data": "uci-optical-digits"},
        sample_inputs=load_digits(held_out=True)[0][:1],
    )
    print(json.dumps({"saved": str(saved)}), flush=True)


if __name__ == "__main__":
    main()
