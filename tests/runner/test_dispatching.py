"""What a child's spec makes of its dispatcher and of the bounds of its intake."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.protocol.limits import LATENCY_BUDGET_MS, POOL_REPLY_S, REPLY_S
from paceline.protocol.spec import ChildSpec, HttpSpec, RunnerSpec, ServeSpec
from paceline.runner.dispatching import PREFETCH_S, config_for, device_of, dispatcher_for
from paceline.runner.executor import kind_of
from paceline.runner.intake import IntakeLimits, limits_for


def runner(**options: Any) -> RunnerSpec:
    return RunnerSpec("net", "net", "1", "ab" * 32, "pytorch", "/store", (), **options)


def test_default_budget_is_no_statement_on_what_requests_usually_have() -> None:
    assert config_for(runner(latency_budget_ms=LATENCY_BUDGET_MS)).budget_s is None
    assert config_for(runner(latency_budget_ms=80.0)).budget_s == 0.08


def test_given_table_and_buckets_are_the_dispatchers() -> None:
    config = config_for(runner(latency_table=((1, 5.5), (64, 37.0)), buckets=(1, 8, 64), max_batch_size=64))
    assert dict(config.latency_table or {}) == pytest.approx({1: 0.0055, 64: 0.037})
    assert config.buckets == (1, 8, 64)
    assert config.max_batch_size == 64
    assert config_for(runner()).latency_table is None


def test_only_a_broker_binds_batches_in_advance() -> None:
    alone, pool = config_for(runner()), config_for(runner(workers=2, dispatch="central"))
    assert (alone.prefetch_s, alone.reply_s) == (0.0, REPLY_S)
    assert (pool.prefetch_s, pool.reply_s) == (PREFETCH_S, POOL_REPLY_S)


def test_broker_has_a_dispatcher_though_it_has_no_device() -> None:
    spec = runner(workers=2, dispatch="central", devices=("cuda:0", "cuda:1"))
    serve = ServeSpec((spec,), HttpSpec(), "/run")
    assert dispatcher_for(ChildSpec(serve, "broker", "net", 0, b"", "", "", 0, 0)).forecast(0.0).workers == ()


def test_devices_are_one_for_each_worker_or_one_for_all() -> None:
    assert [device_of(runner(devices=("cuda:0", "cuda:1")), index) for index in (0, 1)] == ["cuda:0", "cuda:1"]
    assert device_of(runner(devices=("cpu",)), 3) == "cpu"


def test_processors_are_of_one_kind() -> None:
    assert kind_of("cpu") == "cpu"


def test_bounds_of_the_intake_are_the_servers() -> None:
    serve = ServeSpec((runner(queue_timeout_ms=250.0),), HttpSpec(rows_max=7, timeout_max_ms=9000.0), "/run")
    assert limits_for(serve, serve.runners[0]) == IntakeLimits(0.25, 7, 9.0)
    assert limits_for(serve, runner()).queue_timeout_s is None
