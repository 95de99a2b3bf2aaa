"""Messages of both planes and the specs: round trips, limits at plus and minus one, and what an encoder puts right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol import control, dtypes, head, limits, messages, spec
from paceline.protocol.errors import ModelNotFound, ProtocolError
from paceline.protocol.forecast import BacklogPoint, Forecast, KeyTable
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, Message
from paceline.protocol.tree import Tree
from tests.protocol.corpus import CHILD, CONTROL, DATA, METHOD, ORIGIN, SERVE, WORKER, item, meaning, ramp, result

u64 = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
items = st.builds(
    lambda counter, changes, size: item(counter, (ramp(dtypes.U8, 1, size), {"x": None}), **changes),
    u64,
    st.fixed_dictionaries(
        {
            "attempt": u64,
            "starts": u64,
            "arrival_ns": u64,
            "deadline_ns": u64,
            "priority": st.integers(-(2**63), 2**63),
            "rows": st.integers(1, 2**32),
            "method": texts,
            "key": st.binary(max_size=20),
            "request_id": texts,
            "traceparent": texts,
        }
    ),
    st.sampled_from([0, 1, 4096, 4097]),
)
results = st.builds(
    lambda counter, size, attempt: result(counter, ramp(dtypes.U8, size), attempt),
    u64,
    u64.map(lambda n: n % 5000),
    u64,
)
delays = st.none() | st.floats(0, 1e9)
tables = st.builds(
    lambda method, key, length, known, rows_max, points: KeyTable(
        method, key, length, known, rows_max, tuple(sorted(points)), tuple(points.values())
    ),
    texts,
    st.binary(max_size=20),
    u64,
    st.booleans(),
    st.integers(1, 4096),
    st.dictionaries(st.integers(1, 4096), st.floats(0, 1e9), min_size=1, max_size=5),
)
points = st.builds(BacklogPoint, st.integers(-(2**63), 2**63), u64, u64)
any_message = st.one_of(
    st.builds(lambda found: Infer(ORIGIN, tuple(found)), st.lists(items, max_size=4)),
    st.builds(lambda found: Cancel(ORIGIN, tuple(found)), st.lists(u64, max_size=4)),
    st.builds(
        lambda found, failed: Answers(ORIGIN, tuple(found), tuple(failed)),
        st.lists(results, max_size=3),
        st.lists(st.builds(Failure, u64, u64, texts, texts, delays), max_size=3),
    ),
    st.builds(
        lambda at, rows, rate, free, found, waiting: Forecast(
            at, rows, rate, tuple(free), tuple(found), tuple(waiting)
        ),
        u64,
        u64,
        st.floats(0, 1e9),
        st.lists(u64, max_size=3),
        st.lists(tables, max_size=3),
        st.lists(points, max_size=3),
    ),
)


@given(any_message)
def test_message_returns_as_it_went(message: Message) -> None:
    assert meaning(messages.decode(messages.encode(message))) == meaning(message)


@pytest.mark.parametrize("name", CONTROL)
def test_control_message_returns_as_it_went(name: str) -> None:
    assert control.decode(control.encode(CONTROL[name])) == CONTROL[name]


def test_specs_return_as_they_went() -> None:
    assert spec.decode_serve(spec.encode_serve(SERVE)) == SERVE
    assert spec.decode_child(spec.encode_child(CHILD)) == CHILD


@pytest.mark.parametrize("plane", [messages.decode, control.decode])
def test_planes_do_not_read_each_other(plane: Callable[[Any], object]) -> None:
    foreign = control.encode(CONTROL["drain"]) if plane is messages.decode else messages.encode(DATA["cancel"])
    with pytest.raises(ProtocolError, match="is unknown on the"):
        plane(foreign)


def test_control_message_with_a_buffer_is_refused() -> None:
    with pytest.raises(ProtocolError, match="1 buffers, expected none"):
        control.decode([*control.encode(CONTROL["drain"]), b""])


def test_tensors_of_a_decoded_message_view_its_frames() -> None:
    frame = memoryview(bytes(8192))
    sent = messages.encode(Answers(ORIGIN, (result(1, ramp(dtypes.U8, 8192)),)))
    answers = messages.decode([sent[0], frame])
    assert isinstance(answers, Answers)
    tensor = answers.results[0].tree()
    assert getattr(tensor, "data", None) is frame


def message_with(frames: int, head_bytes: int | None = None) -> list[bytes]:
    row = [1, 0, 0, False, 1, 2, 0, 1, 0, "m", b"", "", "", b"", frames]
    packed = messages.pack_head(messages.INFER, ORIGIN, [row])
    if head_bytes is not None:
        row[13] = bytes(head_bytes - len(packed) - 3)  # a bin of this size has 5 bytes before it, an empty one 2
        packed = messages.pack_head(messages.INFER, ORIGIN, [row])
    return [packed, *[b""] * frames]


def test_frame_count_at_the_limit_passes_and_one_more_is_refused() -> None:
    messages.decode(message_with(limits.MESSAGE_FRAMES_MAX - 1))
    with pytest.raises(ProtocolError, match="4097 frames, over the limit of 4096"):
        messages.decode(message_with(limits.MESSAGE_FRAMES_MAX))


def test_head_at_the_limit_passes_and_one_byte_more_is_refused() -> None:
    parts = message_with(0, limits.HEAD_BYTES_MAX)
    assert len(parts[0]) == limits.HEAD_BYTES_MAX
    messages.decode(parts)
    with pytest.raises(ProtocolError, match="is over the limit of"):
        messages.decode(message_with(0, limits.HEAD_BYTES_MAX + 1))


def test_message_bytes_at_the_limit_pass_and_one_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = messages.encode(DATA["answers_frames"])
    monkeypatch.setattr(head, "MESSAGE_BYTES_MAX", sum(map(len, parts)))
    messages.decode(parts)
    monkeypatch.setattr(head, "MESSAGE_BYTES_MAX", sum(map(len, parts)) - 1)
    with pytest.raises(ProtocolError, match="bytes, over the limit of"):
        messages.decode(parts)


@pytest.mark.parametrize(
    ("field", "fits", "over"),
    [
        ("key", b"k" * limits.KEY_BYTES_MAX, b"k" * (limits.KEY_BYTES_MAX + 1)),
        ("request_id", "r" * limits.ID_CHARS_MAX, "r" * (limits.ID_CHARS_MAX + 1)),
        ("traceparent", "t" * limits.ID_CHARS_MAX, "t" * (limits.ID_CHARS_MAX + 1)),
        ("method", "m" * limits.ID_CHARS_MAX, "m" * (limits.ID_CHARS_MAX + 1)),
        ("rows", 1, 0),
        ("counter", 0, -1),
        ("attempt", 0, -1),
        ("starts", 0, -1),
        ("deadline_ns", 0, -1),
    ],
)
def test_field_at_its_limit_passes_and_one_more_is_refused(field: str, fits: object, over: object) -> None:
    request = item(1, ())
    messages.decode(messages.encode(Infer(ORIGIN, (replace(request, **{field: fits}),))))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        messages.decode(messages.encode(Infer(ORIGIN, (replace(request, **{field: over}),))))  # type: ignore[arg-type]


def test_full_message_of_the_largest_requests_fits_one_head() -> None:
    longest: dict[str, Tree] = {"k" * (limits.ITEM_HEAD_BYTES_MAX - 13_000): None}
    largest = item(
        2**64 - 1,
        (b"x" * 4096, b"x" * 4096, b"x" * 4096),
        longest,
        key=b"k" * limits.KEY_BYTES_MAX,
        request_id="🐌" * limits.ID_CHARS_MAX,
        traceparent="🐌" * limits.ID_CHARS_MAX,
        method="🐌" * limits.ID_CHARS_MAX,
    )
    parts = messages.encode(Infer(ORIGIN, (largest,) * limits.MESSAGE_REQUESTS_MAX))
    assert len(parts[0]) > limits.HEAD_BYTES_MAX * 0.8
    assert isinstance(messages.decode(parts), Infer)


def test_error_text_of_user_code_is_cut_and_made_valid() -> None:
    failure = Failure(1, 0, "model_error", "\ud800" + "é" * limits.TEXT_BYTES_MAX, float("inf"))
    answers = messages.decode(messages.encode(Answers(ORIGIN, (), (failure, replace(failure, retry_after_s=1)))))
    assert isinstance(answers, Answers)
    read = answers.failures[0]
    assert read.message.startswith("?é")
    assert len(read.message.encode()) <= limits.TEXT_BYTES_MAX
    assert [failure.retry_after_s for failure in answers.failures] == [None, 1.0]


TABLE = KeyTable("m", b"k", 0, False, 64, (1, 2), (0.1, 0.2))


@pytest.mark.parametrize(
    ("fits", "over", "text"),
    [
        (Forecast(1, free_at_ns=(1,) * 64), Forecast(1, free_at_ns=(1,) * 65), "65 workers, over the limit of 64"),
        (Forecast(1, tables=(TABLE,) * 8), Forecast(1, tables=(TABLE,) * 9), "9 tables, over the limit of 8"),
        (
            Forecast(1, backlog=(BacklogPoint(0, 1, 1),) * 8),
            Forecast(1, backlog=(BacklogPoint(0, 1, 1),) * 9),
            "9 points, over the limit of 8",
        ),
        (
            Forecast(1, tables=(replace(TABLE, sizes=tuple(range(1, 17)), seconds=(0.1,) * 16),)),
            Forecast(1, tables=(replace(TABLE, sizes=tuple(range(1, 18)), seconds=(0.1,) * 17),)),
            "17 sizes and 17 durations, expected 1 to 16",
        ),
        (
            Forecast(1, tables=(replace(TABLE, sizes=(1,), seconds=(0.0,)),)),
            Forecast(1, tables=(replace(TABLE, sizes=(), seconds=()),)),
            "0 sizes",
        ),
        (Forecast(1, tables=(TABLE,)), Forecast(1, tables=(replace(TABLE, sizes=(2, 2)),)), "each larger"),
        (Forecast(1, tables=(TABLE,)), Forecast(1, tables=(replace(TABLE, sizes=(0, 2)),)), ">= 1"),
        (
            Forecast(1, tables=(TABLE,)),
            Forecast(1, tables=(replace(TABLE, seconds=(0.1, -0.1)),)),
            "finite floats >= 0",
        ),
        (
            Forecast(1, tables=(replace(TABLE, rows_max=1),)),
            Forecast(1, tables=(replace(TABLE, rows_max=0),)),
            "less than 1 row",
        ),
        (
            Forecast(1, tables=(replace(TABLE, method="m" * 512, key=b"k" * 4096),)),
            Forecast(1, tables=(replace(TABLE, method="m" * 513),)),
            "over 512 characters",
        ),
        (
            Forecast(1, backlog=(BacklogPoint(-1, 0, 0),)),
            Forecast(1, backlog=(BacklogPoint(-1, -1, 0),)),
            "a time and a count >= 0",
        ),
        (Forecast(0, rows_per_s=0.0), Forecast(0, rows_per_s=float("nan")), "a rate that is not"),
        (Forecast(0), Forecast(-1), "integers >= 0"),
    ],
)
def test_forecast_at_its_limit_passes_and_one_more_is_refused(fits: Forecast, over: Forecast, text: str) -> None:
    assert messages.decode(messages.encode(fits)) == fits
    with pytest.raises(ProtocolError, match=text):
        messages.decode(messages.encode(over))


def test_whole_numbers_are_sent_as_floats_where_the_wire_has_floats() -> None:
    table = KeyTable("m", b"", 0, True, 1, (1,), (1,))
    read = messages.decode(messages.encode(Forecast(0, 0, 2, (), (table,))))
    assert read == Forecast(0, 0, 2.0, (), (replace(table, seconds=(1.0,)),))
    assert control.decode(control.encode(control.Drain(5))) == control.Drain(5.0)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (control.Hello("worker", "net", 1, b"short", 1), "Hello.incarnation has 5 bytes, expected 16"),
        (control.Drain(float("nan")), "Drain.grace_s is nan, expected float"),
        (replace(control.Hello("worker", "net", 1, WORKER, 1), pid="1"), "Hello.pid is str, expected int"),  # type: ignore[arg-type]
    ],
)
def test_control_field_of_the_wrong_type_is_named(message: control.ControlMessage, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        control.decode(control.encode(message))


def spec_bytes(change: Callable[[dict[str, Any]], object]) -> bytes:
    plain = msgpack.unpackb(spec.encode_serve(SERVE))
    change(plain)
    return bytes(msgpack.packb(plain))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: p.pop("run_dir"), "ServeSpec is not a map of its 5 fields"),
        (lambda p: p.update(extra=1), "ServeSpec is not a map of its 5 fields"),
        (lambda p: p["http"].update(port="80"), "HttpSpec.port is str, expected int"),
        (lambda p: p["runners"][0].update(workers=None), "RunnerSpec.workers is NoneType, expected int"),
        (lambda p: p["runners"][0].update(devices=["cpu", 1]), "RunnerSpec.devices is 1, expected"),
        (lambda p: p["runners"][0]["methods"][0].update(batch_dim=[0, -1]), "batch_dim"),
        (lambda p: p["runners"][0]["methods"][0]["inputs"][0].update(dtype="f33"), "KeyError"),
        (lambda p: p["runners"][0]["methods"][0]["inputs"][0].update(shape=[1e400]), "shape is"),
        (lambda p: p["runners"][0]["methods"][0].update(batch_dim=0), "TypeError: method spec: batch_dim"),
        (lambda p: p["runners"][0].update(methods=[1]), "method spec is int, expected a map"),
    ],
)
def test_spec_field_of_the_wrong_type_is_named(change: Callable[[dict[str, Any]], object], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        spec.decode_serve(spec_bytes(change))


def test_unknown_runner_is_answered_with_the_nearest_name() -> None:
    assert SERVE.runner("net").methods[0] == METHOD
    with pytest.raises(ModelNotFound, match=r"'nett' is not served here. Did you mean \"net\"\? Served: net, add."):
        SERVE.runner("nett")
