"""The committed bytes against this code, both ways: whoever implements protocol/README.md can test with the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paceline.protocol import control, messages
from paceline.protocol.errors import ProtocolError
from paceline.protocol.messages import Infer
from tests.protocol.corpus import CONTROL, DATA, meaning

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
    assert {path.stem for path in VECTORS.glob("*.json")} == {*DATA, *CONTROL, "refused", "refused_calls"}
