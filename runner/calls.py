"""What the worker hands to the executor and gets back: calls, their outcomes, and what the run taught.

Types only. Pure: no torch, no clock; the worker builds `Call`s from messages and turns a `BatchRun` into answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from paceline.protocol.errors import PacelineError, RequestError
from paceline.protocol.hot_record import hot_record
from paceline.protocol.tree import Tree


@hot_record
@dataclass(frozen=True, slots=True)
class Call:
    """One request's call of a method. `rows` counts along the input batch dim (1 where the method is not batchable);
    `deadline_s` is on the clock that `Executor.run` is given; `request_id` only names the request in logs."""

    args: tuple[Tree, ...] = ()
    kwargs: dict[str, Tree] = field(default_factory=dict)
    rows: int = 1
    deadline_s: float = math.inf
    request_id: str = ""


Outcome: TypeAlias = "Tree | RequestError"


@dataclass(frozen=True, slots=True)
class BatchRun:
    """What became of one batch.

    `outcomes`: one per call, in call order. `learn`: one forward did it all and nothing failed, so that its duration
    says what a batch of this size costs. `cap_rows`: the size that memory still holds, when a larger one ran out.
    """

    outcomes: list[Outcome]
    learn: bool
    cap_rows: int | None = None


class DeviceBroken(PacelineError):
    """The device's context is lost (device assert, illegal address, ...): every further call would fail too, or
    worse, answer wrongly. The worker process must exit; none of the batch's calls has been answered."""
