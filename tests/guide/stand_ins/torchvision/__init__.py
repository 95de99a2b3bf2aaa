"""What the guide's train.py uses of torchvision: the same calls, with a few small images in place of the download."""

from . import datasets, transforms

__all__ = ["datasets", "transforms"]
