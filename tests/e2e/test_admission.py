"""Who cannot be served in time hears it at once, with real processes and a latency table that was given."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Callable

import pytest

from tests.e2e.harness import Server, infer_body, post

pytestmark = pytest.mark.e2e

NAP_S = 0.3
BUDGET_S = 1.0


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """One request at a time, 0.3 s each."""
    return serve("--max-batch-size", "1", "--latency-table-ms", f"1:{NAP_S * 1e3:g}")


def refused(server: Server) -> int:
    """How many the API server refused before it sent them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    name = "paceline_requests_refused_total "
    return next(int(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def test_who_would_wait_too_long_is_refused_and_who_was_taken_is_served(server: Server) -> None:
    async def scenario() -> None:
        urgent = infer_body([[NAP_S]], "nap", priority=-1)
        naps = [asyncio.create_task(post(server.port, urgent)) for _ in range(12)]
        started = time.monotonic()
        answers = []
        # The worker tells what waits once it has seen it: who comes before that may still be taken.
        while time.monotonic() - started < 12 * NAP_S and not await asyncio.to_thread(refused, server):
            body = infer_body([[NAP_S]], "nap", timeout=int(BUDGET_S * 1e6))
            answers.append(await post(server.port, body))
        status, refusal = answers[-1]
        assert (status, refusal["code"]) == (503, "infeasible_now"), answers
        assert "after its deadline under the present load" in refusal["error"]
        assert [status for status, _ in await asyncio.gather(*naps)] == [200] * 12

    asyncio.run(scenario())
    assert refused(server) == 1
    assert server.infer([[1.0]])[0] == 200
    status, body = server.infer([[1.0]], timeout=100_000)
    assert (status, body["code"]) == (400, "invalid_parameter")
    assert "1 row(s) of 'probe' take 300 ms alone, by its latency table; allow 301 ms or more" in body["error"]
