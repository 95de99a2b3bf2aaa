"""Which worker gets which device, with fake GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.protocol.errors import ConfigError
from paceline.supervisor import devices


def test_without_gpu_one_worker_on_the_cpu() -> None:
    assert devices.plan("net", None, None, 0) == ("cpu",)


def test_one_worker_per_visible_gpu() -> None:
    assert devices.plan("net", None, None, 3) == ("cuda:0", "cuda:1", "cuda:2")


def test_workers_take_gpus_in_turn() -> None:
    assert devices.plan("net", 5, None, 2) == ("cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0")


def test_given_devices_hold() -> None:
    assert devices.plan("net", None, ("cuda:1", "cpu"), 2) == ("cuda:1", "cpu")
    assert devices.plan("net", 2, ("cpu",), 2) == ("cpu", "cpu")
    assert devices.plan("net", None, ("cuda",), 2) == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(("given", "gpus"), [("cuda:2", 2), ("cuda", 0), ("cuda:0", 0)])
def test_gpu_that_is_not_there_is_named(given: str, gpus: int) -> None:
    with pytest.raises(ConfigError, match=rf'runner\.net\.devices has "{given}"'):
        devices.plan("net", None, (given,), gpus)


@pytest.mark.parametrize(
    ("visible", "installed", "count"),
    [
        (None, 4, 4),
        ("", 4, 0),
        ("0,2", 4, 2),
        ("GPU-8932f937,GPU-11", 4, 2),
        ("MIG-1", 1, 1),
        ("0,-1,1", 4, 1),
        ("0,7,1", 4, 1),
        ("-1", 4, 0),
        ("0", 0, 0),
    ],
)
def test_visible_gpus_are_counted_as_cuda_does(visible: str | None, installed: int, count: int) -> None:
    environ = {} if visible is None else {devices.VISIBLE: visible}
    assert devices.visible_gpus(environ, installed) == count


@pytest.mark.parametrize(
    ("visible", "device", "narrowed"),
    [
        (None, "cuda:1", "1"),
        ("4,6", "cuda:1", "6"),
        ("GPU-a, MIG-b", "cuda:1", "MIG-b"),
        ("3", "cuda", "3"),
        ("4,6", "cpu", ""),
        (None, "cpu", ""),
    ],
)
def test_worker_sees_one_entry_of_the_users_own_list(visible: str | None, device: str, narrowed: str) -> None:
    environ = {} if visible is None else {devices.VISIBLE: visible}
    assert devices.narrow(device, environ) == {devices.VISIBLE: narrowed}


def test_cores_are_shared_out_among_workers() -> None:
    assert [devices.threads_per_worker(8, workers) for workers in (1, 3, 8, 16)] == [7, 2, 1, 1]
    assert [devices.threads_per_worker(cores, 1) for cores in (1, 2, 3)] == [1, 1, 2]
    assert set(devices.thread_variables(3).values()) == {"3"}


def test_cores_are_limited_by_affinity_and_quota(tmp_path: Path) -> None:
    assert devices.available_cores() >= 1
    assert devices._quota_cores(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert devices._quota_cores(tmp_path) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices._quota_cores(tmp_path) is None


def test_counting_gpus_without_a_driver_gives_a_number() -> None:
    assert devices.installed_gpus() >= 0
