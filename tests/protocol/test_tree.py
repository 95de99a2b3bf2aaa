"""Argument and result trees: what is packed is what is read, and what cannot be read is not packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol import dtypes, limits, messages
from paceline.protocol.errors import InvalidInput, ModelError, ProtocolError
from paceline.protocol.limits import INLINE_BYTES_MAX, TREE_DEPTH_MAX, TREE_LEAVES_MAX
from paceline.protocol.tensor import Buffer, Strings, Tensor
from paceline.protocol.tree import Tree, leaves, named_leaves, pack_tree, unpack_tree
from tests.protocol.corpus import meaning, nested, ramp

tensors = st.builds(
    lambda dtype, shape: ramp(dtype, *shape),
    st.sampled_from(dtypes.ALL),
    st.lists(st.integers(0, 12), max_size=3),
)
strings = st.lists(st.binary(max_size=3000), max_size=4).map(lambda items: Strings((len(items),), tuple(items)))
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([b"x" * 5000, "é" * 2500])
)
trees = st.recursive(
    plain | tensors | strings,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def through_wire(tree: Tree) -> Tree:
    frames: list[Buffer] = []
    packed = pack_tree(tree, frames)
    return unpack_tree(msgpack.unpackb(msgpack.packb(packed)), frames)


def depths(tree: Tree, depth: int) -> Iterator[int]:
    yield depth
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ():
        yield from depths(inner, depth + 1)


@given(trees)
def test_tree_returns_as_it_went_or_is_refused_for_its_depth(tree: Tree) -> None:
    if any(depth > TREE_DEPTH_MAX for depth in depths(tree, 0)):
        with pytest.raises(ValueError, match="8 levels"):
            through_wire(tree)
    else:
        assert meaning(through_wire(tree)) == meaning(tree)


def test_tree_with_every_kind_of_value_returns_as_it_went() -> None:
    assert meaning(through_wire(nested())) == meaning(nested())


def test_packed_tree_is_readable_in_the_same_process() -> None:
    frames: list[Buffer] = []
    tree = (Tensor(dtypes.U8, (2,), memoryview(b"ab")), nested())
    assert meaning(unpack_tree(pack_tree(tree, frames), frames)) == meaning(tree)


@pytest.mark.parametrize(("size", "frames_expected"), [(INLINE_BYTES_MAX, 0), (INLINE_BYTES_MAX + 1, 1)])
def test_tensor_over_the_inline_limit_is_a_frame(size: int, frames_expected: int) -> None:
    frames: list[Buffer] = []
    data = bytes(size)
    pack_tree(Tensor(dtypes.U8, (size,), data), frames)
    assert len(frames) == frames_expected
    assert all(frame is data for frame in frames)


def test_many_small_tensors_overflow_into_frames() -> None:
    frames: list[Buffer] = []
    packed = pack_tree([ramp(dtypes.U8, INLINE_BYTES_MAX) for _ in range(10)], frames)
    assert 0 < len(frames) < 10
    assert len(msgpack.packb(packed)) <= limits.ITEM_HEAD_BYTES_MAX


def nest(levels: int) -> Tree:
    tree: Tree = 1
    for _ in range(levels):
        tree = [tree]
    return tree


def test_depth_at_the_limit_passes_and_one_more_is_refused_on_both_sides() -> None:
    assert through_wire(nest(TREE_DEPTH_MAX)) == nest(TREE_DEPTH_MAX)
    with pytest.raises(ValueError, match="8 levels"):
        pack_tree(nest(TREE_DEPTH_MAX + 1), [])
    packed: Any = 1
    for _ in range(TREE_DEPTH_MAX + 1):
        packed = [0, packed]
    with pytest.raises(ProtocolError, match="8 levels"):
        unpack_tree(packed, [])


def test_node_count_at_the_limit_passes_and_one_more_is_refused_on_both_sides() -> None:
    fits: Tree = [None] * (TREE_LEAVES_MAX - 1)
    assert through_wire(fits) == fits
    with pytest.raises(ValueError, match="1024 nodes"):
        pack_tree([None] * TREE_LEAVES_MAX, [])
    with pytest.raises(ProtocolError, match="1024 nodes"):
        unpack_tree([0, *[None] * TREE_LEAVES_MAX], [])


@pytest.mark.parametrize(
    ("tree", "error", "text"),
    [
        ({1: 2}, TypeError, "key 1 cannot travel; expected keys that are strings"),
        ({"a": {1, 2}}, TypeError, "a set cannot travel"),
        (2**64, ValueError, "65 bits"),
        (-(2**63) - 1, ValueError, "64 bits"),
        ("\ud800", ValueError, "not valid Unicode"),
        ({"\ud800": 1}, ValueError, "not valid Unicode"),
        (Tensor(dtypes.U8, (1,) * 17, b"x"), ValueError, "17 dims"),
        ({f"{'k' * 100}{index}": None for index in range(1000)}, ValueError, "join them into fewer tensors"),
    ],
    ids=["int key", "set", "65 bits", "-65 bits", "surrogate", "surrogate key", "17 dims", "long keys"],
)
def test_value_without_a_form_is_refused_before_it_is_sent(tree: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pack_tree(tree, [])
    with pytest.raises(InvalidInput, match="arguments cannot be sent: "):
        messages.pack_call((tree,), {})
    with pytest.raises(ModelError, match="the model's result cannot be sent: "):
        messages.pack_result(tree)


def test_frame_over_the_limit_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.protocol.tree.FRAME_BYTES_MAX", 5000)
    monkeypatch.setattr("paceline.protocol.tree.ITEM_BYTES_MAX", 10_000)
    pack_tree([ramp(dtypes.U8, 5000), ramp(dtypes.U8, 5000)], [])
    with pytest.raises(ValueError, match="send fewer rows"):
        pack_tree(ramp(dtypes.U8, 5001), [])
    with pytest.raises(ValueError, match="10000 in all"):
        pack_tree([ramp(dtypes.U8, 5000), ramp(dtypes.U8, 4999), ramp(dtypes.U8, 4999)], [])


def test_leaves_come_in_order() -> None:
    assert list(leaves({"a": [1, (2, 3)], "b": 4, "c": {"d": ()}})) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        (1, ["output_0"]),
        ((1, 2), ["output_0", "output_1"]),
        ([1, {"a": 2}], ["output_0", "output_1.a"]),
        ({"logits": 1, "aux": (2, [3])}, ["logits", "aux.0", "aux.1.0"]),
    ],
)
def test_leaves_have_their_oip_names(tree: Tree, names: list[str]) -> None:
    assert [name for name, _ in named_leaves(tree)] == names
