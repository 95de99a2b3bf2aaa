"""A dispatch host without a model: answers each request at once with its own first argument.

`python -m tests.api_server.fake_host ipc://PATH`: to measure the API server alone.
"""

from __future__ import annotations

import sys

from paceline.protocol.channel import Channels, wait
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, Result, decode, encode


def answer(message: Infer) -> Answers:
    """Each request's first argument, as the result of a batch of all."""
    rows = sum(item.rows for item in message.items)
    results = []
    for item in message.items:
        # [TUPLE, [TUPLE, first, ...], {}]: the packed form of the first argument, forwarded untouched.
        first = item.packed[1][1]  # type: ignore[index]
        results.append(Result(item.counter, item.attempt, rows, 1, 1, first, item.frames))
    return Answers(message.origin, tuple(results))


def main() -> None:
    with Channels() as channels:
        socket = channels.bind(sys.argv[1])
        while True:
            wait([socket], None)
            for peer, parts in socket.drain():
                message = decode(parts)
                if isinstance(message, Infer):
                    socket.send(peer, encode(answer(message)))
                elif isinstance(message, Cancel):
                    failures = tuple(Failure(counter, 0, "cancelled", "") for counter in message.counters)
                    socket.send(peer, encode(Answers(message.origin, (), failures)))


if __name__ == "__main__":
    main()
