"""A result tree -> the bytes of an infer reply, JSON or binary, with one head cached per form, dtype, shape and batch.

Called by the infer route once a result is there. Leaves that are None carry nothing and are left out; plain numbers,
bools and texts become one-element tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from paceline.api_server.answer import JSON_TYPE, Answer
from paceline.api_server.oip_json import json_from_tensor
from paceline.api_server.oip_outputs import OutputForm, unknown_output
from paceline.api_server.oip_tensors import BYTES
from paceline.protocol.catalog import ServedModel
from paceline.protocol.errors import Internal, ProtocolError
from paceline.protocol.messages import Result
from paceline.protocol.tensor import Buffer, Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree, named_leaves

HEADS_MAX = 1024
_BINARY_TYPE = b"content-type: application/octet-stream\r\n"
_ONLY = "output_0"


@dataclass(frozen=True, slots=True)
class _Head:
    """A reply of one binary tensor but for its bytes and ids."""

    headers: bytes
    json: bytes


class ReplyWriter:
    """Writes the infer replies of one served model."""

    def __init__(self, model: ServedModel) -> None:
        self._base = {"model_name": model.spec.name, "model_version": model.spec.version}

    def write(self, form: OutputForm, result: Result, client_id: str | None, request_id: bytes) -> Answer:
        """The 200 answer. Raises InvalidParameter (an output asked for is unknown or not for JSON), Internal."""
        try:
            tree = result.tree()
        except ProtocolError as error:
            raise Internal("the worker's result is not readable") from error
        if type(tree) is Tensor and form.names is None and form.binary_default:
            return self._one_binary(form, tree, result.batch_rows, client_id, request_id)
        return self._general(form, tree, result.batch_rows, client_id, request_id)

    def _one_binary(
        self, form: OutputForm, tensor: Tensor, batch_rows: int, client_id: str | None, request_id: bytes
    ) -> Answer:
        key: Hashable = (tensor.dtype, tensor.shape, batch_rows)
        head = form.heads.get(key)
        if head is None:
            head = self._binary_head(tensor, batch_rows)
            if len(form.heads) >= HEADS_MAX:
                form.heads.clear()
            form.heads[key] = head
        if client_id is None:
            return Answer(200, head.headers, request_id, (head.json, tensor.data))
        json = _with_id(head.json, client_id)
        return Answer(200, _binary_headers(len(json), _size(tensor.data)), request_id, (json, tensor.data))

    def _binary_head(self, tensor: Tensor, batch_rows: int) -> _Head:
        size = _size(tensor.data)
        json = self._json(batch_rows, [_described(_ONLY, tensor) | {"parameters": {"binary_data_size": size}}])
        return _Head(_binary_headers(len(json), size), json)

    def _general(
        self, form: OutputForm, tree: Tree, batch_rows: int, client_id: str | None, request_id: bytes
    ) -> Answer:
        outputs: list[dict[str, Any]] = []
        buffers: list[Buffer] = []
        for name, leaf in _selected(form, tree):
            described = _described(name, leaf)
            if form.is_binary(name):
                data = _binary(leaf)
                described["parameters"] = {"binary_data_size": _size(data)}
                buffers.append(data)
            else:
                described["data"] = json_from_tensor(name, leaf)
            outputs.append(described)
        json = self._json(batch_rows, outputs)
        if client_id is not None:
            json = _with_id(json, client_id)
        if not buffers:
            return Answer(200, b"%scontent-length: %d\r\n" % (JSON_TYPE, len(json)), request_id, (json,))
        headers = _binary_headers(len(json), sum(map(_size, buffers)))
        return Answer(200, headers, request_id, (json, *buffers))

    def _json(self, batch_rows: int, outputs: list[dict[str, Any]]) -> bytes:
        reply = self._base | {"parameters": {"batch_rows": batch_rows}, "outputs": outputs}
        return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _selected(form: OutputForm, tree: Tree) -> list[tuple[str, Tensor | Strings]]:
    named = [(name, _as_tensor(leaf)) for name, leaf in named_leaves(tree) if leaf is not None]
    if form.names is None:
        return named
    by_name = dict(named)
    for name in form.names:
        if name not in by_name:
            raise unknown_output(name, list(by_name))
    return [(name, by_name[name]) for name in form.names]


def _as_tensor(leaf: Tree) -> Tensor | Strings:
    if isinstance(leaf, (Tensor, Strings)):
        return leaf
    if isinstance(leaf, str):
        return Strings((1,), (leaf.encode(),))
    if isinstance(leaf, bytes):
        return Strings((1,), (leaf,))
    if isinstance(leaf, (bool, int, float)):
        try:
            return from_numpy(np.array([leaf]))
        except OverflowError as error:
            raise Internal(f"the result has the integer {leaf}, wider than 64 bits") from error
    raise Internal(f"the result has a leaf of type {type(leaf).__name__}")


def _described(name: str, leaf: Tensor | Strings) -> dict[str, Any]:
    datatype = BYTES if isinstance(leaf, Strings) else leaf.dtype.oip
    return {"name": name, "datatype": datatype, "shape": list(leaf.shape)}


def _binary(leaf: Tensor | Strings) -> Buffer:
    if isinstance(leaf, Tensor):
        return leaf.data
    return b"".join([part for item in leaf.items for part in (struct.pack("<I", len(item)), item)])


def _binary_headers(json_size: int, binary_size: int) -> bytes:
    return b"%sinference-header-content-length: %d\r\ncontent-length: %d\r\n" % (
        _BINARY_TYPE,
        json_size,
        json_size + binary_size,
    )


def _with_id(json: bytes, client_id: str) -> bytes:
    return b'{"id":%s,%s' % (orjson.dumps(client_id), json[1:])


def _size(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)
