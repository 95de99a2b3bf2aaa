"""The slot: what it says while its owner lives, and after."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.protocol import slot as slots
from paceline.protocol.slot import IDS_MAX, Slot, SlotView, read_head, read_slot
from tests.protocol.corpus import ORIGIN, WORKER

IDS = [(ORIGIN, 1), (WORKER, 2**64 - 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slot"


def seen(path: Path) -> SlotView:
    view = read_slot(path)
    assert view is not None
    return view


def test_fresh_slot_is_idle_and_private(path: Path) -> None:
    Slot(path)
    assert seen(path) == SlotView(0, 0, 0, 0, 0, 0, True, ())
    assert path.stat().st_mode & 0o777 == 0o600


def test_reader_sees_beat_counters_and_batch(path: Path) -> None:
    slot = Slot(path)
    slot.beat(111)
    slot.count(requests=5, batches=2, rows=9)
    slot.begin(7, IDS, now_ns=222)
    assert seen(path) == SlotView(111, 5, 2, 9, 7, 222, True, tuple(IDS), tuple(IDS))
    slot.end()
    assert seen(path) == SlotView(111, 5, 2, 9, 7, 0, True, (), tuple(IDS))


def test_finished_ids_stay_started_but_are_not_in_hand(path: Path) -> None:
    slot = Slot(path)
    slot.begin(1, IDS, now_ns=1)
    slot.end()
    slot.begin(2, [(ORIGIN, 3)], now_ns=2)
    assert (seen(path).in_hand, seen(path).started) == (((ORIGIN, 3),), (*IDS, (ORIGIN, 3)))


def test_the_last_ids_are_kept_in_order_however_batches_fall_into_the_ring(path: Path) -> None:
    slot = Slot(path)
    begun: list[tuple[bytes, int]] = []
    for batch_id, size in enumerate((1, IDS_MAX - 1, 3, 1000, IDS_MAX - 7, 64, IDS_MAX)):
        ids = [(ORIGIN, len(begun) + index) for index in range(size)]
        begun += ids
        slot.begin(batch_id, ids, now_ns=1)
        assert (seen(path).in_hand, seen(path).started) == (tuple(ids), tuple(begun[-IDS_MAX:]))
        slot.end()
        assert (seen(path).in_hand, seen(path).started) == ((), tuple(begun[-IDS_MAX:]))


def test_after_a_batch_of_more_ids_than_fit_its_last_are_known(path: Path) -> None:
    slot = Slot(path)
    slot.begin(1, [(ORIGIN, counter) for counter in range(IDS_MAX + 5)], now_ns=1)
    slot.end()
    slot.begin(2, [(WORKER, 1)], now_ns=2)
    assert seen(path).in_hand == ((WORKER, 1),)
    assert seen(path).started == (*[(ORIGIN, counter) for counter in range(6, IDS_MAX + 5)], (WORKER, 1))


@pytest.mark.parametrize(("count", "known"), [(IDS_MAX, True), (IDS_MAX + 1, False)])
def test_batch_of_more_ids_than_fit_is_unknown(path: Path, count: int, known: bool) -> None:
    Slot(path).begin(1, [(ORIGIN, counter) for counter in range(count)], now_ns=1)
    view = seen(path)
    assert (view.known, len(view.started)) == (known, count if known else 0)


def test_batch_torn_by_a_death_is_unknown_and_the_next_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot(path)
    slot.begin(1, IDS, now_ns=1)
    with monkeypatch.context() as patched:
        patched.setattr(struct, "pack_into", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            slot.begin(2, IDS, now_ns=2)
    assert (seen(path).known, seen(path).started) == (False, ())
    slot.begin(3, IDS[:1], now_ns=3)
    assert (seen(path).known, seen(path).in_hand) == (True, tuple(IDS[:1]))
    assert seen(path).started == (*IDS, IDS[0])


def test_id_that_does_not_fit_leaves_the_slot_as_it_was(path: Path) -> None:
    slot = Slot(path)
    slot.begin(1, IDS, now_ns=1)
    with pytest.raises(struct.error):
        slot.begin(2, [(ORIGIN, -1)], now_ns=2)
    assert (seen(path).batch_id, seen(path).started) == (1, tuple(IDS))


def test_new_owner_does_not_inherit_a_batch(path: Path) -> None:
    Slot(path).begin(1, IDS, now_ns=1)
    Slot(path)
    assert seen(path).started == ()


def test_head_says_the_same_but_for_the_ids(path: Path) -> None:
    slot = Slot(path)
    slot.beat(111)
    slot.count(requests=5, batches=2, rows=9)
    slot.begin(7, IDS, now_ns=222)
    assert read_head(path) == replace(seen(path), known=False, in_hand=(), started=())


@pytest.mark.parametrize("read", [read_slot, read_head])
def test_what_is_not_a_slot_is_none(path: Path, read: Callable[[Path], SlotView | None]) -> None:
    assert read(path) is None
    path.write_bytes(b"PLSLOT02 and little else")
    assert read(path) is None
    path.write_bytes(bytes(slots.SLOT_BYTES))
    assert read(path) is None
    assert read(path.parent) is None


OWNER = """
import sys, time
from pathlib import Path
from paceline.protocol.slot import Slot
slot = Slot(Path(sys.argv[1]))
slot.beat(123)
slot.begin(9, [(bytes(range(1, 17)), 5)], now_ns=456)
print("begun", flush=True)
time.sleep(60)
"""


def test_slot_survives_the_sigkill_of_its_owner(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"begun\n"
        owner.send_signal(signal.SIGKILL)
    assert seen(path) == SlotView(123, 0, 0, 0, 9, 456, True, ((ORIGIN, 5),), ((ORIGIN, 5),))
