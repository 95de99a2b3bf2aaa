"""Where runner handles send their calls: an API server's hosts, or the engine of this process. A seam, no policy.

Handles make RunnerCalls and know a RunnerPort; whoever serves gives them one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from paceline.protocol.messages import Result
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tree import Tree


@dataclass(frozen=True, slots=True)
class RunnerCall:
    """One call of a runner's method, checked, measured (`key`, `rows`, `length`: see measure.Measure) and ready to be
    sent. `nbytes`: its payload. `budget_s`: what its caller has left, inf where nobody waits by a clock."""

    runner: str
    method: MethodSpec
    args: tuple[Tree, ...]
    kwargs: dict[str, Tree]
    key: bytes
    rows: int
    length: int
    nbytes: int
    budget_s: float
    priority: int = 0
    request_id: str = ""
    traceparent: str = ""


class RunnerPort(Protocol):
    """See the module."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `infer` is to be awaited; other threads hand it over to there."""
        ...

    async def infer(self, call: RunnerCall) -> Result:
        """The call's answer, within its budget and the runner's own. Cancelling the task cancels the request.

        Raises RequestError.
        """
        ...

    def methods(self, runner: str) -> Mapping[str, MethodSpec]:
        """What `runner` offers. Raises ModelNotFound if it is not served here."""
        ...
