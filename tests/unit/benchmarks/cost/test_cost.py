"""The cost benchmark: what is dropped, what is computed, what is kept, and one tiny run of all of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.common.models import write_small_vit
from benchmarks.common.record import load_json
from benchmarks.cost.__main__ import keep
from benchmarks.cost.figures import exponent, line_at, phase_share, quiet, ratios_by_round, step_ratio
from benchmarks.cost.jobs import (
    FULL_COST,
    SIDES,
    Job,
    Overrides,
    Scene,
    StepSample,
    StepsJob,
    Tick,
    UpdateJob,
    UpdateSample,
)
from benchmarks.cost.measure import measure
from benchmarks.cost.parts import measure_dpgd, measure_growth, measure_steps
from benchmarks.cost.plan import (
    BATCH,
    GrowthPlan,
    StepsEntry,
    UpdateEntry,
    dpgd_plan,
    growth_plan,
    steps_plan,
    vit_batches,
)
from benchmarks.cost.record import Part, merge_part
from benchmarks.cost.runner import Answer, run_point
from segp_cl.config import LearnerConfig
from segp_cl.types import ModelSpec

TINY: Overrides = {"rank": 2, "k_seed": 2, "min_anchors": 0, "k_adv": 1, "anchor_batch_size": 2, "epochs": 1}
PHASE_SHARES = {"stem": 0.05, "anchors": 0.25, "teacher": 0.02, "train": 0.5, "prototypes": 0.1, "align": 0.04}


def step(seconds: float, foreign: float | None = 0.0, *, side: str = "segp", number: int = 1) -> StepSample:
    return StepSample(side=side, round=number, step=2, seconds=seconds, foreign_cores=foreign, peak_mib=100.0)


def update(seconds: float, *, foreign: float = 0.0, peak: float = 100.0, epochs: int = 10) -> UpdateSample:
    return UpdateSample(
        seconds=seconds,
        phases={phase: share * seconds for phase, share in PHASE_SHARES.items()},
        anchors=4,
        steps=8,
        epochs=epochs,
        foreign_cores=foreign,
        before_mib=50.0,
        peak_mib=peak,
    )


def scene(**changes: Any) -> Scene:
    return Scene.model_validate({"label": "tiny", "images": 8, "threads": 1, **changes})


def silent(*_: object) -> None:
    pass


class TestNoise:
    def test_samples_taken_beside_a_busy_process_are_dropped(self) -> None:
        found = quiet([step(1.0, 0.0), step(9.0, 0.5), step(1.2, 0.1), step(1.1, None)], limit=0.15)
        assert [sample.seconds for sample in found.kept] == [1.0, 1.2, 1.1]
        assert found.seconds == 1.1
        assert not found.noisy

    def test_the_quieter_half_stands_in_where_too_few_are_quiet(self) -> None:
        series = [step(3.0, 0.9), step(2.0, 0.3), step(1.0, 0.0), step(4.0, 0.6), step(5.0, 0.8)]
        found = quiet(series, limit=0.15)
        assert [sample.seconds for sample in found.kept] == [2.0, 1.0, 4.0]
        assert found.noisy

    def test_half_of_a_series_is_enough(self) -> None:
        found = quiet([step(1.0, 0.0), step(2.0, 1.0)], limit=0.15)
        assert (len(found.kept), found.noisy) == (1, False)

    def test_any_quiet_sample_is_enough_where_no_share_is_asked_for(self) -> None:
        series = [step(1.0, 0.0), step(2.0, 1.0), step(3.0, 1.0)]
        assert (quiet(series, share=0).seconds, quiet(series, share=0).noisy) == (1.0, False)
        assert quiet(series[1:], share=0).noisy

    def test_no_samples_no_figure(self) -> None:
        with pytest.raises(ValueError, match="no figure"):
            quiet([])


class TestArithmetic:
    def test_a_ratio_is_between_the_medians_of_two_sides(self) -> None:
        samples = {BATCH: [*(step(s) for s in (2.0, 3.0, 9.0)), *(step(s, side="naive") for s in (2.0, 2.0, 1.0))]}
        assert step_ratio(samples, "segp", at=BATCH) == 1.5

    def test_a_side_that_was_not_measured_has_no_ratio(self) -> None:
        assert step_ratio({BATCH: [step(2.0)]}, "segp", at=BATCH) is None
        assert step_ratio({BATCH: []}, "segp", at=BATCH) is None

    def test_each_round_has_its_own_ratio(self) -> None:
        pairs = [(1, 3.0, 2.0), (2, 4.0, 2.0)]
        samples = [s for n, a, b in pairs for s in (step(a, number=n), step(b, side="naive", number=n))]
        assert ratios_by_round({BATCH: [*samples, step(5.0, number=3)]}, "segp", at=BATCH) == [1.5, 2.0]

    def test_a_batch_too_big_for_the_machine_lies_on_the_line(self) -> None:
        # naive: 1 + batch; segp: 5 + batch (its anchors do not grow with the batch)
        samples = {b: [step(5.0 + b), step(1.0 + b, side="naive")] for b in (10, 50)}
        assert step_ratio(samples, "segp", at=109) == pytest.approx(114 / 110)

    def test_what_was_measured_is_not_moved_onto_the_line(self) -> None:
        assert line_at({1: 1.0, 2: 5.0, 3: 3.0}, 2) == 5.0
        with pytest.raises(ValueError, match="two points"):
            line_at({1: 1.0}, 2)

    def test_the_exponent_is_the_slope_between_logarithms(self) -> None:
        assert exponent([(1000, 3.0), (10_000, 30.0), (100_000, 300.0)]) == pytest.approx(1.0)
        assert exponent([(10, 2.0), (1000, 20.0)]) == pytest.approx(0.5)

    def test_dpgd_s_share_of_a_whole_update(self) -> None:
        phases = {"anchors": 2.0, "train": 5.0, "prototypes": 1.0, "align": 0.7}
        assert phase_share(phases, 10.0) == 0.2
        # ten times the epochs: 2 of 10 + 9 * 5
        assert phase_share(phases, 10.0, train_factor=10) == pytest.approx(2 / 55)


class TestRecord:
    def test_a_part_replaces_its_own_figures_only(self) -> None:
        before = merge_part({}, Part.STEPS, {"step_ratio_compact": 1.2, "step_ratio_old": 9.0}, {"quick": True})
        between = merge_part(before, Part.DPGD, {"dpgd_share": {}}, {"quick": True})
        after = merge_part(between, Part.STEPS, {"step_ratio_compact": 1.3}, {"quick": False})
        assert after == {
            "step_ratio_compact": 1.3,
            "dpgd_share": {},
            "conditions": {"steps": {"quick": False}, "dpgd": {"quick": True}},
        }

    def test_a_figure_of_another_part_is_refused(self) -> None:
        with pytest.raises(ValueError, match="dpgd_share"):
            merge_part({}, Part.GROWTH, {"dpgd_share": 1}, {})


class TestPlan:
    def test_the_steps_are_timed_at_the_defaults(self) -> None:
        for entry in steps_plan(ModelSpec("ViT-B-16", "random"), available_mib=1e6):
            (job,) = entry.jobs
            untouched = {"batch_size", "epochs", "k_adv", "k_seed", "strategy"}
            for side, overrides in SIDES.items():
                changed = job.config_of(side).model_dump(exclude=untouched | set(overrides))
                assert changed == LearnerConfig().model_dump(exclude=untouched | set(overrides))
            assert job.batch_size == BATCH
            assert (job.scene.old_classes, job.scene.new_classes) == (90, 10)

    def test_full_cost_names_settings_that_exist(self) -> None:
        assert LearnerConfig.model_validate(FULL_COST).strategy == "segp"

    def test_vit_is_measured_at_smaller_batches_where_128_does_not_fit(self) -> None:
        assert vit_batches(24_000, quick=False) == (10, 48)
        assert vit_batches(64_000, quick=False) == (128,)
        assert all(batch >= 10 for batch in vit_batches(24_000, quick=True))

    def test_too_few_anchors_for_a_batch_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="4 anchors do not fill a batch of 32"):
            StepsJob(scene=scene(old_classes=4), config={"k_seed": 1, "anchor_batch_size": 32}, steps=3, rounds=1)

    @pytest.mark.parametrize("quick", [False, True])
    def test_the_points_are_in_order(self, quick: bool) -> None:
        plan = growth_plan(ModelSpec("small"), "small", quick=quick)
        assert [entry.job.scene.old_classes for entry in plan.old_classes] == [10, 100, 1000]
        counts = [entry.job.scene.images for entry in plan.images]
        assert counts == sorted(counts)
        assert [entry.job.scene.images for entry in dpgd_plan(quick=quick)] == [200, 5000]


class TestParts:
    def test_points_take_turns_and_the_quiet_middle_counts(self) -> None:
        asked: list[int] = []
        taken = [update(3.0), update(30.0), update(9.0, foreign=1.0), update(2.0, peak=120.0), update(1.0, foreign=1.0)]
        answers = iter(taken)

        def run(job: Job, on_tick: Callable[[str], None]) -> Answer:
            asked.append(job.scene.images)
            return Answer((next(answers),))

        def entry(images: int, repeats: int) -> UpdateEntry:
            return UpdateEntry(str(images), UpdateJob(scene=scene(images=images)), repeats)

        single = UpdateEntry("10", UpdateJob(scene=scene(old_classes=10)))
        plan = GrowthPlan(old_classes=(single,), images=(entry(100, 3), entry(1000, 1)), images_model="small")
        figures = measure_growth(plan, run, silent).figures
        assert asked == [8, 100, 1000, 100, 100]
        points = figures["growth_images"]
        assert [(point["seconds"], point["noisy"]) for point in points] == [(30.0, False), (9.0, True)]
        assert [point["peak_mib"] for point in points] == [120, 100]
        assert figures["growth_images_exponent"] == pytest.approx(-0.5229, abs=1e-4)  # log10(9 / 30)

    def test_a_process_that_was_killed_leaves_what_it_had(self) -> None:
        job = StepsJob(scene=scene(), config={"batch_size": 8}, steps=3, rounds=1)

        def run(job: Job, on_tick: Callable[[str], None]) -> Answer:
            return Answer((step(2.0), step(1.0, side="naive")), "ended by SIGKILL (most likely out of memory)")

        entry = StepsEntry("tiny", "Tiny", (job.model_copy(update={"config": {"batch_size": BATCH}}),))
        figures = measure_steps([entry], run, silent).figures
        assert figures["step_ratio_tiny"] == 2.0
        assert figures["step_ratio_tiny_full_cost"] is None
        assert figures["steps"]["tiny"]["sides"]["segp_full_cost"]["samples"] == 0
        assert "SIGKILL" in figures["steps"]["tiny"]["failures"][0]

    def test_fewer_epochs_are_scaled_to_the_default(self) -> None:
        entry = UpdateEntry("paper_size", UpdateJob(scene=scene()))
        found = measure_dpgd([entry], lambda *_: Answer((update(10.0, epochs=1),)), silent).figures
        epochs = LearnerConfig().epochs
        assert found["dpgd_share"]["paper_size"] == pytest.approx(2.5 / (10 + (epochs - 1) * 5), abs=1e-4)
        assert found["dpgd"]["paper_size"]["epochs_measured"] == 1


class TestMeasuring:
    def test_every_step_but_the_first_is_timed_on_every_side_in_turn(self, tiny_spec: ModelSpec) -> None:
        sides: dict[str, Overrides] = {"segp": {}, "naive": {"strategy": "naive"}}
        config: Overrides = {"rank": 2, "batch_size": 8, "k_adv": 0, "k_seed": 1, "anchor_batch_size": 2}
        where = scene(model=tiny_spec.name, old_classes=3, new_classes=2)
        job = StepsJob(scene=where, sides=sides, config=config, steps=3, rounds=2)
        found = [sample for sample in measure(job) if isinstance(sample, StepSample)]
        assert [(s.round, s.side, s.step) for s in found] == [
            (number, side, step) for number in (1, 2) for side in ("segp", "naive") for step in (2, 3)
        ]
        assert all(sample.seconds > 0 and sample.peak_mib > 1 for sample in found)

    @pytest.mark.parametrize(
        ("end", "failure"),
        [
            ("exit 0", None),
            ("exit 3", "ended with exit status 3"),
            ("kill -TERM $$", "ended by signal 15"),
            ("kill -KILL $$", "ended by SIGKILL (most likely out of memory)"),
        ],
    )
    def test_what_a_process_measured_before_it_ended_is_kept(
        self,
        end: str,
        failure: str | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        sample, program, ticks = update(1.0), tmp_path / "program", list[str]()
        lines = f"{Tick(what='train 1 of 2').model_dump_json()}\n{sample.model_dump_json()}"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\necho no room >&2\n{end}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        assert run_point(UpdateJob(scene=scene()), ticks.append) == Answer((sample,), failure)
        assert ticks == ["train 1 of 2"]
        assert ("no room" in capfd.readouterr().err) == (failure is not None)

    @pytest.mark.slow
    def test_all_parts_end_to_end(self, tiny_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gc, "collect", lambda: 0)  # here it would go through all that the other tests hold

        def in_process(job: Job, on_tick: Callable[[str], None]) -> Answer:
            return Answer(tuple(measure(job, on_tick)))

        def entry(label: str, config: Overrides = TINY, **changes: Any) -> UpdateEntry:
            where = scene(**{"model": tiny_spec.name, "old_classes": 3, "new_classes": 2, **changes})
            return UpdateEntry(label, UpdateJob(scene=where, config=config))

        where = scene(model=tiny_spec.name, old_classes=16, new_classes=2)
        job = StepsJob(scene=where, config={"rank": 2, "batch_size": 8, "k_adv": 0, "k_seed": 2}, steps=2, rounds=1)
        bigger = job.model_copy(update={"scene": scene(model=tiny_spec.name, images=16, old_classes=16, new_classes=2)})
        bigger = bigger.model_copy(update={"config": {**job.config, "batch_size": 16}})
        steps = measure_steps([StepsEntry("tiny", "Tiny", (job, bigger))], in_process, silent)
        dpgd = measure_dpgd([entry("images_20_old_90"), entry("paper_size", images=16)], in_process, silent)
        growth = measure_growth(
            GrowthPlan(
                old_classes=(entry("2", old_classes=2), entry("4", old_classes=4)),
                images=(entry("8"), entry("16", images=16)),
                images_model="a tiny ViT",
            ),
            # one point in a process of its own, as all are in earnest
            lambda job, tick: run_point(job, tick) if job.scene.images == 16 else in_process(job, tick),
            silent,
        )
        for part, measured in zip(Part, (steps, dpgd, growth), strict=True):
            keep(tmp_path, part, measured, quick=True)
        summary = load_json(tmp_path / "summary.json")
        assert summary["step_ratio_tiny"] is not None
        assert summary["step_ratio_tiny_full_cost"] is not None
        assert 0 < summary["dpgd_share"]["paper_size"] < 1
        assert [point["anchors"] for point in summary["growth_old_classes"]] == [4, 8]
        assert summary["growth_images_memory_ratio"] > 0
        page = (tmp_path / "README.md").read_text()
        for plot in ("steps.png", "growth_old_classes.png", "growth_images.png"):
            assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
            assert f"({plot})" in page
        everything = page + "".join(path.read_text() for path in tmp_path.glob("*.json"))
        assert tiny_spec.name.removeprefix("local-dir:") not in everything

    def test_the_small_vit_is_a_model(self, tmp_path: Path) -> None:
        spec = write_small_vit(tmp_path)
        job = UpdateJob(scene=scene(model=spec.name, old_classes=3, new_classes=2), config=TINY)
        (sample,) = measure(job)
        assert isinstance(sample, UpdateSample)
        assert sample.steps == 1
        assert sample.anchors == 6
