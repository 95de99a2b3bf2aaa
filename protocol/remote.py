"""Peers on other machines: how they are told from local ones, and what time means between two clocks. Pure.

Their identity starts with another byte, so that no map of peers is needed, and no remote peer can take a local one's
name. Their requests carry microseconds (age and time left) in the two fields where a local request has its arrival and
deadline on the clock of this machine; the host, which knows by which socket a message came, stamps them anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from paceline.protocol.messages import Forecast, Infer, InferItem

LOCAL_FIRST: Final = b"\x01"
REMOTE_FIRST: Final = b"\x02"
_REMOTE = REMOTE_FIRST[0]


def is_remote(peer: bytes) -> bool:
    """Whether the identity `peer` is that of a client on another machine."""
    return peer[0] == _REMOTE


def as_sent(items: Iterable[InferItem], now_ns: int) -> tuple[InferItem, ...]:
    """`items` as they travel over tcp: age and time left at `now_ns`, in microseconds."""
    return tuple(
        [
            replace(
                item,
                arrival_ns=max(0, now_ns - item.arrival_ns) // 1000,
                deadline_ns=max(0, item.deadline_ns - now_ns) // 1000,
            )
            for item in items
        ]
    )


def as_received(message: Infer, now_ns: int, budget_ns_max: int) -> Infer:
    """A message that came over tcp, its times on this clock. Nobody has more than `budget_ns_max` left."""
    items = [
        replace(
            item,
            arrival_ns=max(0, now_ns - item.arrival_ns * 1000),
            deadline_ns=now_ns + min(item.deadline_ns * 1000, budget_ns_max),
        )
        for item in message.items
    ]
    return Infer(message.origin, tuple(items))


def forecast_as_received(forecast: Forecast, now_ns: int) -> Forecast:
    """A host's forecast that came over tcp, its times on this clock, all later by the time that it was on its way: what
    an answer will need to come back."""
    shift_ns = now_ns - forecast.at_ns
    return replace(
        forecast,
        at_ns=now_ns,
        free_at_ns=tuple([time_ns and max(0, time_ns + shift_ns) for time_ns in forecast.free_at_ns]),
        backlog=tuple([replace(point, deadline_ns=point.deadline_ns + shift_ns) for point in forecast.backlog]),
    )
