"""Train the network of PyTorch's CIFAR-10 tutorial and save it.

python train.py              # on generated images, for some seconds
python train.py --cifar10    # on the real ones: needs torchvision, downloads 170 MB
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import paceline


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def cifar10() -> Dataset:
    """The 50,000 photographs, -1..1."""
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
    return CIFAR10(root="./data", train=True, download=True, transform=transform)


def generated() -> Dataset:
    """Ten classes of noise, each around a pattern of its own: as large as the real images, learnt in no time."""
    patterns = torch.randn(10, 3, 4, 4)
    labels = torch.arange(320) % 10
    images = F.interpolate(patterns[labels], size=(32, 32)) + torch.randn(320, 3, 32, 32)
    return TensorDataset(images.clamp(-1, 1), labels)


def train(images: Dataset, epochs: int) -> Net:
    model = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for epoch in range(epochs):
        for inputs, labels in DataLoader(images, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs}, loss {loss.item():.4f}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and save the network of the CIFAR-10 tutorial.")
    parser.add_argument("--cifar10", action="store_true", help="train on CIFAR-10 itself")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(0)
    images = cifar10() if options.cifar10 else generated()
    model = train(images, options.epochs)

    image, label = images[0]
    saved = paceline.pytorch.save(
        model,
        "cifar_net",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        sample_inputs=image[None],
    )
    print("saved", saved)

    Path("image.json").write_text(json.dumps(image.tolist()))  # something to ask about
    print("image.json is of class", int(label))


if __name__ == "__main__":
    main()
