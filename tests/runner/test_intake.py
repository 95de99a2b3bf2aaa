"""What a request means to the dispatcher."""

from __future__ import annotations

from dataclasses import replace

from paceline.protocol import messages
from paceline.protocol.messages import Infer
from paceline.runner.dispatcher import Arrived, Event
from paceline.runner.intake import Intake
from paceline.runner.outbox import Outbox
from tests.runner.host_fakes import ALICE, METHODS, Peers


def test_a_request_arrives_with_its_rows_and_the_length_that_it_needs() -> None:
    peers = Peers()
    intake = Intake(METHODS, Outbox(peers.port.send))
    item = replace(peers.item(1, rows=3), length=128)
    events: list[Event] = []
    intake.receive(ALICE, messages.encode(Infer(ALICE, (item,))), events, peers.clock.now_ns())
    (arrived,) = events
    assert isinstance(arrived, Arrived)
    assert (arrived.request_id, arrived.key, arrived.rows, arrived.length) == (
        (ALICE, 1),
        ("__call__", item.key),
        3,
        128,
    )
