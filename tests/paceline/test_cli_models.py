"""`paceline models`: list, show, verify, delete, alias, diff, and versions in and out, against a real store."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from paceline.cli import progress
from paceline.cli.app import app
from paceline.protocol import dtypes
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.store import ModelStore
from paceline.store.tensor_file import TensorSlot, lay_out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> ModelStore:
    """net:1 and net:2, with a label."""
    store = ModelStore(home)
    method = MethodSpec(
        "__call__",
        batchable=True,
        inputs=(InputSpec("x", dtypes.F32, (-1, 4)), InputSpec("mask", required=False)),
        open_inputs=False,
    )
    for _ in range(2):
        with store.create("net", framework="custom", methods={"__call__": method}, labels={"stage": "dev"}) as pending:
            pending.write("weights.bin", [b"w" * 2048])
    return store


@pytest.fixture
def elsewhere(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "elsewhere")


def run(*words: str, code: int = 0, **options: Any) -> Result:
    result = CliRunner().invoke(app, list(words), **options)
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def run_at(store: ModelStore, *words: str, code: int = 0, **options: Any) -> Result:
    return run(*words, code=code, env={"PACELINE_HOME": str(store.home)}, **options)


def test_models_list_shows_every_version(store: ModelStore) -> None:
    lines = run("models", "list").stdout.splitlines()
    assert lines[0].split() == ["TAG", "ALIASES", "FRAMEWORK", "SIZE", "CREATED", "METHODS", "LABELS"]
    assert [line.split()[0] for line in lines[1:]] == ["net:1", "net:2"]
    assert "2.0 KiB" in lines[1]
    assert "stage=dev" in lines[1]
    rows = json.loads(run("models", "list", "net", "--json").stdout)
    assert [row["tag"] for row in rows] == ["net:1", "net:2"]
    assert rows[0]["bytes"] == 2048
    assert rows[0]["saved_here"] is True


def test_models_list_of_an_empty_store_says_how_to_fill_it(home: Path) -> None:
    result = run("models", "list")
    assert not result.stdout
    assert "save a model first" in result.stderr
    assert json.loads(run("models", "list", "--json").stdout) == []


def test_models_show_describes_methods_and_files(store: ModelStore) -> None:
    text = run("models", "show", "net:latest").stdout
    assert "net:2" in text
    assert "__call__(x: f32[?, 4], mask: any (optional)): batches along dim 0" in text
    assert "weights.bin  2.0 KiB" in text
    shown = json.loads(run("models", "show", "net:1", "--json").stdout)
    assert shown["methods"][0]["inputs"][0] == {"name": "x", "dtype": "f32", "shape": [-1, 4], "required": True}
    assert shown["files"][0]["path"] == "weights.bin"


def test_models_show_says_how_a_method_pads_and_leaves_its_mask_out(store: ModelStore) -> None:
    manifest = store.get("net:2").manifest
    method = replace(manifest.methods["__call__"], padding=Padding(1, 64, mask="mask"))
    with store.create("padded", framework="custom", methods={"__call__": method}) as pending:
        pending.write("weights.bin", [b"w"])
    expected = "__call__(x: f32[?, 4]): batches along dim 0, padded along dim 1 to multiples of 64 with 0"
    assert expected in run("models", "show", "padded").stdout


def test_models_verify_finds_damage(store: ModelStore) -> None:
    assert "is intact" in run("models", "verify", "net:1").stdout
    assert json.loads(run("models", "verify", "net:1", "--json").stdout)["verified"] is True
    path = store.get("net:1").path / "weights.bin"
    path.chmod(0o600)
    path.write_bytes(b"v" * 2048)
    assert "error: " in run("models", "verify", "net:1", code=1).stderr


def test_models_delete_asks_first(store: ModelStore) -> None:
    assert "pass -y" in run("models", "delete", "net:1", code=2).stderr
    assert "which version" in run("models", "delete", "net", "-y", code=2).stderr
    assert store.versions("net") == ["1", "2"]
    assert run("models", "delete", "net:1", "-y").stdout.startswith("deleted net:1, freed ")
    deleted = json.loads(run("models", "delete", "net:latest", "--yes", "--json").stdout)
    assert (deleted["deleted"], deleted["aliases"]) == ("net:2", [])
    assert deleted["freed_bytes"] > 2048
    assert store.versions("net") == []


def test_models_list_selects_by_label_and_pattern(store: ModelStore) -> None:
    for name, labels in [("net-small", {"stage": "prod", "owner": "ann"}), ("words", {"stage": "prod"})]:
        with store.create(name, framework="custom", methods={}, labels=labels) as pending:
            pending.write("weights.bin", [b"w"])

    def listed(*words: str) -> list[str]:
        return [row["tag"] for row in json.loads(run("models", "list", *words, "--json").stdout)]

    assert listed("--label", "stage=prod") == ["net-small:1", "words:1"]
    assert listed("--label", "stage=prod", "--label", "owner=ann") == ["net-small:1"]
    assert listed("net*") == ["net:1", "net:2", "net-small:1"]
    assert listed("net*", "--label", "stage=dev") == ["net:1", "net:2"]
    assert listed("x*") == []
    assert "no stored version is like that" in run("models", "list", "--label", "stage=x").stderr
    assert "expected KEY=VALUE" in run("models", "list", "--label", "stage", code=2).stderr
    run("models", "list", "nett", code=2)


def test_models_alias_sets_moves_lists_and_removes(store: ModelStore) -> None:
    assert "no aliases; set one" in run("models", "alias").stderr
    assert run("models", "alias", "net:1", "prod").stdout == "net@prod names net:1\n"
    assert run("models", "alias", "net", "prod").stdout == "net@prod names net:2, before net:1\n"
    assert run("models", "alias", "net:2", "prod").stdout == "net@prod names net:2, as before\n"
    assert json.loads(run("models", "alias", "net:1", "old", "--json").stdout) == {
        "alias": "net@old",
        "version": "1",
        "before": None,
    }
    assert run("models", "alias").stdout.split() == ["ALIAS", "VERSION", "net@old", "net:1", "net@prod", "net:2"]
    assert json.loads(run("models", "alias", "net", "--json").stdout) == [
        {"alias": "net@old", "version": "1"},
        {"alias": "net@prod", "version": "2"},
    ]
    assert "prod" in run("models", "list").stdout.splitlines()[2]
    assert "net@prod" in run("models", "show", "net@prod").stdout
    assert run("models", "alias", "--remove", "net@old").stdout == "removed net@old, which named net:1\n"
    assert json.loads(run("models", "alias", "--remove", "net@prod", "--json").stdout)["version"] == "2"
    assert store.aliases("net") == {}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["net:1", "latest"], 1, "cannot be set"),
        (["net:9", "prod"], 2, "no version 9"),
        (["--remove", "net:1"], 1, "names no alias"),
        (["--remove"], 2, "remove which alias"),
        (["--remove", "net@x"], 2, "no alias"),
    ],
)
def test_a_wrong_alias_command_says_what_is_right(store: ModelStore, words: list[str], code: int, says: str) -> None:
    assert says in run("models", "alias", *words, code=code).stderr


def test_models_delete_refuses_what_an_alias_names(store: ModelStore) -> None:
    run("models", "alias", "net:1", "prod")
    assert "--force" in run("models", "delete", "net:1", "-y", code=1).stderr
    assert "removed net@prod" in run("models", "delete", "net@prod", "-y", "--force").stdout
    assert store.versions("net") == ["2"]
    assert store.aliases("net") == {}


def test_a_damaged_version_can_be_deleted(store: ModelStore) -> None:
    (store.home / "models/net/2/manifest.json").write_text("{")
    run("models", "delete", "net:2", "-y")
    assert store.versions("net") == ["1"]


def test_models_verify_all_goes_on_behind_the_first_damage(store: ModelStore) -> None:
    assert "2 version(s) checked, 0 problem(s)" in run("models", "verify", "--all").stdout
    run("models", "alias", "net:2", "prod")
    with store.create("other", framework="custom", methods={}) as pending:
        pending.write("weights.bin", [b"w"])
    os.rename(store.home / "models/net/2", store.home / "gone")
    (store.home / "models/net/1/manifest.json").write_text("{")
    text = run("models", "verify", "--all", code=1).stdout
    assert "net:1: its manifest is damaged" in text
    assert "net@prod: names version 2, which is not there" in text
    assert "2 version(s) checked, 2 problem(s)" in text
    rows = json.loads(run("models", "verify", "--all", "--json", code=1).stdout)
    assert {row["tag"]: row["verified"] for row in rows} == {"net:1": False, "other:1": True, "net@prod": False}
    assert "Give a tag" in run("models", "verify", code=2).stderr
    assert "Give a tag" in run("models", "verify", "net:1", "--all", code=2).stderr


def test_models_show_tells_everything_of_a_method_and_its_sample(store: ModelStore) -> None:
    method = MethodSpec(
        "embed",
        batchable=True,
        batch_dim=(0, 2),
        idempotent=False,
        max_batch_size=8,
        latency_budget_ms=50.0,
        inputs=(InputSpec("ids", dtypes.I64, (-1, -1)), InputSpec("mask")),
        open_inputs=False,
        padding=Padding(1, 64, 3.0, 512, ("ids",), "mask", 1),
    )
    header, _ = lay_out([TensorSlot("embed.ids", "I64", (1, 8))], {})
    with store.create(
        "text", framework="custom", methods={"embed": method}, metadata={"score": {"a": 1}}, code_bearing=True
    ) as pending:
        pending.write("sample_inputs.safetensors", [header, bytes(64)])
    text = run("models", "show", "text").stdout
    assert (
        "embed(ids: i64[?, ?]): batches along dim 0 in, 2 out, at most 8 rows, padded along dim 1 of ids to multiples "
        "of 64 with 3, at most 512 long, mask in mask, outputs cut along dim 1, within 50 ms, started at most once"
    ) in text
    for expected in ("embed.ids: i64[1, 8]", "score = {'a': 1}", "custom, brings code along", "saved here", "python"):
        assert expected in text
    shown = json.loads(run("models", "show", "text", "--json").stdout)
    assert shown["sample_inputs"] == [{"name": "embed.ids", "dtype": "I64", "shape": [1, 8]}]
    assert (shown["aliases"], shown["needs_trust"]) == ([], False)
    assert shown["methods"][0]["mask"] == "mask"
    assert shown["digest"] in text
    (store.home / "models/text/1/sample_inputs.safetensors").write_bytes(b"x")
    assert "sample_inputs.safetensors is damaged" in run("models", "show", "text").stdout


def test_models_show_writes_out_what_could_steer_a_terminal(store: ModelStore) -> None:
    with store.create("net", framework="custom", methods={}, labels={"x": "\x1b[2J\x9b1m\nfake"}) as pending:
        pending.write("weights.bin", [b"w"])
    for words in (["show", "net"], ["list"]):
        text = run("models", *words).stdout
        assert "\\x1b[2J\\x9b1m\\nfake" in text
        assert "\x1b" not in text


# In and out


def test_models_export_and_import_move_a_version(store: ModelStore, elsewhere: ModelStore, tmp_path: Path) -> None:
    assert run("models", "export", "net:1", "out.paceline").stdout == "wrote net:1 to out.paceline, 5.5 KiB\n"
    assert run_at(elsewhere, "models", "import", "out.paceline").stdout == "imported net:1, 2.0 KiB\n"
    assert "the same digest; nothing was changed" in run_at(elsewhere, "models", "import", "out.paceline").stdout
    run("models", "delete", "net:1", "-y")
    assert "--as net" in run("models", "import", "out.paceline", code=1).stderr
    shown = json.loads(run("models", "import", "out.paceline", "--as", "copy", "--json").stdout)
    assert (shown["tag"], shown["is_new"], shown["needs_trust"]) == ("copy:1", True, False)
    assert store.verify("copy").digest == elsewhere.verify("net:1").digest == shown["digest"]


def test_models_export_names_the_file_itself_in_a_folder(store: ModelStore, tmp_path: Path) -> None:
    assert run("models", "export", "net").stdout.startswith("wrote net:2 to net-2.paceline")
    (tmp_path / "folder").mkdir()
    shown = json.loads(run("models", "export", "net:1", "folder", "--json").stdout)
    assert shown["path"] == "folder/net-1.paceline"
    assert shown["bytes"] == (tmp_path / "folder/net-1.paceline").stat().st_size
    before = Path("net-2.paceline").read_bytes()
    assert "say --force" in run("models", "export", "net", code=1).stderr
    run("models", "export", "net:1", "net-2.paceline", "--force")
    assert Path("net-2.paceline").read_bytes() != before
    assert sorted(path.name for path in tmp_path.glob("*")) == ["folder", "home", "net-2.paceline"]


def test_an_archive_goes_through_pipes(store: ModelStore, elsewhere: ModelStore) -> None:
    data = run("models", "export", "net:2", "-").stdout_bytes
    run("models", "export", "net:2", "out")
    assert data == Path("out").read_bytes()
    assert run_at(elsewhere, "models", "import", "-", input=data).stdout == "imported net:2, 2.0 KiB\n"
    assert "no --json" in run("models", "export", "net:2", "-", "--json", code=2).stdout
    assert "is cut short" in run_at(elsewhere, "models", "import", "-", "--as", "x", input=data[:-1], code=1).stderr


def test_code_from_elsewhere_is_said_to_need_trust(store: ModelStore, elsewhere: ModelStore) -> None:
    with store.create("code", framework="pytorch", methods={}, code_bearing=True) as pending:
        pending.write("module.pkl", [b"x"])
    run("models", "export", "code", "out")
    assert "serving it needs --trust" in run_at(elsewhere, "models", "import", "out").stdout
    assert "not saved here: needs --trust" in run_at(elsewhere, "models", "show", "code").stdout
    assert json.loads(run_at(elsewhere, "models", "show", "code", "--json").stdout)["needs_trust"] is True


def test_models_push_and_pull_go_through_a_url(store: ModelStore, elsewhere: ModelStore, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/out.paceline"
    assert run("models", "push", "net:1", url).stdout == f"pushed net:1 to {url}\n"
    assert "say --force" in run("models", "push", "net:2", url, code=1).stderr
    assert run_at(elsewhere, "models", "pull", url).stdout == "imported net:1, 2.0 KiB\n"
    shown = json.loads(run("models", "push", "net:2", f"file://{tmp_path}/", "--json").stdout)
    assert shown["url"] == f"file://{tmp_path}/net-2.paceline"
    pulled = json.loads(run_at(elsewhere, "models", "pull", shown["url"], "--as", "copy", "--json").stdout)
    assert pulled["tag"] == "copy:1"
    assert "cannot read" in run("models", "pull", f"file://{tmp_path}/none", code=1).stderr


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := FakeTerminal())
    total = progress.SHOWN_FROM_BYTES
    with progress.Meter() as meter:
        meter.show(total - 1, total - 1)
    assert terminal.getvalue() == ""
    with progress.Meter() as meter:
        meter.show(total // 2, total)
        meter.show(total, total)  # at once: not shown again so soon
    assert terminal.getvalue() == "\r\033[K 50 %  32 MiB of 64 MiB\r\033[K"
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with progress.Meter() as meter:
        meter.show(total, total)
    assert pipe.getvalue() == ""


# Differences


def test_models_diff_shows_what_changed_and_by_how_much(store: ModelStore) -> None:
    def save(values: list[float], **options: Any) -> None:
        header, _ = lay_out([TensorSlot("w", "F32", (2,))], {})
        method = MethodSpec("__call__", max_batch_size=options.pop("max_batch_size", None))
        with store.create("w", framework="custom", methods={"__call__": method}, **options) as pending:
            pending.write("model.safetensors", [header, np.array(values, np.float32).tobytes()])

    save([1, 2], labels={"stage": "dev"})
    save([1, 2.5], labels={"stage": "prod"}, max_batch_size=8)
    save([1, float("nan")], labels={"stage": "prod"}, max_batch_size=8)
    lines = run("models", "diff", "w:1", "w:2").stdout.splitlines()
    assert lines[0] == "w:1 -> w:2"
    assert "label stage: dev -> prod" in lines
    assert "method __call__, max_batch_size: none -> 8" in lines
    assert lines[-2:] == ["model.safetensors: 0 tensor(s) equal, 1 not", "  w: f32[2], largest difference 0.5"]
    shown = json.loads(run("models", "diff", "w:1", "w:2", "--json").stdout)
    assert shown["same_content"] is False
    assert {"what": "label stage", "a": "dev", "b": "prod"} in shown["changes"]
    assert shown["weights"][0]["changed_tensors"][0]["largest_difference"] == 0.5
    files = [change for change in shown["changes"] if change["what"] == "file model.safetensors"]
    assert set(files[0]["a"]) == {"bytes", "sha256"}
    shown = json.loads(run("models", "diff", "w:1", "w:3", "--json").stdout)
    assert shown["weights"][0]["changed_tensors"][0]["largest_difference"] == "nan"
    assert "have the same content" in run("models", "diff", "net:1", "net:2").stdout
