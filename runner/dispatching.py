"""The dispatcher of a child, as its spec wants it: a worker's, for itself alone, or a broker's, for a whole pool."""

from __future__ import annotations

import time

from paceline.protocol import limits
from paceline.protocol.clock import SystemClock
from paceline.protocol.spec import ChildSpec, RunnerSpec
from paceline.runner.dispatcher import Dispatcher, DispatcherConfig
from paceline.runner.recorder import recorded
from paceline.runner.recording import Header

PREFETCH_S = 0.0015  # before a worker's predicted end: a wake-up, which comes up to 1 ms late, and the way to it


def dispatcher_for(spec: ChildSpec) -> Dispatcher:
    """The dispatcher of the child `spec`, which is recorded if the server is."""
    runner = spec.serve.runner(spec.runner)
    config = config_for(runner)
    path = spec.serve.record_path(spec.runner, spec.index)
    if not path:
        return Dispatcher(config)
    profile = "" if runner.is_central else device_of(runner, spec.index)
    return recorded(path, Header(spec.runner, spec.index, profile, config, SystemClock.now(), time.time()))


def config_for(runner: RunnerSpec) -> DispatcherConfig:
    # The default budget is no statement on what requests usually have: that is learned then.
    is_usual = runner.latency_budget_ms != limits.LATENCY_BUDGET_MS
    return DispatcherConfig(
        max_batch_size=runner.max_batch_size,
        latency_table={rows: ms / 1000 for rows, ms in runner.latency_table} or None,
        budget_s=runner.latency_budget_ms / 1000 if is_usual else None,
        reply_s=runner.reply_s,
        prefetch_s=PREFETCH_S if runner.is_central else 0.0,
        starts_max=limits.STARTS_MAX,
        buckets=runner.buckets,
        queue_rows_max=limits.QUEUE_ROWS_MAX,
    )


def device_of(runner: RunnerSpec, index: int) -> str:
    """The device of worker `index`: one entry for each, or one for all."""
    return runner.devices[index] if len(runner.devices) > 1 else runner.devices[0]
