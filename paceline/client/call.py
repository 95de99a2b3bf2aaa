"""One prediction as the caller asked for it, before any transport, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from paceline.client.arrays import Array
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded, InvalidParameter, RequestError
from paceline.protocol.limits import REQUEST_ID_CHARS_MAX

# How long past its deadline a server is waited for: its own 504 keeps the connection, only a silent one costs it.
ANSWER_GRACE_S = 0.05
# How long an answer is waited for if the caller names no time-out.
TIMEOUT_S = 30.0
_PRIORITY_MAX = 2**31 - 1
# Options under the names that other clients have for them.
_MEANT = {
    "timeout": "the time-out is timeout_s=, in seconds",
    "timeout_ms": "the time-out is timeout_s=, in seconds",
    "client_timeout": "the time-out is timeout_s=, in seconds",
    "deadline": "the time-out is timeout_s=, in seconds from now",
    "model_version": "the version is version=",
}
_PAUSE_S = 0.1
_PAUSE_MAX_S = 10.0


class Outputs(dict[str, Array]):
    """Arrays by output name. `batch_rows`: the rows of the batch that the call ran in, 0 if the server did not say."""

    __slots__ = ("batch_rows",)

    def __init__(self, arrays: Iterable[tuple[str, Array]], batch_rows: int = 0) -> None:
        super().__init__(arrays)
        self.batch_rows = batch_rows


Prediction: TypeAlias = Array | Outputs


@dataclass(frozen=True, slots=True)
class Call:
    """`deadline` is in seconds of the monotonic clock; `given`: the caller named the time-out, so it is the server's
    deadline too, in place of the model's latency budget. `method` None = the model's default one."""

    model: str
    version: str | None
    method: str | None
    args: tuple[object, ...]
    named: dict[str, object]
    timeout_s: float
    deadline: float
    given: bool
    priority: int
    request_id: str | None

    def remaining_s(self) -> float:
        """Seconds until the deadline. Raises DeadlineExceeded if none are left."""
        left = self.deadline - SystemClock.now()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"model {self.model!r}: no answer within the time-out of {self.timeout_s:g} s")


def make_call(
    model: str,
    args: tuple[object, ...],
    named: dict[str, object],
    *,
    method: str | None,
    version: str | int | None,
    timeout_s: float | None,
    priority: int,
    request_id: str | None,
) -> Call:
    """Check what is not an array. Raises InvalidParameter that says what was given and expected."""
    name, text = split_model(model, version)
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > _PRIORITY_MAX:
        raise InvalidParameter(f"priority is {priority!r}, expected an integer, 0 being usual and lower more urgent")
    if request_id is not None and not _is_id(request_id):
        raise InvalidParameter(
            f"request_id is {request_id!r}, expected 1 to {REQUEST_ID_CHARS_MAX} visible ASCII characters"
        )
    given = timeout_s is not None
    checked_s = check_timeout(timeout_s)
    deadline = SystemClock.now() + checked_s
    return Call(name, text, method, args, named, checked_s, deadline, given, priority, request_id)


def split_model(model: str, version: str | int | None = None) -> tuple[str, str | None]:
    """(name, version) of "name", "name:version" or "name@alias", as the command line writes them too.

    Raises InvalidParameter, also where the version is given twice.
    """
    if not isinstance(model, str) or not model:
        raise InvalidParameter(f"model is {model!r}, expected the name of a served model")
    text = None if version is None else str(version)
    mark = "@" if "@" in model else ":"
    name, found, given = model.partition(mark)
    if not found:
        return model, text
    if not name or not given:
        raise InvalidParameter(f"model is {model!r}; expected a name, or name:version such as my_model:3")
    if text is not None and text != given:
        raise InvalidParameter(
            f"model {model!r} names the version {given!r}, version={text!r} another; give one of them"
        )
    return name, given


def option_hint(named: Iterable[str], known: Iterable[str]) -> str:
    """What to say where an input that the model does not have was meant as an option of the call."""
    hints = [f" {name} is no input; {_MEANT[name]}." for name in sorted({*named} - {*known}) if name in _MEANT]
    return "".join(hints)


def retry_pause_s(error: RequestError, tries: int, retries: int, call: Call) -> float | None:
    """Seconds to wait before trying again, None = do not: as the server says, else growing, never past the deadline."""
    if tries >= retries or not error.retryable:
        return None
    pause_s = error.retry_after_s if error.retry_after_s is not None else min(_PAUSE_MAX_S, _PAUSE_S * 2.0**tries)
    return pause_s if SystemClock.now() + pause_s < call.deadline else None


def check_timeout(timeout_s: object) -> float:
    """`timeout_s`, if it is a number of seconds over 0; TIMEOUT_S for None. Raises InvalidParameter."""
    if timeout_s is None:
        return TIMEOUT_S
    if isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool) and 0 < timeout_s < math.inf:
        return float(timeout_s)
    raise InvalidParameter(f"timeout_s is {timeout_s!r}, expected a number of seconds > 0")


def single(outputs: Outputs) -> Prediction:
    """One output is the array itself, several stay a dict by output name in the model's order."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _is_id(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= REQUEST_ID_CHARS_MAX and all("!" <= c <= "~" for c in text)
