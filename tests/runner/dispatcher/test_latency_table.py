"""What the tables make of durations."""

from random import Random

import pytest

from paceline.runner.dispatcher import latency_table
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.durations import STALE, Cell
from paceline.runner.dispatcher.latency_table import DRAW_STEP, STRETCH_STEP, LatencyTable, LearnedTable
from paceline.runner.dispatcher.table_book import TableBook


def taught(table: LearnedTable, seconds: dict[int, float], times: int = 3) -> LearnedTable:
    for rows, duration in seconds.items():
        for _ in range(times):
            table.observe(rows, duration, 0.0)
    return table


def seconds(table: LearnedTable | LatencyTable, rows: int) -> float:
    assert table.curve is not None
    return table.curve.seconds(rows)


def test_a_given_curve_is_linear_between_points_and_keeps_its_last_slope() -> None:
    curve = Curve({2: 0.010, 4: 0.020, 8: 0.020, 16: 0.036}.items())
    assert [curve.seconds(rows) for rows in (1, 2, 3, 6, 12, 24)] == pytest.approx(
        [0.010, 0.010, 0.015, 0.020, 0.028, 0.052]
    )


def test_a_given_curve_is_made_monotone() -> None:
    curve = Curve({1: 0.010, 2: 0.008, 4: 0.020}.items())
    assert curve.seconds(2) == 0.010


def test_the_most_rows_within_a_time_are_found_on_steps() -> None:
    curve = Curve({8: 0.010, 16: 0.020, 32: 0.040}.items(), buckets=(8, 16, 32))
    assert [curve.rows_within(s, 32) for s in (0.009, 0.010, 0.039, 0.040, 1.0)] == [0, 8, 16, 32, 32]


def test_the_first_two_durations_of_a_size_are_not_learned() -> None:
    table = LearnedTable()
    table.observe(1, 3.0, 0.0)
    table.observe(1, 1.0, 0.0)
    assert seconds(table, 1) == 1.0, "the shorter, as long as there is nothing better"
    assert not table.grounded
    table.observe(1, 0.010, 0.0)
    assert seconds(table, 1) == 0.010
    assert table.grounded


def test_a_first_duration_counts_at_once_if_it_is_good_news() -> None:
    table = taught(LearnedTable(), {11: 0.013, 12: 0.013})
    table.observe(8, 0.009, 0.0)
    assert seconds(table, 8) == 0.009
    table.observe(8, 0.100, 0.0)
    assert seconds(table, 8) == 0.009
    assert table.rows_measured == 12


def test_no_size_is_thought_to_take_longer_than_a_larger_one_did() -> None:
    table = LearnedTable()
    table.observe(1, 3.0, 0.0)
    table.observe(4, 0.010, 0.0)
    assert seconds(table, 1) == 0.010
    assert table.rows_measured == 4


def test_a_first_duration_longer_than_several_smaller_batches_was_a_warm_up() -> None:
    padded, compiled = (taught(LearnedTable(), {8: 0.009, 16: 0.013}) for _ in range(2))
    before = seconds(padded, 20)
    padded.observe(20, 0.025, 0.0)
    compiled.observe(20, 0.027, 0.0)
    assert seconds(padded, 20) == 0.025, "two batches of 16 take 0.026: it may well be a step"
    assert seconds(compiled, 20) == before


def test_a_bad_first_duration_is_believed_for_a_while_only() -> None:
    table = taught(LearnedTable(), {8: 0.009, 16: 0.013})
    before = seconds(table, 20)
    table.observe(20, 0.025, 0.0)
    for turn in range(STALE + DRAW_STEP):
        assert turn > STALE or seconds(table, 20) == 0.025
        table.observe(8, 0.009 + 0.0005 * (turn // 16 % 2), 0.0)
    assert seconds(table, 20) == pytest.approx(before, rel=0.05)


def test_no_gain_from_batching_is_assumed_before_it_is_seen() -> None:
    table = taught(LearnedTable(), {1: 0.010})
    assert seconds(table, 2) == pytest.approx(0.020)
    assert table.rows_allowed == 2


def test_a_size_takes_the_median_of_its_last_sixteen_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_table, "DRAW_STEP", 1)
    table = taught(LearnedTable(), {4: 0.010}, times=20)
    for duration in [0.0115] * 9:
        table.observe(4, duration, 0.0)
    assert seconds(table, 4) == pytest.approx(0.0115)


def test_small_moves_are_drawn_once_in_a_while_and_large_ones_at_once() -> None:
    table = taught(LearnedTable(), {4: 0.010}, times=3)
    for _ in range(9):
        table.observe(4, 0.0104, 0.0)
    assert seconds(table, 4) == pytest.approx(0.010)
    for _ in range(DRAW_STEP):
        table.observe(4, 0.0104, 0.0)
    assert seconds(table, 4) == pytest.approx(0.0104)


def test_among_noisy_sizes_the_luckiest_small_one_does_not_win() -> None:
    chance = Random(3)
    table, quiet = LearnedTable(), LearnedTable()
    for rows in range(1, 65):
        for _ in range(20):
            table.observe(rows, rows * 1e-5 * chance.lognormvariate(0.0, 0.4), 0.0)
            quiet.observe(rows, rows * 1e-5 * (0.9 if rows == 8 else 1.0), 0.0)
    assert table.curve is not None
    assert max(range(1, 65), key=table.curve.rate) < 48, "some small size must be the luckiest, or this shows nothing"
    assert table.curve.best_rows(64) > 48
    assert quiet.curve is not None
    assert quiet.curve.best_rows(64) == 8


def test_steps_appear_by_themselves_and_violations_are_pooled() -> None:
    table = taught(LearnedTable(), {1: 0.010, 2: 0.020, 3: 0.019, 4: 0.021, 5: 0.040})
    assert seconds(table, 2) == seconds(table, 3) == pytest.approx(0.0195)
    assert seconds(table, 5) == 0.040


def test_a_stall_is_counted_but_not_learned() -> None:
    table = taught(LearnedTable(), {4: 0.010}, times=8)
    table.observe(4, 0.031, 0.0)
    assert table.stalls == 1
    assert seconds(table, 4) == 0.010


def test_a_lasting_change_moves_every_size() -> None:
    table = taught(LearnedTable(), {1: 0.010, 8: 0.020, 16: 0.030}, times=18)
    for _ in range(8):
        table.observe(8, 0.080, 0.0)
    assert [seconds(table, rows) for rows in (1, 8, 16)] == pytest.approx([0.040, 0.080, 0.120])


def test_sizes_first_measured_around_a_change_are_not_scaled_by_it() -> None:
    table = taught(LearnedTable(), {rows: 0.005 + 0.0005 * rows for rows in range(1, 10)}, times=18)
    for rows in (3, 10, 10, 10, 10, 9, 8, 7, 6, 5, 11, 11, 11, 4, 3, 2, 1):
        table.observe(rows, 2 * (0.005 + 0.0005 * rows), 0.0)
    assert [seconds(table, rows) for rows in (1, 9)] == pytest.approx([0.011, 0.019])
    assert seconds(table, 10) == pytest.approx(0.020, rel=0.06)
    assert seconds(table, 11) == pytest.approx(0.021, rel=0.06)


def test_a_size_that_is_seldom_measured_is_kept_in_a_change() -> None:
    table = taught(LearnedTable(), {16: 0.030})
    taught(table, {1: 0.010, 8: 0.020}, times=18)
    for _ in range(8):
        table.observe(8, 0.040, 0.0)
    assert seconds(table, 16) == pytest.approx(0.060)


def test_a_table_of_young_sizes_alone_finds_no_change() -> None:
    table = taught(LearnedTable(), {1: 0.010, 2: 0.011})
    for rows in (1, 2) * 5:
        table.observe(rows, 0.030, 0.0)
    assert seconds(table, 1) == pytest.approx(0.030, rel=0.01)


def test_a_cell_that_starts_anew_is_young_again() -> None:
    cell = Cell()
    cell.add(0.010, 0.0, 1)
    assert cell.is_young(2)
    assert not cell.is_young(100)
    cell.add(0.010, 0.0, 1000)
    assert cell.is_young(1001)


def test_a_change_makes_first_durations_worthless() -> None:
    table = taught(LearnedTable(), {1: 0.010, 8: 0.020}, times=18)
    table.observe(7, 0.018, 0.0)
    for _ in range(8):
        table.observe(8, 0.080, 0.0)
    assert seconds(table, 7) > 0.070


@pytest.mark.parametrize("times", [3, 20])
def test_a_table_inflated_by_a_bad_moment_recovers_by_itself(times: int) -> None:
    table = taught(LearnedTable(), {1: 0.100, 2: 0.110, 4: 0.130}, times)
    for turn in range(24):
        for rows in (1, 2, 4):
            table.observe(rows, 0.009 + 0.001 * rows, 1.0 + turn)
    assert [seconds(table, rows) for rows in (1, 2, 4)] == pytest.approx([0.010, 0.011, 0.013])


def test_durations_of_zero_do_no_harm() -> None:
    table = taught(LearnedTable(), {1: 0.0, 2: 0.0, 4: 0.0}, times=20)
    assert seconds(table, 9) < 1e-6


def test_steps_are_expected_again_at_twice_the_rows() -> None:
    table = taught(LearnedTable(), {1: 0.0055, 2: 0.006, 4: 0.007, 8: 0.009, 9: 0.013, 16: 0.013})
    assert table.curve is not None
    assert table.curve.rows_within(0.018, 32) == 16
    assert seconds(table, 17) == pytest.approx(0.013 * 13 / 9)
    assert seconds(table, 32) == pytest.approx(0.013 * 13 / 9)
    assert table.curve.best_rows(31) == 31
    assert table.curve.best_rows(20) == 16
    assert table.curve.best_rows(40) == 32


def test_a_smooth_curve_is_expected_to_stay_smooth() -> None:
    table = taught(LearnedTable(), {rows: 0.005 + 0.0005 * rows for rows in (1, 2, 4, 8, 16)})
    for rows in range(17, 33):
        assert seconds(table, rows) == pytest.approx(0.005 + 0.0005 * rows, rel=0.12)
    assert [seconds(table, rows) for rows in range(1, 100)] == sorted(seconds(table, rows) for rows in range(1, 100))


def test_a_step_between_two_sizes_is_looked_for_where_it_was_at_half_the_rows() -> None:
    table = taught(LearnedTable(), {4: 0.007, 7: 0.009, 8: 0.009, 9: 0.013, 13: 0.013, 19: 0.021})
    assert table.curve is not None
    assert [seconds(table, rows) for rows in (14, 16)] == pytest.approx([0.013, 0.013])
    assert seconds(table, 17) == pytest.approx(0.013 * 13 / 9)
    assert table.curve.best_rows(18) == 16


def test_a_step_at_the_end_does_not_keep_larger_batches_from_being_tried() -> None:
    table = taught(LearnedTable(), {4: 0.0070, 5: 0.0094})
    assert table.curve is not None
    assert table.curve.best_rows(10) == 10


def test_a_size_nobody_measured_for_long_is_forgotten_and_grown_into_again() -> None:
    table = taught(LearnedTable(ageing_s=100.0), {1: 0.010, 2: 0.011, 32: 9.0})
    assert table.rows_allowed == 64
    table.observe(31, 0.1, 0.0)
    table.observe(1, 0.010, 200.0)
    assert table.rows_allowed == 64  # an idle night alone makes nothing old
    table.observe(2, 0.011, 200.0)
    assert table.rows_allowed == 4
    assert table.rows_measured == 2
    assert seconds(table, 32) < 1.0


def test_a_high_quantile_adds_a_margin() -> None:
    random = Random(1)
    table = LearnedTable(quantile=0.95)
    for _ in range(300):
        table.observe(4, 0.010 * random.uniform(0.9, 1.1), 0.0)
    assert 0.0106 < seconds(table, 4) < 0.0118


def test_a_given_table_takes_only_the_margin_from_durations() -> None:
    plain, careful = LatencyTable({4: 0.010}), LatencyTable({4: 0.010}, quantile=0.9)
    for table in (plain, careful):
        for _ in range(64):
            table.observe(4, 0.012, 0.0)
    assert seconds(plain, 4) == 0.010
    assert seconds(careful, 4) == pytest.approx(0.012)


def test_a_new_key_starts_from_its_method_and_takes_over_its_height() -> None:
    book = TableBook(DispatcherConfig(64))
    for rows, duration in {1: 0.010, 8: 0.020}.items():
        for _ in range(3):
            book.observe("", ("predict", "short"), rows, duration, 0.0)
    table = book.table("", ("predict", "long"))
    assert seconds(table, 8) == 0.020
    assert not table.grounded
    assert table.rows_measured == 0
    for _ in range(3):
        book.observe("", ("predict", "long"), 1, 0.050, 0.0)
    assert seconds(table, 8) == pytest.approx(0.100)
    assert book.table("", ("other", "short")).curve is None


def test_no_more_tables_are_kept_than_allowed() -> None:
    book = TableBook(DispatcherConfig(64, keys_max=2))
    for key in ("a", "b", "c"):
        for _ in range(3):
            book.observe("", key, 1, 0.010, 0.0)
    assert book.peek("", "a") is None
    assert book.peek("", "c") is not None


def test_large_sizes_share_cells_so_that_tables_stay_small() -> None:
    table = LearnedTable()
    for rows in range(1, 2000):
        for _ in range(3):
            table.observe(rows, 0.001 * rows, 0.0)
    assert table.curve is not None
    assert len(table.curve.points) <= 64 + 5 * 32


def test_sizes_measured_in_a_bad_moment_are_tried_again_under_load() -> None:
    def true_s(rows: int) -> float:
        return 1e-4 + 3e-6 * rows

    table = LearnedTable()
    for rows in range(1, 65):
        for _ in range(20):
            table.observe(rows, 50 * true_s(rows), 0.0)
    for _ in range(20):
        table.observe(1, true_s(1), 0.0)
    assert table.curve is not None
    table.observe(2, 50 * true_s(2), 0.0)
    sizes = []
    for _ in range(3000):
        rows = table.stretch(min(64, table.curve.best_rows(64)), 64)
        sizes.append(rows)
        table.observe(rows, true_s(rows), 0.0)
    assert sum(sizes[-500:]) / 500 > 32


def test_one_batch_in_thirty_two_is_stretched_only_while_more_waits() -> None:
    table = LearnedTable()
    assert [table.stretch(4, 4) for _ in range(100)] == [4] * 100
    taken = [table.stretch(4, 64) for _ in range(2 * STRETCH_STEP)]
    assert taken == ([4] * (STRETCH_STEP - 1) + [8]) * 2
    assert [table.stretch(4, 6) for _ in range(STRETCH_STEP)][-1] == 6
    assert {LatencyTable({1: 0.1}).stretch(4, 64) for _ in range(100)} == {4}
