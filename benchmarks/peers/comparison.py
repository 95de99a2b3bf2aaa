"""What the runs of all peers say together: medians, ratios of the same repetition, and the bars. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Report

RATE_RATIO_MIN = 8.0
P99_RATIO_MAX = 1 / 5


@dataclass(slots=True)
class Pair:
    """Both products in one setting, repetition by repetition."""

    setting: str
    paceline: list[Report] = field(default_factory=list)
    bentoml: list[Report] = field(default_factory=list)

    @property
    def rate_ratio(self) -> float:
        """Paceline's requests per second for each of BentoML's: the median over the repetitions."""
        return statistics.median(ours.rate / theirs.rate for ours, theirs in self._repetitions())

    @property
    def p99_ratio(self) -> float:
        """Paceline's p99 as a part of BentoML's."""
        return statistics.median(
            ours.latency_ms["p99"] / theirs.latency_ms["p99"] for ours, theirs in self._repetitions()
        )

    def bars(self) -> dict[str, bool]:
        """Each bar and whether it is met. Errors of either product make the comparison worthless."""
        return {
            f"requests/s >= {RATE_RATIO_MIN:g}x BentoML's": self.rate_ratio >= RATE_RATIO_MIN,
            f"p99 <= {P99_RATIO_MAX:g}x BentoML's": self.p99_ratio <= P99_RATIO_MAX,
            "no error": not any(report.errors for report in [*self.paceline, *self.bentoml]),
        }

    def to_plain(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "paceline": _medians(self.paceline),
            "bentoml": _medians(self.bentoml),
            "rate_ratio": round(self.rate_ratio, 2),
            "p99_ratio": round(self.p99_ratio, 3),
            "bars": self.bars(),
        }

    def _repetitions(self) -> list[tuple[Report, Report]]:
        return list(zip(self.paceline, self.bentoml, strict=True))


def _medians(reports: list[Report]) -> dict[str, Any]:
    return {
        "rate": round(statistics.median(report.rate for report in reports), 1),
        "p50_ms": round(statistics.median(report.latency_ms["p50"] for report in reports), 2),
        "p99_ms": round(statistics.median(report.latency_ms["p99"] for report in reports), 2),
        "requests": sum(report.requests for report in reports),
        "errors": sum(sum(report.errors.values()) for report in reports),
    }


def table(pairs: list[Pair]) -> str:
    """One line per product and setting, then the verdicts."""
    lines = [f"{'':<24}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'errors':>8}"]
    verdicts = []
    for pair in pairs:
        for product, reports in (("Paceline", pair.paceline), ("BentoML", pair.bentoml)):
            row = _medians(reports)
            label = f"{product}, {pair.setting}"
            lines.append(f"{label:<24}{row['rate']:>12}{row['p50_ms']:>10}{row['p99_ms']:>10}{row['errors']:>8}")
        lines.append(f"{'':<24}{pair.rate_ratio:>11.2f}x{'':>10}{pair.p99_ratio:>9.3f}x")
        verdicts += [f"{pair.setting}: {bar}: {'met' if met else 'MISSED'}" for bar, met in pair.bars().items()]
    return "\n".join([*lines, "", *verdicts])
