"""Archives: what goes out comes in equal; what is not exactly an archive is refused and leaves nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.protocol.errors import StoreError
from paceline.protocol.signature import MethodSpec
from paceline.store import FileEntry, ModelStore, StoredVersion, archive, tar_header
from paceline.store.archive import archive_chunks
from paceline.store.manifest import MANIFEST_BYTES_MAX, Manifest, encode_manifest, seal

METHODS = {"__call__": MethodSpec("__call__", batchable=True)}
FILES = {"a.bin": b"a" * 1000, "b.bin": b"", "module.pkl": b"code" * 256}


@pytest.fixture
def theirs(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "theirs")


@pytest.fixture
def ours(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "ours")


def save(
    store: ModelStore, name: str = "net", files: dict[str, bytes] = FILES, code_bearing: bool = True
) -> StoredVersion:
    with store.create(
        name,
        framework="custom",
        methods=METHODS,
        labels={"stage": "dev"},
        metadata={"accuracy": 0.97},
        code_bearing=code_bearing,
    ) as pending:
        for path, data in files.items():
            pending.write(path, [data])
    return pending.saved


def packed(version: StoredVersion) -> bytes:
    return b"".join(archive_chunks(version))


def receive(store: ModelStore, data: bytes, name: str | None = None) -> StoredVersion:
    return store.import_archive(io.BytesIO(data), name=name).version


def everything_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if path.name not in (".tmp", "models")
    }


# Round trip


def test_what_goes_out_comes_in_equal_but_unsealed(theirs: ModelStore, ours: ModelStore) -> None:
    version = save(theirs)
    assert not list(ours.list())
    imported = ours.import_archive(io.BytesIO(packed(version)))
    assert imported.is_new
    found = imported.version
    assert found == ours.get("net:1")
    assert replace(found.manifest, hmac="") == replace(version.manifest, hmac="")
    assert (found.manifest.hmac, found.saved_here) == ("", False)
    assert {name: bytes(found.look_into(name)) for name in FILES} == FILES
    ours.verify("net:1")
    modes = {path.stat().st_mode & 0o777 for path in found.path.iterdir()}
    assert modes == {0o600}


def test_code_that_was_imported_needs_trust_even_back_home(theirs: ModelStore) -> None:
    data = packed(save(theirs))
    theirs.delete_model("net")
    receive(theirs, data)
    with pytest.raises(StoreError, match="did not save it"):
        theirs.get("net").read("module.pkl")
    assert theirs.get("net", trust=True).read("module.pkl") == FILES["module.pkl"]


def test_a_version_keeps_its_number_and_later_saves_count_on(theirs: ModelStore, ours: ModelStore) -> None:
    for _ in range(3):
        version = save(theirs)
    assert str(receive(ours, packed(version)).tag) == "net:3"
    assert str(save(ours).tag) == "net:4"
    ours.delete("net:4")
    ours.delete("net:3")
    assert str(save(ours).tag) == "net:5"


def test_the_same_version_again_changes_nothing_and_says_so(theirs: ModelStore, ours: ModelStore) -> None:
    data = packed(save(theirs))
    receive(ours, data)
    before = everything_below(ours.home)
    again = ours.import_archive(io.BytesIO(data))
    assert (again.is_new, str(again.version.tag)) == (False, "net:1")
    assert everything_below(ours.home) == before


def test_another_version_of_the_same_tag_is_refused_unless_under_another_name(
    theirs: ModelStore, ours: ModelStore
) -> None:
    data = packed(save(theirs))
    mine = save(ours, files={"a.bin": b"mine"})
    with pytest.raises(StoreError, match=rf"net:1 is another model here: its digest is {mine.digest}.*--as net"):
        receive(ours, data)
    assert str(receive(ours, data, "net").tag) == "net:2"
    assert str(receive(ours, data, "other").tag) == "other:1"
    assert ours.verify("net:1") == mine
    assert ours.verify("other:1").digest == ours.verify("net:2").digest == theirs.get("net").digest


def test_a_number_that_was_used_is_not_used_again(theirs: ModelStore, ours: ModelStore) -> None:
    data = packed(save(theirs))
    receive(ours, data)
    save(ours)
    ours.delete("net:1")
    with pytest.raises(StoreError, match=r"number of net:1 was used before.*--as net"):
        receive(ours, data)
    assert str(receive(ours, data, "net").tag) == "net:3"


def test_a_bad_name_to_import_as_is_refused(theirs: ModelStore, ours: ModelStore) -> None:
    with pytest.raises(StoreError, match="'net:5' is not a model name"):
        receive(ours, packed(save(theirs)), "net:5")


def test_equal_versions_make_equal_archives_and_tar_reads_them(theirs: ModelStore, ours: ModelStore) -> None:
    data = packed(save(theirs, files=FILES | {"n" * 128: b"long name", "m" * 100: b"just fits"}))
    assert packed(receive(ours, data)) == data
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "manifest.json",
            *sorted([*FILES, "n" * 128, "m" * 100]),
        ]
        assert all(member.isreg() for member in members)
        file = tar.extractfile("n" * 128)
        assert file is not None
        assert file.read() == b"long name"


@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11, 10**15])
@pytest.mark.parametrize("name", ["a", "n" * 100, "n" * 101, "n" * 128])
def test_a_header_is_what_tar_itself_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    ours = tar_header.header(name, size)
    read = tarfile.TarInfo.frombuf(ours[-512:], "ascii", "strict")
    assert (read.size, read.type, read.mode) == (size, tarfile.REGTYPE, 0o600)
    assert tar_header.size_of(ours[-512:]) == size
    if len(name) <= 100:
        assert ours == info.tobuf(tarfile.GNU_FORMAT)


def test_an_archive_comes_through_a_pipe_in_any_pieces(theirs: ModelStore, ours: ModelStore) -> None:
    class Trickle:
        """Gives at most 7 bytes, as a pipe may."""

        def __init__(self, data: bytes) -> None:
            self._stream = io.BytesIO(data)

        def read(self, size: int, /) -> bytes:
            return self._stream.read(min(size, 7))

    assert ours.import_archive(Trickle(packed(save(theirs)))).is_new
    ours.verify("net")


def test_progress_counts_up_to_all_bytes_both_ways(theirs: ModelStore, ours: ModelStore, tmp_path: Path) -> None:
    version = save(theirs, files={"a.bin": b"a" * 3_000_000, "b.bin": b"b"})
    for act in (
        lambda seen: theirs.export("net", tmp_path / "out", progress=seen),
        lambda seen: ours.import_archive(tmp_path / "out", progress=seen),
    ):
        seen: list[tuple[int, int]] = []
        act(lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (version.manifest.bytes, version.manifest.bytes)
        assert seen == sorted(seen)
        assert len(seen) > 3


# Damage


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_archive_with_any_byte_changed_or_any_end_cut_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    good = cached_archive(tmp_path)
    if data.draw(st.booleans(), "cut"):
        spoilt = good[: data.draw(st.integers(0, len(good) - 1), "length")]
    else:
        at = data.draw(st.integers(0, len(good) - 1), "at")
        spoilt = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255), "flip")]) + good[at + 1 :]
    store = ModelStore(tmp_path / "ours")
    try:
        imported = store.import_archive(io.BytesIO(spoilt)).version
    except StoreError:
        assert store.list() == []
        assert os.listdir(store.home / "models/.tmp") == [] if store.home.exists() else True
        return
    # Only what the digest does not cover can have changed: labels, times, the number, whether code is there.
    assert imported.digest == cached_digest(tmp_path)
    store.verify(imported.tag)
    store.delete_model(imported.tag.name)


def cached_archive(folder: Path) -> bytes:
    path = folder / "good.paceline"
    if not path.exists():
        store = ModelStore(folder / "theirs")
        save(store)
        store.export("net", path)
    return path.read_bytes()


def cached_digest(folder: Path) -> str:
    return ModelStore(folder / "theirs").get("net").digest


def test_damage_in_the_store_stops_an_export_and_leaves_no_file(theirs: ModelStore, tmp_path: Path) -> None:
    version = save(theirs)
    (version.path / "a.bin").write_bytes(b"b" * 1000)
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match=r"net:1/a.bin is damaged"):
        theirs.export("net", tmp_path / "out" / "net.paceline")
    assert os.listdir(tmp_path / "out") == []


# Hostility


def manifest_of(contents: dict[str, bytes], **changes: Any) -> Manifest:
    entries = tuple(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items())
    values: dict[str, Any] = {
        "name": "net",
        "version": "1",
        "framework": "custom",
        "methods": METHODS,
        "files": entries,
        "code_bearing": False,
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return seal(Manifest(**(values | changes)), None)


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive as another program would write it: our constants, any member."""
    stream = io.BytesIO()
    for info, data in members:
        info.mode = 0o600
        stream.write(info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT))
        stream.write(data + bytes(-len(data) % 512))
    stream.write(bytes(1024))
    return stream.getvalue()


def member(name: str, data: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, data


A = b"a" * 600
GOOD = manifest_of({"a.bin": A})
HEAD = member("manifest.json", encode_manifest(GOOD))
FILE = member("a.bin", A)


def with_manifest(manifest: Manifest, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return tarred(member("manifest.json", encode_manifest(manifest)), *members)


def with_json(change: Callable[[dict[str, Any]], object]) -> bytes:
    plain = json.loads(encode_manifest(GOOD))
    change(plain)
    return tarred(member("manifest.json", json.dumps(plain).encode()), FILE)


HOSTILE = {
    "absolute": tarred(HEAD, member("/etc/passwd", A)),
    "parent": tarred(HEAD, member("../a.bin", A)),
    "absolute, then right": tarred(HEAD, member("/tmp/x", A), FILE),
    "folder": tarred(HEAD, member("sub", type=tarfile.DIRTYPE), FILE),
    "below a folder": tarred(HEAD, member("sub/a.bin", A)),
    "dot": tarred(HEAD, member("./a.bin", A)),
    "symbolic link": tarred(HEAD, member("a.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "link chain": tarred(HEAD, member("x", type=tarfile.SYMTYPE, linkname=".."), member("x/a.bin", A), FILE),
    "hard link": tarred(HEAD, member("a.bin", type=tarfile.LNKTYPE, linkname="../../store.key")),
    "fifo": tarred(HEAD, member("a.bin", type=tarfile.FIFOTYPE)),
    "character device": tarred(HEAD, member("a.bin", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "block device": tarred(HEAD, member("a.bin", type=tarfile.BLKTYPE, devmajor=8)),
    "contiguous": tarred(HEAD, member("a.bin", A, type=tarfile.CONTTYPE)),
    "old regular type": tarred(HEAD, member("a.bin", A, type=tarfile.AREGTYPE)),
    "sparse": tarred(HEAD, member("a.bin", A, type=tarfile.GNUTYPE_SPARSE)),
    "pax name": tarred(HEAD, member("a.bin", A, pax_headers={"path": "../evil"})),
    "pax size": tarred(HEAD, member("a.bin", A, pax_headers={"size": "9999999999"})),
    "pax sparse": tarred(HEAD, member("a.bin", A, pax_headers={"GNU.sparse.realsize": "9999999"})),
    "pax global": tarred(HEAD, member("g", b"11 path=x\n ", type=tarfile.XGLTYPE), FILE),
    "long name before a short one": tarred(
        HEAD, member("././@LongLink", b"../../evil\0", type=tarfile.GNUTYPE_LONGNAME), FILE
    ),
    "long link": tarred(HEAD, member("././@LongLink", b"x\0", type=tarfile.GNUTYPE_LONGLINK), FILE),
    "twice": tarred(HEAD, FILE, FILE),
    "manifest twice": tarred(HEAD, HEAD, FILE),
    "case collision": with_manifest(manifest_of({"a.bin": A, "A.bin": A}), FILE, member("A.bin", A)),
    "beyond the manifest": tarred(HEAD, FILE, member("evil.pkl", b"x")),
    "before the manifest": tarred(FILE, HEAD),
    "missing": tarred(HEAD),
    "shorter": tarred(HEAD, member("a.bin", A[:-1])),
    "longer": tarred(HEAD, member("a.bin", A + b"a")),
    "other bytes": tarred(HEAD, member("a.bin", b"b" * 600)),
    "owner": tarred(HEAD, member("a.bin", A, uid=0o17)),
    "set-uid": tarred(HEAD, FILE)[:-1024].replace(b"0000600\0", b"0004755\0") + bytes(1024),
    "negative size": tarred(HEAD, FILE).replace(b"00000001130\0", b"-0000001130\0"),
    "padding": tarred(HEAD, FILE)[: -1024 - 400] + b"x" * 400 + bytes(1024),
    "trailing zeros": tarred(HEAD, FILE) + bytes(512),
    "trailing garbage": tarred(HEAD, FILE) + b"x",
    "a second archive behind": tarred(HEAD, FILE) * 2,
    "no end": tarred(HEAD, FILE)[:-1024],
    "half an end": tarred(HEAD, FILE)[:-512],
    "file with a path": with_json(lambda plain: plain["files"][0].update(path="../a.bin")),
    "file with an absolute path": with_json(lambda plain: plain["files"][0].update(path="/a.bin")),
    "hidden file": with_json(lambda plain: plain["files"][0].update(path=".reserved")),
    "file with a control character": with_json(lambda plain: plain["files"][0].update(path="a\x1b[2Jbin")),
    "file called as the manifest": with_json(lambda plain: plain["files"][0].update(path="manifest.json")),
    "file named twice": with_json(lambda plain: plain.update(files=plain["files"] * 2)),
    "negative bytes": with_json(lambda plain: plain["files"][0].update(bytes=-1)),
    "bytes that are no number": with_json(lambda plain: plain["files"][0].update(bytes=True)),
    "another digest": with_json(lambda plain: plain.update(digest="0" * 64)),
    "lone surrogate": with_json(lambda plain: plain["labels"].update(x="\ud800")),
    "not a number": with_json(lambda plain: plain["metadata"].update(x=float("nan"))),
    "newer format": with_json(lambda plain: plain.update(format=2)),
    "deep": tarred(member("manifest.json", b"[" * 100_000)),
    "name with a path": with_manifest(manifest_of({"a.bin": A}, name="../net"), FILE),
    "name that hides": with_manifest(manifest_of({"a.bin": A}, name=".tmp"), FILE),
    "empty name": with_manifest(manifest_of({"a.bin": A}, name=""), FILE),
    "version with a path": with_manifest(manifest_of({"a.bin": A}, version="../1"), FILE),
    "version zero": with_manifest(manifest_of({"a.bin": A}, version="0"), FILE),
    "version that leaves no other": with_manifest(manifest_of({"a.bin": A}, version="999999999"), FILE),
    "empty": b"",
    "zeros": bytes(10240),
    "text": b"hello " * 1000,
    "zip": b"PK\x03\x04" + bytes(1000),
    "gzip": b"\x1f\x8b" + bytes(1000),
}


def test_the_honest_form_of_the_hostile_ones_is_taken(ours: ModelStore) -> None:
    assert str(receive(ours, tarred(HEAD, FILE)).tag) == "net:1"


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    save(store := ModelStore(tmp_path / "outer" / "ours"), "kept")
    before = everything_below(tmp_path)
    for name in (None, "other"):
        with pytest.raises(StoreError) as refused:
            receive(store, HOSTILE[kind], name)
        assert str(refused.value).isprintable()
        assert everything_below(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("symbolic link", "a symbolic link 'a.bin' of 0 bytes where it must hold the file 'a.bin' of 600 bytes"),
        ("block device", "a block device"),
        ("sparse", "a sparse file"),
        ("pax name", "a pax record"),
        ("missing", "nothing more where it must hold the file 'a.bin'"),
        ("beyond the manifest", "'evil.pkl' of 1 bytes where it must hold its end, since its manifest names no other"),
        ("shorter", "'a.bin' of 599 bytes where it must hold the file 'a.bin' of 600 bytes"),
        ("other bytes", "damaged: the SHA-256 of 'a.bin'"),
        ("trailing garbage", "goes on behind its end"),
        ("no end", "is cut short"),
        ("case collision", "not only by upper and lower case"),
        ("zip", r"is compressed \(zip\)"),
        ("gzip", r"is compressed \(gzip\)"),
        ("text", "is not an archive of `paceline models export`: it begins with something that is no tar entry"),
        ("version that leaves no other", "expected 1 to 99999999"),
    ],
)
def test_a_refusal_says_what_was_found_and_expected(ours: ModelStore, kind: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        receive(ours, HOSTILE[kind])


def test_limits_are_checked_before_anything_is_read_or_written(
    ours: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ARCHIVE_FILES_MAX", 2)
    many = manifest_of({"a.bin": A, "b.bin": A, "c.bin": A})
    with pytest.raises(StoreError, match="has 3 files, over the limit of 2"):
        receive(ours, with_manifest(many))
    huge = manifest_of({}, files=(FileEntry("a.bin", 2**40, "0" * 64), FileEntry("b.bin", 1, "0" * 64)))
    with pytest.raises(StoreError, match=f"has {2**40 + 1} bytes of files, over the limit of {2**40}"):
        receive(ours, with_manifest(huge))
    with pytest.raises(StoreError, match=f"has a manifest of {2**33} bytes, over the limit of {MANIFEST_BYTES_MAX}"):
        receive(ours, tar_header.header("manifest.json", 2**33))
    assert not ours.home.exists()


def test_a_claim_that_the_disk_cannot_hold_is_refused_before_its_bytes_come(
    ours: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    large = manifest_of({}, files=(FileEntry("a.bin", 10**12, "0" * 64),))
    with pytest.raises(StoreError, match=f"net:1 needs {10**12} bytes, {10**9} are free. Nothing was imported"):
        receive(ours, with_manifest(large))
    assert ours.list() == []


def test_a_source_that_fails_is_an_error_and_leaves_nothing(theirs: ModelStore, ours: ModelStore) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(size)

    with pytest.raises(StoreError, match="cannot read the archive: Connection reset by peer"):
        ours.import_archive(Failing(packed(save(theirs))))
    assert ours.list() == []
    assert os.listdir(ours.home / "models/.tmp") == []
