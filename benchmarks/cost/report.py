"""The page and its plots, from the summary and the samples alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.pages import NOTHING, measured_on, number, table
from benchmarks.common.record import Record, load_json, save_files
from benchmarks.cost.figures import NOISE_RULE
from benchmarks.cost.jobs import BASE_SIDE
from benchmarks.cost.plan import BATCH
from benchmarks.cost.plots import PHASES, SIDE_NAMES, growth_plot, steps_plot
from benchmarks.cost.record import Part

_SHARE_NAMES = {"images_20_old_90": "20 images a class", "paper_size": "500 images a class (the paper's size)"}


def write_report(folder: Path) -> None:
    """Draw the plots of the parts that `folder` has figures of, and the page; each file is replaced in one step."""
    summary, samples = load_json(folder / "summary.json"), load_json(folder / "samples.json")
    save_files(folder, {**plots(summary, samples), "README.md": page(summary).encode()})


def plots(summary: Record, samples: Record) -> dict[str, bytes]:
    """PNG by file name."""
    drawn: dict[str, bytes] = {}
    steps = {label: by_batch for label, by_batch in samples.get("steps", {}).items() if any(by_batch.values())}
    if steps:
        titles = {label: detail["title"] for label, detail in summary["steps"].items()}
        drawn["steps.png"] = steps_plot(steps, titles)
    for key, axis, title, x_label in (
        ("growth_old_classes", "old_classes", "An update with more old classes", "old classes"),
        ("growth_images", "images", "An update with more new images", "new images"),
    ):
        if any("seconds" in point for point in summary.get(key, ())):
            drawn[f"{key}.png"] = growth_plot(summary[key], axis, title, x_label)
    return drawn


def page(summary: Record) -> str:
    """The whole README."""
    conditions = summary.get("conditions", {})
    parts = [
        "# What an update costs",
        "Random pictures and made-up old classes: nothing here asks whether the model is right. All measurements run "
        "in processes of their own with the worker's environment, sides and points in turn, and are to be read as "
        "ratios within one run. Written by `python -m benchmarks.cost`; every sample is in `samples.json`.",
        f"{NOISE_RULE} Whole updates are too long to be repeated until it is quiet: of a point's repeats the quiet one "
        "in the middle is shown, and where none was quiet the point is marked noisy.",
    ]
    if "steps" in summary:
        parts += _steps(summary, conditions.get(Part.STEPS, {}))
    if "dpgd_share" in summary:
        parts += _dpgd(summary, conditions.get(Part.DPGD, {}))
    if "growth_images" in summary:
        parts += _growth(summary, conditions.get(Part.GROWTH, {}))
    return "\n\n".join(parts) + "\n"


def _steps(summary: Record, conditions: Record) -> list[str]:
    rows, notes = [], []
    for label, detail in summary["steps"].items():
        for side, found in detail["sides"].items():
            ratio = 1.0 if side == BASE_SIDE else summary.get(f"step_ratio_{label}{side.removeprefix('segp')}")
            scatter = found["ratio_by_round"]
            rows.append(
                (
                    detail["title"],
                    SIDE_NAMES.get(side, side).replace("\n", " "),
                    number(found["seconds"], 2),
                    number(ratio, 3),
                    f"{min(scatter):.2f} to {max(scatter):.2f}" if scatter and side != BASE_SIDE else NOTHING,
                    f"{found['samples'] - found['dropped']} of {found['samples']}"
                    + (" (noisy)" if found["noisy"] else ""),
                    f"{found['peak_mib']:,}",
                )
            )
        if detail["extrapolated"]:
            batches = " and ".join(map(str, detail["batches"]))
            notes.append(
                f"{detail['title']} was not run at batch {BATCH} (that takes about 32 GiB): its figures lie on the "
                f"straight line through batches {batches}, with as many anchors as at {BATCH}."
            )
        notes += [f"Not finished: {failure}." for failure in detail["failures"]]
    first = next(iter(summary["steps"].values()))
    full = first["sides"].get("segp_full_cost", {}).get("overrides", {})
    return [
        "## A training step against naive LoRA's",
        _conditions(conditions),
        f"Batch {BATCH}, {first['new_classes']} new classes on top of {first['old_classes']}, default settings; full "
        f"cost: {_settings(full)}. The first steps of an update are left out. DPGD comes before the steps and is not "
        "part of them, so that here anchors are the seeds as they are (`k_adv` 0; for ViT-B/16 `k_seed` 1). One "
        "process runs all sides of a model in turn.",
        *notes,
        table(
            ("model", "side", "s a step", "ratio", "by round", "samples kept", "peak MiB of the process"), rows, left=2
        ),
        "![Step times](steps.png)",
        "Hollow: taken while other processes were busy. The lines are the medians of the samples that were kept.",
    ]


def _dpgd(summary: Record, conditions: Record) -> list[str]:
    rows, notes = [], []
    for label, detail in summary["dpgd"].items():
        share = summary["dpgd_share"][label]
        phases = detail.get("phases", {})
        rows.append(
            (
                _SHARE_NAMES.get(label, label),
                NOTHING if share is None else f"{100 * share:.1f} %" + (" (noisy)" if detail.get("noisy") else ""),
                *(number(phases.get(phase), 1) for phase in PHASES),
                number(detail.get("seconds"), 1),
            )
        )
        if detail.get("epochs_measured") != detail.get("epochs_of_the_share"):
            notes.append(
                f"{_SHARE_NAMES.get(label, label)}: {detail['epochs_measured']} epoch was measured, and the share is "
                f"computed for {detail['epochs_of_the_share']} by scaling the training; the seconds are as measured."
            )
        if detail.get("failure"):
            notes.append(f"Not finished: {label} {detail['failure']}.")
    return [
        "## DPGD's share of an update",
        _conditions(conditions),
        "Compact, default settings, 10 new classes on top of 90: the seconds of making anchors in the wall seconds of "
        "the whole update. Pictures are made as they are read.",
        *notes,
        table(("update", "share", *(f"{phase} s" for phase in PHASES), "all s"), rows, left=1),
    ]


def _growth(summary: Record, conditions: Record) -> list[str]:
    sizes = summary["growth_sizes"]
    old, images = sizes["old_classes_axis"], sizes["images_axis"]
    epochs = next((point["epochs"] for point in summary["growth_old_classes"] if "epochs" in point), None)
    return [
        "## How an update grows",
        _conditions(conditions),
        f"**With old classes**: {old['model']}, {old['images']:,} new images of {sizes['new_classes']} classes, "
        f"{epochs} epochs. From the fewest to the most old classes, time grows by "
        f"{number(summary['growth_old_classes_ratio'], 2)} and memory by "
        f"{number(summary['growth_old_classes_memory_ratio'], 2)} (exponent of time "
        f"{number(summary['growth_old_classes_exponent'], 2)}).",
        _growth_table(summary["growth_old_classes"], "old_classes", "old classes"),
        "![Growth with old classes](growth_old_classes.png)",
        f"**With new images**: {images['model']}, one epoch, so that the largest size takes minutes; "
        f"{images['old_classes']} old classes, pictures made when they are read. Time grows as the number of images to "
        f"the power {number(summary['growth_images_exponent'], 2)}; memory by "
        f"{number(summary['growth_images_memory_ratio'], 2)} from the smallest size to the largest.",
        _growth_table(summary["growth_images"], "images", "new images"),
        "![Growth with new images](growth_images.png)",
    ]


def _growth_table(points: Sequence[Mapping[str, Any]], axis: str, name: str) -> str:
    rows = []
    for point in points:
        phases = point.get("phases", {})
        rows.append(
            (
                f"{point[axis]:,}",
                number(point.get("seconds"), 1) + (" (noisy)" if point.get("noisy") else ""),
                *(number(phases.get(phase), 1) for phase in PHASES),
                f"{point['anchors']:,}" if "anchors" in point else point.get("failure", NOTHING),
                f"{point['before_mib']:,}" if "before_mib" in point else NOTHING,
                f"{point['peak_mib']:,}" if "peak_mib" in point else NOTHING,
            )
        )
    seconds = tuple(f"{phase} s" for phase in PHASES)
    header = (name, "all s", *seconds, "anchors", "MiB before", "peak MiB")
    return table(header, rows, left=0)


def _conditions(conditions: Record) -> str:
    return measured_on(conditions.get("machine", {}), quick=conditions.get("quick", False))


def _settings(overrides: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in overrides.items()) or "the defaults"
