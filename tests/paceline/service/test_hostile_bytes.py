"""Whatever bytes come: every descriptor answers with a value or an error of the table, never with another exception."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.io import JSON, Descriptor, File, Image, Multipart, NumpyNdarray, PandasDataFrame, Text
from paceline.io.arrays import write_npy
from paceline.io.payload import Payload
from paceline.protocol.errors import RequestError


@dataclasses.dataclass
class Model:
    numbers: list[float]
    inner: Model | None = None


def image_bytes(kind: str) -> bytes:
    stream = io.BytesIO()
    PIL.Image.effect_noise((9, 9), 40).save(stream, kind)
    return stream.getvalue()


FORM = (
    b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\nabc\r\n'
    b'--b\r\ncontent-disposition: form-data; name="data"; filename="x"\r\n'
    b"content-type: application/json\r\n\r\n[1]\r\n--b--\r\n"
)
FORM_TYPE = "multipart/form-data; boundary=b"

# Each with a body that it reads.
CASES: list[tuple[Descriptor, str, bytes]] = [
    (JSON(), "application/json", b'{"a": [1, 2.5, "x", null]}'),
    (JSON(model=Model), "application/json", b'{"numbers": [1, 2], "inner": {"numbers": []}}'),
    (Text(), "text/plain", "grüße".encode()),
    (File(), "", b"bytes"),
    (NumpyNdarray(dtype="float32", shape=(-1, 2)), "application/json", b"[[1, 2], [3, 4]]"),
    (NumpyNdarray(), "application/x-npy", write_npy(np.arange(6.0).reshape(2, 3))),
    (PandasDataFrame(columns=["a"], dtype="float32"), "text/csv", b"a\n1\n2\n"),
    (PandasDataFrame(), "application/json", b'[{"a": 1}, {"a": 2}]'),
    (Multipart(text=Text(), data=JSON()), FORM_TYPE, FORM),
    *[
        (Image(mime_types=[f"image/{kind.lower()}"]), "", image_bytes(kind))
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    ],
]
IDS = [f"{type(descriptor).__name__}-{at}" for at, (descriptor, _, _) in enumerate(CASES)]


def decode(descriptor: Descriptor, kind: str, body: bytes) -> Any:
    """The value, or the error of the table; any other exception passes."""
    try:
        return asyncio.run(descriptor.decode(Payload(body, kind)))
    except RequestError as error:
        return error


def check_fair(found: Any) -> None:
    if isinstance(found, RequestError):
        assert found.http_status in (400, 413, 415)
        assert len(found.message) < 1000


@pytest.mark.parametrize(("descriptor", "kind", "body"), CASES, ids=IDS)
def test_the_whole_body_is_read(descriptor: Descriptor, kind: str, body: bytes) -> None:
    assert not isinstance(decode(descriptor, kind, body), RequestError)


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they then refuse
@pytest.mark.parametrize(("descriptor", "kind", "body"), CASES, ids=IDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_body_is_a_value_or_an_error_of_the_table(
    descriptor: Descriptor, kind: str, body: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    extra = data.draw(st.binary(max_size=8))
    check_fair(decode(descriptor, kind, bytes(damaged[:cut]) + extra))


@pytest.mark.parametrize(("descriptor", "kind", "body"), CASES, ids=IDS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(garbage=st.binary(max_size=200))
def test_garbage_is_a_value_or_an_error_of_the_table(
    descriptor: Descriptor, kind: str, body: bytes, garbage: bytes
) -> None:
    check_fair(decode(descriptor, kind, garbage))
