"""The load generator over HTTP, without a server."""

from __future__ import annotations

from benchmarks.http_load import Connection, HttpLoad


def test_a_connection_that_the_server_gave_up_is_not_used() -> None:
    load = HttpLoad("127.0.0.1", 80, b"", warmup_s=0.0, duration_s=1.0)
    kept, given_up = (Connection(load._answered) for _ in range(2))
    load._idle.extend([kept, given_up])
    given_up.data_received(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    given_up.connection_lost(None)
    assert list(load._idle) == [kept]
    assert load._in_flight == 0
    assert not load._errors
