"""What the kernel's counters say of other processes."""

from __future__ import annotations

import sys

import pytest

from benchmarks.common.load import LoadMeter, busy_ticks, foreign_cores


def test_foreign_load_is_the_machine_s_less_one_s_own() -> None:
    assert foreign_cores(busy_s=3.0, own_s=1.0, wall_s=4.0) == 0.5
    assert foreign_cores(busy_s=1.0, own_s=1.01, wall_s=4.0) == 0.0


def test_busy_ticks_leave_out_idle_waiting_and_guest_time() -> None:
    stat = "cpu  100 1 20 5000 300 2 3 4 50 0\ncpu0 100 1 20 5000 300 2 3 4 50 0\n"
    assert busy_ticks(stat) == 100 + 1 + 20 + 2 + 3 + 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_window_s_load_is_a_share_of_the_machine() -> None:
    meter = LoadMeter()
    seconds, foreign = meter.read()
    assert seconds >= 0
    assert foreign is not None
    assert foreign >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_counted_as_one_s_own_is_not_foreign() -> None:
    spent = iter([0.0, 1e9])
    meter = LoadMeter(lambda: next(spent))
    assert meter.read()[1] == 0.0
