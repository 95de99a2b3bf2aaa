"""The Open Inference Protocol as the client speaks it: requests and answers as bytes, tensors in binary form.

Called by http_client; knows no socket. Raises the typed error that the code in an error's body names.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from paceline.client.arrays import Array, array_of, nbytes, tensor_of
from paceline.client.call import Call, Outputs
from paceline.client.http1 import Response
from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import (
    DeadlineExceeded,
    Forbidden,
    Internal,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    NoWorker,
    ProtocolError,
    QueueFull,
    RequestError,
    TooLarge,
    Unauthorized,
    error_from_code,
)
from paceline.protocol.tensor import Buffer, Strings, Tensor

HEAD_LENGTH = "inference-header-content-length"
_ERROR_TEXT_MAX = 500
_BY_STATUS: dict[int, type[RequestError]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Forbidden,
    404: ModelNotFound,
    413: TooLarge,
    429: QueueFull,
    502: NoWorker,
    503: NoWorker,
    504: DeadlineExceeded,
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`target` starts with /v2; `parts` are the body."""

    method: str
    target: str
    headers: dict[str, str]
    parts: tuple[Buffer, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the server says of a method's inputs: names in order, and dtypes where declared."""

    names: tuple[str, ...]
    dtypes: Mapping[str, DType]


def model_target(model: str, version: str | None, verb: str = "") -> str:
    """The path of a model, each part percent-encoded."""
    versions = f"/versions/{quote(version, safe='')}" if version is not None else ""
    return f"/v2/models/{quote(model, safe='')}{versions}{verb}"


def infer_request(call: Call, inputs: Inputs) -> HttpRequest:
    """The request of `call`, positional arguments named by `inputs`. Raises InvalidInput, InvalidParameter."""
    described: list[dict[str, object]] = []
    buffers: list[Buffer] = []
    for name, value in _named(call, inputs):
        tensor = tensor_of(value, name, inputs.dtypes.get(name))
        data = _binary(tensor)
        described.append(_described(name, tensor, nbytes(tensor)))
        buffers.append(data)
    parameters: dict[str, object] = {"binary_data_output": True}
    if call.method is not None:
        parameters["method"] = call.method
    if call.priority:
        parameters["priority"] = call.priority
    request: dict[str, object] = {"inputs": described, "parameters": parameters}
    headers = {"content-type": "application/octet-stream"}
    if call.given:
        headers["x-request-timeout-ms"] = _milliseconds(call)
    if call.request_id is not None:
        request["id"] = call.request_id
        headers["x-request-id"] = call.request_id
    head = orjson.dumps(request)
    headers[HEAD_LENGTH] = str(len(head))
    return HttpRequest("POST", model_target(call.model, call.version, "/infer"), headers, (head, *buffers))


def infer_answer(response: Response) -> Outputs:
    """The outputs in `response`. Raises the RequestError that it names, or ProtocolError if it is not an answer."""
    check_status(response)
    length = response.headers.get(HEAD_LENGTH.encode())
    head_bytes = len(response.body)
    if length is not None:
        head_bytes = int(length) if length.isdigit() and len(length) < 16 else -1
        if not 0 <= head_bytes <= len(response.body):
            raise ProtocolError(
                f"the server's {HEAD_LENGTH} is {length[:32]!r}, the body has {len(response.body)} bytes"
            )
    body = memoryview(response.body)
    answer = _json_object(body[:head_bytes])
    outputs = answer.get("outputs")
    if not isinstance(outputs, list):
        raise ProtocolError("the server's answer has no outputs")
    batch_rows = _mapping(answer.get("parameters")).get("batch_rows")
    return Outputs(_outputs(outputs, body, head_bytes), batch_rows if type(batch_rows) is int else 0)


def read_inputs(metadata: Mapping[str, Any], method: str | None) -> Inputs:
    """What `metadata` says of the inputs of `method`; nothing where it describes another method only."""
    described: Mapping[str, Any] = metadata
    parameters = _mapping(metadata.get("parameters"))
    unspecified = parameters.get("unspecified") is True
    if method is not None and "methods" in parameters:
        described = _mapping(_mapping(parameters["methods"]).get(method))
        unspecified = described.get("unspecified") is True
    inputs = described.get("inputs")
    items = [item for item in inputs if isinstance(item, dict)] if isinstance(inputs, list) else []
    declared = {
        str(item.get("name")): dtypes.BY_OIP[item["datatype"]] for item in items if _declares(item, unspecified)
    }
    return Inputs(tuple(str(item.get("name")) for item in items), declared)


def read_metadata(response: Response) -> dict[str, Any]:
    """The metadata in `response`. Raises as `infer_answer` does."""
    check_status(response)
    return _json_object(memoryview(response.body))


def check_status(response: Response) -> None:
    """Raise the RequestError of any status but 200: by the code in its body, else by the status."""
    if response.status == 200:
        return
    retry_after_s = retry_after(response)
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str):
        code = body.get("code")
        if isinstance(code, str):
            raise error_from_code(code, body["error"], retry_after_s)
        raise _BY_STATUS.get(response.status, Internal)(body["error"], retry_after_s=retry_after_s)
    text = bytes(response.body[:_ERROR_TEXT_MAX]).decode(errors="replace").strip()
    if b"html" in response.headers.get(b"content-type", b"").lower() or text.startswith("<"):
        text = "an HTML page, which no Paceline server sends; is the url that of the server, or of something before it?"
    raise _BY_STATUS.get(response.status, Internal)(
        f"the server answered {response.status}{': ' + text if text else ' without a reason'}",
        retry_after_s=retry_after_s,
    )


def retry_after(response: Response) -> float | None:
    """Retry-After in seconds, None if it is missing or a date."""
    value = response.headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() and len(value) < 8 else None


def _milliseconds(call: Call) -> str:
    return str(max(1, math.ceil(call.remaining_s() * 1000)))


def _named(call: Call, inputs: Inputs) -> Iterator[tuple[str, object]]:
    """Every argument under its input's name; beyond the known names the server takes them in order."""
    for index, value in enumerate(call.args):
        name = inputs.names[index] if index < len(inputs.names) else f"input_{index}"
        if name in call.named:
            raise InvalidParameter(f"input {name!r} is given twice, by position {index} and by name")
        yield name, value
    yield from call.named.items()


def _described(name: str, tensor: Tensor | Strings, size: int) -> dict[str, object]:
    datatype = tensor.dtype.oip if isinstance(tensor, Tensor) else "BYTES"
    return {"name": name, "shape": tensor.shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def _binary(tensor: Tensor | Strings) -> Buffer:
    if isinstance(tensor, Tensor):
        return tensor.data
    return b"".join([part for item in tensor.items for part in (struct.pack("<I", len(item)), item)])


def _declares(item: Mapping[str, Any], unspecified: bool) -> bool:
    """Whether an input's datatype is meant: where nothing is known, OIP's required field says FP32 and [-1]."""
    placeholder = unspecified and item.get("datatype") == "FP32" and item.get("shape") == [-1]
    return not placeholder and item.get("datatype") in dtypes.BY_OIP


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _json_object(data: memoryview) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the server's answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("the server's answer is not a JSON object")
    return value


def _outputs(outputs: list[Any], body: memoryview, at: int) -> Iterator[tuple[str, Array]]:
    for item in outputs:
        try:
            name, datatype, shape = item["name"], item["datatype"], tuple(item["shape"])
            size = (item.get("parameters") or {}).get("binary_data_size")
            if size is None:
                yield name, _from_json(datatype, shape, item["data"])
                continue
            if type(size) is not int or not 0 <= size <= len(body) - at:
                raise ValueError(f"binary_data_size {size!r}, {len(body) - at} bytes are left")
            yield name, _from_binary(datatype, shape, body[at : at + size])
            at += size
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise ProtocolError(f"the server's answer has an output that cannot be read: {error}") from error


def _from_binary(datatype: str, shape: tuple[int, ...], data: memoryview) -> Array:
    if datatype == "BYTES":
        return array_of(Strings(shape, tuple(_split_strings(data))))
    dtype = dtypes.BY_OIP[datatype]
    if dtype is dtypes.BF16:
        return array_of(Tensor(dtype, shape, data))
    # No copy: the body is a bytearray of this response alone, so the array is writable and the caller's own.
    return np.frombuffer(data, dtype.numpy).reshape(shape)


def _split_strings(data: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            raise ValueError("a string is cut short")
        yield bytes(data[at + 4 : at + 4 + size])
        at += 4 + size


def _from_json(datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    if datatype == "BYTES":
        flat = np.array(data, object).reshape(-1)
        return array_of(Strings(shape, tuple(str(item).encode() for item in flat)))
    return np.array(data, dtypes.BY_OIP[datatype].numpy).reshape(shape)
