"""A child that speaks the control protocol and no more; a worker behaves as its runner's name says.

good: serves until drained. busy: the same, with two requests in hand. unloadable: FAILED, exit 3. crasher: READY, then
exit 7. stuck: its batch never ends. slow: its
first batch takes 4 s. stubborn: does not hear Drain. A broker serves until drained; it and its workers print what they
see of their pool. API servers answer each connection with their pid.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from paceline.protocol import child, control
from paceline.protocol.channel import Channels, ClientSocket, wait
from paceline.protocol.control import ChildState, Drain, Hello, Seen, State, Topology
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec

ORIGIN = b"o" * 16
SLOW_S = 4.0


def main() -> None:
    spec = child.adopt(sys.argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slot = Slot(Path(spec.slot_path))
    child.beat_forever(slot)
    with Channels() as channels:
        supervisor = channels.connect(spec.control_address, spec.incarnation)
        supervisor.send(control.encode(Hello(spec.kind, spec.runner, spec.index, spec.incarnation, os.getpid())))
        if spec.kind == "api_server":
            answer_connections(spec)
            say(supervisor, spec, State.READY)
            serve_until_drained(supervisor, says_seen=True)
            return
        if spec.kind == "broker":
            data, pool = [channels.bind(f"ipc://{spec.serve.run_dir}/{kind}-{os.urandom(8).hex()}") for kind in "hp"]
            say(supervisor, spec, State.READY, address=data.address, pool_address=pool.address)
            serve_until_drained(supervisor)
            return
        behave(spec, slot, channels, supervisor)


def behave(spec: ChildSpec, slot: Slot, channels: Channels, supervisor: ClientSocket) -> None:
    device, threads = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
    sys.stdout.write(f"loading on {device!r} with {threads} thread(s)\n")
    say(supervisor, spec, State.LOADING)
    if spec.runner == "unloadable":
        say(supervisor, spec, State.FAILED, detail="weights are missing")
        sys.exit(3)
    address = ""
    if not spec.serve.runner(spec.runner).is_central:
        address = channels.bind(f"ipc://{spec.serve.run_dir}/h-{os.urandom(8).hex()}").address
    if spec.runner in ("busy", "stuck", "slow"):
        slot.begin(1, [(ORIGIN, 7), (ORIGIN, 8)], time.monotonic_ns())
    say(supervisor, spec, State.READY, address=address)
    if spec.runner == "crasher":
        sys.stderr.write("my last words\n")
        os._exit(7)
    if spec.runner == "slow":
        time.sleep(SLOW_S)
        slot.end()
        slot.count(2, 1, 2)
    if spec.runner == "stubborn":
        signal.pause()
    serve_until_drained(supervisor)


def serve_until_drained(supervisor: ClientSocket, says_seen: bool = False) -> None:
    while True:
        wait([supervisor], None)
        for parts in supervisor.drain():
            message = control.decode(parts)
            if isinstance(message, Topology):
                hosts = "".join(sorted("w" if not host.address else "b" for host in message.hosts))
                sys.stdout.write(f"sees {hosts!r}, {len(message.lost)} lost\n")
                if says_seen:
                    supervisor.send(control.encode(Seen(message.version)))
            if isinstance(message, Drain):
                sys.stdout.write("drained\n")
                return


def say(
    supervisor: ClientSocket,
    spec: ChildSpec,
    state: State,
    detail: str = "",
    address: str = "",
    pool_address: str = "",
) -> None:
    said = ChildState(spec.incarnation, state, detail, address, "cpu", pool_address=pool_address)
    supervisor.send(control.encode(said))


def answer_connections(spec: ChildSpec) -> None:
    listener = socket.socket(fileno=spec.socket_fds[0])
    listener.setblocking(True)

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            connection.sendall(f"{os.getpid()}\n".encode())
            connection.close()

    threading.Thread(target=run, daemon=True).start()


main()
