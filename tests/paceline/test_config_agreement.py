"""What the settings of one runner must say of each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.config import load_config
from paceline.config.agreement import agreed
from paceline.protocol.errors import ConfigError


def refusal(**flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        agreed(load_config(flags, None, {}), "net", {})
    return str(caught.value)


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_that_agree_are_those_of_the_runner() -> None:
    config = load_config({"buckets": "8,64", "latency_table_ms": "8:20,64:37", "latency_budget_ms": 22}, None, {})
    assert agreed(config, "net", {"max_batch_size": 64}) == config.runner("net", {"max_batch_size": 64})
    assert agreed(load_config({}, None, {}), "net", {}).buckets is None


def test_a_bucket_that_no_batch_fills_is_refused() -> None:
    assert refusal(buckets="8,64", max_batch_size=32) == (
        "runner.net.buckets is (8, 64) (flag --buckets), but no batch has more than max_batch_size = 32 rows; "
        "leave out what is larger"
    )


@pytest.mark.parametrize(
    ("flags", "row_ms", "works_ms"),
    [
        ({"latency_table_ms": "1:5.5,64:37"}, 5.5, 6.9),
        ({"latency_table_ms": "4:7"}, 7, 8.4),
        ({"latency_table_ms": "1:5,9:13", "buckets": "5,64"}, 9, 10.4),
    ],
    ids=["given", "flat below the first size", "padded to the first bucket"],
)
def test_a_budget_below_one_row_names_the_number_that_would_work(
    flags: dict[str, object], row_ms: float, works_ms: float
) -> None:
    text = refusal(latency_budget_ms=4, **flags)
    assert "runner.net.latency_budget_ms is 4.0 (flag --latency-budget-ms)" in text
    assert f"one row alone takes {row_ms:g} ms; give it {works_ms:g} or more" in text
    agreed(load_config({**flags, "latency_budget_ms": works_ms}, None, {}), "net", {})
