"""Load for a JSON route, in a process of its own: `run` starts it, `main` is it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import uvloop

from benchmarks.http_load import HttpLoad
from benchmarks.report import Report, Sample, merge


@dataclass(frozen=True, slots=True)
class JsonLoad:
    """A closed loop: `in_flight` times the same POST, always open."""

    port: int
    body: str
    in_flight: int
    warmup_s: float
    duration_s: float
    route: str = "/predict"

    def request(self) -> bytes:
        """The bytes of one request."""
        body = self.body.encode()
        lines = [
            f"POST {self.route} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run(load: JsonLoad) -> Report:
    """Load in a process of its own, and what it saw."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.json_load"],
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return merge([Sample.from_plain(json.loads(done.stdout))])


def main() -> None:
    load = JsonLoad(**json.load(sys.stdin))
    gc.collect()
    gc.freeze()
    client = HttpLoad("127.0.0.1", load.port, load.request(), load.warmup_s, load.duration_s)
    json.dump(uvloop.run(client.closed(load.in_flight)).to_plain(), sys.stdout)


if __name__ == "__main__":
    main()
