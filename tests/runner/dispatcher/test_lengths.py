"""Requests of one key that are padded to different lengths: whose batch is whose, and what is learned of it."""

from collections.abc import Hashable, Mapping, Sequence
from random import Random
from statistics import mean
from typing import NamedTuple

import pytest

from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatch,
    DispatcherConfig,
    Measured,
    Reject,
    Tick,
    WorkerJoined,
    WorkerLost,
    planner,
)
from paceline.runner.dispatcher.planner import LENGTHS_MAX
from paceline.runner.dispatcher.queue import KeyQueue
from paceline.runner.dispatcher.sizing import Choice, Outlook, choose
from paceline.runner.dispatcher.table_book import Table, TableBook
from tests.runner.dispatcher.scene import FLAT, LINE, Scene, batches, dispatches, refusals

SHORT, LONG = 8, 64
Points = Mapping[int, float]


def arrived(request_id: Hashable, length: int, deadline: float = 9.0, priority: int = 0) -> Arrived:
    return Arrived(request_id, "k", deadline=deadline, priority=priority, length=length)


def learned(tables: Mapping[int, Points], most: int = 8) -> Scene:
    """A worker of which these tables are known by length, each from three durations of each size."""
    scene = Scene(DispatcherConfig(most))
    for length, points in tables.items():
        for rows, seconds in points.items():
            scene.tell(*[Measured("", "k", rows, seconds, length)] * 3)
    return scene


def test_a_batch_is_of_one_length_where_padding_costs_more_than_a_batch_of_its_own() -> None:
    scene = learned({SHORT: {1: 0.001, 8: 0.002}, LONG: {1: 0.010, 8: 0.040}})
    actions = scene.tell(arrived("s1", SHORT), arrived("l1", LONG), arrived("s2", SHORT), arrived("l2", LONG))
    (batch,) = dispatches(actions)
    assert batch.request_ids == ("l1", "l2")  # nobody of another length ends the batch
    assert batch.length == LONG
    (batch,) = dispatches(scene.tell(BatchDone("w0", 1, 0.014), at=0.014))
    assert (batch.request_ids, batch.length) == (("s1", "s2"), SHORT)
    assert batch.predicted_s == pytest.approx(0.001 + 0.001 / 7)


def test_a_batch_with_room_takes_shorter_ones_where_that_takes_less_time_than_two_batches() -> None:
    scene = learned({SHORT: {1: 0.010, 8: 0.017}, LONG: {1: 0.020, 8: 0.034}})
    (batch,) = dispatches(scene.tell(arrived("s1", SHORT), arrived("s2", SHORT), arrived("l", LONG, deadline=8.0)))
    assert batch.request_ids == ("l", "s1", "s2")
    assert (batch.rows, batch.length) == (3, LONG)
    assert batch.predicted_s == pytest.approx(0.024)  # against 0.020 + 0.011


@pytest.mark.parametrize(("short_s", "more_s", "pays"), [(0.004, 0.0039, True), (0.004, 0.0041, False)])
def test_padding_up_pays_if_the_longer_batch_grows_by_less_than_the_shorter_one_takes(
    short_s: float, more_s: float, pays: bool
) -> None:
    scene = learned({SHORT: {1: short_s}, LONG: {1: 0.010, 2: 0.010 + more_s}})
    (batch,) = dispatches(scene.tell(arrived("l", LONG, deadline=8.0), arrived("s", SHORT)))
    assert batch.request_ids == (("l", "s") if pays else ("l",))


def test_urgent_shorter_ones_take_a_longer_one_along_on_the_same_terms() -> None:
    scene = learned({SHORT: {1: 0.005, 8: 0.006}, LONG: {1: 0.006, 8: 0.0074}})
    (batch,) = dispatches(scene.tell(arrived("s", SHORT, deadline=8.0), arrived("l", LONG)))
    assert (batch.request_ids, batch.length) == (("l", "s"), LONG)
    scene = learned({SHORT: {1: 0.005, 8: 0.006}, LONG: {1: 0.012, 8: 0.100}})
    (batch,) = dispatches(scene.tell(arrived("s", SHORT, deadline=8.0), arrived("l", LONG)))
    assert (batch.request_ids, batch.length) == (("s",), SHORT)


def test_a_given_table_is_that_of_every_length() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=FLAT))
    (batch,) = dispatches(scene.tell(*(arrived(number, length) for number, length in enumerate((16, 8, 64, 8)))))
    assert sorted(map(str, batch.request_ids)) == ["0", "1", "2", "3"]
    assert (batch.length, batch.predicted_s) == (64, 0.010)


def test_a_part_of_a_queue_that_needs_its_own_batch_anyway_is_not_padded_up_at_a_loss() -> None:
    """Two rows of room: two long rows more are 20 ms, and the short ones' own batch is 0.4 ms shorter without them."""
    tables = {SHORT: {1: 0.021, 4: 0.0216}, LONG: {1: 0.010, 4: 0.040}}
    scene = learned(tables, most=4)
    events = [arrived(f"l{number}", LONG, deadline=8.0) for number in range(2)]
    (batch,) = dispatches(scene.tell(*events, *(arrived(f"s{number}", SHORT) for number in range(3))))
    assert batch.request_ids == ("l0", "l1")
    scene = learned(tables, most=4)
    (batch,) = dispatches(scene.tell(*events, *(arrived(f"s{number}", SHORT) for number in range(2))))
    assert batch.request_ids == ("l0", "l1", "s0", "s1")


def test_a_length_of_which_nothing_is_known_keeps_to_itself() -> None:
    scene = learned({LONG: {1: 0.010, 8: 0.010}})
    (batch,) = dispatches(scene.tell(arrived("l", LONG, deadline=1.0), arrived("s", SHORT)))
    assert batch.request_ids == ("l",)
    scene = learned({SHORT: {1: 0.010, 8: 0.010}})
    (batch,) = dispatches(scene.tell(arrived("s", SHORT, deadline=1.0), arrived("l", LONG)))
    assert batch.request_ids == ("s",)
    scene = learned({LONG: {1: 0.010, 8: 0.010}})
    (batch,) = dispatches(scene.tell(arrived("s", SHORT, deadline=1.0), arrived("l", LONG)))
    assert batch.request_ids == ("s",)


def test_lengths_that_pay_together_go_by_deadline_as_if_in_one_queue() -> None:
    """Two batches of up to 4 rows, where apart it would be three."""
    scene = Scene(DispatcherConfig(4, latency_table=LINE))
    scene.tell(arrived("first", LONG))
    scene.tell(*(arrived(f"s{deadline}", SHORT, deadline) for deadline in (9, 8, 7, 5, 4)), arrived("l6", LONG, 6))
    assert batches(scene.tell(BatchDone("w0", 1, 0.0055), at=0.0055)) == [("l6", "s4", "s5", "s7")]
    assert batches(scene.tell(BatchDone("w0", 2, 0.007), at=0.0125)) == [("s8", "s9")]


def test_the_head_of_a_lower_class_goes_along_if_its_deadline_allows_the_longer_batch() -> None:
    first = arrived("l", LONG, deadline=1.0)
    for deadline, expected in ((0.0059, "l"), (0.0061, "l tight")):
        scene = Scene(DispatcherConfig(2, latency_table=LINE))
        tight = arrived("tight", SHORT, deadline=deadline, priority=1)
        assert batches(scene.tell(first, tight)) == [tuple(expected.split())]


def test_who_has_no_hope_in_another_length_is_refused_before_a_batch_is_shared() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    scene.tell(arrived("first", LONG))
    scene.tell(arrived("hopeless", SHORT, 0.0109, priority=1), arrived("s", SHORT, 1.0, 1), arrived("l", LONG, 1.0))
    actions = scene.tell(BatchDone("w0", 1, 0.0055), at=0.0055)
    assert batches(actions) == [("l", "s")]
    assert refusals(actions) == {"hopeless": "infeasible"}


def test_of_a_length_that_was_not_measured_nobody_is_refused_by_the_word_of_another_one() -> None:
    scene = learned({LONG: {1: 0.010, 8: 0.010}})
    scene.tell(arrived("first", LONG))
    scene.tell(arrived("l", LONG, 1.0), arrived("s", SHORT, 0.015, priority=1))
    actions = scene.tell(BatchDone("w0", 1, 0.010), at=0.010)
    assert batches(actions) == [("l",)]
    assert refusals(actions) == {}


def test_no_member_is_late_for_those_who_join() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    actions = scene.tell(arrived("l", LONG, deadline=0.0066), *(arrived(number, SHORT) for number in range(9)))
    assert batches(actions) == [("l", 0, 1)]


def test_the_cap_holds_for_all_members_and_a_lowered_one_for_all_lengths_of_the_key() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    shorts = [arrived(number, SHORT) for number in range(9)]
    assert batches(scene.tell(arrived("l", LONG, deadline=1.0), *shorts)) == [("l", 0, 1, 2)]
    scene.tell(CapChanged("k", 2, until=9.0))
    assert batches(scene.tell(BatchDone("w0", 1, 0.010), at=0.010)) == [(3, 4)]
    scene.tell(*(Cancelled(number) for number in range(5, 9)), arrived("l2", LONG), arrived("l3", LONG))
    assert batches(scene.tell(BatchDone("w0", 2, 0.010), at=0.020)) == [("l2", "l3")]


def test_who_has_to_run_alone_joins_nobody_and_a_smaller_limit_holds_for_the_batch() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    alone = Arrived("alone", "k", deadline=9.0, length=SHORT, batch_limit=1)
    assert batches(scene.tell(arrived("l", LONG, deadline=1.0), alone)) == [("l",)]
    assert batches(scene.tell(arrived("l2", LONG), BatchDone("w0", 1, 0.010), at=0.010)) == [("alone",)]
    scene.tell(BatchDone("w0", 2, 0.010), at=0.020)
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    few = [Arrived(number, "k", deadline=9.0, length=SHORT, batch_limit=3) for number in range(4)]
    assert batches(scene.tell(arrived("l", LONG, deadline=1.0), *few)) == [("l", 0, 1)]


def test_without_a_padded_dimension_a_request_joins_no_length() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    assert batches(scene.tell(arrived("none", 0, deadline=1.0), arrived("s", SHORT))) == [("none",)]


def test_a_key_and_its_length_are_no_other_key() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    actions = scene.tell(arrived("s", SHORT, deadline=1.0), Arrived("other", ("k", SHORT), deadline=9.0))
    assert batches(actions) == [("s",)]


def test_of_very_many_lengths_the_most_urgent_are_looked_at() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=FLAT))
    actions = scene.tell(arrived("l", 999, deadline=1.0), *(arrived(n, n, deadline=99.0 - n) for n in range(1, 30)))
    (batch,) = batches(actions)
    assert set(batch) <= {"l", *range(1, 30)}
    assert len(batch) == 1 + LENGTHS_MAX


def test_a_batch_teaches_the_table_of_its_longest_member() -> None:
    scene = learned({SHORT: {1: 0.005, 2: 0.005}, LONG: {1: 0.006, 2: 0.006}})
    for number in range(1, 4):
        scene.tell(arrived(("l", number), LONG, deadline=8.0), arrived(("s", number), SHORT))
        scene.tell(BatchDone("w0", number, 0.008), at=number * 0.010)
    scene.tell(arrived("l", LONG, deadline=8.0), arrived("s", SHORT))
    tables = scene.dispatcher._tables
    (short, long) = (tables.table("", "k", length) for length in (SHORT, LONG))
    assert short.curve is not None
    assert short.curve.seconds(2) == 0.005
    assert long.curve is not None
    assert long.curve.seconds(2) == pytest.approx(0.008, abs=0.0011)


def test_members_of_a_lost_batch_wait_again_among_their_own() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    scene.tell(arrived("l", LONG, deadline=1.0), arrived("s1", SHORT), arrived("s2", SHORT))
    scene.tell(WorkerLost("w0", started=()))
    scene.tell(Cancelled("l"))
    assert batches(scene.tell(WorkerJoined("w1"), Tick())) == [("s1", "s2")]


def test_a_forecast_has_the_rows_and_the_table_of_each_length() -> None:
    scene = learned({SHORT: {1: 0.001}, LONG: {1: 0.010}})
    scene.arrive(1, at=0.0, deadline=9.0, key="other")
    scene.tell(arrived("l", LONG), arrived("s1", SHORT), arrived("s2", SHORT))
    forecast = scene.dispatcher.forecast(0.0)
    keys = {(key.key, key.length): (key.rows_queued, key.points) for key in forecast.keys}
    assert keys == {("k", LONG): (1, ((1, 0.010),)), ("k", SHORT): (2, ((1, 0.001),))}


def test_a_new_length_starts_from_its_method_and_no_more_tables_are_kept_than_allowed() -> None:
    book = TableBook(DispatcherConfig(64, keys_max=2))
    for key in ("k", ("m", 1)):
        for _ in range(3):
            book.observe("", key, 1, 0.010, 0.0, SHORT)
        table = book.table("", key, LONG)
        assert table.curve is not None
        assert table.curve.seconds(1) == 0.010
        assert not table.grounded
    assert len(book._learned) == 2


def test_what_pays_for_all_that_wait_may_not_pay_for_the_few_that_fit() -> None:
    """Four together take 32 ms and apart 35, but 30.5 ms allow only two: 30 together, 25 apart."""
    scene = learned({SHORT: {1: 0.005, 4: 0.005}, LONG: {1: 0.020, 2: 0.030, 4: 0.032}}, most=4)
    shorts = [arrived(f"s{number}", SHORT, deadline=0.0306) for number in (1, 2)]
    longs = [arrived(f"l{number}", LONG, deadline=deadline) for number, deadline in ((1, 0.0305), (2, 0.0307))]
    assert batches(scene.tell(*longs, *shorts)) == [("l1", "l2")]


def test_a_lowered_cap_ends_the_holds_of_all_lengths() -> None:
    """100 rows/s and more are to come, so 3 rows are held back for w1 while w0 computes."""
    for cap, expected in ((64, []), (3, [("s0", "s1", "s2")])):
        scene = Scene(DispatcherConfig(128, latency_table={1: 0.010, 64: 0.010}, budget_s=0.050), workers=2)
        scene.tell(*(arrived(number, SHORT) for number in range(220)))
        scene.tell(BatchDone("w1", 2, 0.010), at=0.010)
        held = scene.tell(*(arrived(f"s{number}", SHORT, 0.061) for number in range(3)), at=0.011)
        assert batches(held) == []
        assert batches(scene.tell(CapChanged("k", cap, until=9.0), at=0.012)) == expected


class Run(NamedTuple):
    """What became of 2000 requests: how many were served, how long before their deadlines the others were refused, and
    which rate of arrivals the choices counted on."""

    served: int
    spared_s: float
    rate: float


def run(lengths: Sequence[int], per_s: float, budget_s: float) -> Run:
    """They have these lengths in turn and come by chance to a worker of LINE."""
    scene, random = Scene(DispatcherConfig(64, latency_table=LINE)), Random(5)
    rates: list[float] = []

    def noted(queue: KeyQueue, table: Table, cap: int, at: float, outlook: Outlook) -> Choice:
        rates.append(outlook.rate)
        return choose(queue, table, cap, at, outlook)

    deadlines: dict[Hashable, float] = {}
    served, spared_s, at, ends = 0, 0.0, 0.0, list[tuple[float, Dispatch]]()

    def tell(event: Arrived | BatchDone, now: float) -> None:
        nonlocal served, spared_s
        for action in scene.tell(event, at=now):
            if isinstance(action, Dispatch):
                ends.append((now + action.predicted_s, action))
                served += len(action.request_ids)
            elif isinstance(action, Reject):
                spared_s += deadlines[action.request_id] - now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "choose", noted)
        for number in range(2000):
            at += random.expovariate(per_s)
            while ends and ends[0][0] <= at:
                now, done = ends.pop()
                tell(BatchDone("w0", done.batch_id, done.predicted_s), now)
            deadlines[number] = at + budget_s
            tell(arrived(number, lengths[number % 4], at + budget_s), at)
    return Run(served, spared_s, mean(rates))


@pytest.mark.parametrize("per_s", [1200, 2500])
def test_where_all_lengths_cost_the_same_they_are_served_as_if_of_one(per_s: float) -> None:
    one, four = (run(lengths, per_s, budget_s=0.0165) for lengths in ((8, 8, 8, 8), (8, 16, 32, 64)))
    assert four.served >= 0.98 * one.served
    assert four.spared_s >= 0.98 * one.spared_s
    assert four.rate == pytest.approx(one.rate, rel=0.05)
