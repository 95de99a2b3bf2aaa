"""Prometheus text of this process's counters. Plain integers, read only when asked."""

from __future__ import annotations

from collections.abc import Mapping

from paceline.protocol.hosts import Hosts

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


def exposition(hosts: Hosts, errors: Mapping[str, int]) -> bytes:
    counters = hosts.counters
    lines = [
        "# TYPE paceline_requests_accepted_total counter",
        f"paceline_requests_accepted_total {counters.accepted}",
        "# TYPE paceline_requests_refused_total counter",
        f"paceline_requests_refused_total {counters.refused}",
        "# TYPE paceline_requests_probing_total counter",
        f"paceline_requests_probing_total {counters.probes}",
        "# TYPE paceline_requests_answered_total counter",
        f"paceline_requests_answered_total {counters.answered}",
        "# TYPE paceline_requests_cancelled_total counter",
        f"paceline_requests_cancelled_total {counters.cancelled}",
        "# TYPE paceline_answers_late_total counter",
        f"paceline_answers_late_total {counters.late}",
        "# TYPE paceline_requests_open gauge",
        f"paceline_requests_open {len(hosts)}",
        "# TYPE paceline_errors_total counter",
        *[f'paceline_errors_total{{code="{code}"}} {count}' for code, count in sorted(errors.items())],
    ]
    return ("\n".join(lines) + "\n").encode()
