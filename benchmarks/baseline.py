"""The baseline: the model inline in a bare uvicorn app, same binary encoding, one torch thread, no batching.

python -m benchmarks.baseline WORKLOAD PORT
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import orjson
import torch
import uvicorn

from benchmarks.workloads import WORKLOADS


def build_app(model: torch.nn.Module) -> Any:
    """A bare ASGI callable: OIP binary body in, model, OIP binary body out; no validation."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        parts = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        size = next(int(value) for name, value in scope["headers"] if name == b"inference-header-content-length")
        head = orjson.loads(body[:size])
        shape = head["inputs"][0]["shape"]
        x = torch.from_numpy(np.frombuffer(body, np.float32, offset=size).reshape(shape).copy())
        with torch.inference_mode():
            output = model(x).numpy()
        data = output.tobytes()
        reply = orjson.dumps(
            {
                "model_name": "baseline",
                "model_version": "1",
                "outputs": [
                    {
                        "name": "output_0",
                        "datatype": "FP32",
                        "shape": list(output.shape),
                        "parameters": {"binary_data_size": len(data)},
                    }
                ],
            }
        )
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % len(reply)),
            (b"content-length", b"%d" % (len(reply) + len(data))),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply + data})

    return app


def main() -> None:
    workload = WORKLOADS[sys.argv[1]]
    torch.set_num_threads(1)
    model = workload.model()
    config = uvicorn.Config(
        build_app(model),
        port=int(sys.argv[2]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    server = uvicorn.Server(config)
    gc.collect()
    gc.freeze()
    server.run()


if __name__ == "__main__":
    main()
