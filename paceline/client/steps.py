"""The course of a prediction over HTTP, without I/O: which requests to send, when to pause, what to return.

A generator yields an HttpRequest and is sent its Response, or yields a Pause; its value is the result. The blocking and
the asyncio client drive the same steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from paceline.client import oip
from paceline.client.call import Call, Outputs, option_hint, retry_pause_s
from paceline.client.http1 import Response
from paceline.client.oip import HttpRequest, Inputs
from paceline.protocol.errors import InvalidInput, InvalidParameter, RequestError

T = TypeVar("T")
_KNOWN_MAX = 1024
_NO_INPUTS = Inputs((), {})


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Steps: TypeAlias = Generator[HttpRequest | Pause, Response | None, T]


class PredictSteps:
    """Predictions at one server; it remembers what the server said of each method's inputs."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._known: dict[tuple[str, str | None, str | None], Inputs] = {}

    def predict(self, call: Call) -> Steps[Outputs]:
        """One prediction; refusals that say that a retry may help are tried again as often as the client was asked."""
        tries = 0
        while True:
            try:
                return (yield from self._predict_once(call))
            except RequestError as error:
                pause_s = retry_pause_s(error, tries, self._retries, call)
                if pause_s is None:
                    raise
            tries += 1
            yield Pause(pause_s)

    def _predict_once(self, call: Call) -> Steps[Outputs]:
        key = (call.model, call.version, call.method)
        inputs = self._known.get(key)
        if inputs is None:
            inputs = yield from self._inputs(call, key)
        response = yield oip.infer_request(call, inputs)
        assert response is not None
        try:
            return oip.infer_answer(response)
        except (InvalidInput, InvalidParameter) as error:
            self._known.pop(key, None)  # the model may be another one by now
            hint = option_hint(call.named, inputs.names)
            if hint:
                raise type(error)(error.message + hint) from error
            raise

    def _inputs(self, call: Call, key: tuple[str, str | None, str | None]) -> Steps[Inputs]:
        """Ask for names and dtypes where they are needed: for positional arguments and for values without a dtype."""
        if not call.args and all(hasattr(value, "dtype") for value in call.named.values()):
            return _NO_INPUTS
        response = yield HttpRequest("GET", oip.model_target(call.model, call.version), {})
        assert response is not None
        inputs = oip.read_inputs(oip.read_metadata(response), call.method)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[key] = inputs
        return inputs


def metadata_steps(model: str, version: str | None) -> Steps[dict[str, object]]:
    response = yield HttpRequest("GET", oip.model_target(model, version), {})
    assert response is not None
    return oip.read_metadata(response)


def ready_steps(model: str | None, version: str | None) -> Steps[bool]:
    target = "/v2/health/ready" if model is None else oip.model_target(model, version, "/ready")
    response = yield HttpRequest("GET", target, {})
    assert response is not None
    return response.status == 200
