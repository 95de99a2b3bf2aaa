"""How the process of a seat is started: its program, its spec, its environment and what it inherits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from paceline.protocol.channel import ipc_address
from paceline.protocol.spec import ChildSpec, ServeSpec, encode_child
from paceline.supervisor import devices
from paceline.supervisor.children import Launch
from paceline.supervisor.listeners import Listeners
from paceline.supervisor.options import Programs
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Seat

# glibc raises its threshold with each large block that is freed, and keeps what lies below: after a burst of large
# answers an API server or broker would hold a gigabyte for good.
_HEAP_OF_CARRIERS = {"MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}


class Launcher:
    """Makes launches for the children of one server."""

    def __init__(self, spec: ServeSpec, run_dir: RunDir, listeners: Listeners, programs: Programs) -> None:
        self._spec = spec
        self._run_dir = run_dir
        self._listeners = listeners
        self._programs = {WORKER: programs.worker, BROKER: programs.broker, API_SERVER: programs.api_server}

    def launch(self, seat: Seat, incarnation: bytes, slot: Path) -> Launch:
        """The next process of `seat`, to be known as `incarnation`."""
        fds = self._listeners.fds(seat.index) if seat.kind == API_SERVER else ()

        def spec(lifeline_fd: int) -> bytes:
            return encode_child(
                ChildSpec(
                    serve=self._spec,
                    kind=seat.kind,
                    runner=seat.runner,
                    index=seat.index,
                    incarnation=incarnation,
                    control_address=ipc_address(self._run_dir.control),
                    slot_path=str(slot),
                    parent_pid=os.getpid(),
                    lifeline_fd=lifeline_fd,
                    socket_fds=fds,
                )
            )

        return Launch(self._programs[seat.kind], spec, self._run_dir.path, self._environ(seat), fds)

    def _environ(self, seat: Seat) -> Mapping[str, str]:
        visible = devices.narrow(seat.device, os.environ)
        if seat.kind == WORKER:
            return {**devices.thread_variables(self._spec.runner(seat.runner).threads), **visible}
        return {**devices.thread_variables(1), **visible, **_HEAP_OF_CARRIERS}
