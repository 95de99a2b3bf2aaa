"""How the calls of one forward lie in its batch: rows up to a bucket, lengths up to the longest's multiple; and back.

Pure: bytes and numpy, no torch. What a batch looks like depends on its calls and the method alone, never on what a
message claims of them. Called by batch.py and, for the batch itself, by the executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from paceline.protocol import dtypes
from paceline.protocol.padding import Padding, element
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Strings, Tensor
from paceline.protocol.tree import Tree
from paceline.runner.dispatcher.curve import pad
from paceline.runner.rows import Path, Stretch, Take, cut, join, leaf_name, split

Covers: TypeAlias = Callable[[Path, int], bool]


@dataclass(frozen=True, slots=True)
class Layout:
    """One forward. `trees` are its calls' (args, kwargs) and, behind the first `calls`, copies of the last row that
    fill the bucket; `counts` their rows; `stretch` is how far they are padded, None where the method does not pad."""

    spec: MethodSpec
    calls: int
    trees: Sequence[Tree]
    counts: Sequence[int]
    stretch: Stretch | None = None

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def batch(self, take: Take) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
        """(args, kwargs) of the one call of the method, in buffers from `take`. Raises UnlikeTrees."""
        joined = join(self.trees, self.spec.batch_dim[0], take, self.stretch)
        args, kwargs = cast("tuple[tuple[Tree, ...], dict[str, Tree]]", joined)
        if self.stretch is not None and self.spec.mask is not None:
            kwargs = {**kwargs, self.spec.mask: self._mask(self.stretch, take)}
        return args, kwargs

    def results(self, output: Tree) -> list[Tree]:
        """The calls' own parts of the method's `output`. Raises BadTree."""
        if not self.spec.batchable:
            return [output]
        results = split(output, self.counts, self.spec.batch_dim[1])[: self.calls]
        padding, stretch = self.spec.padding, self.stretch
        if padding is None or padding.unpad is None or stretch is None:
            return results
        following = _following(self.spec, padding.unpad)
        return [
            result if length == stretch.length else _unpad(result, padding.unpad, stretch.length, length, following)
            for result, length in zip(results, stretch.lengths)
        ]

    def _mask(self, stretch: Stretch, take: Take) -> Tensor:
        """[rows, padded length]: one where the data is real."""
        dtype = next((spec.dtype for spec in self.spec.inputs if spec.name == self.spec.mask), None) or dtypes.BOOL
        shape = (self.rows, stretch.length)
        data = take(shape[0] * shape[1] * dtype.itemsize)
        if data.nbytes:
            lengths = np.repeat(stretch.lengths, self.counts)
            is_real = np.arange(stretch.length) < lengths[:, np.newaxis]
            mask = np.frombuffer(data, dtype.numpy).reshape(shape)
            mask[...] = np.where(is_real, element(dtype, 1), element(dtype, 0))
        return Tensor(dtype, shape, data)


def lay_out(spec: MethodSpec, buckets: Sequence[int], trees: Sequence[Tree], counts: Sequence[int]) -> Layout:
    """The batch of calls with the arguments `trees`, which have `counts` rows. `buckets` are sizes in rising order."""
    calls = len(trees)
    rows = sum(counts)
    surplus = pad(rows, buckets) - rows if spec.batchable else 0
    if surplus:
        # Not zeros: there are models that divide. Copies of a row that is there anyway cannot fail in a new way.
        last = cut(trees[-1], counts[-1] - 1, counts[-1], spec.batch_dim[0])
        trees = [*trees, *[last] * surplus]
        counts = [*counts, *[1] * surplus]
    stretch = None if spec.padding is None else _stretch(spec, spec.padding, trees)
    return Layout(spec, calls, trees, counts, stretch)


def _stretch(spec: MethodSpec, padding: Padding, trees: Sequence[Tree]) -> Stretch:
    def covers(path: Path, rank: int) -> bool:
        """`path` begins in the pair (args, kwargs)."""
        where, key = path[:2]
        name = spec.argument_name(cast(int, key)) if where == 0 else cast(str, key)
        return padding.covers(name, rank)

    lengths = [_length(tree, padding, covers, ()) or 0 for tree in trees]
    return Stretch(padding.dim, lengths, padding.padded(max(lengths)), padding.value, covers)


def _following(spec: MethodSpec, dim: int) -> frozenset[str] | None:
    """The outputs whose extent along `dim` follows the inputs' length; None where no sample has shown which."""
    if not spec.outputs:
        return None
    return frozenset(
        output.name
        for output in spec.outputs
        if output.shape is not None and len(output.shape) > dim and output.shape[dim] < 0
    )


def _length(tree: Tree, padding: Padding, covers: Covers, path: Path) -> int | None:
    """Of the first tensor of `tree` that is padded; `join` compares the others with it."""
    if isinstance(tree, Tensor):
        rank = len(tree.shape)
        return tree.shape[padding.dim] if rank > padding.dim and covers(path, rank) else None
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, item in items:
        length = _length(item, padding, covers, (*path, key))
        if length is not None:
            return length
    return None


def _unpad(tree: Tree, dim: int, padded: int, length: int, following: frozenset[str] | None, path: Path = ()) -> Tree:
    """`tree` with every leaf that follows the length cut from `padded` to `length` along `dim`."""
    if isinstance(tree, (Tensor, Strings)):
        follows = following is None or leaf_name(path) in following
        is_padded = follows and len(tree.shape) > dim and tree.shape[dim] == padded
        return cut(tree, 0, length, dim) if is_padded else tree
    if isinstance(tree, dict):
        return {key: _unpad(item, dim, padded, length, following, (*path, key)) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_unpad(item, dim, padded, length, following, (*path, at)) for at, item in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    return tree
