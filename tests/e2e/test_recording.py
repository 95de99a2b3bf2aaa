"""A real server records its decisions; the recording replays to the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.runner.dispatcher import Arrived, Dispatch, Dispatcher
from paceline.runner.recording import Header, Step, read
from tests.e2e.harness import Server

pytestmark = pytest.mark.e2e


def test_what_a_server_decided_is_in_the_file_and_replays(serve: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    server = serve("--record", str(path))
    announced = server.event("recording")
    assert announced is not None
    assert announced["paths"] == [str(path)]
    for value in range(5):
        assert server.infer([[float(value)]])[0] == 200
    assert server.stop() == 0
    with path.open("rb") as lines:
        header, *steps = [entry for _, entry in read(lines)]
    assert isinstance(header, Header)
    assert (header.runner, header.index, header.profile) == ("probe", 0, "cpu")
    replayed = Dispatcher(header.config)
    arrivals = batches = 0
    for step in steps:
        assert isinstance(step, Step)
        assert tuple(replayed.handle_all(step.events, step.now)) == step.actions
        arrivals += sum(isinstance(event, Arrived) for event in step.events)
        batches += sum(isinstance(action, Dispatch) for action in step.actions)
    assert arrivals == batches == 5
