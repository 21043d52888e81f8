"""The record counts what went wrong, and its page says so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from benchmarks.common.record import load_json
from benchmarks.faults.abuse import Abuse, gauge, longest, server_errors_counted
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.record import AIMS, added_to, figures, met, page, record, save
from benchmarks.faults.trial import Outcome

HELD = Outcome("kill the broker", requests=100, slowest_s=0.1, recovered_s=1.5, jobs=1)
BROKEN = Outcome(
    "fill the disk", None, ["it ended in /tmp/x/log/a.log"],
    requests=50, requests_failed=3, jobs=2, jobs_lost=1, server_errors=4, image_bytes_found=5, service_ended=True,
)  # fmt: skip
SKIPPED = Outcome("mount", skipped="mounting is not permitted here")
ABUSED = Abuse(
    inputs=Counter(image=3, wire=2), answers={"image": Counter({"422": 3}), "wire": Counter({"400": 2})},
    harm=["image: a bomb: 500"], server_errors=1, requests=40, requests_failed=2, usual_ms=10.0, abused_ms=25.0,
    peak_extra_mib=77.5, longest_stall_ms=12.0, longest_hold_ms=4.0, jobs=1,
)  # fmt: skip


def test_figures_are_sums_over_faults_and_inputs() -> None:
    assert figures([HELD, BROKEN, SKIPPED], ABUSED) == {
        "faults": 2, "bad_inputs": 5, "service_ended": 1, "requests_failed": 5, "jobs_lost": 1, "server_errors": 5,
        "image_bytes_found": 5, "longest_stall_ms": 12.0, "peak_extra_mib": 77.5, "p99_ratio": 2.5,
    }  # fmt: skip


def test_what_was_not_measured_is_no_aim_that_was_met() -> None:
    found = figures([HELD], None)
    assert found["peak_extra_mib"] is None
    assert met("peak_extra_mib", None) is None
    assert met("service_ended", 1) is False
    assert met("service_ended", 0) is True
    assert met("faults", 59) is False


def test_the_page_says_what_did_not_hold_and_what_was_skipped(tmp_path: Path) -> None:
    kept = record([HELD, BROKEN, SKIPPED], ABUSED, quick=True, seed=0, model="compact")
    save(tmp_path, kept)
    written = (tmp_path / "README.md").read_text()
    assert load_json(tmp_path / "summary.json")["faults_that_did_not_hold"] == 1
    assert "- fill the disk: it ended in" in written
    assert "skipped: mounting is not permitted here" in written
    assert "a bomb: 500" in written
    assert "A quick run" in written
    assert "the longest was 4 ms" in written
    assert "/tmp" not in written


def test_a_run_without_bad_inputs_has_a_page_too() -> None:
    written = page(record([HELD], None, quick=False, seed=0, model="compact"))
    assert "What did not hold" not in written
    assert "none in this run" in written


def test_there_are_as_many_faults_as_aimed_at_and_each_has_its_own_name() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= AIMS["faults"][1]
    assert 18 <= sum(fault.quick for fault in FAULTS) <= 26


def test_metrics_tell_of_errors() -> None:
    text = (
        'keepsight_requests_total{method="GET",route="/x",status="500"} 2.0\n'
        'keepsight_requests_total{method="GET",route="/x",status="503"} 7.0\n'
        'keepsight_requests_total{method="GET",route="/x",status="200"} 9.0\n'
        "keepsight_classes 12.0\n"
    )
    assert server_errors_counted([text, text]) == 4
    assert gauge(text, "keepsight_classes") == 12.0
    assert gauge(text, "keepsight_nothing") is None


def stalls(longest: float, short: int, middle: int, long: int, *, what: str = "stall") -> str:
    """The metrics of a server whose loop stood still so often for up to 10 ms, up to 50 ms, and longer."""
    name = f"keepsight_event_loop_{what}_seconds_bucket"
    counts = {"0.01": short, "0.05": short + middle, "+Inf": short + middle + long}
    lines = [f'{name}{{le="{bound}"}} {count}.0' for bound, count in counts.items()]
    return "\n".join([*lines, f"keepsight_event_loop_longest_{what}_seconds {longest}", ""])


def test_the_longest_stall_is_that_of_the_time_between_two_looks() -> None:
    before = stalls(0.3, 100, 5, 1)  # 0.3 s while the server started
    assert longest("stall", before, stalls(0.8, 100, 5, 2)) == 0.8
    assert longest("stall", before, stalls(0.3, 900, 5, 1)) == 0.01
    assert longest("stall", before, stalls(0.3, 900, 6, 1)) == 0.05
    assert longest("stall", before, stalls(0.3, 900, 6, 2)) == 0.3
    assert longest("stall", before, before) == 0.0
    assert longest("stall", "", "") is None
    assert longest("hold", before, before) is None
    assert longest("hold", stalls(0.3, 1, 1, 0, what="hold"), stalls(0.4, 1, 2, 0, what="hold")) == 0.4


def test_a_run_that_was_stopped_says_what_it_did_not_try() -> None:
    kept = record([HELD], None, quick=False, seed=0, model="compact", untried=["the disk is full"])
    assert kept["untried"] == ["the disk is full"]
    assert "**Not tried**: the disk is full." in page(kept)


def test_a_part_that_is_measured_again_takes_the_place_of_what_came_of_it_before() -> None:
    kept = record([HELD, BROKEN], ABUSED, quick=False, seed=0, model="compact")
    assert record(*added_to(kept, [], None), quick=False, seed=0, model="compact") == kept
    mended = replace(BROKEN, problems=[], requests_failed=0, jobs_lost=0, server_errors=0, service_ended=False)
    outcomes, abused = added_to(kept, [mended], replace(ABUSED, longest_stall_ms=9.0))
    again = record(outcomes, abused, quick=False, seed=0, model="compact")
    assert [entry["fault"] for entry in again["by_fault"]] == ["kill the broker", "fill the disk"]
    assert (again["requests_failed"], again["longest_stall_ms"], again["service_ended"]) == (2, 9.0, 0)
