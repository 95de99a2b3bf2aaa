"""CIFAR10 without the download: images of its shape, the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

_IMAGES = 16


class CIFAR10(Dataset[tuple[Tensor, int]]):
    """`_IMAGES` images of 32x32 pixels, uint8 as Pillow would give them, with labels 0 to 9."""

    def __init__(self, root: str, train: bool, download: bool, transform: Callable[[np.ndarray], Tensor]) -> None:
        self._transform = transform
        self._images = np.random.default_rng(int(train)).integers(0, 256, (_IMAGES, 32, 32, 3), np.uint8)

    def __len__(self) -> int:
        return _IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._images[index]), index % 10
