"""What a Chrome trace of torch's profiler says of its operators: calls, and time of their own on CPU and device.

Reads the trace rather than have the worker sum up: that would cost it as much again as serving. Knows no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from paceline.protocol.errors import PacelineError

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True, slots=True)
class Operator:
    """All calls of one operator. Self: without the operators that it calls. `self_device_us`: of the kernels and copies
    that it launched itself. `share` of all operators, of device time where there is any, else of CPU time."""

    name: str
    calls: int
    self_cpu_us: float
    self_device_us: float
    share: float


class _Span(NamedTuple):
    name: str
    start: float
    us: float
    id: object


def read_operators(path: Path) -> list[Operator]:
    """The operators of the trace at `path`, largest share first. Raises PacelineError: it is no whole trace."""
    import orjson

    try:
        events = orjson.loads(path.read_bytes())["traceEvents"]
        return operators(events)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PacelineError(f"the trace {path} cannot be read: {error}; is the disk full?") from error


def operators(events: Iterable[Mapping[str, Any]]) -> list[Operator]:
    """The same of a trace's events."""
    threads: dict[object, list[_Span]] = defaultdict(list)
    device_us: dict[object, float] = defaultdict(float)
    for event in events:
        if event.get("ph") != "X":
            continue
        launch = event.get("args", {}).get("External id")
        if event.get("cat") == "cpu_op":
            span = _Span(event["name"], event["ts"], event["dur"], launch)
            threads[event["pid"], event["tid"]].append(span)
        elif event.get("cat") in _ON_DEVICE and launch is not None:
            device_us[launch] += event["dur"]
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for spans in threads.values():
        for span, self_us in _own_times(spans):
            row = sums[span.name]
            row[0] += 1
            row[1] += self_us
            row[2] += device_us.get(span.id, 0.0)
    return _ranked(sums)


def _own_times(spans: list[_Span]) -> Iterator[tuple[_Span, float]]:
    """Each span of one thread with its time less that of the spans directly in it."""
    inner_us = [0.0] * len(spans)
    spans.sort(key=lambda span: (span.start, -span.us))
    around: list[int] = []
    for index, span in enumerate(spans):
        while around and span.start >= spans[around[-1]].start + spans[around[-1]].us:
            around.pop()
        if around:
            inner_us[around[-1]] += span.us
        around.append(index)
    for span, inner in zip(spans, inner_us, strict=True):
        yield span, max(0.0, span.us - inner)


def _ranked(sums: Mapping[str, list[float]]) -> list[Operator]:
    by = 2 if any(row[2] for row in sums.values()) else 1
    total = sum(row[by] for row in sums.values()) or 1.0
    found = [
        Operator(name, int(calls), round(cpu_us, 3), round(device, 3), row[by] / total)
        for name, row in sums.items()
        for calls, cpu_us, device in [row]
    ]
    return sorted(found, key=lambda each: (-each.share, -each.self_cpu_us, each.name))
