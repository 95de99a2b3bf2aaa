"""What `paceline models` tells of one stored version: for programs as plain values, for people as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.cli.terminal import size
from paceline.protocol.errors import PacelineError

if TYPE_CHECKING:
    from paceline.protocol.padding import Padding
    from paceline.protocol.signature import InputSpec, MethodSpec
    from paceline.store import StoredVersion
    from paceline.store.tensor_file import TensorSlot

_SAMPLE_FILE = "sample_inputs.safetensors"


def summary(version: StoredVersion, aliases: list[str]) -> dict[str, object]:
    """The values of one row of `models list --json`."""
    manifest = version.manifest
    return {
        "tag": str(version.tag),
        "name": manifest.name,
        "version": manifest.version,
        "aliases": aliases,
        "framework": manifest.framework,
        "bytes": manifest.bytes,
        "created_at": manifest.created_at,
        "methods": list(manifest.methods),
        "labels": manifest.labels,
        "digest": manifest.digest,
        "saved_here": version.saved_here,
        "needs_trust": manifest.code_bearing and not version.saved_here,
    }


def details(version: StoredVersion) -> dict[str, object]:
    """What `models show --json` says beyond the summary. Raises PacelineError: the sample's file is damaged."""
    from paceline.protocol.signature import spec_to_plain

    manifest = version.manifest
    return {
        "methods": [spec_to_plain(method) for method in manifest.methods.values()],
        "sample_inputs": [
            {"name": slot.name, "dtype": slot.dtype, "shape": list(slot.shape)} for slot in _sample(version)
        ],
        "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in manifest.files],
        "code_bearing": manifest.code_bearing,
        "metadata": manifest.metadata,
        "context": manifest.context,
        "path": str(version.path),
    }


def lines(version: StoredVersion, aliases: list[str]) -> list[tuple[str, str]]:
    """What `models show` prints: a word and what is to be said of it."""
    manifest = version.manifest
    found = [
        ("tag", str(version.tag)),
        *[("alias", f"{manifest.name}@{alias}") for alias in aliases],
        ("framework", manifest.framework + (", brings code along" if manifest.code_bearing else "")),
        ("created", manifest.created_at),
        ("origin", _origin(version)),
        ("digest", manifest.digest),
        ("path", str(version.path)),
        ("size", f"{size(manifest.bytes)} in {len(manifest.files)} file(s)"),
    ]
    found += [("method", method_line(method)) for method in manifest.methods.values()]
    found += [("sample", line) for line in _sample_lines(version)]
    found += [("file", f"{file.path}  {size(file.bytes)}") for file in manifest.files]
    found += [("label", f"{key} = {value}") for key, value in manifest.labels.items()]
    found += [("metadata", f"{key} = {value}") for key, value in manifest.metadata.items()]
    found += [("context", f"{key} {value}") for key, value in manifest.context.items()]
    return found


def method_line(method: MethodSpec) -> str:
    """A method with its inputs and how it batches, on one line."""
    inputs = ", ".join(map(_input, method.request_inputs)) + (", ..." if method.open_inputs else "")
    before, after = method.batch_dim
    dims = str(before) if before == after else f"{before} in, {after} out"
    parts = [f"batches along dim {dims}" if method.batchable else "one request at a time"]
    if method.max_batch_size is not None:
        parts.append(f"at most {method.max_batch_size} rows")
    if method.padding is not None:
        parts += _padding(method.padding)
    if method.latency_budget_ms is not None:
        parts.append(f"within {method.latency_budget_ms:g} ms")
    if not method.idempotent:
        parts.append("started at most once")
    return f"{method.name}({inputs}): {', '.join(parts)}"


def _origin(version: StoredVersion) -> str:
    if version.saved_here:
        return "saved here"
    return "not saved here: needs --trust" if version.manifest.code_bearing else "not saved here"


def _padding(padding: Padding) -> list[str]:
    named = f" of {', '.join(padding.inputs)}" if padding.inputs else ""
    parts = [f"padded along dim {padding.dim}{named} to multiples of {padding.multiple_of} with {padding.value:g}"]
    if padding.length_max is not None:
        parts.append(f"at most {padding.length_max} long")
    if padding.mask is not None:
        parts.append(f"mask in {padding.mask}")
    if padding.unpad is not None:
        parts.append(f"outputs cut along dim {padding.unpad}")
    return parts


def _input(spec: InputSpec) -> str:
    dtype = spec.dtype.name if spec.dtype is not None else "any"
    shape = "[" + ", ".join("?" if dim < 0 else str(dim) for dim in spec.shape) + "]" if spec.shape is not None else ""
    return f"{spec.name}: {dtype}{shape}{'' if spec.required else ' (optional)'}"


def _sample(version: StoredVersion) -> list[TensorSlot]:
    """The tensors of the stored sample call, none if there is none."""
    from paceline.store.tensor_file import parse_header

    if not version.manifest.has_file(_SAMPLE_FILE):
        return []
    return parse_header(version.look_into(_SAMPLE_FILE), f"{version.tag}/{_SAMPLE_FILE}")[0]


def _sample_lines(version: StoredVersion) -> list[str]:
    try:
        return [f"{slot.name}: {slot.dtype.lower()}{list(slot.shape)}" for slot in _sample(version)]
    except PacelineError as error:  # the rest is worth showing all the same
        return [str(error)]
