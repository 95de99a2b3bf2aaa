"""The store's promises in one process: numbers, tags, permissions, verification, trust, full disks."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.protocol.errors import ConfigError, ModelNotFound, StoreError, VersionNotFound
from paceline.protocol.signature import MethodSpec
from paceline.store import ModelStore, StoredVersion, artefact

METHODS = {"__call__": MethodSpec("__call__")}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


def save(store: ModelStore, name: str = "net", data: bytes = b"weights", code_bearing: bool = False) -> StoredVersion:
    with store.create(name, framework="custom", methods=METHODS, code_bearing=code_bearing) as pending:
        pending.write("weights.bin", [data])
    return pending.saved


def temporary(store: ModelStore) -> list[str]:
    return os.listdir(store.home / "models" / ".tmp")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# Versions


def test_versions_count_up_and_latest_is_the_highest(store: ModelStore) -> None:
    assert [str(save(store).tag) for _ in range(11)] == [f"net:{number}" for number in range(1, 12)]
    assert str(store.get("net").tag) == str(store.get("net:latest").tag) == "net:11"
    assert str(store.get("net:2").tag) == "net:2"


def test_a_saved_version_reads_back_as_it_was_saved(store: ModelStore) -> None:
    with store.create(
        "net", framework="custom", methods=METHODS, labels={"stage": "dev"}, metadata={"sizes": (1, 2)}
    ) as pending:
        pending.write("a.bin", [b"one", memoryview(b"two"), b""])
        (pending.path / "by_a_tool.txt").write_text("three")
    found = store.get("net")
    assert found == pending.saved
    assert (found.manifest.labels, found.manifest.metadata) == ({"stage": "dev"}, {"sizes": [1, 2]})
    assert (found.read("a.bin"), bytes(found.map("by_a_tool.txt"))) == (b"onetwo", b"three")
    assert found.manifest.created_at.endswith("+00:00")
    assert {"paceline", "python", "platform"} <= set(found.manifest.context)


def test_a_number_is_never_used_twice(store: ModelStore) -> None:
    save(store)
    save(store)
    store.delete("net:2")
    assert str(save(store).tag) == "net:3"


def test_a_version_copied_in_by_hand_keeps_its_number(store: ModelStore) -> None:
    first = save(store)
    shutil.copytree(first.path, first.path.parent / "7")
    assert str(save(store).tag) == "net:8"


def test_an_exception_in_the_block_drops_the_version(store: ModelStore) -> None:
    def fail_while_saving() -> None:
        with store.create("net", framework="custom", methods=METHODS) as pending:
            pending.write("a.bin", [b"x"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_saving()
    assert store.names() == []
    assert temporary(store) == []


def test_saved_is_not_there_inside_the_block(store: ModelStore) -> None:
    with store.create("net", framework="custom", methods=METHODS) as pending, pytest.raises(StoreError, match="with"):
        _ = pending.saved


@pytest.mark.parametrize("name", ["../x", "a/b", "manifest.json", ".x", ""])
def test_a_file_outside_the_version_cannot_be_written(store: ModelStore, name: str) -> None:
    with store.create("net", framework="custom", methods=METHODS) as pending, pytest.raises(StoreError, match="cannot"):
        pending.write(name, [b"x"])


def test_folders_are_0700_and_files_0600_whatever_the_umask(store: ModelStore) -> None:
    before = os.umask(0)
    try:
        save(store)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [store.home, *store.home.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


# Finding


def test_an_unknown_model_names_the_nearest(store: ModelStore) -> None:
    save(store, "my_model")
    with pytest.raises(ModelNotFound, match=r'"my_modle" is not in the store. Did you mean "my_model"'):
        store.get("my_modle")


def test_an_unknown_model_unlike_any_lists_what_is_there(store: ModelStore) -> None:
    save(store, "digits")
    with pytest.raises(ModelNotFound, match="It holds digits; save the model first, or choose one of these"):
        store.get("zzz")


def test_an_empty_store_says_how_to_fill_it(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="The store is empty: save a model first"):
        store.get("net")
    assert store.list() == []


def test_an_unknown_version_lists_those_there_are(store: ModelStore) -> None:
    save(store)
    save(store)
    with pytest.raises(VersionNotFound, match="no version 9; it has 1, 2"):
        store.get("net:9")


def test_an_alias_is_understood_and_not_there(store: ModelStore) -> None:
    save(store)
    with pytest.raises(VersionNotFound, match='no alias "prod"'):
        store.get("net@prod")


def test_list_is_sorted_by_name_and_number(store: ModelStore) -> None:
    for name in ["b", "a", *["b"] * 10]:
        save(store, name)
    assert [str(found.tag) for found in store.list()] == ["a:1", *[f"b:{number}" for number in range(1, 12)]]
    assert [str(found.tag) for found in store.list("a")] == ["a:1"]


def test_one_unreadable_version_does_not_hide_the_others(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    (save(store, "bad").path / "manifest.json").write_text("{")
    save(store, "good")
    assert [str(found.tag) for found in store.list()] == ["good:1"]
    assert caplog.messages == ["stored version is unreadable"]
    with pytest.raises(StoreError, match="bad:1: its manifest is damaged"):
        store.get("bad")
    store.delete("bad:1")


def test_home_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    assert ModelStore().home == tmp_path
    monkeypatch.delenv("PACELINE_HOME")
    assert ModelStore().home == Path.home() / ".paceline"


# Deleting


def test_a_deleted_version_is_gone_and_its_open_mapping_stays(store: ModelStore) -> None:
    save(store)
    version = save(store, data=b"kept")
    mapped = version.map("weights.bin")
    assert str(store.delete("net:latest").tag) == "net:2"
    assert bytes(mapped) == b"kept"
    assert str(store.get("net").tag) == "net:1"
    assert temporary(store) == []
    with pytest.raises(VersionNotFound, match="net:2 was deleted meanwhile"):
        version.read("weights.bin")


def test_a_bare_name_deletes_nothing(store: ModelStore) -> None:
    save(store)
    with pytest.raises(StoreError, match="Expected a tag such as 'net:1'"):
        store.delete("net")
    assert store.versions("net") == ["1"]


def test_a_whole_model_is_deleted_and_starts_again_at_1(store: ModelStore) -> None:
    save(store)
    save(store)
    store.delete_model("net")
    assert store.names() == []
    assert str(save(store).tag) == "net:1"


def test_a_save_survives_the_deletion_of_its_model_meanwhile(store: ModelStore) -> None:
    save(store)
    with store.create("net", framework="custom", methods=METHODS) as pending:
        pending.write("a.bin", [b"x"])
        store.delete_model("net")
    assert str(store.verify("net").tag) == str(pending.saved.tag) == "net:1"


# Verifying


def test_a_flipped_bit_is_found_and_named(store: ModelStore) -> None:
    version = save(store)
    flip_a_bit(version.path / "weights.bin")
    for read in (lambda: store.verify("net"), lambda: version.read("weights.bin"), lambda: version.map("weights.bin")):
        with pytest.raises(
            StoreError, match=r"net:1/weights.bin is damaged: its SHA-256 is [0-9a-f]{64}, its manifest"
        ):
            read()


def test_a_shortened_file_is_found_and_named(store: ModelStore) -> None:
    version = save(store)
    os.truncate(version.path / "weights.bin", 3)
    with pytest.raises(StoreError, match=r"net:1/weights.bin is damaged: it has 3 bytes, its manifest says 7"):
        store.verify("net")


def test_a_missing_file_and_an_extra_file_are_found_and_named(store: ModelStore) -> None:
    version = save(store)
    (version.path / "extra").touch()
    with pytest.raises(StoreError, match="holds 'extra', which its manifest does not name"):
        store.verify("net")
    (version.path / "weights.bin").unlink()
    with pytest.raises(StoreError, match=r"its file 'weights.bin' is missing"):
        store.verify("net")


def test_no_flipped_bit_of_a_manifest_changes_what_is_trusted(store: ModelStore) -> None:
    saved = save(store)
    path = saved.path / "manifest.json"
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        try:
            found = store.get("net")
        except StoreError:
            continue
        assert not found.saved_here or found == saved  # equal: the flip hit the layout


def test_what_is_swapped_after_verification_is_not_what_was_loaded(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = save(store, data=b"genuine")
    path = version.path / "weights.bin"
    evil = store.home / "evil"
    checked = artefact._check_hash

    def swap_at_once(found: str, folders: tuple[str, ...], entry: object) -> None:
        checked(found, folders, entry)  # type: ignore[arg-type]
        evil.write_bytes(b"changed")
        os.replace(evil, path)

    monkeypatch.setattr(artefact, "_check_hash", swap_at_once)
    mapped = version.map("weights.bin")
    assert path.read_bytes() == b"changed"
    assert bytes(mapped) == b"genuine"
    path.write_bytes(b"genuine")
    assert version.read("weights.bin") == b"genuine"
    assert path.read_bytes() == b"changed"


def test_what_is_written_into_a_mapping_stays_out_of_the_file(store: ModelStore) -> None:
    version = save(store)
    version.map("weights.bin")[0] = 0
    assert version.read("weights.bin") == b"weights"


@pytest.mark.parametrize(
    "where", ["models/net/1/weights.bin", "models/net/1/manifest.json", "models/net/1", "models/net"]
)
def test_a_symbolic_link_is_refused_at_every_level(store: ModelStore, where: str) -> None:
    version = save(store)
    path = store.home / where
    path.rename(store.home / "elsewhere")
    path.symlink_to(store.home / "elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link; the store follows none"):
        store.get("net").read("weights.bin")
    with pytest.raises(StoreError, match="symbolic link"):
        version.read("weights.bin") if "manifest" not in where else store.get("net")


def test_a_fifo_in_a_files_place_is_refused_without_waiting(store: ModelStore) -> None:
    version = save(store)
    (version.path / "weights.bin").unlink()
    os.mkfifo(version.path / "weights.bin")
    with pytest.raises(StoreError, match="is not a regular file"):
        version.read("weights.bin")


def test_a_model_folder_that_is_a_link_takes_no_new_version(store: ModelStore, tmp_path: Path) -> None:
    save(store)
    (tmp_path / "outside").mkdir()
    (store.home / "models" / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="symbolic link"):
        save(store, "linked")
    assert list((tmp_path / "outside").iterdir()) == []


# Trust


def test_code_from_another_store_is_refused_until_trusted_or_pinned(store: ModelStore, tmp_path: Path) -> None:
    theirs = save(ModelStore(tmp_path / "theirs"), code_bearing=True)
    save(store, "other")
    shutil.copytree(theirs.path, store.home / "models" / "net" / "1")
    refused = store.get("net")
    assert not refused.saved_here
    for act in (refused.require_trusted, lambda: refused.read("weights.bin"), lambda: refused.map("weights.bin")):
        with pytest.raises(StoreError, match=rf"did not save it.*--trust.*trust=True.*{theirs.digest}"):
            act()
    store.verify("net")  # looking is always allowed
    assert store.get("net", trust=True).read("weights.bin") == b"weights"
    assert store.get("net", digest=theirs.digest).read("weights.bin") == b"weights"


def test_code_saved_here_needs_no_trust(store: ModelStore) -> None:
    save(store, code_bearing=True)
    assert store.get("net").saved_here
    assert store.get("net").read("weights.bin") == b"weights"


def test_data_from_another_store_needs_no_trust(store: ModelStore, tmp_path: Path) -> None:
    theirs = save(ModelStore(tmp_path / "theirs"))
    shutil.copytree(theirs.path, store.home / "models" / "net" / "1")
    assert store.get("net").read("weights.bin") == b"weights"


def test_a_pinned_digest_that_differs_is_refused(store: ModelStore) -> None:
    save(store)
    with pytest.raises(StoreError, match="not the pinned abc"):
        store.get("net", digest="abc")


def test_a_version_renamed_by_hand_is_refused(store: ModelStore) -> None:
    version = save(store)
    version.path.rename(version.path.parent / "2")
    with pytest.raises(StoreError, match="its manifest says net:1; the folder was renamed"):
        store.get("net")


@pytest.mark.parametrize(("spoil", "message"), [("chmod", "chmod 600"), ("shorten", "has 5 bytes, expected 32")])
def test_a_key_that_others_could_know_or_that_is_damaged_is_refused(
    store: ModelStore, spoil: str, message: str
) -> None:
    save(store)
    key = store.home / "store.key"
    key.chmod(0o644) if spoil == "chmod" else os.truncate(key, 5)
    with pytest.raises(StoreError, match=message):
        store.get("net")


# Disk


def test_a_delete_that_fails_says_that_nothing_was_deleted(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StoreError, match=r"Permission denied\. Nothing was deleted, the store is as before"):
        store.delete("net:1")
    assert store.versions("net") == ["1"]


def test_a_full_disk_at_any_write_leaves_the_old_state(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, data=b"old")
    for full_at in range(1, 6):  # data, its sync, manifest, its sync, the draft's folder
        with monkeypatch.context() as patches:
            fill_disk(patches, full_at)
            with pytest.raises(StoreError, match=r"No space left on device. Nothing was saved, the store is as before"):
                save(store, data=b"new")
        assert temporary(store) == []
        assert store.versions("net") == ["1"]
        assert store.verify("net").read("weights.bin") == b"old"


def fill_disk(patches: pytest.MonkeyPatch, full_at: int) -> None:
    """Let the `full_at`-th write or sync find the disk full."""
    countdown = iter(range(full_at - 1, -1, -1))

    def full_in_turn(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object) -> object:
            if next(countdown, 1) == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args)

        return counted

    patches.setattr(os, "write", full_in_turn(os.write))
    patches.setattr(os, "fsync", full_in_turn(os.fsync))


def test_a_store_in_an_impossible_place_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write below .*: Not a directory"):
        save(ModelStore(tmp_path / "file" / "home"))


def test_the_sweep_takes_what_is_old_and_held_by_nobody(tmp_path: Path) -> None:
    now = 1_000_000.0
    store = ModelStore(tmp_path, wall_clock=lambda: now)
    save(store)
    folder = store.home / "models" / ".tmp"
    for name, age in [("save-old", 3601.0), ("delete-old", 90_000.0), ("save-young", 3599.0)]:
        (folder / name / "inner").mkdir(parents=True)
        os.utime(folder / name, (now - age, now - age))
    (folder / "key-old").touch()
    os.utime(folder / "key-old", (0, 0))
    with store.create("net", framework="custom", methods=METHODS) as pending:
        os.utime(pending.path, (0, 0))  # a save that takes longer than an hour
        assert ModelStore(tmp_path, wall_clock=lambda: now).sweep() == 0  # `create` has swept already
        assert sorted(os.listdir(folder)) == [pending.path.name, "save-young"]
    assert str(store.verify("net").tag) == "net:2"


def test_bad_labels_and_metadata_are_refused_before_anything_is_made(store: ModelStore) -> None:
    with (
        pytest.raises(ConfigError, match="metadata"),
        store.create("net", framework="custom", methods=METHODS, metadata={"x": object()}),
    ):
        pass
    assert not store.home.exists()
