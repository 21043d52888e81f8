"""Which windows count, how ratios come of them, and what the kernel's counters mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.proc import Stat, all_stats, members, parse_stat, tree_cpu_s
from benchmarks.serving.counting import evenly
from benchmarks.serving.figures import least_centred_cosine, median_ratio, median_value, quantile, ratios_by_round
from benchmarks.serving.foreign import Gate, Window, interleaved, load_of
from benchmarks.serving.parts.abuse import gauges
from benchmarks.serving.parts.peers import figures, least

LINE = "42 (a (strange) name) S 7 42 40 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100 200 300"


def gate(*loads: float, **changes: Any) -> Gate:
    """A gate that finds these foreign loads, one after another."""
    waiting = list(loads)

    def meter() -> Callable[[], float]:
        return lambda: waiting.pop(0)

    return Gate(meter=meter, **changes)


def window(side: str, number: int, *, noisy: bool = False, **values: Any) -> Window:
    return Window(side, number, values, foreign=1.0 if noisy else 0.0, noisy=noisy)


class TestGate:
    def test_a_quiet_window_stands_at_once(self) -> None:
        found = gate(0.1).measure("server", 1, lambda: {"per_s": 1.0})
        assert (found.foreign, found.noisy, found.thrown) == (0.1, False, ())

    def test_disturbed_windows_are_thrown_away_and_repeated(self) -> None:
        values = iter([{"per_s": 1.0}, {"per_s": 2.0}])
        found = gate(0.9, 0.0).measure("server", 1, lambda: next(values))
        assert found.values == {"per_s": 2.0}
        assert (found.noisy, found.thrown) == (False, (0.9,))

    def test_where_none_was_quiet_the_quietest_stands_and_says_so(self) -> None:
        values = iter([{"per_s": 1.0}, {"per_s": 2.0}, {"per_s": 3.0}])
        found = gate(0.9, 0.4, 0.5, retries=2).measure("server", 1, lambda: next(values))
        assert found.values == {"per_s": 2.0}
        assert (found.noisy, found.thrown) == (True, (0.9, 0.5))

    def test_repeats_are_bounded_over_the_whole_run(self) -> None:
        one = gate(*[0.9] * 10, retries=3, budget=4)
        tries = [len(one.measure("server", n, dict).thrown) for n in range(4)]
        assert tries == [3, 1, 0, 0]

    def test_sides_take_turns_and_change_their_order(self) -> None:
        order: list[str] = []

        def run(name: str) -> Callable[[], Mapping[str, Any]]:
            def measured() -> Mapping[str, Any]:
                order.append(name)
                return {}

            return measured

        found = interleaved({"a": run("a"), "b": run("b")}, rounds=2, gate=gate(*[0.0] * 4))
        assert order == ["a", "b", "b", "a"]
        assert [(w.side, w.round) for w in found] == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]

    def test_the_record_tells_how_many_were_thrown_away(self) -> None:
        found = load_of([Window("a", 1, {}, 0.1, False, (0.9, 0.8)), Window("a", 2, {}, 0.5, True)])
        assert found == {
            "windows": 2,
            "thrown_away": 2,
            "noisy": 1,
            "foreign_cores_median": 0.3,
            "foreign_cores_most": 0.5,
        }
        assert load_of([])["foreign_cores_median"] is None


class TestRatios:
    def test_ratios_are_taken_within_rounds(self) -> None:
        rates = [(1, 10.0, 5.0), (2, 30.0, 10.0), (3, 8.0, 8.0)]
        found = [window(side, n, per_s=x) for n, a, b in rates for side, x in (("a", a), ("b", b))]
        assert ratios_by_round(found, "a", "b", "per_s") == [2.0, 3.0, 1.0]
        assert median_ratio(found, "a", "b", "per_s") == 2.0

    def test_noisy_rounds_count_only_where_no_other_is_left(self) -> None:
        loud = [window("a", 1, noisy=True, per_s=9.0), window("b", 1, per_s=1.0)]
        quiet = [window("a", 2, per_s=2.0), window("b", 2, per_s=1.0)]
        assert ratios_by_round(loud + quiet, "a", "b", "per_s") == [2.0]
        assert ratios_by_round(loud, "a", "b", "per_s") == [9.0]
        assert median_value(loud + quiet, "a", "per_s") == 2.0

    def test_what_was_not_measured_has_no_ratio(self) -> None:
        assert median_ratio([window("a", 1, per_s=1.0)], "a", "b", "per_s") is None
        assert median_ratio([window("a", 1, per_s=1.0), window("b", 1, per_s=None)], "a", "b", "per_s") is None
        assert median_value([], "a", "per_s") is None

    def test_quantiles_by_hand(self) -> None:
        assert quantile(range(1, 101), 0.99) == 99
        assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
        assert quantile([7.0], 0.99) == 7.0
        assert quantile([], 0.99) is None


class TestCounting:
    def test_steady_answers_are_counted_as_they_come(self) -> None:
        assert evenly([0.1 * n for n in range(100)], 2.05, 7.05) == pytest.approx(50)

    @pytest.mark.parametrize("begin", [1.0, 1.3, 1.99])
    def test_bursts_are_spread_over_the_time_they_took(self, begin: float) -> None:
        bursts = [second + 0.001 * n for second in range(10) for n in range(16)]
        assert evenly(bursts, begin, begin + 6) == pytest.approx(96, rel=0.01)

    def test_a_burst_that_takes_a_while_is_still_one(self) -> None:
        bursts = [3.2 * n + 0.04 * i for n in range(4) for i in range(16)]
        assert evenly(bursts, 2.0, 8.0) == pytest.approx(16 * 6 / 3.2, rel=0.01)

    def test_few_answers_are_counted(self) -> None:
        assert evenly([], 0, 1) == 0
        assert evenly([0.5], 0, 1) == 1
        assert evenly([1.5], 0, 1) == 0


class TestPeers:
    def test_the_best_peer_is_the_one_that_leaves_us_the_least(self) -> None:
        rates = {
            "keepsight classify": 30.0,
            "keepsight embeddings": 33.0,
            "infinity": 22.0,
            "litserve": 20.0,
            "bentoml": 25.0,
            "fastapi-openvino": 24.0,
            "fastapi-onnxruntime": 21.0,
        }
        found = figures({4: [window(name, 1, per_s=rate, cpu_ms=rate) for name, rate in rates.items()]}, {})
        assert found["peer_ratio_infinity_c4"] == 1.5
        assert found["best_peer_ratio_c4"] == 1.2
        assert found["cpu_ratio_c4"] == round(22 / 33, 4)

    def test_a_peer_that_is_missing_leaves_the_figure_open(self) -> None:
        windows = [window("keepsight classify", 1, per_s=2.0, cpu_ms=1.0), window("litserve", 1, per_s=1.0, cpu_ms=1.0)]
        found = figures({1: windows}, {"bentoml": "cannot be installed"})
        assert found["peer_ratio_litserve_c1"] == 2.0
        assert found["best_peer_ratio_c1"] is None
        assert least([1.0, None]) is None

    def test_vectors_are_compared_without_what_all_share(self) -> None:
        import numpy as np

        shared, own = 100 * np.ones((3, 4)), np.random.default_rng(0).normal(size=(3, 4))
        assert least_centred_cosine(shared + own, shared + own) == pytest.approx(1.0)
        assert least_centred_cosine(shared + own, shared - own) == pytest.approx(-1.0)


class TestProcesses:
    def test_a_name_with_brackets_does_not_shift_the_fields(self) -> None:
        stat = parse_stat(LINE)
        assert (stat.pid, stat.parent, stat.session) == (42, 7, 40)
        assert stat.cpu_s == pytest.approx(4 * stat.reaped_s)

    def test_a_tree_holds_descendants_and_the_sessions_they_lead(self) -> None:
        rows = [(1, 0, 1), (10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 12), (20, 1, 20)]
        stats = {pid: Stat(pid, parent, session, cpu_s=1.0, reaped_s=0.5) for pid, parent, session in rows}
        assert members(10, stats) == {10, 11, 12, 13}
        assert members(99, stats) == set()
        assert tree_cpu_s(10, stats) == 6.0

    def test_processes_that_cannot_be_read_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "42").mkdir()
        (tmp_path / "42" / "stat").write_text(LINE)
        (tmp_path / "43").mkdir()
        (tmp_path / "self").mkdir()
        assert set(all_stats(tmp_path)) == {42}

    def test_gauges_are_read_from_prometheus_text(self) -> None:
        text = "# HELP x y\nkeepsight_requests_in_hand 3.0\nkeepsight_inference_queue 0.0\nother 1\n"
        assert gauges(text) == {"keepsight_requests_in_hand": 3.0, "keepsight_inference_queue": 0.0}
