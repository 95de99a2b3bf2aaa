"""The threads in which functions run that are not async: a bounded number of them, and a bounded queue.

A function in a thread cannot be stopped: whose client has gone or whose deadline has passed runs to its end,
unanswered.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from paceline.protocol.errors import QueueFull

Result = TypeVar("Result")

_RETRY_AFTER_S = 1.0


class FunctionThreads:
    """At most `size` functions run and `waiting_max` wait; one more is QueueFull."""

    def __init__(self, size: int, waiting_max: int) -> None:
        self._size = size
        self._pending_max = size + waiting_max
        self._pending = 0
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """What `function(*args)` returns or raises; it sees the caller's context variables. Cancelled before its turn,
        it never runs. Raises QueueFull."""
        with self._lock:
            if self._pending >= self._pending_max:
                raise QueueFull(
                    f"{self._size} functions of this service run and {self._pending - self._size} wait for a thread",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._pending += 1
        try:
            context = contextvars.copy_context()
            future = self._started().submit(functools.partial(context.run, function, *args))
        except BaseException:
            self._finished(None)
            raise
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Nothing runs any more; what waits is dropped, what runs is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _started(self) -> ThreadPoolExecutor:
        # Made when first needed: the inspector loads a service and calls nothing of it.
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="paceline-api")
        return self._pool

    def _finished(self, _: Future[Any] | None) -> None:
        with self._lock:
            self._pending -= 1
