"""What the curves say of a generator's pace, and how they are shown."""

from __future__ import annotations

from bench.growth import spacing, table


def test_an_even_pace_is_kept_exactly() -> None:
    found = spacing(list(range(5_001)), 1_000)
    assert (found["kept"], found["off_by_percent"]) == (1_000.0, 0.0)
    assert (found["gap_ms_p1"], found["gap_ms_p50"], found["gap_ms_p99"]) == (1, 1, 1)
    assert (found["in_10_ms_p1"], found["in_10_ms_p99"]) == (10, 10)


def test_bursts_keep_the_rate_and_show_in_the_spacing() -> None:
    times = [second for second in range(0, 10_000, 100) for _ in range(100)] + [10_000]
    found = spacing(times, 1_000)
    assert found["kept"] == 1_000.0
    assert (found["in_10_ms_p50"], found["in_10_ms_p99"]) == (0, 100)


def test_what_is_asked_for_and_not_kept_is_off() -> None:
    assert spacing([0, 2_000, 4_000], 1)["off_by_percent"] == -50.0


def test_a_table_has_a_column_for_whatever_a_row_has() -> None:
    shown = table([{"users": 1_000}, {"users": 2_000, "cpu_seconds": 0.5}]).splitlines()
    assert shown == ["| users | cpu seconds |", "|---|---|", "| 1,000 |  |", "| 2,000 | 0.5 |"]
