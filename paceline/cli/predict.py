"""`paceline predict`: one request from the shell, its result readable or as JSON."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from paceline.cli.terminal import say, styled
from paceline.protocol.errors import ConfigError, PacelineError

if TYPE_CHECKING:
    from paceline.client.call import Outputs

_ITEMS_SHOWN_MAX = 200
_PORT = 8000


@dataclass(frozen=True, slots=True)
class Found:
    """The server to ask; `why` says who chose it, empty if the user did."""

    url: str
    why: str


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A served model: name, name:version or name@alias.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="@file.npy, @file.npz, @file.json, - (stdin) or JSON, each also as name=...; without a name in order.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="http(s)://host:port, ipc://RUN_DIR, or tcp://host:port with --key-file.",
            show_default="the server in the settings, the one that runs, http://127.0.0.1:8000",
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys for tcp, made by: paceline keys client.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Method of the model.", show_default="__call__, or the only one")
    ] = None,
    timeout_ms: Annotated[
        float | None, typer.Option(help="Total time-out.", show_default="the model's latency budget, at most 30000")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this .npy or .npz file.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send one request to a served model and print its result."""
    from paceline.cli.input_values import read_inputs
    from paceline.client import Client

    timeout_s = _timeout_s(timeout_ms)
    arrays, named = read_inputs(inputs or [])
    found = Found(url, "") if url is not None else find_server(config)
    with Client(found.url, timeout_s, key_file=key_file) as client, _naming(found):
        # read_inputs sees to it that no input is named like an option.
        outputs = client.predict_named(model, *arrays, method=method, **named)  # type: ignore[arg-type]
    if out is not None:
        _write(out, outputs)
    if as_json:
        _print_json(re.split("[:@]", model)[0], outputs)
    elif out is None:
        _print(outputs)
    else:
        say(f"wrote {out}: {', '.join(f'{key} {array.dtype}{list(array.shape)}' for key, array in outputs.items())}")


def find_server(config: Path | None) -> Found:
    """The server that the settings name; else the only one of this store that lives; else the usual address."""
    from paceline.config import load_config
    from paceline.config.settings import DEFAULT
    from paceline.supervisor import fetch_status, live_run_dirs

    settings = load_config({}, config, os.environ)
    rows = {row.key: row for row in settings.origins()}
    configured = [rows[key].origin for key in ("server.host", "server.port") if rows[key].origin != DEFAULT]
    usual = _url(settings.server.host, settings.server.port or _PORT)
    if configured and settings.server.port:
        return Found(usual, f"from {configured[-1]}")
    alive = live_run_dirs(settings.store_home)
    if settings.server.run_dir in alive or not alive:
        return Found(usual, "the default")
    if len(alive) == 1:
        parts = urlsplit(fetch_status(alive[0]).url)
        return Found(_url(str(parts.hostname), parts.port or _PORT), f"the server that runs in {alive[0]}")
    urls = ", ".join(fetch_status(each).url for each in alive)
    raise ConfigError(f"{len(alive)} servers run; name one with --url: {urls}")


def _url(host: str, port: int) -> str:
    """A listening address as clients of this machine reach it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # read, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _naming(found: Found) -> Iterator[None]:
    """Say which server was asked, if that was not the user's word and it failed."""
    try:
        yield
    except PacelineError:
        if found.why:
            say(f"asked {found.url} ({found.why}); name another one with --url", err=True)
        raise


def _timeout_s(timeout_ms: float | None) -> float | None:
    if timeout_ms is None:
        return None
    if not 0 < timeout_ms < math.inf:
        raise ConfigError(f"--timeout-ms is {timeout_ms:g}; expected a number of milliseconds > 0")
    return timeout_ms / 1000


def _print(outputs: Outputs) -> None:
    import numpy as np

    for key, array in outputs.items():
        say(styled(f"{key}  {array.dtype}{list(array.shape)}", "bold"))
        say(np.array2string(array, threshold=_ITEMS_SHOWN_MAX, precision=6, suppress_small=True, max_line_width=100))


def _print_json(model: str, outputs: Outputs) -> None:
    import orjson

    items = [
        {"name": key, "dtype": str(array.dtype), "shape": array.shape, "data": _plain(array.tolist())}
        for key, array in outputs.items()
    ]
    # orjson writes NaN and infinity, which JSON does not know, as null.
    say(orjson.dumps({"model": model, "outputs": items}).decode())


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return [value.real, value.imag] if isinstance(value, complex) else value


def _write(path: Path, outputs: Outputs) -> None:
    import numpy as np

    if any(array.dtype == object for array in outputs.values()):
        raise ConfigError("strings cannot be written to .npy; use --json")
    try:
        if path.suffix == ".npz":
            np.savez(path, **outputs)  # type: ignore[arg-type]  # numpy's stub takes the names for its options
        elif len(outputs) == 1:
            np.save(path, next(iter(outputs.values())))
        else:
            raise ConfigError(f"the result has {len(outputs)} outputs ({', '.join(outputs)}); give --out a .npz file")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
