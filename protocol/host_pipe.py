"""The way to one dispatch host: its pipe, and how requests are cut into messages for it. Called by Hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from paceline.protocol import limits
from paceline.protocol.channel import AsyncSocket, Channels
from paceline.protocol.messages import Infer, InferItem, encode
from paceline.protocol.tensor import Buffer

FRAMES_PER_MESSAGE = 1024


class Pipe(Protocol):
    """One host's connection: AsyncSocket, or a fake."""

    def send(self, parts: list[Buffer]) -> bool: ...

    def deliver(self) -> None: ...

    def close(self) -> None: ...


Connect: TypeAlias = Callable[[str, Callable[[list[Buffer]], None]], Pipe]
AsSent: TypeAlias = Callable[[list[InferItem]], tuple[InferItem, ...]]


def connector(channels: Channels, incarnation: bytes, loop: asyncio.AbstractEventLoop) -> Connect:
    """How Hosts reaches them over ZeroMQ, known to them as `incarnation`."""

    def connect(address: str, on_message: Callable[[list[Buffer]], None]) -> AsyncSocket:
        return AsyncSocket(channels.connect(address, incarnation), loop, on_message)

    return connect


def infer_messages(
    origin: bytes, items: list[InferItem], as_sent: AsSent = tuple
) -> Iterator[tuple[list[InferItem], list[Buffer]]]:
    """`items` as messages of at most 64 requests, about 1 MB and 1,024 frames; one larger request goes alone.

    What an encoded message weighs is known only then, so one that is too large is halved: only heads are redone.
    `as_sent` turns items into what travels: over tcp with other times.
    """
    for at in range(0, len(items), limits.MESSAGE_REQUESTS_MAX):
        part = items[at : at + limits.MESSAGE_REQUESTS_MAX]
        message = encode(Infer(origin, as_sent(part)))
        if len(part) == 1 or not _too_large(message):
            yield part, message
            continue
        half = len(part) // 2
        yield from infer_messages(origin, part[:half], as_sent)
        yield from infer_messages(origin, part[half:], as_sent)


def _too_large(message: list[Buffer]) -> bool:
    if len(message) == 1:
        return len(message[0]) > limits.MESSAGE_BYTES_CUT
    size = sum([part.nbytes if isinstance(part, memoryview) else len(part) for part in message])
    return size > limits.MESSAGE_BYTES_CUT or len(message) > FRAMES_PER_MESSAGE
