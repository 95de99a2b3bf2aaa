"""The one module that pickles: by value where asked, by reference else, references for what lies beside."""

from __future__ import annotations

import json
import threading

import cloudpickle
import pytest

from paceline.protocol.errors import ConfigError, StoreError
from paceline.store import pickled


def test_a_value_comes_back_equal() -> None:
    assert pickled.load(pickled.dump({"a": [1, (2, None)]}, what="x"), what="x") == {"a": [1, (2, None)]}


def test_a_module_is_by_value_only_while_it_is_saved() -> None:
    assert b"cloudpickle" in pickled.dump(json.JSONEncoder, what="x", by_value=[json])
    assert b"cloudpickle" not in pickled.dump(json.JSONEncoder, what="x")
    with pytest.raises(ConfigError):
        pickled.dump(threading.Lock(), what="x", by_value=[json])
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_what_the_user_registered_stays_registered() -> None:
    cloudpickle.register_pickle_by_value(json)
    try:
        pickled.dump(1, what="x", by_value=[json])
        assert cloudpickle.list_registry_pickle_by_value() == {"json"}
    finally:
        cloudpickle.unregister_pickle_by_value(json)


def test_what_lies_beside_is_referred_to_each_time_it_is_met() -> None:
    class Beside:
        pass

    beside = Beside()
    data = pickled.dump(
        [beside, {"again": beside}], what="x", persistent_id=lambda value: "key" if value is beside else None
    )
    assert pickled.load(data, what="x", persistent_load=lambda key: f"<{key}>") == ["<key>", {"again": "<key>"}]


def test_what_cannot_be_pickled_is_named_with_its_owner() -> None:
    with pytest.raises(ConfigError, match=r"the Net cannot be saved: cannot pickle '_thread.lock' object. Remove"):
        pickled.dump({"lock": threading.Lock()}, what="the Net")


@pytest.mark.parametrize("data", [b"cnowhere_at_all\nNet\n.", b"cjson\nNoSuchClass\n."], ids=["module", "class"])
def test_a_class_that_is_not_there_is_named_with_the_remedy(data: bytes) -> None:
    with pytest.raises(
        StoreError,
        match=r"net:1 needs (nowhere_at_all.Net|json.NoSuchClass), which this process cannot import: .*"
        r"save the model again with external_modules=\[(nowhere_at_all|json)\]",
    ):
        pickled.load(data, what="net:1")


def test_a_module_that_code_by_value_imports_is_named_with_the_remedy() -> None:
    data = b"ccloudpickle.cloudpickle\nsubimport\n(Vnowhere_at_all\ntR."
    with pytest.raises(StoreError, match=r"net:1 needs something that this process does not have: .*nowhere_at_all"):
        pickled.load(data, what="net:1")
