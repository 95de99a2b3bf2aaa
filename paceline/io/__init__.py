"""Descriptors: how the bodies of a service's requests become arguments, and results become responses; see
docs/services.md."""

from __future__ import annotations

from paceline.io.descriptor import Descriptor
from paceline.io.file import File, UploadedFile
from paceline.io.image import Image
from paceline.io.json import JSON, JSONSerializable
from paceline.io.multipart import Multipart
from paceline.io.numpy_ndarray import NumpyNdarray
from paceline.io.pandas_dataframe import PandasDataFrame
from paceline.io.tensor import Tensor
from paceline.io.text import Text

__all__ = [
    "JSON",
    "Descriptor",
    "File",
    "Image",
    "JSONSerializable",
    "Multipart",
    "NumpyNdarray",
    "PandasDataFrame",
    "Tensor",
    "Text",
    "UploadedFile",
]
