"""An inspector without a store: each target is the name of a runner, which says how fake_child.py behaves."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from paceline.config import Config
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec, encode_serve
from paceline.supervisor.inspection import InspectReply, decode_request, encode_reply


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        request = decode_request(file.read())
    config = Config.from_plain(request.config)
    server = config.server
    runners = []
    for name in request.targets:
        settings = config.runner(name, {})
        spec = RunnerSpec(name, name, "1", "0" * 64, "fake", str(config.store_home), ())
        spec = replace(spec, workers=settings.workers or 1, dispatch=settings.dispatch or "worker")
        runners.append(replace(spec, execution_timeout_ms=settings.execution_timeout_ms))
    http = HttpSpec(request.host, request.port, server.api_workers, drain_grace_s=server.drain_grace_s)
    reply = InspectReply(serve=encode_serve(ServeSpec(tuple(runners), http, request.run_dir)))
    if "unknown" in request.targets:
        reply = InspectReply(error='model "unknown" is not in the store.')
    with os.fdopen(request.reply_fd, "wb") as pipe:
        pipe.write(encode_reply(reply))


main()
