"""Which GPUs and cores there are, and which worker gets which; torch is not asked.

`plan` and `narrow` are pure; the rest reads NVML, the affinity mask and the cgroup's quota. A device is named as torch
names it in the user's own environment ("cuda:1" = the second of the user's list); the worker sees only that one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from paceline.protocol.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_CGROUP = Path("/sys/fs/cgroup")


def plan(runner: str, workers: int | None, devices: tuple[str, ...] | None, gpus: int) -> tuple[str, ...]:
    """One device per worker of `runner`; `gpus` are visible.

    Without devices: every GPU in turn, else the CPU. Without workers: one per device. "cuda" stands for all GPUs.
    Raises ConfigError for a GPU that is not there.
    """
    if devices is None:
        devices = ("cuda",) if gpus else ("cpu",)
    places = [place for device in devices for place in _expanded(runner, device, gpus)]
    count = len(places) if workers is None else workers
    return tuple(places[index % len(places)] for index in range(count))


def narrow(device: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that show a child its device alone. Its own list of one keeps UUID and MIG names as they are."""
    if not device.startswith("cuda"):
        return {VISIBLE: ""}
    index = int(device.partition(":")[2] or 0)
    given = environ.get(VISIBLE)
    return {VISIBLE: str(index) if given is None else _entries(given)[index]}


def threads_per_worker(cores: int, workers: int) -> int:
    """The cores shared out among the workers, one kept back for the API servers.

    Threads of one operation wait for each other, spinning: with as many as there are cores, each time an API server has
    one of the cores all of them stand still. On 2 cores, the guide's Net with 2 threads had a p99 of 150 to 260 ms at
    64 in flight, with 1 thread 8 ms.
    """
    return max(1, (cores - 1) // max(1, workers))


def thread_variables(threads: int) -> dict[str, str]:
    """What keeps OpenMP and BLAS at `threads` threads from their first call on."""
    return dict.fromkeys(_THREAD_VARIABLES, str(threads))


def visible_gpus(environ: Mapping[str, str], installed: int) -> int:
    """How many of `installed` GPUs CUDA_VISIBLE_DEVICES leaves, counted as CUDA does: up to the first bad entry."""
    given = environ.get(VISIBLE)
    if given is None or installed == 0:
        return installed
    count = 0
    for entry in _entries(given):
        if not entry or (entry.lstrip("-").isdigit() and not 0 <= int(entry) < installed):
            break
        count += 1
    return count


def installed_gpus() -> int:
    """How many NVIDIA GPUs the driver knows; 0 without driver."""
    with contextlib.suppress(OSError, AttributeError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint(0)
        if nvml.nvmlInit_v2() == 0:
            known = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
            nvml.nvmlShutdown()
            return count.value if known else 0
    return 0


def torch_is_cpu_only() -> bool:
    """Whether the installed torch is a CPU build, told by its version without importing it."""
    from importlib.metadata import PackageNotFoundError, version  # only asked where there is a GPU

    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def available_cores() -> int:
    """Cores that this process may use: affinity mask and cgroup quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_cores(_CGROUP)
    return cores if quota is None else max(1, min(cores, quota))


def _quota_cores(root: Path) -> int | None:
    """The cgroup's CPU limit in whole cores (version 2, then 1), None without limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
        return None if quota_us <= 0 else -(-quota_us // period_us)
    return None


def _entries(given: str) -> list[str]:
    return [entry.strip() for entry in given.split(",")]


def _expanded(runner: str, device: str, gpus: int) -> list[str]:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return [device]
    if gpus == 0 or (index and int(index) >= gpus):
        raise ConfigError(
            f'runner.{runner}.devices has "{device}", but {gpus or "no"} GPU{"s are" if gpus != 1 else " is"} visible '
            f"here; expected {f'cuda:0 to cuda:{gpus - 1}' if gpus else 'cpu'} (see {VISIBLE} and nvidia-smi)"
        )
    return [device] if index else [f"cuda:{each}" for each in range(gpus)]
