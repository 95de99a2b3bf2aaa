"""Train a small convolutional network to tell drawn shapes apart, and save it. Needs Pillow."""

import random

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

import paceline

SHAPES = ["circle", "square", "cross"]
SIZE = 32


def drawn(shape: str, size: int = SIZE) -> Image.Image:
    """A shape in random colours, somewhere near the middle."""
    dark, light = [tuple(random.randint(*shades) for _ in range(3)) for shades in ((0, 90), (160, 255))]
    image = Image.new("RGB", (size, size), dark)
    draw = ImageDraw.Draw(image)
    radius = random.uniform(0.25, 0.35) * size
    x, y = (random.uniform(0.4, 0.6) * size for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=light)
    elif shape == "square":
        draw.rectangle(box, fill=light)
    else:
        width = size // 8
        draw.line(box, fill=light, width=width)
        draw.line((x - radius, y + radius, x + radius, y - radius), fill=light, width=width)
    return image


def network() -> nn.Module:
    """float32[n, 3, 32, 32] -> float32[n, 3], a score for each shape."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten()],
        *[nn.Linear(16 * 5 * 5, 32), nn.ReLU(), nn.Linear(32, len(SHAPES))],
    )


def train(images: int, epochs: int) -> nn.Module:
    shapes = torch.arange(images) % len(SHAPES)
    pixels = np.stack([np.asarray(drawn(SHAPES[shape]), np.float32) / 255 for shape in shapes])
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(epochs):
        for rows in torch.randperm(images).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), shapes[rows]).backward()
            optimizer.step()
    return model


if __name__ == "__main__":
    random.seed(0)
    torch.manual_seed(0)
    saved = paceline.pytorch.save(
        train(images=600, epochs=10),
        "shapes",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        metadata={"labels": SHAPES},  # the service reads them back
        sample_inputs=torch.zeros(1, 3, SIZE, SIZE),
    )
    print("saved", saved)
    drawn("circle", size=200).save("circle.png")  # something to upload
