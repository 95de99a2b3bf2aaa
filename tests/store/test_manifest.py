"""The manifest's one encoder and decoder, its digest and its seal."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.store.manifest import (
    FileEntry,
    Manifest,
    checked_labels,
    checked_metadata,
    content_digest,
    decode_manifest,
    encode_manifest,
    is_sealed_by,
    seal,
)
from paceline.store.tags import Tag

KEY = b"k" * 32
METHOD = MethodSpec(
    "__call__",
    batchable=True,
    batch_dim=(0, 1),
    max_batch_size=8,
    inputs=(InputSpec("x", dtypes.BF16, (-1, 3)), InputSpec("y", required=False)),
    open_inputs=False,
    outputs=(InputSpec("output_0", dtypes.F32, (-1, 2)),),
)
MANIFEST = Manifest(
    name="net",
    version="3",
    framework="pytorch",
    methods={"__call__": METHOD},
    files=(FileEntry("a.bin", 3, "a" * 64),),
    code_bearing=True,
    created_at="2025-01-01T00:00:00+00:00",
    labels={"stage": "dev"},
    metadata={"accuracy": 0.97, "classes": ["plane", "Käfer"]},
    context={"python": "3.11.7"},
)
DIGEST = "96f9026f19db7c30275cc75ef1eae3780fb9b7d3e6a4a53bd720fd20d7758366"


def test_a_manifest_reads_back_equal() -> None:
    sealed = seal(MANIFEST, KEY)
    assert decode_manifest(encode_manifest(sealed), Tag("net", "3")) == sealed


def test_padding_reads_back_equal_and_is_part_of_the_digest() -> None:
    method = replace(METHOD, padding=Padding(1, 64, -math.inf, 512, ("x",), "y", 2))
    padded = replace(MANIFEST, methods={"__call__": method})
    sealed = seal(padded, KEY)
    assert decode_manifest(encode_manifest(sealed), Tag("net", "3")) == sealed
    assert content_digest(padded) != content_digest(MANIFEST)


def test_the_digest_of_a_model_stored_before_there_was_padding_stays() -> None:
    assert content_digest(MANIFEST) == DIGEST


def test_the_digest_changes_with_content_and_not_with_the_name() -> None:
    digest = content_digest(MANIFEST)
    assert content_digest(replace(MANIFEST, name="other", version="9", labels={}, created_at="later")) == digest
    assert content_digest(replace(MANIFEST, framework="torchscript")) != digest
    assert content_digest(replace(MANIFEST, methods={"__call__": replace(METHOD, batchable=False)})) != digest
    assert content_digest(replace(MANIFEST, files=(FileEntry("a.bin", 3, "b" * 64),))) != digest


@pytest.mark.parametrize("change", [{"code_bearing": False}, {"labels": {}}, {"name": "x"}, {"digest": "0" * 64}])
def test_any_change_breaks_the_seal(change: dict[str, object]) -> None:
    sealed = seal(MANIFEST, KEY)
    assert is_sealed_by(sealed, KEY)
    assert not is_sealed_by(replace(sealed, **change), KEY)  # type: ignore[arg-type]  # one field of each kind
    assert not is_sealed_by(sealed, b"x" * 32)


def test_a_manifest_under_another_tag_is_refused() -> None:
    with pytest.raises(StoreError, match="its manifest says net:3"):
        decode_manifest(encode_manifest(seal(MANIFEST, KEY)), Tag("net", "4"))


def test_a_manifest_of_a_newer_format_is_refused_by_name() -> None:
    plain = json.loads(encode_manifest(seal(MANIFEST, KEY))) | {"format": 2}
    with pytest.raises(StoreError, match="a newer Paceline wrote it"):
        decode_manifest(json.dumps(plain).encode(), Tag("net", "3"))


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/b", ".hidden", "manifest.json", ""])
def test_a_file_entry_outside_the_folder_is_refused(path: str) -> None:
    evil = seal(replace(MANIFEST, files=(FileEntry(path, 1, "a" * 64),)), KEY)
    with pytest.raises(StoreError, match="is not allowed"):
        decode_manifest(encode_manifest(evil), Tag("net", "3"))


@given(st.data())
def test_a_damaged_manifest_raises_a_store_error_and_nothing_else(data: st.DataObject) -> None:
    encoded = bytearray(encode_manifest(seal(MANIFEST, KEY)))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    try:
        decode_manifest(bytes(encoded), Tag("net", "3"))
    except StoreError as error:
        assert "net:3" in str(error)  # noqa: PT017  # either outcome is right, only the kind matters


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda items: st.lists(items) | st.dictionaries(st.text(), items),
        max_leaves=10,
    )
)
def test_accepted_metadata_is_sealed_and_reads_back_sealed(value: object) -> None:
    try:
        metadata = checked_metadata({"value": value})
    except ConfigError:
        return  # lone surrogates
    sealed = seal(replace(MANIFEST, metadata=metadata), KEY)
    assert is_sealed_by(decode_manifest(encode_manifest(sealed), Tag("net", "3")), KEY)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, b"x", "\ud800"])
def test_metadata_that_json_cannot_hold_is_refused_by_key(value: object) -> None:
    with pytest.raises(ConfigError, match=r"metadata\['accuracy'\] cannot be written as JSON"):
        checked_metadata({"accuracy": value})


def test_a_label_that_is_no_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="use metadata for other values"):
        checked_labels({"epoch": 3})  # type: ignore[dict-item]  # what the test is about
