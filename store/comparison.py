"""What differs between two versions: what their manifests say, their files, and the numbers in their weights.

Nothing is loaded: weights are compared as safetensors, tensor by tensor by name, in pieces of bounded memory. Called by
`paceline models diff`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.protocol.signature import spec_to_plain
from paceline.store.manifest import FileEntry, Manifest
from paceline.store.stored_version import StoredVersion
from paceline.store.tensor_file import ITEM_BYTES, TensorSlot, parse_header

_WEIGHTS = ".safetensors"
_PIECE_ITEMS = 1024 * 1024
_WORDS = {
    "BOOL": "?",
    **{f"{kind.upper()}{bits}": f"<{kind}{bits // 8}" for kind in "ui" for bits in (8, 16, 32, 64)},
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that both manifests could say: `what`, and what each says of it; None = nothing."""

    what: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor that is not the same: dtype, shape (None where it is missing), and where both agree in those, the
    largest absolute difference of two numbers (NaN where one of the two is NaN)."""

    name: str
    before: tuple[str, tuple[int, ...]] | None
    after: tuple[str, tuple[int, ...]] | None
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class WeightsChange:
    """One file of tensors that is not the same in both versions: how many tensors are, and those that are not."""

    file: str
    equal: int
    tensors: tuple[TensorChange, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`same_content`: both load equal models (their digests are equal)."""

    same_content: bool
    changes: tuple[Change, ...]
    weights: tuple[WeightsChange, ...]


def compare(before: StoredVersion, after: StoredVersion) -> Comparison:
    """What differs from `before` to `after`. Raises StoreError (damaged weights), VersionNotFound (deleted)."""
    one, other = _facts(before.manifest), _facts(after.manifest)
    changes = [
        Change(what, one.get(what), other.get(what))
        for what in dict.fromkeys([*one, *other])
        if one.get(what) != other.get(what)
    ]
    return Comparison(before.digest == after.digest, tuple(changes), tuple(_weights(before, after)))


def largest_difference(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> float:
    """The largest absolute difference of two arrays of one dtype and shape; equal infinities and NaNs differ by 0.

    >>> largest_difference(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.5
    """
    if before.dtype.kind in "bui":  # exact: the difference of two int64 fits into uint64
        low, high = np.minimum(before, after), np.maximum(before, after)
        unsigned = f"u{before.dtype.itemsize}"
        return float((high.view(unsigned) - low.view(unsigned)).max(initial=0))
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    one, other = before.astype(wide), after.astype(wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(one - other)).max(initial=0.0))


def _facts(manifest: Manifest) -> dict[str, object]:
    facts: dict[str, object] = {"framework": manifest.framework, "brings code along": manifest.code_bearing}
    for method in manifest.methods.values():
        plain = spec_to_plain(method)
        facts |= {f"method {method.name}, {key}": value for key, value in plain.items() if key != "name"}
    for kind, values in (
        ("label", manifest.labels),
        ("metadata", manifest.metadata),
        ("context", manifest.context),
    ):
        facts |= {f"{kind} {key}": value for key, value in values.items()}
    return facts | {f"file {entry.path}": entry for entry in manifest.files}


def _weights(before: StoredVersion, after: StoredVersion) -> Iterator[WeightsChange]:
    theirs = {entry.path: entry for entry in after.manifest.files}
    for entry in before.manifest.files:
        other = theirs.get(entry.path)
        if entry.path.endswith(_WEIGHTS) and other is not None and _differ(entry, other):
            yield _compare_files(entry.path, before, after)


def _differ(entry: FileEntry, other: FileEntry) -> bool:
    return entry.sha256 != other.sha256


def _compare_files(path: str, before: StoredVersion, after: StoredVersion) -> WeightsChange:
    ours, theirs = before.look_into(path), after.look_into(path)
    one, other = _slots(ours, f"{before.tag}/{path}"), _slots(theirs, f"{after.tag}/{path}")
    equal, changes = 0, []
    for name in dict.fromkeys([*one, *other]):
        change = _compare_tensors(name, ours, one.get(name), theirs, other.get(name))
        if change is None:
            equal += 1
        else:
            changes.append(change)
    return WeightsChange(path, equal, tuple(changes))


def _slots(data: memoryview, what: str) -> Mapping[str, TensorSlot]:
    return {slot.name: slot for slot in parse_header(data, what)[0]}


def _compare_tensors(
    name: str, ours: memoryview, one: TensorSlot | None, theirs: memoryview, other: TensorSlot | None
) -> TensorChange | None:
    before = (one.dtype, one.shape) if one is not None else None
    after = (other.dtype, other.shape) if other is not None else None
    if one is None or other is None or before != after:
        return TensorChange(name, before, after)
    first, second = ours[one.begin : one.begin + one.bytes], theirs[other.begin : other.begin + other.bytes]
    if np.array_equal(np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8)):
        return None
    return TensorChange(name, before, after, _largest(one.dtype, first, second))


def _largest(dtype: str, first: memoryview, second: memoryview) -> float:
    step = _PIECE_ITEMS * ITEM_BYTES[dtype]
    pieces = [
        largest_difference(_numbers(dtype, first[at : at + step]), _numbers(dtype, second[at : at + step]))
        for at in range(0, len(first), step)
    ]
    return float(np.max(pieces))  # unlike max(), keeps a NaN


def _numbers(dtype: str, data: memoryview) -> npt.NDArray[np.generic]:
    """The numbers in `data`; those that numpy lacks as a wider type that holds them exactly."""
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (np.frombuffer(data, np.uint8).astype(np.uint16) << 8).view(np.float16)
    if dtype == "F8_E4M3":
        return _E4M3[np.frombuffer(data, np.uint8)]
    words = np.frombuffer(data, _WORDS[dtype])
    return words.view(np.uint8) if dtype == "BOOL" else words


def _e4m3(bits: int) -> float:
    """OCP 8-bit floating point, E4M3: bias 7, no infinities, all bits set is NaN."""
    exponent, fraction = bits >> 3 & 15, bits & 7
    if bits & 127 == 127:
        return float("nan")
    size = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0**-9
    return -size if bits & 128 else size


_E4M3 = np.array([_e4m3(bits) for bits in range(256)], np.float32)
