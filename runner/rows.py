"""Trees cut and joined along their batch dim: many calls' arguments into one batch, its output into many results.

Pure: bytes and numpy, no torch. Tensors stay in the form in which they travel, so that joining along dim 0 is
concatenating bytes and splitting is slicing one buffer. Called by the executor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paceline.protocol.limits import COPY_THRESHOLD_BYTES
from paceline.protocol.padding import element
from paceline.protocol.tensor import Buffer, Strings, Tensor
from paceline.protocol.tree import Tree

Path: TypeAlias = tuple[int | str, ...]
# Gives a writable buffer of that many bytes, format "B".
Take: TypeAlias = Callable[[int], memoryview]


class BadTree(Exception):
    """A tree that cannot be split or sent; the message names the leaf."""


class UnlikeTrees(BadTree):
    """Trees that cannot be joined; the message names the leaf."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """How `join` brings tensors to one length: those at a path and of a rank that `covers` knows have `lengths[i]`
    along `dim` in the i-th tree, and get `length`, filled up with `value`."""

    dim: int
    lengths: Sequence[int]
    length: int
    value: float
    covers: Callable[[Path, int], bool]


def ladder(cap: int, buckets: Sequence[int] = ()) -> tuple[int, ...]:
    """The sizes to warm up: 1, 2, 4, ... and `cap` itself; or `buckets`, in rising order, as far as `cap` goes."""
    if buckets:
        return tuple(dict.fromkeys(min(size, cap) for size in buckets))
    return (*(1 << power for power in range((cap - 1).bit_length())), cap)


def leaf_name(path: Path) -> str:
    """How clients name the leaf at `path`: `output_0`, `output_1.mask`, `boxes.0`."""
    if not path:
        return "output_0"
    first = f"output_{path[0]}" if isinstance(path[0], int) else path[0]
    return ".".join([first, *map(str, path[1:])])


def join(trees: Sequence[Tree], dim: int, take: Take, stretch: Stretch | None = None, path: Path = ()) -> Tree:
    """One tree of the structure that all `trees` share, tensors joined along `dim` in buffers from `take`.

    Its tensors never share bytes with `trees`, also when there is only one: see `_fill`. Raises UnlikeTrees where the
    trees differ in more than the size along `dim`, or along the dim of `stretch` from what it says.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        if stretch is not None and stretch.covers(path, len(first.shape)):
            return _join_stretched(trees, dim, take, stretch, path)
        return _join_tensors(trees, dim, take, path)
    if isinstance(first, Strings):
        return _join_strings(trees, dim, path)
    if isinstance(first, dict):
        _check_alike(trees, path)
        return {
            key: join(
                [_item(tree, key, path) for tree in trees], dim, take, stretch, (*path, key)
            )  # keys in the first's order
            for key in first
        }
    if isinstance(first, (list, tuple)):
        _check_alike(trees, path)
        items = [
            join([tree[index] for tree in trees], dim, take, stretch, (*path, index))  # type: ignore[index]  # all are sequences
            for index in range(len(first))
        ]
        return items if isinstance(first, list) else tuple(items)
    for other in trees:
        if type(other) is not type(first) or not (other == first or other != other):
            raise UnlikeTrees(f"{leaf_name(path)!r} is {first!r} in one and {other!r} in another; they must be equal")
    return first


def split(tree: Tree, counts: Sequence[int], dim: int, path: Path = ()) -> list[Tree]:
    """The tree of each call: `counts[i]` rows along `dim` of every leaf of `tree`.

    Raises BadTree for a leaf without that dim, with another size along it, or that is no tensor.
    """
    if isinstance(tree, Tensor):
        _check_rows(tree, counts, dim, path)
        return _split_tensor(tree, counts, dim)
    if isinstance(tree, Strings):
        _check_rows(tree, counts, dim, path)
        return [_cut_leaf(tree, start, stop, dim) for start, stop in _bounds(counts)]
    if isinstance(tree, dict):
        columns = [split(item, counts, dim, (*path, key)) for key, item in tree.items()]
        return [dict(zip(tree, row)) for row in _transposed(columns, len(counts))]
    if isinstance(tree, (list, tuple)):
        columns = [split(item, counts, dim, (*path, index)) for index, item in enumerate(tree)]
        rows = _transposed(columns, len(counts))
        return [list(row) for row in rows] if isinstance(tree, list) else list(rows)
    raise BadTree(
        f"output {leaf_name(path)!r} is {'None' if tree is None else f'a plain {type(tree).__name__}'}, expected a "
        f"tensor with {sum(counts)} rows along batch dim {dim}: a batched method returns a row for each row it gets"
    )


def cut(tree: Tree, start: int, stop: int, dim: int) -> Tree:
    """Rows `start` to `stop` along `dim` of every tensor of `tree`; plain leaves as they are."""
    if isinstance(tree, (Tensor, Strings)):
        return _cut_leaf(tree, start, stop, dim)
    if isinstance(tree, dict):
        return {key: cut(item, start, stop, dim) for key, item in tree.items()}
    if isinstance(tree, list):
        return [cut(item, start, stop, dim) for item in tree]
    if isinstance(tree, tuple):
        return tuple(cut(item, start, stop, dim) for item in tree)
    return tree


def tile(tree: Tree, sample_rows: int, rows: int, dim: int) -> Tree:
    """`tree`, which has `sample_rows` rows, repeated along `dim` until it has `rows`."""
    repeated = [tree] * math.ceil(rows / sample_rows)
    return cut(join(repeated, dim, lambda nbytes: memoryview(bytearray(nbytes))), 0, rows, dim)


def as_objects(strings: Strings) -> npt.NDArray[Any]:
    """A numpy object array of bytes, shape `strings.shape`."""
    array = np.empty(len(strings.items), object)
    array[:] = strings.items
    return array.reshape(strings.shape)


def _join_tensors(trees: Sequence[Tree], dim: int, take: Take, path: Path) -> Tensor:
    first = trees[0]
    assert isinstance(first, Tensor)
    if len(trees) == 1:
        return Tensor(first.dtype, first.shape, _fill([first.data], _size(first.data), take))
    dtype, before, after = first.dtype, first.shape[:dim], first.shape[dim + 1 :]
    rows, parts = 0, []
    for tree in trees:
        if (
            type(tree) is not Tensor
            or tree.dtype is not dtype
            or len(tree.shape) <= dim
            or tree.shape[dim + 1 :] != after
            or (dim and tree.shape[:dim] != before)
        ):
            raise UnlikeTrees(
                f"{leaf_name(path)!r} is {_spell(first)} in one and {_spell(tree)} in another; "
                f"they must agree in all but dim {dim}"
            )
        rows += tree.shape[dim]
        parts.append(tree)
    shape = (*before, rows, *after)
    nbytes = math.prod(shape) * dtype.itemsize
    if dim == 0:
        return Tensor(dtype, shape, _fill([tensor.data for tensor in parts], nbytes, take))
    data = take(nbytes)
    if nbytes:
        out = np.frombuffer(data, dtype.numpy).reshape(shape)
        np.concatenate([tensor.numpy() for tensor in parts], axis=dim, out=out)
    return Tensor(dtype, shape, data)


def _join_stretched(trees: Sequence[Tree], dim: int, take: Take, stretch: Stretch, path: Path) -> Tensor:
    """As `_join_tensors`, for tensors that get a new length: padding and joining are one copy."""
    first = trees[0]
    assert isinstance(first, Tensor)
    dtype, rank = first.dtype, len(first.shape)
    low, high = sorted((dim, stretch.dim))
    before, between, after = first.shape[:low], first.shape[low + 1 : high], first.shape[high + 1 :]
    if rank > high and first.shape[stretch.dim] == stretch.length == min(stretch.lengths):
        return _join_tensors(trees, dim, take, path)
    rows, parts = 0, []
    for tree, length in zip(trees, stretch.lengths):
        if (
            type(tree) is not Tensor
            or tree.dtype is not dtype
            or not high < len(tree.shape) == rank
            or tree.shape[stretch.dim] != length
            or (tree.shape[:low], tree.shape[low + 1 : high], tree.shape[high + 1 :]) != (before, between, after)
        ):
            raise UnlikeTrees(
                f"{leaf_name(path)!r} is {_spell(first)} in one and {_spell(tree)} in another; "
                f"they must agree in all but dim {dim} and the padded dim {stretch.dim}"
            )
        rows += tree.shape[dim]
        parts.append(tree)
    extents = (rows, stretch.length) if dim < stretch.dim else (stretch.length, rows)
    shape = (*before, extents[0], *between, extents[1], *after)
    data = take(math.prod(shape) * dtype.itemsize)
    if data.nbytes:
        out = np.frombuffer(data, dtype.numpy).reshape(shape)
        out[...] = element(dtype, stretch.value)
        _copy_parts(parts, out, dim, stretch.dim)
    return Tensor(dtype, shape, data)


def _copy_parts(parts: Sequence[Tensor], out: npt.NDArray[Any], dim: int, length_dim: int) -> None:
    """`parts` one behind the other along `dim` of `out`, each at the start of `length_dim`."""
    place = [slice(None)] * out.ndim
    start = 0
    for part in parts:
        stop = start + part.shape[dim]
        place[dim], place[length_dim] = slice(start, stop), slice(part.shape[length_dim])
        out[tuple(place)] = part.numpy()
        start = stop


def _fill(parts: Sequence[Buffer], nbytes: int, take: Take) -> memoryview:
    """`parts` one after the other in a buffer of our own: the one copy between a message and the model.

    A single part is copied too. torch knows no read-only tensor, so a model that writes in place would write into
    what is not ours: a frame that a run after a failure reads again, the caller's own array (in-process serving), an
    immutable `bytes` that the interpreter may share. Also a frame's bytes are often not aligned.
    """
    buffer = take(nbytes)
    if len(parts) > 1 and nbytes <= COPY_THRESHOLD_BYTES:
        # Small parts are copied twice: one join and one copy cost less than a Python step for each part.
        buffer[:] = b"".join(parts)
        return buffer
    start = 0
    for part in parts:
        stop = start + _size(part)
        buffer[start:stop] = part
        start = stop
    assert start == nbytes, "a tensor's bytes are not those of its shape"
    return buffer


def _split_tensor(tensor: Tensor, counts: Sequence[int], dim: int) -> list[Tree]:
    if dim:
        return [_cut_leaf(tensor, start, stop, dim) for start, stop in _bounds(counts)]
    dtype, data, trailing = tensor.dtype, tensor.data, tensor.shape[1:]
    row_bytes = math.prod(trailing) * dtype.itemsize
    results: list[Tree] = []
    start = 0
    for count in counts:
        stop = start + count * row_bytes
        results.append(Tensor(dtype, (count, *trailing), data[start:stop]))
        start = stop
    return results


def _cut_leaf(leaf: Tensor | Strings, start: int, stop: int, dim: int) -> Tensor | Strings:
    shape = (*leaf.shape[:dim], stop - start, *leaf.shape[dim + 1 :])
    rows = (slice(None),) * dim + (slice(start, stop),)
    if isinstance(leaf, Strings):
        return Strings(shape, tuple(as_objects(leaf)[rows].reshape(-1).tolist()))
    if dim == 0:
        row_bytes = math.prod(leaf.shape[1:]) * leaf.dtype.itemsize
        return Tensor(leaf.dtype, shape, memoryview(leaf.data)[start * row_bytes : stop * row_bytes])
    return Tensor(leaf.dtype, shape, leaf.numpy()[rows].tobytes())


def _join_strings(trees: Sequence[Tree], dim: int, path: Path) -> Strings:
    arrays = [as_objects(tree) for tree in trees if isinstance(tree, Strings)]
    alike = {(array.shape[:dim], array.shape[dim + 1 :], array.ndim) for array in arrays}
    if len(arrays) < len(trees) or len(alike) > 1:
        raise UnlikeTrees(
            f"{leaf_name(path)!r} is not strings of one shape in all; they must agree in all but dim {dim}"
        )
    joined = np.concatenate(arrays, axis=dim) if len(arrays) > 1 else arrays[0]
    return Strings(joined.shape, tuple(joined.reshape(-1).tolist()))


def _check_alike(trees: Sequence[Tree], path: Path) -> None:
    first = trees[0]
    kind, length = type(first), len(first)  # type: ignore[arg-type]  # containers only
    for tree in trees:
        if type(tree) is not kind or len(tree) != length:  # type: ignore[arg-type]  # containers only
            raise UnlikeTrees(f"{leaf_name(path)!r} is {_spell(first)} in one and {_spell(tree)} in another")


def _item(tree: Tree, key: str, path: Path) -> Tree:
    assert isinstance(tree, dict)
    if key not in tree:
        raise UnlikeTrees(f"{leaf_name(path)!r} has the key {key!r} in one and not in another")
    return tree[key]


def _check_rows(leaf: Tensor | Strings, counts: Sequence[int], dim: int, path: Path) -> None:
    rows = sum(counts)
    if len(leaf.shape) > dim and leaf.shape[dim] == rows:
        return
    raise BadTree(
        f"output {leaf_name(path)!r} has shape {list(leaf.shape)}, expected {rows} rows along batch dim {dim}: "
        f"a batched method returns a row for each row it gets"
    )


def _transposed(columns: Sequence[Sequence[Tree]], count: int) -> Iterable[tuple[Tree, ...]]:
    return zip(*columns) if columns else [()] * count


def _bounds(counts: Sequence[int]) -> Iterable[tuple[int, int]]:
    start = 0
    for count in counts:
        yield start, start + count
        start += count


def _size(data: Buffer) -> int:
    return data.nbytes if type(data) is memoryview else len(data)


def _spell(tree: Tree) -> str:
    if isinstance(tree, Tensor):
        return f"{tree.dtype.name}{list(tree.shape)}"
    if isinstance(tree, Strings):
        return f"strings{list(tree.shape)}"
    if isinstance(tree, (list, tuple, dict)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return f"a {type(tree).__name__}"
