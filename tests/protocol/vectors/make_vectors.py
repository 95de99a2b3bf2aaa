"""Write the vectors beside this file: `python -m tests.protocol.vectors.make_vectors`, once per protocol version.

A vector that changes is a change of the wire: raise VERSION in protocol/head.py with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack

from paceline.protocol import control, messages, pool
from paceline.protocol.head import VERSION
from paceline.protocol.tensor import Buffer
from tests.protocol.corpus import CONTROL, DATA, ORIGIN, POOL, meaning

HERE = Path(__file__).parent

DESCRIPTIONS = {
    "infer_small": "One request with one float32 tensor of 64 bytes, which travels inside the head.",
    "infer_frames": "Three requests: two with tensors over 4,096 bytes as frames of their own, one with plain values.",
    "infer_dtypes": "One keyword argument of each dtype, bytes 0, 1, 2, ... (bool: 0, 1, 0, ...).",
    "infer_remote": "Over tcp: fields 4 and 5 are the age (250,000 us) and the time left (29,750,000 us).",
    "infer_long_values": "Bytes, text and strings over 4,096 bytes are frames; strings in one as u32 length and bytes.",
    "cancel": "Three requests that nobody waits for any more.",
    "answers": "Two results, one refusal with Retry-After, one CANCELLED that only returns credit.",
    "answers_frames": "Three results, of which the first has one frame.",
    "answers_empty": "Nothing to say: valid, and ignored.",
    "forecast": "Two workers, 12 rows queued in two classes, two tables of three sizes and of one, the last one given.",
    "forecast_idle": "Nothing waits, and nothing is known.",
    "hello": "A worker's first message to the supervisor.",
    "child_state": "A worker is ready at its address, and at one for clients on other machines.",
    "topology": "One host, one lost host whose two started requests are known, one runner given up.",
    "welcome": "The answer to a client's Hello; its bytes are a ServeSpec.",
    "drain": "Finish within 30 s.",
    "status_request": "Asks for Status.",
    "status": "The supervisor's answer, with one process.",
    "profile_request": "Asks for a trace of 5 s of worker 1 of a runner.",
    "profile_request_any": "Asks for one of the busiest worker.",
    "seen": "An API server goes by version 7 of the topology.",
    "trace": "The supervisor has a worker record 5 s.",
    "profile_done": "A trace of 120 batches is written.",
    "profile_failed": "No trace: there is no such runner.",
    "join": "A worker joins its broker with the digest of its model and two measurements of its warm-up.",
    "work": "A batch of three requests of two origins, one frame.",
    "work_begun": "The first of several messages of one batch; its request was started before and is a suspect.",
    "done": "The answers of a batch: one whole Answers message for each of two origins.",
    "done_capped": "The end of a batch that memory did not hold at once.",
    "leave": "A worker wants to go.",
    "refused_worker": "A worker has another model than its runner serves.",
    "released": "A worker that wants to go gets no more work.",
}


def refused() -> list[dict[str, Any]]:
    """Messages of the data plane that every reader must refuse."""

    def head(*fields: object) -> bytes:
        return bytes(msgpack.packb((VERSION, *fields)))

    request = [1, 0, 0, False, 1, 2, 0, 1, 0, "__call__", b"", "", "", [1, [1], {}], 0]
    table = ["__call__", b"", 0, False, 64]
    cases: list[tuple[str, Sequence[bytes]]] = [
        ("no head", []),
        ("empty head", [b""]),
        ("another version", [bytes(msgpack.packb((VERSION + 1, 2, ORIGIN, [])))]),
        ("unknown kind", [head(99, ORIGIN, [])]),
        ("a byte after the head", [head(2, ORIGIN, []) + b"\xc0"]),
        ("head cut short", [head(2, ORIGIN, [1])[:-1]]),
        ("an array that claims 4,294,967,295 elements", [b"\x93\x01\x01\xdd\xff\xff\xff\xff"]),
        ("2,000 nested arrays", [b"\x91" * 2_000]),
        ("an ext type", [head(2, ORIGIN, [msgpack.ExtType(5, b"x")])]),
        ("a map with an integer key", [head(1, ORIGIN, [[*request[:13], [1, [1], {1: 2}], 0]])]),
        ("text that is not UTF-8", [head(1, ORIGIN, [request]).replace(b"__call__", b"__c\xff\xffl__")]),
        ("an origin of 15 bytes", [head(2, ORIGIN[:15], [])]),
        ("a request without a frame that it claims", [head(1, ORIGIN, [[*request[:14], 1]])]),
        ("a frame that no request claims", [head(1, ORIGIN, [request]), b"data"]),
        ("a request of 0 rows", [head(1, ORIGIN, [[*request[:7], 0, *request[8:]]])]),
        ("a negative counter", [head(1, ORIGIN, [[-1, *request[1:]]])]),
        ("a counter that is true", [head(1, ORIGIN, [[True, *request[1:]]])]),
        ("a counter that is a float", [head(2, ORIGIN, [1.0])]),
        ("a request of 14 fields", [head(1, ORIGIN, [request[:14]])]),
        ("a forecast with NaN", [head(4, 1, 1, float("nan"), [], [], [])]),
        ("a forecast of 9 points", [head(4, 1, 9, 1.0, [], [], [[0, 1, 1]] * 9)]),
        ("a forecast with a table that does not rise", [head(4, 1, 1, 1.0, [], [[*table, [2, 2], [1.0, 1.0]]], [])]),
        ("a failure that asks to wait for ever", [head(3, ORIGIN, [], [[1, 0, "x", "x", float("inf")]])]),
    ]
    return [{"description": text, "parts": [part.hex() for part in parts]} for text, parts in cases]


def refused_calls() -> list[dict[str, Any]]:
    """Sound messages with one request whose arguments every reader must refuse, and the request alone."""
    deep: object = 1
    for _ in range(9):
        deep = [0, deep]
    cases: list[tuple[str, object, list[bytes]]] = [
        ("arguments that are not a pair", [1, [1]], []),
        ("positional arguments in a list", [1, [0], {}], []),
        ("an array without a tag", [1, [1, []], {}], []),
        ("an unknown tag", [1, [1, [6, 1]], {}], []),
        ("a tag that is true", [1, [1, [True, 1]], {}], []),
        ("10 levels", [1, [1, deep], {}], []),
        ("1,025 nodes", [1, [1, [0, *[None] * 1025]], {}], []),
        ("dtype code 14", [1, [1, [2, 14, [1], b"x"]], {}], []),
        ("dtype code -1", [1, [1, [2, -1, [1], b"x"]], {}], []),
        ("a dtype by name", [1, [1, [2, "u8", [1], b"x"]], {}], []),
        ("shape product unlike the byte count", [1, [1, [2, 1, [2], b"x"]], {}], []),
        ("a negative dimension", [1, [1, [2, 1, [-1, -1], b"x"]], {}], []),
        ("a dimension that is a float", [1, [1, [2, 1, [1.0], b"x"]], {}], []),
        ("a product over 64 bits", [1, [1, [2, 1, [2**63, 2**63], b""]], {}], []),
        ("an empty tensor that numpy cannot hold", [1, [1, [2, 1, [0, 2**63], b""]], {}], []),
        ("17 dimensions", [1, [1, [2, 1, [1] * 17, b"x"]], {}], []),
        ("a bool that is 2", [1, [1, [2, 0, [1], b"\x02"]], {}], []),
        ("a frame that is not there", [1, [1, [2, 1, [1], 1]], {}], [b"x"]),
        ("a frame index of -1", [1, [1, [2, 1, [1], -1]], {}], [b"x"]),
        ("strings with a missing item", [1, [1, [3, [2], [b"x"]]], {}], []),
        ("strings with text for bytes", [1, [1, [3, [1], ["x"]]], {}], []),
        ("a strings frame that ends inside an item", [1, [1, [3, [1], 0]], {}], [b"\x05\0\0\0abc"]),
        ("a strings frame with an item too many", [1, [1, [3, [1], 0]], {}], [b"\0\0\0\0" * 2]),
        ("a text frame that is not UTF-8", [1, [1, [5, 0]], {}], [b"\xff"]),
    ]
    vectors = []
    for text, packed, frames in cases:
        row = [1, 0, 0, False, 1, 2, 0, 1, 0, "__call__", b"", "", "", packed, len(frames)]
        parts = [bytes(msgpack.packb((VERSION, 1, ORIGIN, [row]))), *frames]
        vectors.append({"description": text, "parts": [part.hex() for part in parts]})
    return vectors


def refused_pool() -> list[dict[str, Any]]:
    """Messages of the pool plane that every reader must refuse."""

    def head(*fields: object) -> bytes:
        return bytes(msgpack.packb((VERSION, *fields)))

    request = [1, 0, 0, False, 1, 2, 0, 1, 0, "__call__", b"", "", "", [1, [1], {}], 0]
    cases: list[tuple[str, Sequence[bytes]]] = [
        ("a kind of the data plane", [head(2, ORIGIN, [])]),
        ("a Join with a rung of 0 rows", [head(32, "cpu", "ab", [["m", b"", 0, 0.5]])]),
        ("a Join with a rung that took NaN", [head(32, "cpu", "ab", [["m", b"", 1, float("nan")]])]),
        ("a Join with a frame", [head(32, "cpu", "ab", []), b"x"]),
        ("a Work of 3 fields", [head(33, 1, True, [])]),
        ("a Work whose batch id is true", [head(33, True, True, 1, [])]),
        ("a Work of -1 rows", [head(33, 1, True, -1, [])]),
        ("a Work with an origin of 15 bytes", [head(33, 1, True, 1, [[ORIGIN[:15], [request]]])]),
        ("a Work with a request of 14 fields", [head(33, 1, True, 1, [[ORIGIN, [request[:14]]]])]),
        ("a Work with a frame that no request claims", [head(33, 1, True, 1, [[ORIGIN, [request]]]), b"x"]),
        ("a Done that claims a part too many", [head(34, 1, True, 0.5, True, None, [[ORIGIN, 2]]), b"x"]),
        ("a Done with a part that no message claims", [head(34, 1, True, 0.5, True, None, []), b"x"]),
        ("a Done with a message of no parts", [head(34, 1, True, 0.5, True, None, [[ORIGIN, 0]])]),
        ("a Done that took for ever", [head(34, 1, True, float("inf"), True, None, [])]),
        ("a Done with a cap of 0 rows", [head(34, 1, True, 0.5, True, 0, [])]),
        ("a Leave with a field", [head(35, 1)]),
        ("a Refused without a reason", [head(36)]),
        ("a Released with a frame", [head(37), b"x"]),
    ]
    return [{"description": text, "parts": [part.hex() for part in parts]} for text, parts in cases]


def main() -> None:
    for name, data in DATA.items():
        _write_message(name, "data", messages.encode(data), meaning(data))
    for name, word in CONTROL.items():
        _write_message(name, "control", control.encode(word), meaning(word))
    for name, said in POOL.items():
        _write_message(name, "pool", pool.encode(said), meaning(said))
    _write("refused", refused())
    _write("refused_pool", refused_pool())
    _write("refused_calls", refused_calls())


def _write_message(name: str, plane: str, parts: Sequence[Buffer], message: object) -> None:
    hexes = [bytes(part).hex() for part in parts]
    _write(name, {"description": DESCRIPTIONS[name], "plane": plane, "parts": hexes, "message": message})


def _write(name: str, value: object) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
