"""`paceline models diff`: what differs between two stored versions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.models import ConfigOption, JsonOption, open_store, parsed
from paceline.cli.terminal import printable, say, say_json, size, styled

if TYPE_CHECKING:
    from paceline.store import Tag
    from paceline.store.comparison import Comparison, TensorChange

_HASH_SHOWN = 12

_Form = tuple[str, tuple[int, ...]] | None


def models_diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A tag.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another tag.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what differs: signatures, labels, metadata, context, files, and the numbers in the weights."""
    from paceline.store.comparison import compare

    store = open_store(config)
    before, after = store.get(parsed(a)), store.get(parsed(b))
    found = compare(before, after)
    if as_json:
        say_json(_plain(before.tag, after.tag, found))
    else:
        for line in _lines(before.tag, after.tag, found):
            say(line)


def _plain(a: Tag, b: Tag, found: Comparison) -> dict[str, object]:
    return {
        "a": str(a),
        "b": str(b),
        "same_content": found.same_content,
        "changes": [
            {"what": change.what, "a": _plain_value(change.before), "b": _plain_value(change.after)}
            for change in found.changes
        ],
        "weights": [
            {
                "file": weights.file,
                "equal_tensors": weights.equal,
                "changed_tensors": [_plain_tensor(tensor) for tensor in weights.tensors],
            }
            for weights in found.weights
        ],
    }


def _plain_value(value: object) -> object:
    from paceline.store import FileEntry

    return {"bytes": value.bytes, "sha256": value.sha256} if isinstance(value, FileEntry) else value


def _plain_tensor(tensor: TensorChange) -> dict[str, object]:
    largest = tensor.largest
    return {
        "name": tensor.name,
        "a": _plain_form(tensor.before),
        "b": _plain_form(tensor.after),
        # JSON has no NaN and no infinity
        "largest_difference": str(largest) if largest is not None and not math.isfinite(largest) else largest,
    }


def _plain_form(form: _Form) -> dict[str, object] | None:
    return {"dtype": form[0], "shape": list(form[1])} if form is not None else None


def _lines(a: Tag, b: Tag, found: Comparison) -> list[str]:
    if found.same_content:
        lines = [f"{a} and {b} have the same content: framework, methods and files are equal"]
    else:
        lines = [f"{a} -> {b}"]
    for change in found.changes:
        lines.append(f"{styled(printable(change.what), 'bold')}: {_shown(change.before)} -> {_shown(change.after)}")
    for weights in found.weights:
        changed = len(weights.tensors)
        lines.append(f"{styled(weights.file, 'bold')}: {weights.equal} tensor(s) equal, {changed} not")
        lines += [f"  {_tensor_line(tensor)}" for tensor in weights.tensors]
    return lines


def _tensor_line(tensor: TensorChange) -> str:
    if tensor.largest is None:
        return f"{printable(tensor.name)}: {_form(tensor.before)} -> {_form(tensor.after)}"
    return f"{printable(tensor.name)}: {_form(tensor.before)}, largest difference {tensor.largest:.6g}"


def _form(form: _Form) -> str:
    return f"{form[0].lower()}{list(form[1])}" if form is not None else "none"


def _shown(value: object) -> str:
    from paceline.store import FileEntry

    if isinstance(value, FileEntry):
        return f"{size(value.bytes)} ({value.sha256[:_HASH_SHOWN]})"
    return "none" if value is None else printable(str(value))
