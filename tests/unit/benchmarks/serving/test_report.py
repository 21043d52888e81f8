"""What the summary holds, and a page from a record that is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.serving import __main__ as program
from benchmarks.serving import record
from benchmarks.serving.figures import AIMS, KEYS, Aim, summary
from benchmarks.serving.foreign import Window
from benchmarks.serving.parts.peers import OURS, table
from benchmarks.serving.plan import QUICK, Part, Plan
from benchmarks.serving.report import page, write_report
from benchmarks.serving.workplace import Workplace

PHOTOS = {"source": "crops", "files": 2, "longer_side_px": [300, 400, 500], "bytes_median": 1, "sha256": "0"}
LOAD = {"windows": 2, "thrown_away": 1, "noisy": 0, "foreign_cores_median": 0.01, "foreign_cores_most": 0.02}


def bare() -> dict[str, Any]:
    detail = {
        "loop": {"engine": "openvino", "batch": 16, "decoders": 2},
        "throughput_ratios": [0.9, 1.0],
        "p50_ratios": [1.1],
    }
    figures = {"throughput_ratio_compact": 0.95, "p50_ratio_compact": 1.6}
    return {"figures": figures, "models": {"compact": detail}, "photos": PHOTOS, "load": LOAD}


def peers() -> dict[str, Any]:
    names = [*OURS.values(), "litserve", "bentoml"]
    windows = [Window(name, 1, {"per_s": 9.0, "cpu_ms": 1.0, "client_cpu_ms": 0.1}, 0.0, noisy=False) for name in names]
    return {
        "figures": {"best_peer_ratio_c4": None, "peer_ratio_litserve_c4": 1.2},
        "missing": {"infinity": "infinity cannot be installed: no such package"},
        "peers": {"litserve": {"settings": {"max_batch_size": 16}, "tried": [1, 2], "versions": {"litserve": "0.2"}}},
        "infinity_least_centred_cosine": None,
        "table": {"4": table(windows)},
        "load": LOAD,
    }


def swaps() -> dict[str, Any]:
    steps = [
        {"number": n, "begin": float(n), "end": n + 0.2, "memory_mib": 500.0, "memory_kind": "PSS"} for n in range(1, 4)
    ]
    return {
        "figures": {"swap_failed": 0, "swap_mixed": 1, "swap_p99_ms": 20.0, "swap_p99_ratio": 1.5},
        "api_processes": 2,
        "verdict": {"requests": 10, "failed": 0, "mixed": 1, "first": {"mixed": "an answer"}},
        "swaps": steps,
        "memory_counted_as": "PSS",
        "latencies_ms": {"swap": [10.0, 20.0], "steady": [9.0, 11.0, 10.0]},
        "timeline": [[1.0, 10.0, 0], [1.3, 12.0, 1]],
        "load": LOAD,
    }


def commit() -> dict[str, Any]:
    figures = {"prepared_commit_ms": 40.0, "cold_commit_s_compact": 0.5}
    return {"figures": figures, "api_processes": 2, "models": {"compact": {}}, "load": LOAD}


def abuse() -> dict[str, Any]:
    return {
        "figures": {"abuse_wrong": 0, "abuse_stuck": 0, "abuse_settled_s": 0.1, "abuse_eight_images_one_bad": True},
        "answers": {"healthy": {"200": 9}, "no_form": {"400": 1}},
        "load": LOAD,
    }


def gain() -> dict[str, Any]:
    return {"figures": {"compact_gain_c16": 1.7}, "before": "2f32a32", "gains": [1.6, 1.8], "load": LOAD}


def prepare() -> dict[str, Any]:
    return {"figures": {"prepare_s_compact": 0.2}, "models": {"compact": {"versions": []}}, "load": LOAD}


def start() -> dict[str, Any]:
    return {"figures": {"ready_s_compact": 5.5, "rest_mib_compact": 800.0}, "versions": 3, "starts": [{}], "load": LOAD}


FAKE = {
    Part.BARE: bare,
    Part.PEERS: peers,
    Part.SWAPS: swaps,
    Part.COMMIT: commit,
    Part.ABUSE: abuse,
    Part.GAIN: gain,
    Part.PREPARE: prepare,
    Part.START: start,
}


class TestSummary:
    def test_every_key_is_there_and_null_until_it_is_measured(self) -> None:
        found = summary({}, {})
        assert list(found)[: len(KEYS)] == list(KEYS)
        assert {found[key] for key in KEYS} == {None}
        assert {aim["met"] for aim in found["aims"].values()} == {None}

    def test_the_keys_are_these(self) -> None:
        assert set(KEYS) == {
            "throughput_ratio_vit_b32",
            "throughput_ratio_compact",
            "p50_ratio_vit_b32",
            "p50_ratio_compact",
            "best_peer_ratio_c1",
            "best_peer_ratio_c4",
            "best_peer_ratio_c16",
            "best_peer_ratio_c64",
            "cpu_ratio_c1",
            "cpu_ratio_c4",
            "cpu_ratio_c16",
            "cpu_ratio_c64",
            "compact_gain_c16",
            "prepare_s_compact",
            "prepare_s_vit_b32",
            "ready_s_compact",
            "rest_mib_compact",
            "rest_ratio_compact_50",
            "swap_failed",
            "swap_mixed",
            "swap_p99_ratio",
            "memory_ratio_50_5",
            "prepared_commit_ms",
            "cold_commit_s_compact",
            "cold_commit_s_vit_b32",
        }

    @pytest.mark.parametrize(
        ("kind", "met"), [("<=", [True, True, False]), (">=", [False, True, True]), (">", [False, False, True])]
    )
    def test_aims_have_their_bound_inside_or_outside(self, kind: Any, met: list[bool]) -> None:
        aim = Aim("x", "x", kind, 1.0)
        assert [aim.met(value) for value in (0.5, 1.0, 1.5)] == met
        assert Aim("x", "x", "==", 0).met(0)
        assert not Aim("x", "x", "==", 0).met(1)

    def test_figures_of_all_parts_come_together_with_their_samples(self) -> None:
        found = summary({"bare": bare(), "peers": peers()}, {"cores": 2})
        assert found["throughput_ratio_compact"] == 0.95
        assert found["peer_ratio_litserve_c4"] == 1.2
        assert found["best_peer_ratio_c4"] is None
        assert found["missing"]["peers"]["infinity"].startswith("infinity cannot be installed")
        assert found["samples"]["bare"]["models"]["compact"]["throughput_ratios"] == [0.9, 1.0]
        assert found["aims"]["p50_ratio_compact"]["met"] is False


class TestRecord:
    def test_a_finished_part_is_found_again_only_with_the_same_plan(self, tmp_path: Path) -> None:
        record.keep(tmp_path, Part.BARE, bare(), QUICK, seconds=1.0)
        assert list(record.finished(tmp_path, QUICK)) == ["bare"]
        assert record.finished(tmp_path, Plan()) == {}

    def test_a_failure_is_recorded_measured_again_and_never_erases_what_was_found(self, tmp_path: Path) -> None:
        failure = {"figures": {}, "missing": {"swaps": "ServerError: no"}, "failed": True}
        found = record.keep(tmp_path, Part.SWAPS, failure, QUICK, seconds=1.0)
        assert found["missing"] == {"swaps": {"swaps": "ServerError: no"}}
        assert record.finished(tmp_path, QUICK) == {}
        record.keep(tmp_path, Part.SWAPS, swaps(), QUICK, seconds=1.0)
        found = record.keep(tmp_path, Part.SWAPS, failure, QUICK, seconds=1.0)
        assert found["swap_mixed"] == 1

    def test_samples_are_one_line_for_each_part(self, tmp_path: Path) -> None:
        record.keep(tmp_path, Part.BARE, bare(), QUICK, seconds=1.0)
        text = (tmp_path / "summary.json").read_text()
        assert json.loads(text)["samples"]["bare"]["photos"] == PHOTOS
        assert len(text.splitlines()) < 60


class TestReport:
    def test_the_page_shows_figures_aims_reasons_and_load(self, tmp_path: Path) -> None:
        for part, made_up in FAKE.items():
            record.keep(tmp_path, part, made_up(), QUICK, seconds=12.0)
        write_report(tmp_path)
        text = (tmp_path / "report.md").read_text()
        assert "| `p50_ratio_compact` | the same, `compact` | <= 1.5 | 1.6 | **no** |" in text
        assert "| `cold_commit_s_vit_b32` |" in text
        assert "- infinity: infinity cannot be installed: no such package" in text
        assert "First that mixed: `an answer`" in text
        assert "These figures mean nothing" in text
        assert "| bare | 2 | 1 | 0 | 0.01, 0.02 | 12 s |" in text
        for name in ("throughput.png", "latency.png", "memory.png", "timeline.png"):
            assert f"({name})" in text
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_a_page_of_nothing_can_be_written(self) -> None:
        text = page(summary({}, {}), [])
        assert all(f"`{aim.name}`" in text for aim in AIMS)


class TestProgram:
    def test_messages_are_kept_without_addresses_and_paths(self) -> None:
        text = program.without_places(
            "no litserve at https://packages.example/simple, see /home/ada/var/log/x.log: 1/2"
        )
        assert text == "no litserve at … see x.log: 1/2"

    def run(self, out: Path, work: Path, *options: str) -> Any:
        return CliRunner().invoke(program.app, ["--quick", "--out", str(out), "--work", str(work), *options])

    def test_parts_are_measured_once_and_again_only_if_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured: list[Part] = []

        def fake(part: Part) -> Any:
            def measure(place: Workplace) -> dict[str, Any]:
                measured.append(part)
                place.tell("something")
                return {**FAKE[part](), "missing": {}}

            return measure

        monkeypatch.setattr(program, "MEASURE", {part: fake(part) for part in Part})
        monkeypatch.setattr(program, "write_report", lambda out: None)
        out = tmp_path / "out"
        assert self.run(out, tmp_path / "work", "--only", "bare").exit_code == 0
        assert self.run(out, tmp_path / "work").exit_code == 0
        assert measured == list(Part)
        assert self.run(out, tmp_path / "work", "--only", "bare", "--fresh").exit_code == 0
        assert measured == [*Part, Part.BARE]

    def test_what_could_not_be_measured_is_said_and_the_rest_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(place: Workplace) -> dict[str, Any]:
            raise RuntimeError("no such server")

        monkeypatch.setattr(program, "MEASURE", {**dict.fromkeys(Part, broken), Part.ABUSE: lambda _: abuse()})
        ended = self.run(tmp_path / "out", tmp_path / "work")
        assert ended.exit_code == 1
        assert "no such server" in ended.output
        found = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert found["missing"]["swaps"] == {"swaps": "RuntimeError: no such server"}
        assert found["swap_failed"] is None
        assert found["abuse_wrong"] == 0
        assert "no such server" in (tmp_path / "out" / "report.md").read_text()
