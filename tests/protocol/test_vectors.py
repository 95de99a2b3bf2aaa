"""The committed bytes against this code, both ways: whoever implements protocol/README.md can test with the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paceline.protocol import control, dtypes, messages, pool
from paceline.protocol.errors import ProtocolError
from paceline.protocol.head import unpack_head
from paceline.protocol.messages import Infer
from tests.protocol.corpus import CONTROL, DATA, POOL, meaning

VECTORS = Path(__file__).parent / "vectors"


def vector(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def parts_of(case: Any) -> list[bytes]:
    return [bytes.fromhex(part) for part in case["parts"]]


@pytest.mark.parametrize("name", DATA)
def test_data_message_has_the_committed_bytes_and_meaning(name: str) -> None:
    committed = vector(name)
    assert [bytes(part).hex() for part in messages.encode(DATA[name])] == committed["parts"]
    assert meaning(messages.decode(parts_of(committed))) == committed["message"]


@pytest.mark.parametrize("name", CONTROL)
def test_control_message_has_the_committed_bytes_and_meaning(name: str) -> None:
    committed = vector(name)
    assert [bytes(part).hex() for part in control.encode(CONTROL[name])] == committed["parts"]
    assert meaning(control.decode(parts_of(committed))) == committed["message"]


@pytest.mark.parametrize("name", POOL)
def test_pool_message_has_the_committed_bytes_and_meaning(name: str) -> None:
    committed = vector(name)
    assert [bytes(part).hex() for part in pool.encode(POOL[name])] == committed["parts"]
    assert meaning(pool.decode(parts_of(committed))) == committed["message"]


@pytest.mark.parametrize("case", vector("refused_pool"), ids=lambda case: case["description"])
def test_reader_of_the_pool_plane_refuses_the_message(case: Any) -> None:
    with pytest.raises(ProtocolError):
        pool.decode(parts_of(case))


@pytest.mark.parametrize("case", vector("refused"), ids=lambda case: case["description"])
def test_reader_refuses_the_message(case: Any) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(parts_of(case))


@pytest.mark.parametrize("case", vector("refused_calls"), ids=lambda case: case["description"])
def test_reader_refuses_the_request_and_not_its_message(case: Any) -> None:
    message = messages.decode(parts_of(case))
    assert isinstance(message, Infer)
    with pytest.raises(ProtocolError):
        message.items[0].call()


def test_every_vector_file_is_tested() -> None:
    assert {path.stem for path in VECTORS.glob("*.json")} == {
        *DATA,
        *CONTROL,
        *POOL,
        "refused",
        "refused_calls",
        "refused_pool",
    }


README = (Path(__file__).parents[2] / "protocol" / "README.md").read_text(encoding="utf-8")


def test_readme_lists_every_kind_under_its_number() -> None:
    listed = {name: int(kind) for kind, name in re.findall(r"^\| (\d+) \| ([A-Z]\w+) \|", README, re.MULTILINE)}
    sent = [
        *map(messages.encode, DATA.values()),
        *map(control.encode, CONTROL.values()),
        *map(pool.encode, POOL.values()),
    ]
    kinds = [unpack_head(parts[0])[1] for parts in sent]
    every = [*DATA.values(), *CONTROL.values(), *POOL.values()]
    assert listed == {type(message).__name__: kind for message, kind in zip(every, kinds)}


def test_readme_lists_every_dtype_under_its_code() -> None:
    rows = re.findall(r"\| (\d+) \| (\w+) \| ([A-Z]+\d*) \| (\d+) (?=\|)", README)
    assert sorted((int(code), name, oip, int(size)) for code, name, oip, size in rows) == [
        (dtype.code, dtype.name, dtype.oip, dtype.itemsize) for dtype in dtypes.ALL
    ]
