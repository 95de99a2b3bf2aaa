"""Recordings of what torch runs in this thread, by its own profiler, as Chrome traces. For profiling.py; beside the
executor and the frameworks the only module that imports torch."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# torch.profiler's front for it imports the whole compiler at its first start, which stops a worker for 1 to 2 s.
from torch.autograd.profiler import profile

from paceline.runner.profiling import TraceFailed


class TraceRecorder:
    """`device` is torch's name of where the model lies: on CUDA its kernels are recorded too."""

    def __init__(self, device: str) -> None:
        self._device = "cuda" if torch.device(device).type == "cuda" else None

    def start(self) -> TorchRecording:
        recording = profile(use_kineto=True, use_device=self._device)
        try:
            recording.__enter__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        except RuntimeError as error:  # the model's own code may have left a profiler running
            raise TraceFailed(f"torch's profiler does not start: {error}") from error
        return TorchRecording(recording)


class TorchRecording:
    """One run of torch's profiler. Its own tables are not used: they cost 60 us per event, here in the serving thread;
    who asked reads the trace."""

    def __init__(self, recording: profile) -> None:
        self._recording = recording

    def stop(self) -> int:
        try:
            self._recording.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above
        except RuntimeError as error:
            raise TraceFailed(f"torch's profiler does not stop: {error}") from error
        results = self._recording.kineto_results
        return 0 if results is None else len(results.events())

    def write(self, path: Path) -> None:
        try:
            # Before anything is in it: shapes and names are for the server's own user.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            self._recording.export_chrome_trace(str(path))  # type: ignore[no-untyped-call]  # as above
            path.chmod(0o600)
            written = path.stat().st_size
        except (OSError, RuntimeError) as error:
            raise TraceFailed(f"the trace cannot be written to {path}: {error}") from error
        if written == 0:
            raise TraceFailed(f"the trace cannot be written to {path}; is the disk full?")
