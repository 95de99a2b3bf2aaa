"""`paceline predict`: one request from the shell, its result readable or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.terminal import say, styled
from paceline.protocol.errors import ConfigError

if TYPE_CHECKING:
    from paceline.client.call import Outputs

_ITEMS_SHOWN_MAX = 200


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
        str, typer.Option(help="http(s)://host:port, ipc://RUN_DIR, or tcp://host:port with --key-file.")
    ] = "http://127.0.0.1:8000",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send one request to a served model and print its result."""
    from paceline.cli.input_values import read_inputs
    from paceline.client import Client

    name, version = _split(model)
    arrays, named = read_inputs(inputs or [])
    with Client(url, timeout_ms / 1000 if timeout_ms is not None else None, key_file=key_file) as client:
        # read_inputs sees to it that no input is named like an option.
        outputs = client.predict_named(name, *arrays, method=method, version=version, **named)  # type: ignore[arg-type]
    if out is not None:
        _write(out, outputs)
    if as_json:
        _print_json(name, outputs)
    elif out is None:
        _print(outputs)
    else:
        say(f"wrote {out}: {', '.join(f'{key} {array.dtype}{list(array.shape)}' for key, array in outputs.items())}")


def _split(model: str) -> tuple[str, str | None]:
    for mark in ("@", ":"):
        name, found, version = model.partition(mark)
        if found and (not name or not version):
            raise ConfigError(f"model is {model!r}; expected a name, or name:version such as my_model:3")
        if found:
            return name, version
    return model, None


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
