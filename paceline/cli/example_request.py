"""A ready-made curl line for a model that was just started, from what its manifest says of its inputs."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from urllib.parse import quote

from paceline.protocol.errors import PacelineError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.store import ModelStore

_SHOWN_MAX = 64
_NOT_JSON = ("f16", "bf16", "c64")


def curl_line(url: str, tag: str, store_home: Path) -> str:
    """A request of zeros where the inputs are known, else one for the metadata, which needs none."""
    try:
        manifest = ModelStore(store_home).get(tag).manifest
    except PacelineError:
        return f"curl -s {url}/v2"
    at = f"{url}/v2/models/{quote(manifest.name, safe='')}"
    method = manifest.methods.get("__call__") or next(iter(manifest.methods.values()))
    inputs = [_tensor(spec, method) for spec in method.inputs if spec.required]
    if not inputs or None in inputs:
        return f"curl -s {at}"
    body: dict[str, object] = {"inputs": inputs}
    if method.name != "__call__" and len(manifest.methods) > 1:
        body["parameters"] = {"method": method.name}
    return f"curl -s {at}/infer -d {_quoted(body)}"


def _tensor(spec: InputSpec, method: MethodSpec) -> dict[str, object] | None:
    if spec.dtype is None or spec.shape is None or spec.dtype.name in _NOT_JSON:
        return None
    shape = [1 if dim < 0 else dim for dim in spec.shape]
    zero: object = {"b": False, "f": 0.0}.get(spec.dtype.numpy.kind, 0)
    return {"name": spec.name, "shape": shape, "datatype": spec.dtype.oip, "data": [zero] * math.prod(shape)}


def _quoted(body: dict[str, object]) -> str:
    """The body as one shell word; long data is left to Python, so that the line stays a line."""
    text = json.dumps(body)
    if len(text) <= _SHOWN_MAX * 8:
        return shlex.quote(text)
    words: list[str] = []
    inputs = body["inputs"]
    assert isinstance(inputs, list)
    for tensor in inputs:
        data = tensor["data"]
        if len(data) > _SHOWN_MAX:
            tensor["data"] = f"@{len(words)}@"
            value = json.dumps(data[0]).capitalize()
            words.append(f"'\"$(python3 -c 'import json; print(json.dumps([{value}] * {len(data)}))')\"'")
    quoted = shlex.quote(json.dumps(body))
    for index, word in enumerate(words):
        quoted = quoted.replace(f'"@{index}@"', word)
    return quoted
