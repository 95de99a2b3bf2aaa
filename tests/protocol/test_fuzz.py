"""Mutated messages of every kind: only ProtocolError may come out of a reader, in bounded time and memory.

`FUZZ_CASES` and `FUZZ_SEED` in the environment change the length of the run and its start. A failure prints the seed
and the bytes.
"""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack
import pytest

from paceline.protocol import control, limits, messages, pool, spec
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ProtocolError
from paceline.protocol.messages import Answers, Infer
from paceline.protocol.tensor import Tensor
from paceline.protocol.tree import Tree, leaves
from tests.protocol.corpus import CHILD, CONTROL, DATA, ORIGIN, POOL, SERVE

CASES = int(os.environ.get("FUZZ_CASES", "400000"))
SEED = int(os.environ.get("FUZZ_SEED", "20250117"))

# Far above what any of them takes: only a reader that goes astray gets there, not a busy machine.
SLOW_S = 5.0

Parts = list[bytes]
Mutation = Callable[[Random, Parts], Parts]


def read_data(parts: Sequence[bytes]) -> None:
    """Everything that a peer's bytes go through on the data plane; a bad request or result fails alone."""
    message = messages.decode(parts)
    opens: list[Callable[[], Tree]] = []
    if isinstance(message, Infer):
        opens = [request.call for request in message.items]
    elif isinstance(message, Answers):
        opens = [result.tree for result in message.results]
    for open_tree in opens:
        try:
            tree = open_tree()
        except ProtocolError:
            continue
        for leaf in leaves(tree):
            if isinstance(leaf, Tensor):
                leaf.numpy()


READERS: dict[str, tuple[Callable[[Parts], object], list[Parts]]] = {
    "data": (read_data, [[bytes(part) for part in messages.encode(message)] for message in DATA.values()]),
    "control": (control.decode, [[bytes(part) for part in control.encode(message)] for message in CONTROL.values()]),
    "pool": (pool.decode, [[bytes(part) for part in pool.encode(message)] for message in POOL.values()]),
    "serve spec": (lambda parts: spec.decode_serve(parts[0]), [[spec.encode_serve(SERVE)]]),
    "child spec": (lambda parts: spec.decode_child(parts[0]), [[spec.encode_child(CHILD)]]),
}

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 4, 5, 6, 14, 127, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -1.0, 1e308, float("nan"), float("inf"), float("-inf"), "", "x", "\u0000", "é" * 40, b"", b"x" * 16),
    *([], [0], [True], [[]], [1, [1], {}], [2, 1, [0, 2**63], b""], [2, 0, [1], b"\x07"], [3, [2**40], 0], [4, 0]),
    *([5, 0], {}, {"": None}, {"a": [2, 1, [-1], b""]}, msgpack.Timestamp(1, 2), msgpack.ExtType(1, b"x")),
]


def flip_bits(random: Random, parts: Parts) -> Parts:
    head = bytearray(parts[0])
    for _ in range(random.choice((1, 1, 2, 5))):
        head[random.randrange(len(head))] ^= 1 << random.randrange(8)
    return [bytes(head), *parts[1:]]


def set_bytes(random: Random, parts: Parts) -> Parts:
    """Headers of other types where values were."""
    head = bytearray(parts[0])
    for _ in range(random.choice((1, 2))):
        head[random.randrange(len(head))] = random.choice(
            b"\x80\x81\x8f\x90\x91\x9f\xa0\xbf\xc0\xc1\xc3\xc4\xc6\xc7\xca\xcb\xcf\xd3\xd4\xd9\xdc\xdd\xde\xdf\xff"
        )
    return [bytes(head), *parts[1:]]


def truncate(random: Random, parts: Parts) -> Parts:
    return [parts[0][: random.randrange(len(parts[0]))], *parts[1:]]


def insert(random: Random, parts: Parts) -> Parts:
    at = random.randrange(len(parts[0]) + 1)
    return [parts[0][:at] + random.randbytes(random.choice((1, 2, 8))) + parts[0][at:], *parts[1:]]


def splice(random: Random, parts: Parts) -> Parts:
    """A slice of the head again, elsewhere."""
    head = parts[0]
    start, at = random.randrange(len(head)), random.randrange(len(head))
    piece = head[start : start + random.randrange(1, 40)]
    cut = random.choice((0, len(piece)))
    return [head[:at] + piece + head[at + cut :], *parts[1:]]


def swap_value(random: Random, parts: Parts) -> Parts:
    """One value of the head, at any depth, replaced, doubled or dropped; its MessagePack stays sound."""
    root = [msgpack.unpackb(parts[0])]
    node: Any = root
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            break
        key = random.choice(keys)
        child = node[key]
        if isinstance(child, (list, dict)) and child and random.random() < 0.85:
            node = child
            continue
        change = random.randrange(6)
        if change == 0 and isinstance(node, list) and node is not root:
            node.insert(key, child)
        elif change == 1 and node is not root:
            del node[key]
        else:
            node[key] = random.choice(ODD_VALUES)
        break
    return [msgpack.packb(root[0]), *parts[1:]]


def change_frames(random: Random, parts: Parts) -> Parts:
    frames = parts[1:]
    change = random.randrange(4)
    if change == 0 or not frames:
        frames.insert(random.randrange(len(frames) + 1), random.randbytes(random.choice((0, 4, 100))))
    elif change == 1:
        del frames[random.randrange(len(frames))]
    else:
        at = random.randrange(len(frames))
        frames[at] = frames[at][: random.randrange(len(frames[at]) + 1)] if change == 2 else frames[at] + b"\x00"
    return [parts[0], *frames]


MUTATIONS: list[Mutation] = [flip_bits, set_bytes, truncate, insert, splice, swap_value, swap_value, change_frames]


def test_only_protocol_error_comes_out_of_mutated_messages() -> None:
    random = Random(SEED)
    corpora = [(name, read, parts) for name, (read, corpus) in READERS.items() for parts in corpus]
    outcomes: Counter[tuple[str, bool]] = Counter()
    slowest_s = 0.0
    for case in range(CASES):
        name, read, parts = random.choice(corpora)
        mutation = random.choice(MUTATIONS)
        mutated = mutation(random, parts)
        if not random.randrange(4) and mutated[0]:
            mutated = random.choice(MUTATIONS[:-3])(random, mutated)
        start = SystemClock.now()
        try:
            read(mutated)
            accepted = True
        except ProtocolError:
            accepted = False
        except Exception as error:
            sent = [part.hex() for part in mutated]
            raise AssertionError(
                f"seed {SEED} case {case} {name} {mutation.__name__}: {error!r} from {sent}"
            ) from error
        slowest_s = max(slowest_s, SystemClock.now() - start)
        outcomes[mutation.__name__, accepted] += 1
    refused = sum(count for (_, accepted), count in outcomes.items() if not accepted)
    # Both ways often, or the mutations do not reach what they should.
    assert CASES * 0.3 < refused < CASES * 0.97, outcomes
    assert slowest_s < SLOW_S


def bombs() -> dict[str, bytes]:
    """Heads of some kB that ask for gigabytes or for a deep stack."""
    start = b"\x94\x01\x01\xc4\x10" + ORIGIN
    many = 2000
    return {
        "array of 4G": start + b"\xdd\xff\xff\xff\xff",
        "map of 4G": start + b"\xdf\xff\xff\xff\xff",
        "bin of 4G": start + b"\xc6\xff\xff\xff\xff",
        "str of 4G": start + b"\xdb\xff\xff\xff\xff",
        "ext of 4G": start + b"\xc9\xff\xff\xff\xff\x05",
        "1,000 nested arrays of as many elements as bytes": start + b"\xdc\xff\xff" * 1000 + bytes(70_000),
        "1,000 nested arrays of 64K": start + b"\xdc\xff\xff" * 1000,
        "1,000 nested maps of 64K": start + b"\xde\xff\xff\xa1x" * 1000,
        "100,000 nested arrays": b"\x91" * 100_000,
        "100,000 nested arrays in a field": start + b"\x91" * 100_000 + b"\xc0",
        "100,000 nested maps": start + b"\x81\xa1x" * 100_000 + b"\xc0",
        "900 nested arrays": start + b"\x91" * 900 + b"\xc0",
        "100,000 empty arrays": start + b"\xdd" + (100_000).to_bytes(4, "big") + b"\x90" * 100_000,
        "many requests of nothing": start + b"\xdc" + many.to_bytes(2, "big") + b"\xc0" * many,
    }


@pytest.mark.parametrize("name", bombs())
@pytest.mark.parametrize("reader", READERS)
def test_bomb_is_refused_in_bounded_memory_and_time(name: str, reader: str) -> None:
    read, bomb = READERS[reader][0], bombs()[name]
    tracemalloc.start()
    try:
        start = SystemClock.now()
        with pytest.raises(ProtocolError):
            read([bomb])
        took_s = SystemClock.now() - start
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An empty list of one byte is 64 bytes of Python.
    assert peak < 100 * len(bomb) + 1_000_000
    assert took_s < SLOW_S


@pytest.mark.parametrize("tag", [0, 1])
def test_deep_tree_in_a_sound_head_fails_with_its_request(tag: int) -> None:
    deep: Any = None
    for _ in range(400):
        deep = [tag, deep]
    row = [1, 0, 0, False, 1, 2, 0, 1, 0, "m", b"", "", "", [1, [1, deep], {}], 0]
    message = messages.decode([messages.pack_head(messages.INFER, ORIGIN, [row])])
    assert isinstance(message, Infer)
    with pytest.raises(ProtocolError, match=f"{limits.TREE_DEPTH_MAX} levels"):
        message.items[0].call()


def test_huge_numbers_in_a_shape_cost_nothing() -> None:
    shape = [2**64 - 1] * limits.TENSOR_RANK_MAX
    row = [1, 0, 0, False, 1, 2, 0, 1, 0, "m", b"", "", "", [1, [1, [2, 11, shape, b""]], {}], 0]
    message = messages.decode([messages.pack_head(messages.INFER, ORIGIN, [row])])
    assert isinstance(message, Infer)
    with pytest.raises(ProtocolError, match=r"needs \d+ bytes, got 0"):
        message.items[0].call()
