"""Classes of the user's own: what they offer, and what is refused where they are written."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.handle import Runner
from paceline.protocol.errors import ConfigError, StartError
from paceline.protocol.signature import InputSpec
from paceline.runnable import Runnable
from paceline.runner.frameworks.runnable import load_runnable


class Parent(Runnable):
    def __init__(self, size: int, *, name: str = "x", device: str = "") -> None:
        self.made_with = (size, name, device)

    @Runnable.method(batchable=True, batch_dim=(0, 1), max_batch_size=4)
    def encode(self, x: object, scale: float = 1.0) -> object:
        return x

    @Runnable.method
    def ping(self) -> str:
        return "pong"

    def helper(self) -> None: ...


class Child(Parent):
    resources = ("cpu",)

    def encode(self, x: object, scale: float = 2.0, *more: object) -> object:
        return x

    ping = None  # type: ignore[assignment]

    @Runnable.method(batchable=True)
    def own(self, x: object) -> object:
        return x


class GpuOnly(Parent):
    resources = ("nvidia.com/gpu",)


class Empty(Runnable):
    def helper(self) -> None: ...


INIT = {"size": 3}


def test_marked_methods_are_offered_with_their_options_and_inputs() -> None:
    plan = Runner(Parent, init=INIT).plan()
    assert (plan.name, plan.runnable) == ("parent", f"{__name__}:Parent")
    encode, ping = plan.methods
    assert (encode.name, encode.batchable, encode.batch_dim, encode.max_batch_size) == ("encode", True, (0, 1), 4)
    assert encode.inputs == (InputSpec("x"), InputSpec("scale", required=False))
    assert not encode.open_inputs
    assert (ping.name, ping.batchable, ping.inputs, ping.open_inputs) == ("ping", False, (), False)


def test_subclass_adds_redefines_and_removes_without_touching_its_parent() -> None:
    encode, own = Runner(Child, init=INIT).plan().methods
    assert (encode.name, encode.batch_dim, encode.open_inputs) == ("encode", (0, 1), True)
    assert own.name == "own"
    assert [method.name for method in Runner(Parent, init=INIT).plan().methods] == ["encode", "ping"]


def test_wrong_option_is_an_error_where_the_class_is_written() -> None:
    with pytest.raises(ConfigError, match='signatures\\["encode"\\]\\["batch_dim"\\] is -1'):

        class Wrong(Runnable):
            @Runnable.method(batch_dim=-1)
            def encode(self, x: object) -> object: ...

    options: dict[str, Any] = {"batchabel": True}
    with pytest.raises(ConfigError, match='Did you mean "batchable"'):
        Runnable.method(**options)(Parent.helper)
    with pytest.raises(ConfigError, match="marks methods, got a int"):
        Runnable.method(3)  # type: ignore[call-overload]


def test_class_without_a_marked_method_or_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Empty offers no method; mark .* @paceline\.Runnable\.method"):
        Runner(Empty)
    for wrong in (3, dict, Parent(1)):
        with pytest.raises(ConfigError, match=r"expected a class that derives .*\.to_runner\(\)"):
            Runner(wrong)  # type: ignore[arg-type]


def test_class_inside_a_function_is_refused() -> None:
    class Inner(Parent): ...

    with pytest.raises(StartError, match="is defined inside a function, where a worker cannot find it"):
        Runner(Inner, init=INIT)


@pytest.mark.parametrize(
    ("init", "error"),
    [
        ({}, r"Parent needs init=\{\.\.\.\} with size"),
        ({"sice": 3}, 'init has .sice., which Parent does not take. Did you mean "size"'),
        ({"size": object()}, "cannot travel to the workers"),
        ({"size": 2**80}, "cannot travel to the workers"),
    ],
)
def test_wrong_init_is_named(init: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Runner(Parent, init=init)


def test_resources_choose_devices_and_contradictions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Runner(Parent, init=INIT).plan().devices is None
    assert Runner(Child, init=INIT).plan().devices == ("cpu",)
    assert Runner(GpuOnly, init=INIT).plan().devices == ("cuda",)
    assert Runner(GpuOnly, init=INIT, devices="cuda:1").plan().devices == ("cuda:1",)
    with pytest.raises(ConfigError, match=r'Child\.resources has no "nvidia\.com/gpu"'):
        Runner(Child, init=INIT, devices=["cuda:0"])
    for wrong in ((), ("gpu",), "cpu"):
        monkeypatch.setattr(Child, "resources", wrong)
        with pytest.raises(ConfigError, match=r"Child\.resources is"):
            Runner(Child, init=INIT)


def test_worker_makes_the_object_with_parameters_and_device() -> None:
    plan = Runner(Parent, init={"size": 5, "name": "y"}).plan()
    model = load_runnable(plan.runnable, plan.init, "cuda:0")
    assert model.model.made_with == (5, "y", "cuda:0")  # type: ignore[attr-defined]
    assert model.bound("ping")() == "pong"
    given = Runner(Parent, init={"size": 5, "device": "cpu"}).plan()
    assert load_runnable(given.runnable, given.init, "cuda:0").model.made_with[2] == "cpu"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (f"{__name__}:Paren", "has no 'Paren'. Did you mean \"Parent\""),
        (f"{__name__}:INIT", "is no Runnable"),
        ("collections:OrderedDict", "is no Runnable"),
    ],
)
def test_target_that_is_no_runnable_is_named(target: str, error: str) -> None:
    with pytest.raises(StartError, match=error):
        load_runnable(target, b"\x80", "cpu")
